"""Session fixtures: tiny checkpoints of every family, made once in a temporary folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no counterexample.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Set before anything imports the hub client: no test may reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One torch thread and quiet loaders: tests share their machine."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A maker of tiny checkpoints, `checkpoint("llama", seed=1, template=False)`; each is written once."""
    import tiny

    made: dict[tuple[object, ...], Path] = {}

    def make(family: str = "llama", *, seed: int = 0, template: bool = True, dtype: str = "float32") -> Path:
        key = (family, seed, template, dtype)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{seed}")
            made[key] = tiny.checkpoint(folder, family, seed=seed, template=template, dtype=dtype)
        return made[key]

    return make


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store of the module's own, and no progress bars."""
    from audit.conduct import Setting

    return Setting(store=tmp_path_factory.mktemp("store"), progress=False)


@pytest.fixture(scope="module")
def refs(checkpoint: Callable[..., Path]) -> dict[str, str]:
    """A tiny pair by its folders: one architecture under two seeds."""
    return {"base": str(checkpoint("llama")), "post": str(checkpoint("llama", seed=1))}


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets named by PERSONA_AUDIT_TEST_DATA; skips where there is none."""
    named = os.environ.get("PERSONA_AUDIT_TEST_DATA", "")
    if not named or not Path(named).is_dir():
        pytest.skip("PERSONA_AUDIT_TEST_DATA names no folder")
    return Path(named)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The installed browser. REQUIRE_BROWSER=1 makes its absence a failure."""
    import window

    with window.started() as found:
        yield found
