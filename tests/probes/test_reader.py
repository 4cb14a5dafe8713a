"""Reader: one pass and no deeper than needed, over a model that is afterwards as it was before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.digest import AuditError
from probes.model import Subject, load
from probes.reader import NotFinite
from probes.recorder import record, record_moments
from probes.site import Site, sites
from tests import tiny
from tests.probes.texts import passage, passages

ALL = sites("resid_post", "all", tiny.LAYERS)
HF, TOKENIZER = tiny.model(), tiny.tokenizer()


@pytest.fixture
def subject() -> Iterator[Subject]:
    with load((HF, TOKENIZER)) as subject:
        yield subject


def test_the_pass_stops_at_the_deepest_wanted_site(subject: Subject) -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(HF.model.layers)
    ]
    heads = HF.lm_head.register_forward_pre_hook(lambda *_: ran.append(99))
    record(subject, passages(3), [Site(1, "resid_post"), Site(0, "resid_post")], token_budget=10**6, progress=False)
    for handle in (*handles, heads):
        handle.remove()
    assert ran == [0, 1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_surprisal_is_the_loss_of_transformers_on_the_span(family: str) -> None:
    hf = tiny.model(family)
    texts = passages(9)
    with load((hf, tiny.tokenizer(family))) as subject:
        got = record(subject, texts, ALL, surprisal=True, progress=False)
        only = record(subject, texts, [], surprisal=True, progress=False)
        plain = record(subject, texts, ALL, progress=False)
    assert got.surprisal is not None and only.surprisal is not None
    for text, found in zip(texts, got.surprisal, strict=True):
        ids = torch.tensor([text.token_ids])
        labels = torch.full_like(ids, -100)
        labels[0, slice(*text.span)] = ids[0, slice(*text.span)]
        with torch.no_grad():
            assert found.item() == pytest.approx(hf(input_ids=ids, labels=labels).loss.item(), abs=2e-5)
    torch.testing.assert_close(only.surprisal, got.surprisal, rtol=0, atol=1e-5)
    assert only.values.shape == (9, 0, tiny.WIDTH)
    torch.testing.assert_close(got.values, plain.values, rtol=0, atol=2e-5)


def test_surprisal_of_a_span_that_begins_the_text(subject: Subject) -> None:
    ids = passages(1)[0].token_ids
    got = record(subject, [passage(ids, (0, 3)), passage(ids, (1, 3))], [], surprisal=True, progress=False)
    assert got.surprisal is not None and got.surprisal[0] == pytest.approx(got.surprisal[1].item(), abs=1e-6)
    with pytest.raises(AuditError, match="first token of its text"):
        record(subject, [passage(ids, (0, 1))], [], surprisal=True, progress=False)


def hooks(hf: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf.modules())


def test_the_model_is_as_before(subject: Subject) -> None:
    ids = torch.tensor([passages(1)[0].token_ids])
    before = HF(ids).logits.detach()
    record(subject, passages(4), ALL, surprisal=True, progress=False)
    assert hooks(HF) == 0 and torch.equal(HF(ids).logits, before)
    HF(ids).logits.sum().backward()  # nothing the model cached on its way is unfit for training
    HF.zero_grad()


@pytest.mark.parametrize("surprisal", [False, True])
def test_hooks_are_gone_after_an_error(subject: Subject, surprisal: bool) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = HF.model.layers[1].register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            record(subject, passages(4), ALL, surprisal=surprisal, progress=False)
    finally:
        handle.remove()
    assert hooks(HF) == 0
    with pytest.raises(AuditError, match="layers 0 to 2"):
        record(subject, passages(1), [ALL[0], Site(9, "resid_post")], progress=False)
    assert hooks(HF) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("pooling", ["span_mean", "tokens"])
def test_not_finite_activations_are_named_by_passage_and_layer(bad: float, pooling: Any) -> None:
    hf, texts = tiny.model(), passages(12)
    sick = texts[7]
    token = sick.token_ids[sick.span[0]]
    texts = [t for t in texts if t is sick or token not in t.token_ids]

    def poison(_m: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((seen["ids"] == token).unsqueeze(-1), bad)

    seen: dict[str, torch.Tensor] = {}
    hf.model.embed_tokens.register_forward_pre_hook(lambda _m, args: seen.update(ids=args[0]))
    hf.model.layers[1].register_forward_hook(poison)
    with load((hf, TOKENIZER)) as subject, pytest.raises(NotFinite) as caught:
        record(subject, texts, ALL, pooling=pooling, progress=False)
    assert caught.value.passage == sick.id and caught.value.site == ALL[1]
    assert f"at L1.resid_post in passage {sick.id}" in str(caught.value)


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_two_passes_side_by_side_give_what_one_at_a_time_gives(
    family: str, checkpoint: Callable[..., Path], two_threads: None
) -> None:
    texts, seen = passages(60), set()
    with load(str(checkpoint(family)), device="cpu") as subject:
        handle = subject.hf.base_model.register_forward_pre_hook(lambda *_: seen.add(threading.get_ident()))
        got = record(subject, texts, ALL, surprisal=True, token_budget=64, progress=False)
        assert len(seen) == 2 and threading.get_ident() not in seen
        seen.clear()  # another recording may get other threads
        moments = record_moments(subject, texts, ALL, token_budget=64, progress=False)
        assert len(seen) == 2 and threading.get_ident() not in seen
        passes = subject.forwards
        handle.remove()
        assert hooks(subject.hf) == 0 and torch.get_num_threads() == 2
        torch.set_num_threads(1)
        alone = record(subject, texts, ALL, surprisal=True, token_budget=64, progress=False)
        again = record_moments(subject, texts, ALL, token_budget=64, progress=False)
        assert subject.forwards == 2 * passes
    assert got.surprisal is not None and alone.surprisal is not None
    torch.testing.assert_close(got.values, alone.values, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.surprisal, alone.surprisal, rtol=0, atol=1e-5)
    for site in ALL:
        torch.testing.assert_close(moments[site].mean, again[site].mean, rtol=0, atol=1e-5)


def test_an_error_beside_another_pass_leaves_no_thread_and_no_hook(
    checkpoint: Callable[..., Path], two_threads: None
) -> None:
    def fail(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        if not len(args[0]) % 3:
            raise RuntimeError("out of memory")

    before = threading.active_count()
    with load(str(checkpoint()), device="cpu") as subject:
        handle = subject.hf.model.layers[1].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            record(subject, passages(60), ALL, token_budget=64, progress=False)
        handle.remove()
        assert hooks(subject.hf) == 0
    assert torch.get_num_threads() == 2 and threading.active_count() == before


def test_a_model_in_memory_is_read_by_one_thread(subject: Subject, two_threads: None) -> None:
    """Its own hooks may keep a state between its modules."""
    seen: set[int] = set()
    handle = HF.register_forward_pre_hook(lambda *_: seen.add(threading.get_ident()))
    record(subject, passages(60), ALL, surprisal=True, token_budget=64, progress=False)
    handle.remove()
    assert seen == {threading.get_ident()}
