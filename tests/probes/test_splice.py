"""What stands at a site is replaced there and nowhere else, and the model is as before afterwards."""

from __future__ import annotations

import pytest
import torch

from probes import splice
from probes.model import load
from probes.recorder import record
from probes.site import Site, tap
from probes.splice import spliced
from tests.probes.texts import passages as random_passages

FAMILIES = ("llama", "gpt2", "gemma2")


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request, checkpoint):
    with load(str(checkpoint(request.param)), dtype="float32", device="cpu") as found:
        yield found


@pytest.fixture
def passages():
    return random_passages(5)


def test_what_changes_nothing_costs_nothing_and_zero_costs_a_lot(subject, passages):
    found = spliced(subject, passages, Site(1, "resid_post"), {"same": lambda rows: rows, "zero": torch.zeros_like})
    assert found.tokens.tolist() == [len(p.token_ids) - 1 for p in passages]
    torch.testing.assert_close(found.cross_entropy["same"], found.cross_entropy["clean"])
    assert float(found.divergence["same"].abs().max()) < 1e-5 < float(found.divergence["zero"].min())


def test_the_clean_cross_entropy_is_the_recorded_surprisal(subject, passages):
    import dataclasses

    whole = [dataclasses.replace(p, span=(1, len(p.token_ids))) for p in passages]
    recorded = record(subject, whole, [], surprisal=True, progress=False).surprisal
    found = spliced(subject, passages, Site(0, "resid_pre"), {})
    torch.testing.assert_close(found.cross_entropy["clean"] / found.tokens, recorded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stream", ["resid_pre", "resid_post"])
def test_an_edit_is_what_transformer_lens_makes_of_it(subject, passages, stream):
    site = Site(1, stream)
    ids = torch.tensor([passages[0].token_ids])

    def shift(rows):
        return rows * 0.5 + 1.0

    found = spliced(subject, passages[:1], site, {"shift": shift})
    name = {"resid_pre": "blocks.1.hook_in", "resid_post": "blocks.1.hook_out"}[stream]

    def hook(value, hook):
        value = value.clone()
        value[:, 1:] = shift(value[:, 1:])
        return value

    with torch.no_grad():
        logits = subject.bridge().run_with_hooks(ids, fwd_hooks=[(name, hook)])
    wanted = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum")
    assert float(found.cross_entropy["shift"]) == pytest.approx(float(wanted), rel=1e-5)
    assert float(found.cross_entropy["shift"]) != pytest.approx(float(found.cross_entropy["clean"]), rel=1e-3)


def test_padding_changes_nothing(subject, passages):
    site, edits = Site(1, "resid_post"), {"zero": torch.zeros_like}
    together = spliced(subject, passages, site, edits)
    alone = torch.cat([spliced(subject, [one], site, edits).divergence["zero"] for one in passages])
    torch.testing.assert_close(together.divergence["zero"], alone, rtol=1e-4, atol=1e-4)


def test_no_more_logits_than_allowed_are_in_memory(subject, monkeypatch):
    some, site, read, run = random_passages(12), Site(1, "resid_post"), [], splice._log_p
    whole = spliced(subject, some, site, {"zero": torch.zeros_like})

    def watched(model, ids, real):
        read.append(ids.numel())
        return run(model, ids, real)

    monkeypatch.setattr(splice, "LOGITS", 60 * subject.vocab_size)
    monkeypatch.setattr(splice, "_log_p", watched)
    parts = spliced(subject, some, site, {"zero": torch.zeros_like})
    assert max(read) <= 60 and len(read) > 2
    torch.testing.assert_close(parts.divergence["zero"], whole.divergence["zero"], rtol=1e-4, atol=1e-4)


def test_every_token_but_the_first_is_edited_and_hooks_go(subject, passages):
    seen = []

    def count(rows):
        seen.append(len(rows))
        return rows

    site = Site(2, "resid_post")
    spliced(subject, passages, site, {"count": count})
    assert sum(seen) == sum(len(p.token_ids) - 1 for p in passages)

    def fail(rows):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        spliced(subject, passages, site, {"fail": fail})
    assert not tap(subject.hf, site).module._forward_hooks
