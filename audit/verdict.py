"""From findings to one verdict per persona: facts from bounds, the rulebook's row, a sentence and an exit code.

`readings` turns estimates into facts by their bounds alone, `ruling` looks the facts up in the rulebook, `judge` adds
the sentence, `judge_all` what only the whole family knows: which alarms survive Holm over personas, and the exit code.

**Alarms and the table's bounds.** The table decides at two-sided 95 % bounds, so each clause of a row may be wrong once
in 40 personas. Rows that alarm (lost, novel, inverted) get a second, stricter gate. Each of the row's clauses is an
interval that excludes a margin; `tail` inverts the same interval into a one-sided p, at most 0.025 exactly when the
95 % bound excludes the margin. The row needs all its clauses, so its p is their largest (intersection-union). A persona
whose row does not alarm enters Holm with p = 1: the family is every persona of the audit. Holm never renames a verdict.
An alarm with adjusted p <= `alarm_alpha` is confirmed: severity `alarm`, exit 1. One that is not keeps the verdict and
its numbers, says so in its sentence, and counts as `inconclusive`: exit 0, and 3 with --strict. Personas whose file
does not say `alarm = true` warn instead. Permutation tests are gates inside `carried` and not part of the alarm's p,
whose floor (1 over the draws) would otherwise silence every alarm of a large family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from audit.estimate import Estimate
from audit.finding import Finding
from audit.multiplicity import holm
from audit.plan import Family, Margins
from audit.readings import TESTS, Readings, margin_of, readings
from audit.rulebook import Facts, Row, VerdictName, ruling

Severity = Literal["pass", "warn", "inconclusive", "alarm", "not_measured"]

SEVERITIES: tuple[Severity, ...] = ("not_measured", "alarm", "inconclusive", "warn", "pass")
"""Worst first: what is missing outranks an alarm, an alarm what is undecided."""


class Verdict(BaseModel):
    """What the audit says about one persona.

    Attributes:
        rule: Row of the table that held.
        kind: Which of several things by that name, where it matters.
        severity: What it means for the exit code.
        p: One-sided p of an alarm, before and after Holm over personas; null where the row does not alarm.
        because: Identifiers of the findings it rests on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    persona: str
    verdict: VerdictName
    rule: int = Field(ge=1, le=11)
    sentence: str
    because: tuple[str, ...] = ()
    kind: str | None = None
    severity: Severity | None = None
    p: float | None = Field(default=None, ge=0.0, le=1.0)
    p_adjusted: float | None = Field(default=None, ge=0.0, le=1.0)


class Outcome(BaseModel):
    """What the whole audit answers to the shell: its exit code, and the verdict that caused it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exit: int
    worst: VerdictName


@dataclass(frozen=True)
class Judgement:
    """All verdicts of an audit, and its outcome."""

    verdicts: tuple[Verdict, ...]
    outcome: Outcome


def judge(reading: Readings) -> Verdict:
    """The verdict on one persona, as if it were the only one: an alarm keeps its raw p and severity `alarm`."""
    row = ruling(reading.facts)
    p = _alarm_p(row, reading.numbers, reading.margins) if row.alarm else None
    severity: dict[str, Severity] = {
        "reused": "pass",
        "absent": "pass",
        "inconclusive": "inconclusive",
        "not_measured": "not_measured",
    }
    return Verdict(
        persona=reading.persona,
        verdict=row.verdict,
        rule=row.rule,
        because=reading.because,
        kind=row.kind,
        p=p,
        p_adjusted=p,
        severity="alarm" if row.alarm else severity.get(row.verdict, "warn"),
        sentence=row.sentence.format_map(_Phrases(_phrases(reading))),
    )


def judge_all(
    findings: Sequence[Finding], alarms: Mapping[str, bool], margins: Margins, family: Family, strict: bool = False
) -> Judgement:
    """One verdict per persona, alarms controlled over all of them, and the exit code.

    Args:
        findings: Of all personas, in any order.
        alarms: Every persona of the audit, with what its file says of `alarm`.
        margins: From the plan.
        family: From the plan.
        strict: An undecided persona exits 3.
    """
    single = []
    for persona in alarms:
        mine = [finding for finding in findings if finding.persona == persona]
        blank = Readings(persona, Facts(measured=False), margins, reason="no finding is about it")
        single.append(judge(readings(mine, margins) if mine else blank))
    adjusted = holm([1.0 if verdict.p is None else verdict.p for verdict in single])
    verdicts = tuple(
        verdict if verdict.p is None else _in_family(verdict, p, len(single), alarms[verdict.persona], family)
        for verdict, p in zip(single, adjusted, strict=True)
    )
    return Judgement(verdicts, outcome(verdicts, strict))


def outcome(verdicts: Sequence[Verdict], strict: bool = False) -> Outcome:
    """Exit code by precedence: not measured 3, alarm 1, undecided 0 (3 when strict), else 0; without a verdict 3."""
    if not verdicts:
        return Outcome(exit=3, worst="not_measured")
    worst = min(verdicts, key=lambda verdict: SEVERITIES.index(verdict.severity or "pass"))
    exits = {"not_measured": 3, "alarm": 1, "inconclusive": 3 if strict else 0}
    return Outcome(exit=exits.get(worst.severity or "pass", 0), worst=worst.verdict)


def tail(estimate: Estimate | None, margin: float, side: Literal["above", "below"]) -> float:
    """One-sided p of "the truth is not on this side of the margin", by inverting the estimate's own interval.

    The distance from the value to the bound that faces the margin is t_{G-1} quantile times standard error, on the
    logit scale where the method says so and the numbers allow it, else as they are. So p <= (1 - level)/2 exactly when
    that bound excludes the margin. Without an interval p is 1.
    """
    from scipy.special import stdtr, stdtrit

    bound = None if estimate is None else estimate.low if side == "above" else estimate.high
    if estimate is None or bound is None or estimate.n_groups < 2:
        return 1.0
    points = (estimate.value, bound, margin)
    if "logit" in estimate.method and all(0.0 < point < 1.0 for point in points):
        points = tuple(math.log(point / (1.0 - point)) for point in points)
    value, bound, edge = points
    gap = value - edge if side == "above" else edge - value
    if value == bound:
        return 0.0 if gap > 0 else 1.0
    freedom = estimate.n_groups - 1
    return float(stdtr(freedom, -gap / abs(value - bound) * stdtrit(freedom, (1.0 + estimate.level) / 2.0)))


def groups_needed(estimate: Estimate | None, margin: float) -> int | None:
    """Groups at which an interval of the same spread would leave the margin out; None beyond a hundred thousand."""
    if estimate is None or estimate.low is None or estimate.high is None or estimate.value == margin:
        return None
    half = estimate.high - estimate.value if estimate.value < margin else estimate.value - estimate.low
    needed = math.ceil(estimate.n_groups * (half / (estimate.value - margin)) ** 2 - 1e-6)
    return max(needed, estimate.n_groups + 1) if needed <= 100_000 else None


def _in_family(verdict: Verdict, p_adjusted: float, tried: int, alarm: bool, family: Family) -> Verdict:
    """An alarm's verdict with what Holm over all personas makes of it."""
    alpha = family.alarm_alpha
    confirmed = p_adjusted <= alpha
    severity: Severity = "warn" if not alarm else "alarm" if confirmed else "inconclusive"
    told = f"{'Alarm' if confirmed else 'Not confirmed as an alarm'}: one-sided p {spoken(verdict.p)}"
    told += f", {spoken(p_adjusted)} by Holm over {tried} personas" if tried > 1 else ""
    told += f", {'at most' if confirmed else 'above'} {alpha:g}."
    sentence = f"{verdict.sentence} {told}" if alarm else verdict.sentence
    return verdict.model_copy(update={"p_adjusted": p_adjusted, "severity": severity, "sentence": sentence})


def spoken(value: float | None) -> str:
    """A p in words: so far out in its tail that nobody has checked the shape there, it is only said to be small."""
    return "below 1e-6" if value is not None and value < 1e-6 else f"{value:.2g}"


def _alarm_p(row: Row, numbers: Mapping[str, Estimate], margins: Margins) -> float:
    """The largest p of the row's clauses; three looks at the inverted sign are paid for by Bonferroni."""

    def carries(model: str) -> float:
        return max(tail(numbers.get(model), 0.5, "above"), tail(numbers.get(f"{model}_beyond_text"), 0.0, "above"))

    change = numbers.get("change")
    if row.rule == 4:
        gone = tail(numbers.get("post"), margins.not_carried, "below")
        return max(carries("base"), gone, tail(change, -margins.change, "below"))
    if row.rule == 5:
        new = tail(numbers.get("base"), margins.not_carried, "below")
        return max(carries("post"), new, tail(change, margins.change, "above"))
    if row.rule == 9:
        return max(carries("post"), tail(numbers.get("rho_any"), margins.novel, "below"))
    inverted = min(1.0, 3.0 * tail(numbers.get("rho_inverted"), margins.ratio, "above"))
    return max(carries("post"), tail(numbers.get("rho_0"), margins.ratio, "below"), inverted)


class _Phrases(dict[str, str]):
    """Words for a sentence; a number that nobody gave is said to be so."""

    def __missing__(self, key: str) -> str:
        return "not given"


def _phrases(reading: Readings) -> dict[str, str]:
    """What may stand between the braces of a row's sentence."""
    numbers = reading.numbers
    told = {name: str(number) for name, number in numbers.items()}
    direction = "The story direction fitted on base"
    if reading.fit == "assistant":
        direction = (
            "Base itself does not share it between characters and the Assistant (rho within base "
            f"{told.get('rho_base', 'not given')}); base's Assistant direction"
        )
    skill = f"keeps {told.get('rho_0', 'not given')} of what post's own probe reads"
    skill = f"reads post's Assistant at AUROC {told['auroc_0']}" if "auroc_0" in told else skill
    told["frozen"] = f"{direction} {skill}"
    told["shared"] = f"the direction is shared (S² {told.get('S2', 'not given')})"
    if not reading.facts.established:
        told["shared"] = "S² is not established, and nothing shows that the direction turned"
    told["elsewhere"] = ""
    if "moved" in told:
        told["elsewhere"] = (
            f"; of the energy of post's whole change {told['moved']} lies along base's persona, "
            f"{told.get('moved_random', 'not given')} if it were placed at random"
        )
    domains = {"assistant": "Assistant"}
    groups = [f"{n} {domains.get(domain, domain)} groups" for domain, n in sorted(reading.groups.items())]
    out = reading.counted_out
    return told | {
        "direction": direction,
        "reason": reading.reason or "no reason was given",
        "groups": " and ".join(groups) or "Too few groups",
        "counted_out": f" after {out} pair{'s were' if out > 1 else ' was'} counted out" if out else "",
        "needed": str(reading.margins.groups),
        "breadth": f"{reading.margins.change:.2f}",
        "undecided": "; ".join(_undecided(reading)) or "no number was given",
    }


def _undecided(reading: Readings) -> list[str]:
    """The numbers that keep the table from deciding, each with its margin and the groups that would do."""
    facts, margins, numbers = reading.facts, reading.margins, reading.numbers
    if "open" in (facts.carried_base, facts.carried_post):
        carried = {"base": facts.carried_base, "post": facts.carried_post}
        return [_carried_open(model, reading) for model, fact in carried.items() if fact == "open"]
    decided = "accuracy" if facts.same_direction else "shared"
    name = {"open": "reads", "pass": decided, "fail": "any_reading"}[facts.reads]
    test = next(test for test in TESTS if test.fact == name)
    return [_straddles(test.label, numbers.get(test.number), margin_of(test, margins))]


def _carried_open(model: str, reading: Readings) -> str:
    """Why it is open whether one model carries the persona."""
    own, beyond, margins = reading.numbers.get(model), reading.numbers.get(f"{model}_beyond_text"), reading.margins
    name = f"{model}'s own probe, AUROC"
    if own is None or own.value < margins.carried:
        return _straddles(name, own, margins.not_carried)
    if not own.above(0.5):
        return _straddles(name, own, 0.5)
    if beyond is not None and beyond.below(0.0):
        return f"{name} {own}, is less than the words alone give away ({beyond} beyond them): other texts would decide"
    if beyond is not None and not beyond.above(0.0):
        return _straddles(f"what {model}'s own probe reads beyond the words,", beyond, 0.0)
    return f"{name} {own}, is not told from permuted labels"


def _straddles(label: str, number: Estimate | None, margin: float) -> str:
    """One undecided number in words."""
    if number is None:
        return f"{label} not given"
    needed = groups_needed(number, margin)
    advice = f"about {needed} groups would decide" if needed else "no feasible number of groups would decide"
    return f"{label} {number} against {margin:.2f} over {number.n_groups} groups, {advice}"
