"""Base's dictionary makes base again; whether it makes post again is measured, gated, and held against chance."""

from __future__ import annotations

import numpy as np
import pytest
import shipped
import torch

from audit.comparisons.feature_transfer import FeatureTransfer
from audit.conduct import prepared
from audit.pair import material
from audit.plan import plan_of
from probes.dictionary import Training, load, train
from probes.digest import AuditError
from probes.recorder import record_tokens
from probes.site import Site

PLAN = plan_of({"effort": "glance", "personas": {"paths": [shipped.folder()]}})
SITE = Site(1, "resid_post")


@pytest.fixture(scope="module")
def pairs(checkpoint, setting):
    """The shipped deception persona under a tiny base, and as post: itself, and a model of other weights."""
    from contextlib import ExitStack

    base = str(checkpoint("llama"))
    with ExitStack() as models:
        found = {}
        for name, post in (("same", base), ("other", str(checkpoint("llama", seed=1)))):
            library, ready = prepared(PLAN, base, post, None, setting, models)
            persona = next(one for one in library.personas if one.name == "deception")
            found[name] = material(persona, ready.texts, ready.recorder, ready.sites, PLAN.seed)
        yield found


@pytest.fixture(scope="module")
def dictionary(pairs, tmp_path_factory):
    subject, plain = pairs["same"].recorder.base, pairs["same"].recorder.plain
    rows = record_tokens(subject, plain, [SITE], limit=6_000, progress=False).at(SITE)
    how = Training(width=128, active=8, steps=500, batch=256, rate=3e-3)
    return train(rows, SITE, tmp_path_factory.mktemp("sae") / "base", how, subject=subject, progress=False).name


def compared(pair, **settings):
    return FeatureTransfer(rows=12_000, texts=20, **settings)(pair, np.random.default_rng(0))


def test_an_unchanged_model_is_made_again_and_random_directions_make_little(pairs, dictionary):
    found = compared(pairs["same"], dictionary=dictionary)
    assert found.status == "measured" and found.site == "L1.resid_post"
    for kind in ("plain", "story", "assistant"):
        held = found.details["kinds"][kind]
        base, post = (held[model]["base_dictionary"] for model in ("base", "post"))
        assert base == post and base["fvu"].high < held["post"]["random"]["fvu"].low
        assert held["change"].value == held["change"].high == 0 and held["difference"] is None
        assert base["ce_recovered"] is None or base["ce_recovered"].value > 0.5
        assert base["kl_recovered"].value > 0.5 and 0 < base["active"] < 40
    assert found.details["gate"]["status"] == "pass"
    assert found.headline == found.details["kinds"]["assistant"]["post"]["base_dictionary"]["fvu"]


def test_a_model_of_other_weights_fails_the_gate(pairs, dictionary):
    found = compared(pairs["other"], dictionary=dictionary)
    held = found.details["kinds"]["assistant"]
    assert found.details["gate"]["status"] == "fail" and held["change"].low > 0.1
    # What changed is made again worse than base is.
    assert held["difference"].low > held["base"]["base_dictionary"]["fvu"].high


def test_post_s_own_dictionary_is_the_ceiling_and_must_be_post_s(pairs, dictionary, tmp_path):
    subject, plain = pairs["other"].recorder.post, pairs["other"].recorder.plain
    rows = record_tokens(subject, plain, [SITE], limit=6_000, progress=False).at(SITE)
    how = Training(width=128, active=8, steps=500, batch=256, rate=3e-3)
    own = train(rows, SITE, tmp_path / "post", how, subject=subject, progress=False).name
    found = compared(pairs["other"], dictionary=dictionary, ceiling=own)
    post = found.details["kinds"]["assistant"]["post"]
    assert post["post_dictionary"]["fvu"].high < post["base_dictionary"]["fvu"].low
    with pytest.raises(AuditError, match="was trained on weights"):
        compared(pairs["other"], dictionary=own)


def test_without_a_dictionary_nothing_is_measured(pairs):
    found = compared(pairs["same"])
    assert found.status == "not_measured" and "no SAE of base is named" in found.reason


def test_nothing_that_is_told_is_nan(pairs, dictionary):
    found = compared(pairs["same"], dictionary=dictionary)
    assert "NaN" not in found.model_dump_json()


def test_what_post_alone_holds_is_found_with_its_words_and_nothing_where_nothing_is(pairs, dictionary):
    from audit.encoded import encoded
    from audit.fresh import fresh

    pair = pairs["same"]
    own = load(dictionary)
    read = encoded(pair.recorder, pair.assistant.passages[:80], own, 20_000)

    def codes(rows):
        return {model: own.encode(values) for model, values in rows.items()}

    assert fresh(codes(read.rows), read)["count"] == 0
    # On one word post writes what base writes nowhere there: a latent's own direction.
    word = read.tokens.word == read.tokens.word.bincount().argmax()
    silent = int(own.encode(read.rows["base"]).firing().argmin())
    moved = read.rows["post"] + 50 * word[:, None] * torch.nn.functional.normalize(own.decoder[silent], dim=0)
    found = fresh(codes({"base": read.rows["base"], "post": moved}), read)
    planted = next(one for one in found["latents"] if one["latent"] == silent)
    for use in planted["uses"]:
        assert use["post"].value > 0.9 and use["base"].value < 0.1 * use["post"].value
    said = read.tokens.words[int(read.tokens.word[word][0])]
    assert all(use["words"].endswith(said) for use in planted["uses"])
