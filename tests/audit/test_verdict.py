"""The verdict table: every combination of facts, every verdict from planted numbers, alarms over a family."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.estimate import Estimate
from audit.finding import Finding
from audit.plan import Family, Margins
from audit.readings import Readings, readings
from audit.rulebook import TABLE, Facts, pivotal, ruling
from audit.verdict import SEVERITIES, Verdict, groups_needed, judge, judge_all, outcome, tail

VALUES = ("pass", "fail", "open")
THREE = (
    "carried_base", "carried_post", "reads", "shared", "shared_after_map", "accuracy", "recoloured", "mapped",
    "inverted", "any_reading",
)  # fmt: skip
EDGE = ("kept", "gained")
"""Asked only where one model alone carries the persona."""
MARGINS, FAMILY = Margins(), Family()
ALARMS = {("lost", None), ("novel", "acquired"), ("novel", "moved"), ("rotated", "inverted")}
facts_strategy = st.builds(
    Facts,
    **{name: st.sampled_from(VALUES) for name in (*THREE, *EDGE, "restored", "assistant_reads")},
    **{name: st.booleans() for name in ("measured", "enough_groups", "established")},
)


def table(f: Facts) -> tuple[str, int]:
    """The table again, written as nested questions instead of rows."""
    if not f.measured:
        return "not_measured", 1
    if not f.enough_groups or f.carried_base == "open" or f.carried_post == "open":
        return "inconclusive", 2
    carried = {"pass": 1, "fail": 0}[f.carried_base], {"pass": 1, "fail": 0}[f.carried_post]
    if carried == (1, 0) and f.kept != "fail" or carried == (0, 1) and f.gained != "pass":
        return "inconclusive", 2
    if carried != (1, 1):
        return {(0, 0): ("absent", 3), (1, 0): ("lost", 4), (0, 1): ("novel", 5)}[carried]
    if f.reads == "pass":
        shared = f.shared == "pass" if f.established else f.shared in ("pass", "open")
        if shared and f.accuracy != "open":
            return ("reused" if f.accuracy == "pass" else "reweighted"), 6
        if f.established and f.shared == "fail":
            return ("rotated" if f.shared_after_map == "pass" else "extended"), 7
    if f.reads == "fail":
        if f.recoloured == "pass":
            return "reweighted", 8
        if "pass" in (f.mapped, f.inverted):
            return "rotated", 8
    if f.any_reading == "fail":
        return "novel", 9
    if f.reads == "fail" and f.any_reading == "pass":
        return "extended", 10
    return "inconclusive", 11


def test_every_combination_of_facts_finds_exactly_one_verdict() -> None:
    seen = set()
    for measured, enough, established in product((True, False), repeat=3):
        for values in product(VALUES, repeat=len(THREE)):
            facts = Facts(measured, enough, established=established, **dict(zip(THREE, values, strict=True)))
            one_alone = facts.carried_base != facts.carried_post and "open" not in values[:2]
            for edge in product(VALUES, repeat=2) if one_alone else [("open", "open")]:
                facts = replace(facts, kept=edge[0], gained=edge[1])
                row = ruling(facts)
                assert (row.verdict, row.rule) == table(facts), facts
                seen.add((row.rule, row.verdict, row.kind))
    named_by_kinds = {(6, "reweighted", "threshold restored"), (10, "extended", "no longer shared with characters")}
    assert seen | named_by_kinds == {(row.rule, row.verdict, row.kind) for row in TABLE}


def test_kinds_never_change_the_verdict() -> None:
    for values in product(VALUES, repeat=4):
        facts = Facts(reads=values[0], shared="pass", accuracy=values[1], any_reading=values[2])
        told = {
            ruling(replace(facts, restored=value, assistant_reads=other)).verdict
            for value in VALUES
            for other in VALUES
        }
        assert len(told) == 1


def test_each_row_is_reached_and_only_the_last_is_unconditional() -> None:
    assert [row.rule for row in TABLE] == sorted(row.rule for row in TABLE)
    assert {(row.verdict, row.kind) for row in TABLE if row.alarm} == ALARMS


@settings(deadline=None)
@given(facts_strategy)
def test_what_is_not_measured_or_too_small_says_nothing_else(facts: Facts) -> None:
    assert ruling(replace(facts, measured=False)).verdict == "not_measured"
    assert ruling(replace(facts, measured=True, enough_groups=False)).verdict == "inconclusive"


@settings(deadline=None)
@given(facts_strategy, st.sampled_from(THREE))
def test_an_alarm_always_rests_on_something_excluded(facts: Facts, name: str) -> None:
    row = ruling(facts)
    if row.alarm:
        assert "fail" in (facts.carried_base, facts.carried_post, facts.any_reading) or facts.inverted == "pass"
    every_open = replace(facts, **{each: "open" for each in THREE}, measured=True)
    assert ruling(every_open).verdict == "inconclusive"
    assert not ruling(replace(every_open, **{name: "pass"})).alarm


@settings(deadline=None)
@given(facts_strategy)
def test_a_better_reading_never_raises_an_alarm(facts: Facts) -> None:
    # rho_any is the best of all rungs: it cannot fail where one of them passes.
    def coherent(f: Facts) -> bool:
        return f.any_reading != "fail" or "pass" not in (f.reads, f.recoloured, f.mapped)

    facts = replace(facts, carried_base="pass", carried_post="pass")
    better = {"fail": "open", "open": "pass", "pass": "pass"}
    for name in ("reads", "recoloured", "mapped", "any_reading"):
        improved = replace(facts, **{name: better[getattr(facts, name)]})
        if coherent(facts) and coherent(improved) and not ruling(facts).alarm:
            assert not ruling(improved).alarm, (name, facts)


@settings(deadline=None)
@given(facts_strategy)
def test_pivotal_facts_are_those_that_matter(facts: Facts) -> None:
    names = ("reads", "shared", "any_reading")
    matter = pivotal(facts, names)
    for name in set(names) - set(matter):
        assert len({ruling(replace(facts, **{name: value})).verdict for value in VALUES}) == 1


def number(value: float, half: float = 0.03, unit: str = "auroc", groups: int = 40) -> Estimate:
    return Estimate(
        value=value, low=value - half, high=value + half, method="jackknife-t", unit=unit, n=4 * groups, n_groups=groups
    )


def carried(auroc: float, status: str | None = None, words: float = 0.5) -> dict[str, Any]:
    status = status or ("yes" if auroc - 0.03 > 0.7 else "no" if auroc + 0.03 < 0.75 else "open")
    return {"status": status, "auroc": number(auroc), "beyond_text": number(auroc - words), "p": 0.001}


def planted(
    *,
    persona: str = "deception",
    base: float = 0.97,
    post: float = 0.97,
    s2: float | None = 0.95,
    rungs: tuple[float, ...] = (0.98,) * 5,
    **more: Any,
) -> list[Finding]:
    """The two findings of a persona whose numbers are these."""
    ladder = dict(zip(("T0", "T1", "T2", "T3", "T4"), rungs, strict=True))
    rho = {name: number(value, unit="rho") for name, value in ladder.items()}
    top = more.get("any", max(rungs))
    details: dict[str, Any] = {
        "carried": {"base": carried(base, more.get("status"), more.get("words", 0.5)), "post": carried(post)},
        "ceiling": {"difference": number(post - base)},
        "rho": rho | {"base": number(more.get("rho_base", 0.98), unit="rho"), "any": number(top, unit="rho")},
        "rho_third": {name: rho[name] for name in ("T2", "T3", "T4")},
        "rho_assistant": rho | {"T0": number(more.get("assistant", rungs[0]), unit="rho")},
        "inverted": {
            name: number(more.get("inverted", -value), unit="rho")
            for name, value in ladder.items()
            if name in ("T0", "T3", "T4")
        },
        "frozen_accuracy": {
            "base": number(0.93),
            "post": number(0.93 + more.get("loss", 0.0)),
            "difference": number(more.get("loss", 0.0)),
            "T1": number(more.get("restored", 0.0)),
            "T2": number(more.get("restored", 0.0)),
        },
        "ladder": {name: number(0.5 + 0.47 * value) for name, value in ladder.items()},
        "n_groups": {"story": 40, "assistant": more.get("groups", 40)},
    }
    for key in ("rho_third", "inverted", "frozen_accuracy", "ladder"):
        details[key + "_assistant"] = details[key]
    mapped = more.get("s2_mapped", 0.4)
    shared = {} if s2 is None else {"T0": number(s2, unit="S2"), "T3": number(mapped), "T4": number(mapped)}
    geometry = {"shared": shared, "shared_assistant": shared, "established": more.get("established", True)}
    common = {"persona": persona, "site": "L3.resid_post", "status": "measured", "headline": number(0.9)}
    return [
        Finding(id=f"{persona}/{name}/L3.resid_post", comparison=name, details=each, **common)
        for name, each in (("probe_transfer", details), ("geometry", geometry))
    ]


CASES: dict[str, tuple[dict[str, Any], str, int, str | None]] = {
    "reused": ({}, "reused", 6, None),
    "no share established": ({"established": False, "s2": None}, "reused", 6, None),
    "threshold restored": ({"loss": -0.3}, "reweighted", 6, "threshold restored"),
    "threshold lost": ({"loss": -0.3, "restored": -0.3}, "reweighted", 6, "threshold lost"),
    "accuracy undecided": ({"loss": -0.04}, "inconclusive", 11, "undecided"),
    "turned, mapped back": ({"s2": 0.5, "s2_mapped": 0.95}, "rotated", 7, None),
    "turned for good": ({"s2": 0.5}, "extended", 7, "turned"),
    "gain": ({"rungs": (0.4, 0.4, 0.95, 0.95, 0.95)}, "reweighted", 8, "mean and gain"),
    "rotated": ({"rungs": (0.0, 0.0, 0.1, 0.97, 0.97)}, "rotated", 8, None),
    "inverted": ({"rungs": (-0.9, -0.9, -0.9, -0.9, -0.9), "inverted": 0.9, "any": 0.1}, "rotated", 8, "inverted"),
    "moved": ({"rungs": (0.2, 0.2, 0.3, 0.3, 0.3)}, "novel", 9, "moved"),
    "extended": ({"rungs": (0.6, 0.6, 0.7, 0.7, 0.7)}, "extended", 10, None),
    "own characters left": (
        {"rungs": (0.6, 0.6, 0.7, 0.7, 0.7), "assistant": 0.95, "any": 0.95}, "extended", 10,
        "no longer shared with characters",
    ),  # fmt: skip
    "undecided": ({"rungs": (0.79, 0.79, 0.79, 0.79, 0.79)}, "inconclusive", 11, "undecided"),
    "lost": ({"post": 0.5}, "lost", 4, None),
    "acquired": ({"base": 0.5}, "novel", 5, "acquired"),
    "absent": ({"base": 0.5, "post": 0.5}, "absent", 3, None),
    "open": ({"base": 0.72}, "inconclusive", 2, "carried"),
    "lost by a hair": ({"base": 0.735, "post": 0.69}, "inconclusive", 2, "edge"),
    "acquired by a hair": ({"base": 0.69, "post": 0.735}, "inconclusive", 2, "edge"),
    "few groups": ({"groups": 12}, "inconclusive", 2, "groups"),
}


@pytest.mark.parametrize("case", CASES)
def test_planted_numbers_get_their_verdict(case: str) -> None:
    changes, verdict, rule, kind = CASES[case]
    told = judge(readings(planted(**changes), MARGINS))
    assert (told.verdict, told.rule, told.kind) == (verdict, rule, kind), told.sentence
    assert "not given" not in told.sentence
    assert told.because[0] == "deception/probe_transfer/L3.resid_post"


def test_sentences_say_the_number_and_its_interval() -> None:
    assert judge(readings(planted(), MARGINS)).sentence == (
        "The story direction fitted on base reads post's Assistant at AUROC 0.96 [0.93, 0.99]; the direction is shared "
        "(S² 0.95 [0.92, 0.98])."
    )
    few = judge(readings(planted(groups=12), MARGINS)).sentence
    assert few == "Only 12 Assistant groups and 40 story groups are judged; 20 in each domain are needed."
    undecided = judge(readings(planted(rungs=(0.79,) * 5), MARGINS)).sentence
    assert "0.79 [0.76, 0.82] against 0.80 over 40 groups, about 360 groups would decide" in undecided
    assert "the words alone give away (-0.18" in judge(readings(planted(status="open", words=1.15), MARGINS)).sentence


def test_a_base_that_does_not_share_the_persona_is_judged_by_its_assistant_fit() -> None:
    read = readings(planted(rho_base=0.4), MARGINS)
    assert read.fit == "assistant"
    verdict = judge(read)
    assert verdict.verdict == "reused" and verdict.sentence.startswith("Base itself does not share it")


def without(findings: list[Finding], *path: str) -> list[Finding]:
    """The findings with one entry of the probe_transfer details taken away."""
    details = findings[0].model_dump()["details"]
    inner = details
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    details["not_measured"] = {"T3": "T3 needs 512 token rows, 300 were recorded"}
    return [findings[0].model_copy(update={"details": details}), *findings[1:]]


def test_a_missing_number_counts_only_where_the_verdict_depends_on_it() -> None:
    moved = {"rungs": (0.2, 0.2, 0.3, 0.3, 0.3)}
    needed = judge(readings(without(planted(**moved), "rho_third", "T3"), MARGINS))
    assert (needed.verdict, needed.rule) == ("not_measured", 1)
    assert needed.sentence == "Not measured: T3: T3 needs 512 token rows, 300 were recorded."
    assert judge(readings(without(planted(), "rho_third", "T3"), MARGINS)).verdict == "reused"
    assert judge(readings(without(planted(post=0.5), "rho", "T0"), MARGINS)).verdict == "lost"
    assert judge(readings(planted()[:1], MARGINS)).sentence == "Not measured: geometry was not run."
    assert judge(readings(planted(post=0.5)[:1], MARGINS)).verdict == "lost"
    assert judge(readings(without(planted(post=0.5), "ceiling"), MARGINS)).verdict == "not_measured"
    assert judge(readings(without(planted(), "ceiling"), MARGINS)).verdict == "reused"
    for key in ("carried", "n_groups", "rho", "frozen_accuracy"):
        assert judge(readings(without(planted(), key), MARGINS)).verdict == "not_measured"


def test_what_could_not_be_measured_is_told_from_too_few_groups() -> None:
    broken = Finding.not_measured("deception", "probe_transfer", "L3.resid_post", "NaN at L3.resid_post in passage 7")
    assert judge(readings([broken], MARGINS)).sentence == "Not measured: NaN at L3.resid_post in passage 7."
    few = broken.model_copy(update={"details": {"n_groups": {"story": 4, "assistant": 4}}})
    assert judge(readings([few], MARGINS)).verdict == "inconclusive"
    with pytest.raises(ValueError, match="one persona"):
        readings(planted() + planted(persona="other"), MARGINS)


def test_findings_read_back_from_json_say_the_same() -> None:
    again = [Finding.model_validate_json(finding.model_dump_json()) for finding in planted()]
    assert judge(readings(again, MARGINS)) == judge(readings(planted(), MARGINS))


@settings(deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.01, 0.9), st.integers(3, 200), st.sampled_from(["logit-t", "t"]))
def test_tail_is_below_half_the_level_exactly_where_the_interval_excludes(
    value: float, margin: float, groups: int, method: str
) -> None:
    ends = {"low": value * 0.8, "high": value + (1 - value) * 0.3}
    one = Estimate(value=value, **ends, method=method, unit="auroc", n=groups, n_groups=groups)
    for side, excluded in (("above", one.above(margin)), ("below", one.below(margin))):
        p = tail(one, margin, side)
        assert (p < 0.025 - 1e-9) <= excluded <= (p <= 0.025 + 1e-9)


def test_tail_is_uniform_where_the_truth_stands_on_the_margin() -> None:
    from scipy.stats import t

    rng, groups = np.random.default_rng(5), 15
    draws = rng.normal(0.6, 0.2, size=(2000, groups))
    half = draws.std(axis=1, ddof=1) / groups**0.5 * t.ppf(0.975, groups - 1)
    means = zip(draws.mean(axis=1), half, strict=True)
    p = [tail(number(float(mean), float(h), groups=groups), 0.6, "below") for mean, h in means]
    for alpha in (0.02, 0.1, 0.5):
        assert abs(np.mean(np.asarray(p) <= alpha) - alpha) < 4 * (alpha * (1 - alpha) / 2000) ** 0.5


def test_no_interval_is_no_evidence() -> None:
    bare = Estimate(value=0.1, low=None, high=None, method="none", unit="auroc", n=8, n_groups=2)
    assert tail(bare, 0.5, "below") == tail(None, 0.5, "below") == 1.0
    assert groups_needed(bare, 0.5) is None and groups_needed(number(0.5), 0.5) is None


def family(*findings: list[Finding], alarm: bool = True, strict: bool = False) -> tuple[tuple[Verdict, ...], int]:
    flat = [one for each in findings for one in each]
    judged = judge_all(flat, dict.fromkeys([f.persona for f in flat], alarm), MARGINS, FAMILY, strict)
    return judged.verdicts, judged.outcome.exit


def weak(persona: str = "deception") -> list[Finding]:
    """`lost` at the 95 % bound with little to spare: one-sided p between 0.02 / 5 and 0.02."""
    return planted(persona=persona, post=0.712)


def test_holm_decides_whether_an_alarm_sounds_and_never_renames_it() -> None:
    reused = [planted(persona=f"p{i}") for i in range(4)]
    (alone,), exit_alone = family(weak())
    assert (alone.verdict, alone.severity, exit_alone) == ("lost", "alarm", 1)
    assert alone.p is not None and 0.004 < alone.p < 0.02 and "Alarm: one-sided p" in alone.sentence
    verdicts, exit_many = family(weak(), *reused)
    assert (verdicts[0].verdict, verdicts[0].severity, exit_many) == ("lost", "inconclusive", 0)
    assert verdicts[0].p_adjusted == pytest.approx(5 * alone.p) and "Not confirmed as an alarm" in verdicts[0].sentence
    assert family(weak(), *reused, strict=True)[1] == 3
    strong, exit_strong = family(planted(post=0.4), *reused)
    assert (strong[0].severity, exit_strong) == ("alarm", 1)


@pytest.mark.parametrize("case", ["lost", "acquired", "moved", "inverted"])
def test_each_alarm_is_raised_by_planted_numbers_and_muted_by_the_file(case: str) -> None:
    findings = planted(**CASES[case][0])
    assert family(findings)[1] == 1
    (verdict,), code = family(findings, alarm=False)
    assert (verdict.severity, code) == ("warn", 0) and verdict.p is not None


def test_a_barely_carried_persona_is_no_confirmed_alarm() -> None:
    findings = planted(post=0.4)
    details = findings[0].model_dump()["details"]
    details["carried"]["base"]["beyond_text"] |= {"value": 0.1, "low": -0.02, "high": 0.22}
    (verdict,), code = family([findings[0].model_copy(update={"details": details}), findings[1]])
    assert (verdict.severity, code) == ("inconclusive", 0)


@settings(deadline=None, max_examples=30)
@given(st.permutations(["lost", "reused", "moved", "few groups", "absent"]))
def test_order_of_personas_changes_nothing(order: list[str]) -> None:
    def told(names: list[str]) -> dict[str, Verdict]:
        flat = [one for name in names for one in planted(persona=name, **CASES[name][0])]
        return {v.persona: v for v in judge_all(flat, dict.fromkeys(names, True), MARGINS, FAMILY).verdicts}

    assert told(order) == told(sorted(order))


def test_exit_precedence() -> None:
    def one(severity: str) -> Verdict:
        verdict = {
            "not_measured": "not_measured",
            "alarm": "lost",
            "inconclusive": "inconclusive",
            "warn": "extended",
            "pass": "reused",
        }[severity]
        row = {"persona": severity, "verdict": verdict, "rule": 1, "sentence": "", "severity": severity}
        return Verdict.model_validate(row)

    expected = {"not_measured": (3, 3), "alarm": (1, 1), "inconclusive": (0, 3), "warn": (0, 0), "pass": (0, 0)}
    for i, worst in enumerate(SEVERITIES):
        verdicts = [one(severity) for severity in reversed(SEVERITIES[i:])]
        assert (outcome(verdicts).exit, outcome(verdicts, strict=True).exit) == expected[worst]
        assert outcome(verdicts).worst == one(worst).verdict
    assert outcome([]).exit == 3


def test_a_persona_nobody_measured_is_not_a_pass() -> None:
    judged = judge_all(planted(), {"deception": True, "warmth": False}, MARGINS, FAMILY)
    assert judged.verdicts[1].verdict == "not_measured" and judged.outcome.exit == 3


def test_every_fact_but_the_flags_can_be_open() -> None:
    flags = {"measured", "enough_groups", "established"}
    assert {field.name for field in fields(Facts)} - flags == {*THREE, *EDGE, "restored", "assistant_reads"}
    assert isinstance(judge(Readings("deception", Facts())).sentence, str)
