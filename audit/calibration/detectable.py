"""The smallest change that an audit of some size tells from none, eight times in ten.

Planted pairs of that size give the standard errors of what the verdict table reads. Where a bound must pass a margin
with chance 0.8, the value itself lies (t_0.975 + t_0.8) standard errors beyond it, t with G - 1 degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audit.calibration.plants import Planted
from audit.calibration.synthetic import Sample
from audit.calibration.trial import decide
from audit.diagnosis import D_PRIME, Checked
from audit.estimate import Estimate
from audit.plan import Margins, Plan
from audit.texts import Texts, judged

POWER = 0.8
WIDEST = 1024
"""Wider models are stood for by this width: one planted pair in 4,096 dimensions takes minutes."""
ANGLE = 40.0
"""The turn that is planted: near those that the margins tell apart, for a standard error depends on the value."""
PERMUTATIONS, DRAWS = 20, 2
"""Few of either: the maps are left out too, for nothing is read here but T0."""


@dataclass(frozen=True)
class Smallest:
    """What is told from nothing at one size; None where no change of that kind is.

    Attributes:
        carried: whether a persona of that strength counts as carried at all.
        turn: degrees in the metric of S², from which on every larger turn is seen.
        loss: balanced accuracy that a frozen threshold loses.
    """

    carried: bool
    turn: float | None = None
    loss: float | None = None


def smallest(sample: Sample, plan: Plan, draws: int = DRAWS) -> Smallest:
    """The smallest detectable turn and loss at a sample's size, for a persona of d' 2 (AUROC 0.92)."""
    planted = Planted("turn", ANGLE, D_PRIME, sample)
    transfers, geometries = zip(
        *(decide(planted.pair(plan.seed, number), plan, PERMUTATIONS) for number in range(draws)), strict=True
    )
    carried = [one.details["carried"][model]["status"] for one in transfers for model in ("base", "post")]
    if carried.count("yes") < len(carried):
        return Smallest(False)
    read = [one.details["rho"]["T0"] for one in transfers]
    shared = [one.details["shared"]["T0"] for one in geometries]
    changed = [one.details["frozen_accuracy"]["difference"] for one in transfers]
    return Smallest(True, _turn(read, shared, plan.margins), _loss(_reach(changed), plan.margins))


def detectable(texts: Texts, width: int, plan: Plan) -> Checked:
    """The doctor's line: what the plan's smallest persona would tell on this pair. Stated and never refused."""
    sizes: dict[str, tuple[int, int]] = {}
    for name, passages in texts.passages.items():
        mine = judged(passages, "assistant")
        groups = len({passage.group for passage in mine})
        sizes[name] = groups, max(1, len({passage.pair for passage in mine}) // max(1, groups))
    name, (groups, pairs) = min(sizes.items(), key=lambda item: item[1][0] * item[1][1])
    at = f"'{name}', {groups} scenarios of {pairs} pairs, d' = {D_PRIME:g}"
    expected, do = "what your texts allow", "Give more scenarios where it is too coarse for you"
    if groups < plan.margins.groups:
        return Checked("detectable effect", f"none: too few scenarios ({at})", expected, do, True)
    found = smallest(Sample(min(width, WIDEST), groups, pairs, tokens=2), plan)
    if not found.carried:
        told = "none: such a persona would not count as carried"
    else:
        turn = "no turn" if found.turn is None else f"a turn from {found.turn:.0f}° on"
        loss = "no loss of accuracy" if found.loss is None else f"a threshold's loss of {found.loss:.2f}"
        told = f"{turn} and {loss} would be told from none in {POWER:g} of audits"
    wider = f"; stated for {WIDEST:,} dimensions, wider is coarser" if width > WIDEST else ""
    return Checked("detectable effect", f"{told} ({at}{wider})", expected, do, True)


def _reach(estimates: Sequence[Estimate]) -> float:
    """How far beyond a margin a value lies whose bound passes it in `POWER` of audits; infinite without a bound."""
    from scipy.stats import t

    # The shorter arm is the one without skewness: t standard errors.
    halves = [
        min(e.high - e.value, e.value - e.low) if e.low is not None and e.high is not None else np.inf
        for e in estimates
    ]  # fmt: skip
    freedom = estimates[0].n_groups - 1
    return float(np.mean(halves) * (1 + t.ppf(POWER, freedom) / t.ppf(0.975, freedom)))


def _turn(read: Sequence[Estimate], shared: Sequence[Estimate], margins: Margins) -> float | None:
    """The angle from which on the table names a change: the direction turned, or it reads too little.

    Between the two, and near the margin of `novel`, nothing is decided: then the angle is where that ends. Whatever is
    fitted on base turns alike, so rho_any is rho here. Isotropic rows have AUROC Phi(d' cos / sqrt 2); what the fit
    itself costs is taken from the planted pairs.
    """
    from scipy.special import ndtr

    angles = np.arange(0.0, 91.0)
    cosine = np.cos(np.deg2rad(angles))
    rho = (ndtr(D_PRIME * cosine / 2**0.5) - 0.5) / (ndtr(D_PRIME / 2**0.5) - 0.5)
    rho = rho * float(np.mean([one.value for one in read])) / rho[int(ANGLE)]
    reach, turned = _reach(read), cosine**2 + _reach(shared) <= margins.shared
    decided = (rho - reach >= margins.novel) | (rho + reach <= margins.novel)
    seen = (turned & (rho - reach >= margins.ratio)) | ((rho + reach <= margins.ratio) & decided)
    unseen = np.flatnonzero(~seen)
    first = int(unseen[-1]) + 1 if len(unseen) else 0
    return float(angles[first]) if first < len(angles) else None


def _loss(reach: float, margins: Margins) -> float | None:
    """The loss of balanced accuracy that would be seen; a threshold at chance has lost all there is."""
    from scipy.special import ndtr

    loss = margins.accuracy + reach
    return loss if loss < ndtr(D_PRIME / 2) - 0.5 else None
