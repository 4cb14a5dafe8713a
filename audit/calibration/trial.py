"""One planted pair, judged by the audit's own rules."""

from __future__ import annotations

from typing import NamedTuple

from audit.calibration.plants import Planted
from audit.calibration.synthetic import NAME
from audit.comparisons.geometry import Geometry
from audit.comparisons.probe_transfer import ProbeTransfer
from audit.finding import Finding
from audit.pair import Pair
from audit.plan import Plan
from audit.rulebook import VerdictName
from audit.verdict import Severity, judge_all

PERMUTATIONS = 1_000
"""At most, in a trial: p is held against 0.05, where a thousand draws leave an error of 0.007."""


class Trial(NamedTuple):
    """What one draw was judged, and whether it alarmed."""

    verdict: VerdictName
    kind: str | None
    severity: Severity


def decide(pair: Pair, plan: Plan, permutations: int | None = None) -> list[Finding]:
    """The findings that the verdict table reads, by the comparisons of an audit, and nothing beside them.

    Args:
        pair: what is judged.
        plan: its margins, and its number of permutations, up to `PERMUTATIONS`, unless another is given.
        permutations: draws of the label null.
    """
    margin = (plan.margins.carried, plan.margins.not_carried)
    draws = min(PERMUTATIONS, plan.draws.permutations) if permutations is None else permutations
    transfer, _ = ProbeTransfer(permutations=draws, margin=margin).decide(pair)
    return [transfer, Geometry().decide(pair)]


def trial(planted: Planted, plan: Plan, draw: int) -> Trial:
    """One draw of a planted pair, seeded by the plan's seed, what is planted and the draw's number."""
    findings = decide(planted.pair(plan.seed, draw), plan)
    verdict = judge_all(findings, {NAME: True}, plan.margins, plan.family).verdicts[0]
    return Trial(verdict.verdict, verdict.kind, verdict.severity or "pass")
