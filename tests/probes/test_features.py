"""What is shown of a latent is what is there: its tokens, their windows, its bars, its leanings, its words."""

from __future__ import annotations

import pytest
import tiny
import torch

from probes import unembedding
from probes.codes import Codes
from probes.dictionary import Dictionary
from probes.digest import AuditError
from probes.examples import Show
from probes.features import Seen, features, histogram, leanings, neighbours
from probes.model import Subject
from probes.model import load as load_subject
from probes.passage import Passage
from probes.site import Site
from probes.tokens import Tokens
from probes.unembedding import written

WORDS = ("ship", "lies", "at", "noon", "and", "waits", "here")
LATENT, SILENT, MIRROR, WIDTH = 3, 5, 6, 9


def passage(number: int, label: int | None, domain: str = "assistant") -> Passage:
    """Eight tokens, a BOS among them; the last three are scored. Two passages share a scenario."""
    text = " ".join(WORDS)
    ends = [0, *(len(" ".join(WORDS[: n + 1])) for n in range(len(WORDS)))]
    offsets = ((0, 0), *((0 if n == 0 else ends[n] + 1, ends[n + 1]) for n in range(len(WORDS))))
    persona = None if label is None else "deception"
    group = f"scene-{number // 2}"
    return Passage(
        f"p{number}", persona, domain, label, f"pair-{number // 2}", group, None, tuple(range(8)), (5, 8), text, offsets
    )


PASSAGES = [passage(n, n % 2) for n in range(20)] + [passage(20 + n, None, "plain") for n in range(2)]
NAMES = [f"{one.id}:{at}" for one in PASSAGES for at in range(1, 8)]


def planted() -> dict[str, Codes]:
    """Under base the latent fires at token 6 of label 1, stronger from text to text; post has half of it."""
    dense = torch.zeros(len(NAMES), WIDTH)
    for row, name in enumerate(NAMES):
        text, at = int(name[1:].partition(":")[0]), int(name.partition(":")[2])
        if text < 20 and text % 2 == 1 and at == 6:
            dense[row, LATENT] = text + 1
            dense[row - 1, LATENT] = 0.5
    return {"base": Codes.of(dense), "post": Codes.of(dense / 2)}


@pytest.fixture(scope="module")
def seen():
    return Seen(planted(), Tokens.of(PASSAGES, NAMES))


@pytest.fixture(scope="module")
def subject():
    with Subject(tiny.model("llama"), tiny.tokenizer("llama"), None) as made:
        yield made


@pytest.fixture(scope="module")
def dictionary():
    """Random decoder rows; one is the planted latent's with its sign turned, another nearly the same."""
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=tiny.WIDTH, d_sae=WIDTH))
    rows = torch.randn(WIDTH, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    rows[MIRROR], rows[SILENT] = -rows[LATENT], rows[LATENT] + 0.1 * rows[0]
    with torch.no_grad():
        sae.W_dec.copy_(rows)
    return Dictionary(sae, Site(1, "resid_post"), "planted")


@pytest.fixture(scope="module")
def shown(seen, dictionary, subject):
    both = {"base": subject, "post": subject}
    return features(seen, [LATENT, SILENT], dictionary, both, Show(top=3, each=1, before=2, after=1))


def test_the_strongest_tokens_are_shown_with_what_stands_around_them(shown):
    top = shown[0].strips[0]
    assert (top.model, top.kind, top.high, top.low) == ("base", "top", 20.0, 16.0)
    first = top.examples[0]
    assert first.tokens == (" noon", " and", " waits", " here") and first.peak == 2
    assert first.values == {"base": (0.0, 0.5, 20.0, 0.0), "post": (0.0, 0.25, 10.0, 0.0)}
    assert first.scored == (1, 4) and first.beyond == (3, 0)
    assert (first.persona, first.domain, first.label, first.group) == ("deception", "assistant", 1, "scene-9")


def test_a_scenario_is_shown_once_and_what_both_models_choose_too(shown):
    base, post = shown[0].strips[:2]
    assert len({one.group for one in base.examples}) == len(base.examples) == 3
    assert (post.model, post.examples, post.shown) == ("post", (), 3)


def test_quarters_cover_the_range_without_the_top(shown):
    quarters = [strip for strip in shown[0].strips if strip.kind != "top"]
    assert [strip.kind for strip in quarters] == ["1", "2", "3", "4"] and sum(strip.tokens for strip in quarters) == 20
    peaks = [one.values["base"][one.peak] for strip in quarters for one in strip.examples]
    assert peaks == sorted(peaks, reverse=True) and 20.0 not in peaks and peaks[-1] == 0.5


def test_bars_count_the_tokens_that_fire_on_edges_that_both_models_share(shown):
    feature = shown[0]
    base, post = feature.firing["base"], feature.firing["post"]
    assert sum(base.counts) == base.tokens == 20 and base.share == 20 / len(NAMES)
    assert (feature.edges[0], feature.edges[-1], post.largest) == (0.0, 20.0, 10.0)
    assert sum(post.counts[len(post.counts) // 2 + 1 :]) == 0 < base.counts[-1]


def test_a_silent_latent_has_no_bars_no_mean_and_no_examples(shown):
    feature = shown[1]
    assert feature.edges == feature.strips == () and feature.firing["base"].mean is None
    assert feature.firing["post"].counts == () and feature.firing["post"].share == 0.0
    assert all(value is None for one in feature.leanings for value in one.values.values())


def test_a_latent_leans_to_the_label_it_fires_on(seen):
    (found,) = leanings(seen, torch.tensor([LATENT]))
    (one,) = found
    assert (one.persona, one.domain) == ("deception", "assistant")
    assert one.values["base"] == pytest.approx(one.values["post"]) and one.values["base"] > 1
    turned = [passage(n, 1 - n % 2) for n in range(20)] + PASSAGES[20:]
    ((other,),) = leanings(Seen(seen.codes, Tokens.of(turned, NAMES)), torch.tensor([LATENT]))
    assert other.values["base"] == pytest.approx(-one.values["base"])


def test_neighbours_point_the_same_way(dictionary):
    (found,) = neighbours(dictionary.decoder, torch.tensor([LATENT]), WIDTH)
    assert found[0].latent == SILENT and found[0].cosine > 0.98
    assert found[-1].latent == MIRROR and found[-1].cosine == pytest.approx(-1.0) and len(found) == WIDTH - 1


@pytest.mark.parametrize("latent", [-1, WIDTH])
def test_a_latent_that_is_not_there_is_refused(seen, dictionary, subject, latent):
    with pytest.raises(AuditError, match=f"Latent {latent}. Expected 0 to {WIDTH - 1}"):
        features(seen, [LATENT, latent], dictionary, {"base": subject})


def test_rows_with_holes_are_refused(seen):
    kept = torch.arange(len(NAMES)) % 2 == 0
    with pytest.raises(ValueError, match="every token but the first"):
        Seen({"base": seen.codes["base"].rows(kept)}, seen.tokens.rows(kept))


def test_of_no_latents_there_is_nothing_to_show(seen, dictionary, subject):
    assert features(seen, [], dictionary, {"base": subject}) == []
    assert histogram({"base": torch.zeros(4)}, 3)[0] == ()


GAINS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
CENTRED = ("gpt2", "gpt_neox")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_words_are_those_of_the_final_norm_s_gain_and_the_unembedding(family):
    hf = tiny.model(family)
    norm = hf.get_submodule(GAINS.get(family, "model.norm"))
    gain = norm.weight.detach() + (1.0 if family.startswith("gemma") else 0.0)
    rows = torch.randn(4, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    through = (rows - rows.mean(1, keepdim=True) if family in CENTRED else rows) * gain
    with Subject(hf, tiny.tokenizer(family), None) as subject:
        logits = through @ hf.get_output_embeddings().weight.detach()[: len(subject.tokenizer)].T
        logits = logits - logits.mean(1, keepdim=True)
        found = written(rows, subject, 5)
        best = logits.topk(5)
        for one, values, ids in zip(found, best.values, best.indices, strict=True):
            assert [word.logit for word in one.promoted] == pytest.approx(values.tolist(), abs=1e-4)
            assert [word.text for word in one.promoted] == unembedding.spelled(subject.tokenizer, ids.tolist())
            assert one.suppressed[0].logit < 0 < one.promoted[0].logit
    lowest = logits.min(1).values.tolist()
    assert [one.suppressed[0].logit for one in found] == pytest.approx(lowest, abs=1e-4)
    # The control: without the gain other tokens come first.
    bare = (rows @ hf.get_output_embeddings().weight.detach().T).topk(5).indices
    assert bare.tolist() != best.indices.tolist()


def test_words_do_not_depend_on_how_the_vocabulary_is_cut(subject, monkeypatch):
    rows = torch.randn(3, tiny.WIDTH, generator=torch.Generator().manual_seed(2))
    whole = written(rows, subject, 7)
    monkeypatch.setattr(unembedding, "PIECE", 5 * tiny.WIDTH)
    for one, other in zip(whole, written(rows, subject, 7), strict=True):
        assert [word.text for word in one.promoted] == [word.text for word in other.promoted]
        assert [word.logit for word in one.suppressed] == pytest.approx([word.logit for word in other.suppressed])


def test_a_model_without_a_known_norm_says_so():
    hf = tiny.model("llama")
    hf.model.norm = torch.nn.Identity()
    with Subject(hf, tiny.tokenizer("llama"), None) as odd:
        (found,) = written(torch.ones(1, tiny.WIDTH), odd, 3)
    assert found.promoted == () and found.why == "the final norm of a llama is not known"


def test_entries_are_spelled_as_they_stand_in_a_text(checkpoint):
    with load_subject(str(checkpoint("gemma2"))) as subject:
        ids = subject.tokenizer(" the harbour", add_special_tokens=False)["input_ids"]
        assert "".join(unembedding.spelled(subject.tokenizer, ids)) == " the harbour"
