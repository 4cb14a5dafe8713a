"""Cases: one policy on one reading, or one persona's verdict, each decided by its own bounds alone.

A reading is held against the baseline's, or where there is no baseline against base's own, on the same passages, by the
deletions of the same groups. What could not be measured or compared is said to be so; a case that cannot be decided for
a fault of ours is an error. None of these is a pass. What all cases of a call share is the gate's to settle.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from audit.baseline import Baseline
from audit.estimate import Estimate
from audit.policy import Policy
from audit.provenance import Difference, differences, origin
from audit.record import Entry, Record
from audit.scores import COMPARISON, READINGS, Name, Scores, Sheet, change, interval, no_longer_told, signed
from audit.verdict import Verdict, tail

Outcome = Literal[
    "error", "not_measured", "not_comparable", "regression", "expired", "inconclusive", "warning", "waived", "ungated",
    "pass",
]  # fmt: skip
"""What a case comes to, worst first."""
SHOWN = 3
"""Pairs that a sentence names."""
NAMED = ("readability", "accuracy")
"""Readings of one direction, which a pair can be told by. Each model's own probe is another one."""


class Audited(NamedTuple):
    """One checkpoint's audit: its record, and its scores by persona."""

    record: Record
    scores: Sequence[Scores]


class Case(Entry):
    """One policy on one reading, one persona's verdict, or one expired waiver.

    Attributes:
        id: `persona/comparison/site/reading`, `persona/verdict`, or what a waiver names.
        policy: None of verdicts and waivers.
        then: The reference.
        now: This checkpoint's reading.
        change: now - then, paired.
        limit: The change that is still allowed.
        p: One-sided, that the change is no worse than the limit; None where it is not tested.
        p_adjusted: After Holm over the call.
        sentence: For the reader.
        seconds: What it took to decide.
    """

    id: str
    persona: str
    outcome: Outcome
    sentence: str
    policy: Policy | None = None
    then: Estimate | None = None
    now: Estimate | None = None
    change: Estimate | None = None
    limit: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    seconds: float = 0.0

    @property
    def reading(self) -> str:
        """The last part of its name: readability, ceiling, accuracy or verdict."""
        return self.id.rpartition("/")[2]


class Draft(NamedTuple):
    """A case before the family of the call is known, and whether it belongs to it."""

    case: Case
    tested: bool


class Gated(NamedTuple):
    """One reading that may be gated.

    Attributes:
        persona: whose.
        name: `persona/comparison/site/reading`.
        key: what policies select it by: the name, without a site where none was chosen since nothing was measured.
    """

    persona: str
    name: str
    key: str


def gated(audit: Audited) -> tuple[Gated, ...]:
    """Every persona's gated readings, measured or not; none where the comparison was not run."""
    found = []
    for finding in audit.record.findings:
        if finding.comparison == COMPARISON:
            site = finding.site if finding.status == "measured" else ""
            key = f"{finding.persona}/{COMPARISON}/{site}"
            found += [Gated(finding.persona, f"{finding.id}/{one}", f"{key}/{one}") for one in READINGS]
    return tuple(found)


def reading_cases(audit: Audited, policies: Sequence[Policy], baseline: Baseline | None) -> Iterator[Draft]:
    """A case for each policy on each reading, for readings that no policy selects, and for what only a baseline has."""
    apart = apart_from(audit.record, baseline)
    here = gated(audit)
    for persona, name, key in here:
        chosen = [policy for policy in policies if policy.selects(key)]
        for policy in chosen:
            begun = time.perf_counter()
            blank = Case(id=name, persona=persona, outcome="error", sentence="", policy=policy)
            made = _decided(blank, audit, apart, baseline)
            yield made._replace(case=made.case.model_copy(update={"seconds": time.perf_counter() - begun}))
        if not chosen:
            why = "No policy selects it: it is not gated."
            yield Draft(Case(id=name, persona=persona, outcome="ungated", sentence=why), False)
    for held in baseline.scores if baseline else ():
        if held.persona not in {one.persona for one in here}:
            why = "The baseline holds it, and this audit has no such persona."
            name = held.name("readability").rpartition("/")[0]
            yield Draft(Case(id=name, persona=held.persona, outcome="not_measured", sentence=why), False)


def _decided(blank: Case, audit: Audited, apart: Sequence[Difference], baseline: Baseline | None) -> Draft:
    """One policy on one reading; whatever goes wrong in deciding it is an error and no pass."""
    try:
        reason = _unmeasured(blank, audit)
        if reason:
            return Draft(blank.model_copy(update={"outcome": "not_measured", "sentence": reason}), False)
        scores = next(one for one in audit.scores if one.persona == blank.persona)
        reference, reason = _reference(scores, apart, baseline)
        if reference is None:
            return Draft(blank.model_copy(update={"outcome": "not_comparable", "sentence": reason}), False)
        return _held(blank, scores, reference, audit.record.plan.margins.groups, baseline is not None)
    except Exception as error:  # a gate that crashes must not open
        why = f"Deciding it ended with {type(error).__name__}: {error}"
        return Draft(blank.model_copy(update={"outcome": "error", "sentence": why}), False)


def _unmeasured(case: Case, audit: Audited) -> str | None:
    """Why there is no reading to decide on."""
    for finding in audit.record.findings:
        if finding.id == case.id.rpartition("/")[0] and finding.status == "not_measured":
            return str(finding.reason)
    kept = {one.persona for one in audit.scores}
    return None if case.persona in kept else "No scores were kept of it."


def _reference(
    scores: Scores, apart: Sequence[Difference], baseline: Baseline | None
) -> tuple[Sheet | None, str]:
    """What a persona's readings are held against, or why there is nothing."""
    if baseline is None:
        return scores.base, "No reading of base was kept."
    breaking = [str(one) for one in apart if one.breaks and one.persona in (None, scores.persona)]
    held = baseline.of(scores.persona)
    if held is None:
        breaking.append("the baseline does not hold this persona")
    elif not breaking:
        for what, then, now in (
            ("site", held.site, scores.site),
            ("definition of the comparison", held.definition, scores.definition),
            ("token ids of its passages", held.ids[:12], scores.ids[:12]),
            ("groups", len(held.groups), len(scores.groups)),
        ):
            breaking += [str(Difference(what, str(then), str(now)))] if then != now else []
        if not breaking and (held.groups, held.pairs) != (scores.groups, scores.pairs):
            breaking.append("its groups and pairs are called otherwise in the baseline")
    return (None, f"Not comparable with the baseline. {'; '.join(breaking)}.") if breaking else (held and held.post, "")


def _held(blank: Case, scores: Scores, reference: Sheet, least: int, accepted: bool) -> Draft:
    """One reading against its reference, its own bounds alone."""
    policy, reading, n = blank.policy or Policy(select="*/*/*"), _reading(blank), 2 * len(scores.pairs)
    then, now = (interval(sheet.readings[reading], reading, n) for sheet in (reference, scores.post))
    moved = change(scores.post.readings[reading], reference.readings[reading], reading, n)
    limit = -policy.margin(then)
    few = len(scores.groups) < least
    worse, kept = moved.below(limit) and not few, moved.above(limit) and not few
    outcome: Outcome = "pass" if kept else "regression" if worse or policy.on == "low" else "inconclusive"
    words = READINGS[reading].words
    told = f"{words[:1].upper()}{words[1:]}: {then} in {'the baseline' if accepted else 'base'}"
    told += f", {now} now; change {signed(moved)}, limit {limit:+.3f}."
    told += f" Fewer than {least} groups: nothing is decided." if few else ""
    if outcome == "regression":
        told += " Not shown to be within the limit." if not worse else ""
        lost = no_longer_told(scores.post, reference, scores.pairs, reading) if reading in NAMED else ()
        told += _examples(lost, len(scores.pairs), "threshold" if reading == "accuracy" else "middle")
    tested = policy.on == "high" and not few
    found = {"outcome": outcome, "sentence": told, "then": then, "now": now, "change": moved, "limit": limit}
    p = {"p": tail(moved, limit, "below")} if tested else {}
    return Draft(blank.model_copy(update=found | p), tested)


def _reading(case: Case) -> Name:
    return next(name for name in READINGS if name == case.reading)


def _examples(lost: Sequence[str], n: int, middle: str) -> str:
    """The pairs that are no longer told apart."""
    some = ", ".join(lost[:SHOWN]) + (", …" if len(lost) > SHOWN else "")
    told = f" {len(lost):,} of {n:,} pairs lay on the right sides of the {middle} and no longer do: {some}."
    return told if lost else ""


def verdict_cases(record: Record, baseline: Baseline | None) -> Iterator[Draft]:
    """A case for each persona's verdict, by the exit column of the verdict table.

    An alarm, confirmed among its audit's personas or not, is a regression until the whole call is known. A verdict that
    a comparable baseline accepted is none.
    """
    apart = apart_from(record, baseline)
    for verdict in record.verdicts:
        broken = any(one.breaks and one.persona in (None, verdict.persona) for one in apart)
        yield _verdict(verdict, None if broken else baseline)


def _verdict(verdict: Verdict, baseline: Baseline | None) -> Draft:
    kinds: Mapping[str, Outcome] = {
        "not_measured": "not_measured", "alarm": "regression", "inconclusive": "inconclusive", "warn": "warning",
    }  # fmt: skip
    outcome: Outcome = kinds.get(verdict.severity or "pass", "pass")
    if verdict.p is not None and outcome == "inconclusive":
        outcome = "regression"
    kind = f" ({verdict.kind})" if verdict.kind else ""
    sentence, p = f"{verdict.verdict}{kind}. {verdict.sentence}", verdict.p if outcome == "regression" else None
    accepted = baseline is not None and baseline.accepts(verdict.persona, verdict.verdict, verdict.kind)
    if outcome in ("regression", "warning") and accepted:
        outcome, p, sentence = "pass", None, f"{sentence} The baseline accepts it."
    case = Case(id=f"{verdict.persona}/verdict", persona=verdict.persona, outcome=outcome, sentence=sentence, p=p)
    return Draft(case, outcome != "not_measured")


def apart_from(record: Record, baseline: Baseline | None) -> tuple[Difference, ...]:
    """What differs between the baseline's audit and this one."""
    return () if baseline is None else differences(baseline.origin, origin(record))
