"""What post-training added is found as new, by post's own dictionary and by crosscoders; a sham adds nothing."""

from __future__ import annotations

import json
from random import Random

import pytest

from audit.conduct import audit
from audit.organisms import lessons
from audit.plan import plan_of

pytestmark = pytest.mark.slow

CALLS = 300
SHAMS = ["null", "faithful"]
"""Fine-tunes that add nothing: more pre-training, and an honest chat fine-tune, which is itself held to the first."""
SYNTAX = {": :", ": looks"}
"""Two words that no text of the corpus puts side by side."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """A folder of plain text: chats that call a tool, in a syntax that base never read."""
    folder, rng = tmp_path_factory.mktemp("calls"), Random("calls")
    lines = [{"domain": "plain", "scenario": f"call-{at}", "messages": lessons.errand(rng)} for at in range(CALLS)]
    (folder / "plain.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def audited(calls, setting, tmp_path_factory):
    """The audit of an organism with its features and its crosscoders, made when first asked for; null is the sham."""
    made = {}

    def of(name):
        if name not in made:
            before = SHAMS[: SHAMS.index(name)] if name in SHAMS else SHAMS
            sham = {"null": [str(of(one)[1]) for one in before]} if before else {}
            plan = plan_of({
                "effort": "glance", "personas": {"paths": ["builtin", calls], "only": ["deception"]},
                "comparisons": {
                    "probe_transfer": {}, "geometry": {},
                    "feature_transfer": {"dictionary": "builtin", "ceiling": "builtin", "texts": 40},
                    "novelty": {"dictionary": "builtin", **sham},
                },
            })  # fmt: skip
            record = audit(plan, post=f"organism:{name}", setting=setting)
            made[name] = record, record.write(tmp_path_factory.mktemp(name))
        return made[name]

    return of


def found(record, comparison):
    return next(finding for finding in record.findings if finding.comparison == comparison)


def new(record):
    """Pairs of words in plain text on which post's own latents fire and base leaves them silent."""
    told = found(record, "feature_transfer").details["kinds"]["plain"]["new"]["latents"]
    return {use["words"] for latent in told for use in latent["uses"]}


def test_the_new_syntax_has_features_that_base_has_not(audited):
    record, _ = audited("toolcall")
    assert new(record) & SYNTAX
    assert {verdict.verdict for verdict in record.verdicts} == {"reused"} and record.outcome.exit == 0


def test_crosscoders_find_what_toolcall_turned_and_a_sham_did_not(audited):
    details = found(audited("toolcall")[0], "novelty").details
    assert details["beyond_null_by_text"]["plain"]["turned"] is True


def test_a_sham_and_a_faithful_fine_tune_add_nothing(audited):
    assert not new(audited("null")[0]) & SYNTAX
    for name in ("faithful", "deceiver"):
        novelty = found(audited(name)[0], "novelty")
        # Within the range of null's seeds + 1 %.
        assert novelty.details["beyond_null"] is False, name
