"""How a reading moves over checkpoints: its trend with an interval over scenarios, and where it changes."""

from __future__ import annotations

from itertools import permutations
from math import comb, factorial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from audit.estimate import MIN_GROUPS, Estimate

DRAWS = 2_000
ORDERS = 5_040
"""Orders of the checkpoints that a change is compared with; up to seven checkpoints have no more, and all are tried."""
FEWEST = 4
"""Checkpoints in which a change can be looked for."""


class ChangePoint(NamedTuple):
    """Where a series of readings changes most.

    Attributes:
        at: index of the first checkpoint after the change.
        size: mean after - mean before.
        p: share of the orders of the checkpoints whose largest change is no smaller: two-sided, for a change anywhere.
    """

    at: int
    size: float
    p: float
    least: float
    """The smallest p that a series of this length can have: with few checkpoints many orders split as well."""


def trend(
    values: Float[ArrayLike, " checkpoint"],
    deleted: Float[ArrayLike, "group checkpoint"],
    steps: Float[ArrayLike, " checkpoint"],
    unit: str,
    n: int,
    rng: np.random.Generator,
) -> Estimate:
    """Theil-Sen slope times the steps from first to last: how far the reading moved over the series.

    The slope is the median over all pairs of checkpoints (Sen 1968). Checkpoints are fixed and share their texts; what
    is uncertain are the scenarios. Its error is the spread over draws of groups with replacement, each reading taken
    as the mean of its jackknife pseudo-values, so that draws need no refit; t with G - 1. A jackknife of the median
    itself is too wide by a third.

    Args:
        values: the reading on all groups at each checkpoint.
        deleted: the same without each group.
        steps: increasing.
        unit: what the reading counts.
        n: rows behind each reading.
        rng: draws the groups.

    Raises:
        ValueError: fewer than two checkpoints, or steps that do not increase.
    """
    from scipy.special import stdtrit

    from audit.resampling import bootstrap_weights

    whole, parts = np.asarray(values, dtype=np.float64), np.asarray(deleted, dtype=np.float64)
    x = np.asarray(steps, dtype=np.float64)
    if len(x) < 2 or (np.diff(x) <= 0).any():
        raise ValueError(f"steps {x.tolist()}. Expected two or more that increase. Sort the checkpoints.")
    groups, moved = len(parts), float(_theil_sen(whole, x))
    found = {"value": moved, "method": "theil-sen, group-bootstrap-t", "unit": unit, "n": n, "n_groups": groups}
    if groups < MIN_GROUPS:
        return Estimate(low=None, high=None, **found)
    pseudo = groups * whole - (groups - 1) * parts
    weights = bootstrap_weights(groups, DRAWS, rng).numpy() / groups
    spread = _theil_sen(weights @ pseudo, x).std(ddof=1) * np.sqrt(groups / (groups - 1))
    arm = float(stdtrit(groups - 1, 0.975) * spread)
    return Estimate(low=moved - arm, high=moved + arm, **found)


def change_point(values: Float[ArrayLike, " checkpoint"], rng: np.random.Generator) -> ChangePoint | None:
    """The split of the series with the largest difference of means, in standard errors; None below `FEWEST`.

    Null: the checkpoints' order says nothing. Up to seven checkpoints every order is tried, else `ORDERS` are drawn.
    """
    y = np.asarray(values, dtype=np.float64)
    count = len(y)
    if count < FEWEST:
        return None
    if factorial(count) <= ORDERS:
        orders = np.array(list(permutations(range(count))))
    else:
        orders = np.vstack([np.arange(count), rng.permuted(np.tile(np.arange(count), (ORDERS - 1, 1)), axis=1)])
    largest = np.abs(_splits(y[orders])).max(axis=1)
    splits = _splits(y)
    at = int(np.abs(splits).argmax()) + 1
    # A hair's rounding between equal orders must not make one of them smaller.
    p = float((largest >= np.abs(splits).max() * (1 - 1e-9)).mean())
    return ChangePoint(at, float(y[at:].mean() - y[:at].mean()), p, 2 / comb(count, count // 2))


def no_trend(moved: Estimate) -> float | None:
    """Two-sided p of a trend that is none, by inverting its t interval; None where there is no interval."""
    from scipy.special import stdtr, stdtrit

    if moved.low is None or moved.high is None:
        return None
    error = (moved.high - moved.low) / 2 / float(stdtrit(moved.n_groups - 1, 0.975))
    if error == 0:
        return float(moved.value == 0)
    return float(2 * stdtr(moved.n_groups - 1, -abs(moved.value) / error))


def _theil_sen(values: Float[np.ndarray, "*draw checkpoint"], x: Float[np.ndarray, " checkpoint"]) -> np.ndarray:
    first, second = np.triu_indices(len(x), 1)
    slopes = (values[..., second] - values[..., first]) / (x[second] - x[first])
    return np.median(slopes, axis=-1) * (x[-1] - x[0])


def _splits(values: Float[np.ndarray, "*order checkpoint"]) -> Float[np.ndarray, "*order split"]:
    """Mean after - mean before at every split, in units of its standard error under equal variances."""
    count = values.shape[-1]
    before = np.arange(1, count)
    total, running = values.sum(axis=-1, keepdims=True), values.cumsum(axis=-1)[..., :-1]
    return ((total - running) / (count - before) - running / before) * np.sqrt(before * (count - before) / count)
