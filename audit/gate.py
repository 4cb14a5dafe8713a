"""The gate: whether checkpoints may pass, one error rate for everything that one call tests.

Worse is said where the upper bound of a change lies below its limit and Holm over the call, every checkpoint, persona
and verdict, confirms it at `alarm_alpha`. Not worse is said where the lower bound lies above it. The rest is undecided.
Waivers are looked at last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal, get_args

from audit.baseline import Baseline
from audit.case import Audited, Case, Draft, Outcome, apart_from, gated, reading_cases, verdict_cases
from audit.multiplicity import holm
from audit.policy import effective, refuse_idle
from audit.record import Entry, Record
from audit.verdict import spoken
from audit.waiver import Waiver

Failing = Literal["not_measured", "not_comparable", "regression", "expired", "inconclusive", "warning"]
FAIL_ON: tuple[Failing, ...] = ("not_measured", "not_comparable", "regression", "expired")
"""What fails a check where nobody says otherwise. An error always does."""
UNKNOWN: tuple[Outcome, ...] = ("error", "not_measured", "not_comparable")
DECIDED: tuple[Outcome, ...] = ("regression", "inconclusive", "warning", "waived", "pass")


def _rank(case: Case) -> int:
    """Place of its outcome, worst first."""
    return get_args(Outcome).index(case.outcome)


@dataclass(frozen=True)
class Terms:
    """What a check is held to, beside the plan.

    Attributes:
        baseline: accepted findings; without one base's own readings are the reference.
        waivers: regressions accepted until a date.
        fail_on: what fails the check.
        today: the day on which waivers are looked at.
    """

    baseline: Baseline | None = None
    waivers: tuple[Waiver, ...] = ()
    fail_on: tuple[Failing, ...] = FAIL_ON
    today: date = field(default_factory=lambda: datetime.now(UTC).date())


class Suite(Entry):
    """All cases of one checkpoint.

    Attributes:
        name: The checkpoint's reference.
        notes: What is said beside, without an outcome: other packages, another path.
        seconds: Of the audit and the decision.
    """

    name: str
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def worst(self) -> Case:
        """The first of its worst cases; a checkpoint has some."""
        return min(self.cases, key=_rank)


class Gate(Entry):
    """What a whole call comes to."""

    suites: tuple[Suite, ...]
    fail_on: tuple[Failing, ...] = FAIL_ON

    @property
    def cases(self) -> tuple[Case, ...]:
        """Of every checkpoint, worst first."""
        return tuple(sorted((case for suite in self.suites for case in suite.cases), key=_rank))

    def suite(self, name: str) -> Suite:
        """That of a checkpoint."""
        return next(suite for suite in self.suites if suite.name == name)

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """How many cases came to each outcome, worst first; those that occur."""
        outcomes = [case.outcome for case in self.cases]
        return {outcome: outcomes.count(outcome) for outcome in get_args(Outcome) if outcome in outcomes}

    def fails(self, case: Case) -> bool:
        """Whether a case counts against the check."""
        return case.outcome == "error" or case.outcome in self.fail_on

    @property
    def exit(self) -> int:
        """3 where something is unknown, or nothing was decided at all; 1 where something is worse; 3 undecided; 0."""
        failing = {case.outcome for case in self.cases if self.fails(case)}
        if failing & set(UNKNOWN) or not any(case.outcome in DECIDED for case in self.cases):
            return 3
        if failing & {"regression", "expired", "warning"}:
            return 1
        return 3 if failing else 0

    @property
    def colour(self) -> Literal["red", "no answer", "yellow", "green"]:
        """red: exit 1; no answer: exit 3; yellow: passes, with something to look at."""
        if self.exit:
            return "red" if self.exit == 1 else "no answer"
        return "green" if all(case.outcome in ("pass", "ungated") for case in self.cases) else "yellow"


def judge(audits: Sequence[Audited], terms: Terms, failed: Sequence[Suite] = ()) -> Gate:
    """The gate's answer on some checkpoints audited by one plan.

    Args:
        audits: in the order of the checkpoints.
        terms: what they are held to.
        failed: checkpoints that could not be audited, see `not_audited`.

    Raises:
        AuditError: a policy selects nothing.
    """
    drafts = []
    for audit in audits:
        policies = effective(audit.record.plan.policies)
        refuse_idle(policies, [one.key for one in gated(audit)])
        found = (reading_cases(audit, policies, terms.baseline), verdict_cases(audit.record, terms.baseline))
        drafts.append([draft for some in found for draft in some])
    alpha = audits[0].record.plan.family.alarm_alpha if audits else 0.0
    decided = iter(_in_family([draft for some in drafts for draft in some], alpha))
    suites = []
    for audit, some in zip(audits, drafts, strict=True):
        cases = tuple(_waived(_mild(next(decided)), terms) for _ in some)
        seconds = audit.record.run.seconds + sum(case.seconds for case in cases)
        notes = tuple(str(one) for one in apart_from(audit.record, terms.baseline) if not one.breaks)
        suites.append(Suite(name=audit.record.pair.post.ref, cases=cases, notes=notes, seconds=seconds))
    return Gate(suites=(*suites, *failed, *_waivers(suites, terms)), fail_on=terms.fail_on)


def not_audited(name: str, why: str, seconds: float = 0.0) -> Suite:
    """The suite of a checkpoint whose audit ended with an error: never a pass."""
    return Suite(name=name, cases=(Case(id="audit", persona="all", outcome="error", sentence=why),), seconds=seconds)


def verdicts_only(record: Record) -> Gate:
    """A record's own verdicts as a gate that exits as the record does: nothing else is tested."""
    drafts = zip(verdict_cases(record, None), record.verdicts, strict=True)
    cases = tuple(
        draft.case.model_copy(update={"outcome": "inconclusive"}) if verdict.severity == "inconclusive" else draft.case
        for draft, verdict in drafts
    )
    strict = record.outcome.exit == 3 and all(case.outcome != "not_measured" for case in cases)
    suite = Suite(name=record.pair.post.ref, cases=cases, seconds=record.run.seconds)
    return Gate(suites=(suite,), fail_on=(*FAIL_ON, "inconclusive") if strict else FAIL_ON)


def _in_family(drafts: Sequence[Draft], alpha: float) -> list[Case]:
    """Cases with what Holm over all of the call makes of them: a regression that it does not confirm is undecided."""
    adjusted = iter(holm([1.0 if one.case.p is None else one.case.p for one in drafts if one.tested]))
    tried = sum(one.tested for one in drafts)
    cases = []
    for case, tested in drafts:
        p = next(adjusted) if tested else None
        if p is None or case.p is None:
            cases.append(case)
            continue
        told = case.model_copy(update={"p_adjusted": p})
        if case.outcome == "regression":
            confirmed = p <= alpha
            verb = "Confirmed" if confirmed else "Not confirmed"
            why = f" {verb}: one-sided p {spoken(case.p)}, {spoken(p)} by Holm over {tried} tests of this check"
            why += f", {'at most' if confirmed else 'above'} {alpha:g}."
            found = {"sentence": case.sentence + why, "outcome": "regression" if confirmed else "inconclusive"}
            told = told.model_copy(update=found)
        cases.append(told)
    return cases


def _mild(case: Case) -> Case:
    """A regression whose policy only warns."""
    warns = case.outcome == "regression" and case.policy is not None and case.policy.severity == "warn"
    return case.model_copy(update={"outcome": "warning"}) if warns else case


def _waived(case: Case, terms: Terms) -> Case:
    """A regression under a waiver; one whose waiver ran out says so."""
    for waiver in terms.waivers:
        if case.outcome == "regression" and waiver.covers(case.id):
            late = waiver.expired(terms.today)
            told = f"{case.sentence} {'The waiver has expired' if late else 'Waived'}, {waiver}."
            return case.model_copy(update={"sentence": told, "outcome": "regression" if late else "waived"})
    return case


def _waivers(suites: Sequence[Suite], terms: Terms) -> tuple[Suite, ...]:
    """Waivers that ran out, which fail, and those that nothing needs, which are only said; none where all is well."""
    cases: list[Case] = []
    notes: list[str] = []
    everything = [case for suite in suites for case in suite.cases]
    for waiver in terms.waivers:
        about = [case for case in everything if waiver.covers(case.id)]
        if waiver.expired(terms.today):
            why = f"The waiver has expired, {waiver}. Renew it or remove it."
            cases.append(Case(id=waiver.finding, persona="waivers", outcome="expired", sentence=why))
        elif not about:
            notes.append(f"The waiver of {waiver.finding} matches nothing in this check, {waiver}")
        elif all(case.outcome != "waived" for case in about):
            notes.append(f"Nothing needs the waiver of {waiver.finding} now, {waiver}")
    return (Suite(name="waivers", cases=tuple(cases), notes=tuple(notes)),) if cases or notes else ()
