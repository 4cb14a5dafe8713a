"""A base that was recorded once is never run again: passes are counted on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import order
import pytest
import tiny
import torch

from audit.conduct import Setting, audit
from audit.plan import plan_of

GLANCE = plan_of({"effort": "glance"})


@dataclass
class Counted:
    """A model in memory, its tokenizer, and how often its decoder was run."""

    hf: Any
    words: Any
    passes: int = 0

    def __post_init__(self) -> None:
        # The decoder is run for every pass, with the output layer and without it.
        self.hf.base_model.register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self.passes += 1

    @property
    def pair(self) -> tuple[Any, Any]:
        return self.hf, self.words

    def since(self) -> int:
        """Passes since the last time this was asked."""
        passes, self.passes = self.passes, 0
        return passes


def counted(seed: int) -> Counted:
    return Counted(tiny.model("llama", seed=seed), tiny.tokenizer("llama"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return order.personas(tmp_path_factory.mktemp("personas") / "order", groups=20)


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Callable[..., tuple[int, int]]:
    """Audits a pair in a store and counts both models' passes."""

    def audited(base: Counted, post: Counted, store: str = "store") -> tuple[int, int]:
        audit(GLANCE, base=base.pair, post=post.pair, personas=[folder],
              setting=Setting(store=tmp_path / store, progress=False))  # fmt: skip
        return base.since(), post.since()

    return audited


def test_another_post_costs_its_own_passes_and_none_of_base(run: Callable[..., tuple[int, int]]) -> None:
    base, post, other = (counted(seed) for seed in range(3))
    first = run(base, post)
    assert min(first) > 0 and first[0] == first[1]
    assert run(base, other) == (0, first[1])
    assert run(base, post) == (0, 0)


def test_the_count_sees_a_base_that_has_to_be_run(run: Callable[..., tuple[int, int]]) -> None:
    """The control: an empty store, and a weight that moved by one step."""
    base, post = counted(0), counted(1)
    first = run(base, post)
    assert run(base, post, "another") == first
    with torch.no_grad():
        base.hf.model.layers[0].mlp.down_proj.weight[0, 0] += 1.0
    assert run(base, post) == (first[0], 0)


def test_a_base_on_disk_is_the_one_in_memory(
    run: Callable[..., tuple[int, int]], folder: Path, tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    base, post = counted(0), counted(1)
    audit(GLANCE, base=str(checkpoint("llama")), post=str(checkpoint("llama", seed=1)), personas=[folder],
          setting=Setting(store=tmp_path / "store", progress=False))  # fmt: skip
    assert run(base, post) == (0, 0)


def test_base_s_nulls_and_ceiling_and_the_words_are_computed_once_for_every_post(folder: Path, tmp_path: Path) -> None:
    """A second post adds its own label null and ceiling to the store; the same pair again adds nothing."""
    base, fits = counted(0), []
    for seed in (1, 2, 2):
        audit(GLANCE, base=base.pair, post=counted(seed).pair, personas=[folder],
              setting=Setting(store=tmp_path, progress=False))  # fmt: skip
        fits.append(len(list(tmp_path.glob("fits/*/fit.safetensors"))))
    assert fits == [6, 8, 8], "the words of two domains, two nulls, two ceilings; one of each more; nothing more"
