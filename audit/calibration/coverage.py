"""How often a 95 % interval holds the truth: planted pairs whose truth is known, and the audit's own estimates.

The truth of a fixed direction is exact. Scores of Gaussian rows are Gaussian, and the AUROC over all pairs of a
positive and a negative row is (1 - 1/G) Phi(gap / sqrt(2 v)) + 1/G Phi(gap / sqrt(2 w)): gap is the distance of the
class means, v the variance of a score, w its variance inside a scenario, and one pair of rows in G shares a scenario
(inside a fold, one in as many as it has). A refitted probe's truth is its expectation at this number of groups: the
mean over all data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.calibration.plants import Planted
from audit.calibration.synthetic import Vector
from audit.comparisons.geometry import differences, metric
from audit.estimate import Estimate
from audit.readability import ceiling, difference, fitted, plainly, ratio, read, share
from audit.shared_share import shared_share

Statistic = Literal["fixed probe", "paired difference", "refitted ceiling", "rho", "S²"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


class Draw(NamedTuple):
    """One data set.

    Attributes:
        estimates: by statistic.
        truths: what they estimate; one that is an expectation is filled in later.
        folded: the truth of the fixed probe inside the folds, which rho has over its ceiling.
    """

    estimates: dict[Statistic, Estimate | None]
    truths: dict[Statistic, float]
    folded: float


def draw(planted: Planted, seed: int, number: int) -> Draw:
    """Estimates of one draw of a planted pair, with what they estimate."""
    plant, root, pair = planted.parts(seed, number)
    judged, everyone = pair.assistant, torch.ones(1, len(pair.assistant.passages), dtype=torch.bool)
    rows = {model: values[pair.chosen] for model, values in judged.rows.items()}
    frozen = read(pair, pair.chosen, "story", rows)
    inside = read(pair, pair.chosen, "story", {"post": rows["post"]}, folded=True)["post"]
    own = ceiling(judged, rows["post"])
    deltas = [differences(judged, rows[model]) for model in ("base", "post")]
    factor = metric(pair.tokens(pair.chosen))
    estimates: dict[Statistic, Estimate | None] = {
        "fixed probe": share(frozen["post"], judged), "refitted ceiling": share(own, judged),
        "paired difference": plainly(difference(frozen["post"], frozen["base"]), judged, "auroc"),
        "rho": plainly(ratio(inside, own), judged, "rho"),
        "S²": shared_share(deltas[0], deltas[1], factor, n=len(judged.passages)).share,
    }  # fmt: skip
    direction = fitted(pair, pair.chosen, "story", everyone)[0]
    fold = judged.fold[:: 2 * planted.sample.pairs]
    sizes, everyone_else = np.bincount(fold), [planted.sample.groups]
    post = _auroc(planted, direction, plant.post, root, planted.sample.drift, everyone_else)
    base = _auroc(planted, direction, plant.base, root, 0.0, everyone_else)
    folded = _auroc(planted, direction, plant.post, root, planted.sample.drift, sizes)
    ours, theirs = plant.base @ factor, plant.post @ factor
    turned = float((ours @ theirs) ** 2 / (ours.square().sum() * theirs.square().sum()))
    return Draw(estimates, {"fixed probe": post, "paired difference": post - base, "S²": turned}, folded)


def covered(draws: Sequence[Draw], statistic: Statistic) -> tuple[int, int, float]:
    """How many intervals held the truth, of how many that there were, and the mean truth."""
    given = [(one.estimates[statistic], one) for one in draws]
    known = [(estimate, one) for estimate, one in given if estimate is not None and estimate.low is not None]
    centre = sum(one.estimates["refitted ceiling"].value for _, one in known) / max(1, len(known))  # type: ignore[union-attr]
    hits, truths = 0, []
    for estimate, one in known:
        truth = {
            "refitted ceiling": centre, "rho": (one.folded - 0.5) / (centre - 0.5), **one.truths
        }[statistic]  # fmt: skip
        truths.append(truth)
        hits += not estimate.excludes(truth)
    return hits, len(known), sum(truths) / max(1, len(truths))


def _auroc(
    planted: Planted,
    direction: Vector,
    delta: Vector,
    root: Float[Tensor, "d d"],
    drift: float,
    scenarios: Sequence[int] | np.ndarray,
) -> float:
    """AUROC of a direction, its mean over folds of so many scenarios: one comparison in that many is inside one."""
    sample = planted.sample
    one = (root @ direction).square().sum()
    variances = torch.stack([one * (1 + drift**2), one * (1 - sample.scenario + drift**2)])
    chance = torch.special.ndtr((direction @ delta) / (2 * variances).sqrt())
    return float(chance[0] + (chance[1] - chance[0]) * np.mean(1.0 / np.asarray(scenarios)))
