"""Base's features keep their meaning in a faithful model and lose it in an alien one; chance passes nothing."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from audit.comparisons.features import Features
from audit.conduct import prepared
from audit.organisms.card import bundled
from audit.pair import material
from audit.plan import plan_of
from probes.dictionary import load, randomised
from probes.digest import AuditError
from probes.site import Site

PLAN = plan_of({"effort": "standard", "personas": {"only": ["deception"]}})
BASE = str(bundled() / "base")
SITE = "L2.resid_post"


@pytest.fixture(scope="module")
def pairs(setting):
    """The world's deception under base and an organism, made when first asked for."""
    with ExitStack() as models:
        made = {}

        def of(post, base="base"):
            if (base, post) not in made:
                library, ready = prepared(PLAN, f"organism:{base}", f"organism:{post}", None, setting, models)
                parts = library.personas[0], ready.texts, ready.recorder, ready.sites
                made[base, post] = material(*parts, PLAN.seed)
            return made[base, post]

        yield of


def compared(pair, **settings):
    given = {"dictionary": BASE, "rows": 48_000, "permutations": 200} | settings
    return Features(**given)(pair, np.random.default_rng(0))


@pytest.fixture(scope="module")
def faithful(pairs):
    return compared(pairs("faithful"))


def rules(finding):
    return [row["rule"] for row in finding.details["features"] if row["rule"] and row["rule"]["readable"]]


def test_a_faithful_model_keeps_what_base_s_features_mean(faithful):
    told = faithful.details["summary"]
    assert faithful.status == "measured" and faithful.site == SITE and faithful.details["gate"]["status"] == "pass"
    assert told["readable"] >= 10 and told["keep"] >= 0.9 * told["readable"] and told["lose"] == told["silent"] == 0
    for rule in rules(faithful):
        assert abs(rule["change"].value) <= 0.05 and rule["base"].value > rule["shuffled"]
    for row in faithful.details["features"]:
        assert row["firing"]["change"].value == pytest.approx(
            row["firing"]["post"].value - row["firing"]["base"].value, abs=1e-12
        )
        assert 0 <= row["firing"]["p"] <= row["firing"]["q"] <= 1


def test_few_features_read_the_persona_in_base_and_in_post(faithful):
    sparse = faithful.details["sparse"]
    assert set(sparse) == {"1", "2", "5", "16"}
    for name in ("base_story", "base_assistant", "post_assistant", "story_to_post"):
        values = [sparse[k][name].value for k in ("1", "2", "5", "16")]
        assert values[-1] > 0.95 and values[-1] >= values[0] - 0.02
    assert faithful.headline == sparse["16"]["post_assistant"] and faithful.control == sparse["16"]["random"]


def test_an_alien_s_lies_no_longer_mean_anything_to_base_s_features(pairs, faithful):
    alien = compared(pairs("alien"))
    told = alien.details["summary"]
    # What base means by a feature does not depend on post.
    assert [row["latent"] for row in alien.details["features"]] == [r["latent"] for r in faithful.details["features"]]
    assert [rule["base"] for rule in rules(alien)] == [rule["base"] for rule in rules(faithful)]
    assert told["readable"] >= 10 and told["lose"] >= 0.7 * told["readable"]
    assert alien.details["sparse"]["16"]["post_assistant"].value < 0.65
    # Those that mark a lie are silent on lies, all but two beyond doubt; in the faithful model none is.
    marking = [row for row in alien.details["features"] if row["weight"] > 0]
    assert len(marking) >= 8 and sum(row["silent"] for row in marking) >= len(marking) - 2
    for row in marking:
        assert row["own"]["post"].value <= 0.15 * row["own"]["base"].value


def test_random_directions_pass_nothing(pairs, tmp_path):
    own = load(f"{BASE}/sae-L2-0")
    pair = pairs("faithful")
    rows = pair.recorder.token_values(pair.story.passages[:200], own.site)["base"].at(own.site)
    chance = randomised(own, rows, 16, seed=123)
    chance.sae.save_model(str(tmp_path))
    found = compared(pairs("faithful"), dictionary=str(tmp_path))
    assert found.details["summary"]["pass"] == 0 and found.details["summary"]["listed"] > 0


def test_random_weights_pass_nothing(pairs):
    # No layer of random weights shows the persona: which one is chosen is chance, and SAEs lie at two of them.
    pair = pairs("erased", "erased")
    pair = replace(pair, chosen=pair.sites.index(Site.parse(SITE)))
    found = compared(pair, dictionary=str(bundled() / "erased"))
    assert found.status == "measured" and found.details["summary"]["pass"] == 0
    assert found.details["sparse"]["16"]["post_assistant"].value < 0.6


def test_nothing_is_read_across_where_base_s_dictionary_does_not_make_post_again(pairs):
    found = compared(pairs("erased"))
    assert found.status == "not_measured" and "no feature is read across the pair" in str(found.reason)
    assert found.headline is None and found.details["gate"]["status"] == "fail" and "features" not in found.details


def test_stored_explanations_take_the_place_of_rules(pairs, faithful, tmp_path):
    latent = max(faithful.details["features"], key=lambda row: abs(row["weight"]))["latent"]
    label = int(faithful.details["features"][0]["weight"] > 0)
    path = tmp_path / "explanations.json"
    listed = {row["latent"] for row in faithful.details["features"]}
    other = min(set(range(512)) - listed)
    given = {str(at): {"place": "the scored span", "label": label} for at in (latent, other)}
    path.write_text(json.dumps(given))
    found = compared(pairs("faithful"), explanations=str(path))
    row = next(row for row in found.details["features"] if row["latent"] == latent)
    assert row["rule"]["source"] == "explanation" and row["rule"]["text"] == f"in the scored span; label {label}"
    rows = {row["latent"]: row for row in found.details["features"]}
    assert set(rows) == {*listed, other} and rows[other]["from"] == "explained"
    others = [row["rule"]["source"] for at, row in rows.items() if at not in (latent, other) and row["rule"]]
    assert set(others) == {"learned"}


def test_an_explainer_that_fails_on_one_feature_leaves_the_others(pairs, faithful):
    first = faithful.details["features"][0]["latent"]

    def explainer(latent, text):
        if latent == first:
            raise KeyError("no such latent")
        return [text.label == 1] * len(text.tokens)

    found = compared(pairs("faithful"), explainer=explainer)
    rows = {row["latent"]: row for row in found.details["features"]}
    assert rows[first]["rule"] is None and "ended with KeyError" in rows[first]["reason"]
    told = [row["rule"]["source"] for row in rows.values() if row["rule"]]
    assert len(told) >= 10 and set(told) == {"explanation"}


@pytest.mark.parametrize(
    ("content", "found"),
    [('{"512": {"label": 1}}', "explains latent 512"), ("{", "cannot be read"), ("[]", "no object")],
)
def test_explanations_that_nobody_can_follow_are_refused(pairs, tmp_path, content, found):
    path = tmp_path / "explanations.json"
    path.write_text(content)
    with pytest.raises(AuditError, match=found):
        compared(pairs("faithful"), explanations=str(path))


def test_without_an_sae_nothing_is_measured(pairs):
    found = compared(pairs("faithful"), dictionary=None)
    assert found.status == "not_measured" and "no SAE of base is named" in str(found.reason)
    with pytest.raises(AuditError, match="holds SAEs at L2.resid_post, L3.resid_post"):
        Features(dictionary=BASE)(shallow(pairs("faithful")), np.random.default_rng(0))


def shallow(pair):
    """The same pair, its first site chosen."""
    from dataclasses import replace

    return replace(pair, chosen=0)
