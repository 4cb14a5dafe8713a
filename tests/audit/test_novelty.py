"""What post alone writes is counted as planted, what it reads anew is found on its words, and a sham has neither."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
import shipped
import tiny
import torch
from torch.nn.functional import normalize

from audit.comparisons.novelty import BINS, Novelty, Rows, Trained, closed, told
from audit.conduct import prepared
from audit.pair import material
from audit.plan import plan_of
from probes.crosscoder import Crosscoder, Kinds, Scaling, kinds, latent_scaling, train_crosscoder
from probes.dictionary import Training
from probes.digest import AuditError
from probes.passage import Passage
from probes.tokens import Tokens

PLAN = plan_of({"effort": "glance", "sites": {"layers": [0]}})
SMALL = Novelty(latents=2, active=6, steps=400, batch=128, rows=1_000, texts=4)
ANEW = (" the", " to", " a", " in", " was")
"""Words whose embedding the planted post replaces."""


def fine_tuned(folder, seed, anew=()):
    """Base with a little noise on every weight, and some words that mean something else."""
    hf, tokenizer, rng = tiny.model("llama"), tiny.tokenizer("llama"), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.01 * parameter.std() * torch.randn(parameter.shape, generator=rng))
        embedding = hf.get_input_embeddings().weight
        for word in anew:
            (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
            embedding[token] = 2 * embedding.std() * torch.randn(embedding.shape[1], generator=rng)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs(checkpoint, setting, tmp_path_factory):
    """The shipped deception persona under a tiny base, and as post: itself, two shams, and one with words read anew."""
    base, root = str(checkpoint("llama")), tmp_path_factory.mktemp("posts")
    posts = {
        "same": base, "sham": fine_tuned(root / "sham", 1), "other sham": fine_tuned(root / "other", 2),
        "anew": fine_tuned(root / "anew", 3, ANEW),
    }  # fmt: skip
    personas = [str(shipped.write(root / "personas", ("deception",)))]
    with ExitStack() as models:
        found = {}
        for name, post in posts.items():
            library, ready = prepared(PLAN, base, post, personas, setting, models)
            found[name] = material(library.personas[0], ready.texts, ready.recorder, ready.sites, PLAN.seed)
        yield found


def compared(pair, how=SMALL):
    return how(pair, np.random.default_rng(0))


def recorded(path, pair, finding):
    """The parts of an audit's record that a sham is read from."""
    weights = {side: {"weights": getattr(pair.recorder, side).weights} for side in ("base", "post")}
    path.write_text(json.dumps({"pair": weights, "findings": [finding.model_dump(mode="json")]}))
    return str(path)


@pytest.fixture(scope="module")
def sham(pairs, tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("null") / "record.json", pairs["sham"], compared(pairs["sham"]))


def test_a_sham_is_within_another_sham(pairs, sham):
    found = compared(pairs["other sham"], replace(SMALL, null=sham))
    assert found.status == "measured" and found.headline.value == 0
    assert found.details["beyond_null"] is False and found.control.value == 0
    assert not any(beyond for text in found.details["beyond_null_by_text"].values() for beyond in text.values())
    assert found.details["latents"]["turned"]["count"].high == 0
    for seed in found.details["by_seed"]:
        assert len(seed["delta_norm"]) == BINS and sum(seed["delta_norm"]) + sum(seed["cosine"]) <= 2 * 64
        assert seed["shares"]["assistant"]["shared"].value > 0.9 and seed["new"] == []


def test_several_shams_are_one_null_of_all_their_seeds(pairs, sham, tmp_path):
    other = recorded(tmp_path / "record.json", pairs["other sham"], compared(pairs["other sham"]))
    alone, both = (compared(pairs["anew"], replace(SMALL, null=named)) for named in ([sham], [sham, other]))
    assert alone == compared(pairs["anew"], replace(SMALL, null=sham))
    assert alone.control.n_groups == SMALL.seeds and both.control.n_groups == 2 * SMALL.seeds
    # A wider sham hides more: what one of its seeds calls new counts for both.
    told = json.loads(Path(other).read_text())
    share = told["findings"][0]["details"]["shares"]["assistant"]["turned"]
    share |= {"value": 0.4, "high": 0.9}
    Path(other).write_text(json.dumps(told))
    wide = compared(pairs["anew"], replace(SMALL, null=[sham, other]))
    found = [one.details["beyond_null_by_text"]["assistant"]["turned"] for one in (both, wide)]
    assert found == [True, False] and wide.details["null"]["shares"]["assistant"]["turned"].high == 0.9
    with pytest.raises(AuditError, match="Two shams are one fine-tune"):
        compared(pairs["anew"], replace(SMALL, null=[sham, sham]))


def test_words_that_post_reads_anew_are_turned_and_beyond_the_sham(pairs, sham):
    found = compared(pairs["anew"], replace(SMALL, null=sham))
    assert all(found.details["beyond_null_by_text"][text]["turned"] for text in ("plain", "story", "assistant"))
    turned = found.details["shares"]["assistant"]["turned"]
    assert turned.n_groups == 3 and turned.low <= turned.value <= turned.high and turned.level == 0.75
    for seed in found.details["by_seed"]:
        # A chat template's own tokens may stand before them: what follows a word read anew differs too.
        first = [{word["word"] for word in one["words"][:3]} for one in seed["new"]]
        assert first and all(words & set(ANEW) for words in first)
        assert all(latent["base_r2"] is None and 0 <= latent["template"] <= 1 for latent in seed["new"])
    assert found.details["kl"]["nats"] > 0 and found.details["kl"]["post_only"].value == 0


def test_base_s_dictionary_explains_what_is_shared_better_than_chance(pairs, tmp_path):
    from probes.dictionary import Training, train
    from probes.recorder import record_tokens

    recorder, site = pairs["anew"].recorder, pairs["anew"].site
    rows = record_tokens(recorder.base, recorder.plain, [site], limit=3_000, progress=False).at(site)
    how = Training(width=128, active=4, steps=300, batch=256, rate=3e-3)
    own = train(rows, site, tmp_path / "sae", how, subject=recorder.base, progress=False)
    found = compared(pairs["anew"], replace(SMALL, dictionary=own.name))
    for seed in found.details["by_seed"]:
        held = seed["base_r2"]
        assert 0 < held["random"].value < held["shared"].value <= 1
        assert all(0 <= latent["base_r2"] <= 1 for latent in seed["new"])
    assert found.details["dictionary"]["weights"] == own.weights


def sparse(post_only, seed=0):
    """Rows of thirty concepts, some of them written into post alone, in forty scenarios of each kind of text."""
    rng = torch.Generator().manual_seed(seed)
    concepts = normalize(torch.randn(30, 24, generator=rng), dim=1)
    active = (torch.rand(9_000, 30, generator=rng) < 0.08) * (1 + torch.rand(9_000, 30, generator=rng))
    base, post = active.clone(), active
    base[:, :post_only] = 0.0
    passages = tuple(
        Passage(f"{domain} {i}", None, domain, None, None, f"s{i}", None, tuple(range(76)), (1, 76), "word " * 76,
                tuple((5 * t, 5 * t + 4) for t in range(76)))
        for domain in ("plain", "story", "assistant") for i in range(40)
    )  # fmt: skip
    text = torch.arange(120).repeat_interleave(75)
    tokens = Tokens(passages, text, torch.arange(9_000) % 75 + 1)
    rows = [each @ concepts + 0.05 * torch.randn(9_000, 24, generator=rng) for each in (base, post)]
    share = float((active[6_000:, :post_only] > 0).double().sum() / (active[6_000:] > 0).double().sum())
    return Rows(*rows, tokens, text, 0.0), share


@pytest.mark.parametrize(("post_only", "steps"), [(0, 200), (3, 800)])
def test_the_share_of_firing_is_the_planted_one(post_only, steps):
    rows, share = sparse(post_only)
    found = []
    for seed in range(3):
        how = Training(width=40, active=3, steps=steps, batch=256, rate=5e-3, seed=seed)
        one = train_crosscoder(rows.base, rows.post, how, progress=False)
        codes, scaling = one.encode(rows.base, rows.post), latent_scaling(one, rows.base, rows.post)
        found.append(Trained(one, codes, scaling, kinds(one, scaling, codes.firing())))
    details = told(found, rows, None, np.random.default_rng(0))
    whole = details["shares"]["assistant"]["post_only"]
    assert whole.value == pytest.approx(share, abs=0.02)
    for seed in details["by_seed"]:
        own = seed["shares"]["assistant"]["post_only"]
        assert own.n_groups == 40 and own.low <= own.value == pytest.approx(share, abs=0.03)
        assert [latent["kind"] for latent in seed["new"]][:post_only] == ["post_only"] * post_only
        assert max(seed["fvu"].values()) < 0.3


def exact(rows, post):
    """A crosscoder that makes every row again: for each coordinate of each model a latent for either sign."""
    d = rows.shape[-1]
    one, none = torch.cat([torch.eye(d), -torch.eye(d)]), torch.zeros(2 * d, d)
    decoder = torch.stack([torch.cat([one, none]), torch.cat([none, one])])
    bias, zeros = torch.zeros(4 * d), torch.zeros(2, d)
    centre = torch.stack([rows.mean(0), post.mean(0)])
    return Crosscoder(decoder.mT.contiguous(), bias, decoder, zeros, centre, torch.ones(2), torch.zeros(()))


def test_the_whole_difference_closes_the_gap_of_predictions_and_no_part_of_it_none(pairs):
    pair = pairs["anew"]
    read = pair.recorder.token_values(pair.assistant.passages[:40], pair.site)
    base, post = (read[model].at(pair.site) for model in ("base", "post"))
    whole = exact(base, post)
    none, scaling = torch.zeros(whole.width, dtype=torch.bool), Scaling(*torch.zeros(2, 2, whole.width))
    codes = whole.encode(base, post)
    # What latents are called decides what is added for post's own: nothing first, then all but the means' difference.
    found = [Trained(whole, codes, scaling, Kinds(none, own, none, none, none)) for own in (none, ~none)]
    rows = Rows(base, post, Tokens.of(pair.assistant.passages, read["base"].passages), torch.zeros(1), 0.0)
    some = pair.assistant.passages[:40:9]
    first, second = (closed([one], rows, pair.recorder, some, pair.site) for one in found)
    assert first["nats"] > 0 and first["post_only"].value == first["post_only"].high == 0
    assert first["all"].value == pytest.approx(1.0, abs=1e-3) and first["constant"].value < 0.9
    assert second["post_only"].value < second["all"].value == first["all"].value


def test_the_same_run_gives_the_same_finding(pairs):
    first = compared(pairs["anew"])
    assert compared(pairs["anew"]) == first and "NaN" not in first.model_dump_json()
    without = replace(pairs["anew"], recorder=replace(pairs["anew"].recorder, store=None))
    assert compared(without) == first


def test_without_a_sham_it_says_so(pairs):
    found = compared(pairs["anew"])
    assert found.control is None and found.details["beyond_null"] is None
    assert "null" in found.details["not_measured"] and "base_r2" in found.details["not_measured"]


@pytest.mark.parametrize(
    ("name", "how", "pattern"),
    [
        ("same", SMALL, "have the same weights"),
        ("anew", replace(SMALL, rows=100), "rows to train a crosscoder on; 512 are needed"),
    ],
)
def test_what_cannot_be_told_is_not_measured(pairs, name, how, pattern):
    found = compared(pairs[name], how)
    assert found.status == "not_measured" and pattern in found.reason


def test_activations_that_no_model_made_are_not_measured():
    found = compared(planted.pair(planted.Plant()))
    assert found.status == "not_measured" and "no model" in found.reason


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda r: r["pair"]["base"].update(weights="0" * 64), "has base = '0000.*, as here"),
        (lambda r: r["findings"][0]["details"]["settings"].update(steps=9), "has steps = 9. Expected 400, as here"),
        (lambda r: r["findings"][0]["details"]["settings"].update(tokens="x"), "has tokens = 'x'"),
        (lambda r: r["findings"][0].update(definition=2), "has definition = 2. Expected 1"),
        (lambda r: r["findings"].clear(), "Expected a record that holds deception/novelty/L0.resid_post"),
        (lambda r: r.pop("pair"), "cannot be used .KeyError."),
    ],
)
def test_a_sham_of_something_else_is_refused(pairs, sham, tmp_path, change, pattern):
    record = json.loads(Path(sham).read_text())
    change(record)
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(AuditError, match=pattern):
        compared(pairs["anew"], replace(SMALL, null=str(tmp_path)))


def test_post_is_no_sham_of_itself_and_a_missing_record_is_named(pairs, sham, tmp_path):
    with pytest.raises(AuditError, match="is this very post"):
        compared(pairs["sham"], replace(SMALL, null=sham))
    with pytest.raises(AuditError, match="nowhere"):
        compared(pairs["sham"], replace(SMALL, null=str(tmp_path / "nowhere")))


def test_fewer_than_three_seeds_are_refused():
    with pytest.raises(AuditError, match="comparisons.novelty.seeds = 2. Expected 3 or more"):
        Novelty(seeds=2)
