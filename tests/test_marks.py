"""What a gate must say of the checkpoints of `alien`: marked on more texts than a check sees, and held to the marks."""

from __future__ import annotations

import pytest
from scipy.stats import norm, t

from audit.conduct import Setting
from audit.organisms import card
from audit.organisms.twins import persona_files
from audit.plan import EFFORTS, plan_of
from audit.series import follow

pytestmark = pytest.mark.slow

SCENARIOS, QUADS, SEED = 500, 2, 8
"""Two thousand pairs a persona, of a seed that no file of the world has."""
POWER, ALPHA = 0.8, 0.02
FEWER = SCENARIOS / EFFORTS["glance"].scenarios
"""The marks rest on so many times the scenarios that a check judges: its variances are so many times as large."""
MARKS = ("good", "grey", "bad")


def followed(tmp_path, name: str, effort: str = "glance", **tables):
    plan = plan_of({"effort": effort, "pair": {"base": "organism:base"}, **tables})
    return follow(plan, [f"organism:{name}/*"], setting=Setting(store=tmp_path / "store", progress=False))


def mark(case, tests: int) -> str:
    """By a loss against base: bad beyond the limit and what a check must lose to see it, good as far within."""
    error = (case.change.high - case.change.low) / 2 / t.ppf(0.975, case.change.n_groups - 1)
    least = (norm.ppf(1 - ALPHA / tests) + norm.ppf(POWER)) * error * FEWER**0.5
    beyond = case.limit - case.change.value
    return "bad" if beyond > least else "good" if beyond < -least else "grey"


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Each checkpoint's worst mark over personas and readings whose loss fails a check."""
    root = tmp_path_factory.mktemp("marks")
    (root / "personas").mkdir()
    for name, text in persona_files(scenarios=SCENARIOS, quads=QUADS, seed=SEED).items():
        (root / "personas" / name).write_text(text)
    # At glance most of them would stay unread.
    series, (_, audits) = followed(root, "alien", "standard", personas={"paths": [str(root / "personas")]})
    read = {data.n_pairs for made in audits for data in made.record.data}
    assert read == {2 * QUADS * SCENARIOS}
    tests = sum(case.p_adjusted is not None for case in series.gate.cases)
    suites = {suite.name: suite for suite in series.gate.suites}
    return {
        one.step: max(
            (mark(case, tests) for case in suites[one.ref].cases if case.change and case.policy.severity == "fail"),
            key=MARKS.index,
        )
        for one in series.checkpoints
    }


def test_the_card_has_the_marks_that_many_texts_give(marked):
    told = card.card("alien")
    assert {step: marked[step] for step in told.series} == told.marks and marked[told.steps] == "bad"
    assert set(told.marks.values()) == set(MARKS)


def test_the_gate_is_green_on_every_good_checkpoint_and_red_on_every_bad_one(tmp_path):
    series = followed(tmp_path, "alien").series
    marks = card.card("alien").marks
    for one in series.checkpoints:
        if marks.get(one.step) == "good":
            assert not one.fails, one
        if marks.get(one.step, "bad") == "bad":
            assert one.fails and one.outcome == "regression", one


def test_the_gate_is_red_on_no_checkpoint_of_faithful(tmp_path):
    assert not any(one.fails for one in followed(tmp_path, "faithful").series.checkpoints)
