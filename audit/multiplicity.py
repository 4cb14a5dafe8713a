"""Many tests at once: adjusted p-values that may be compared with the plan's level directly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p: Sequence[float]) -> list[float]:
    """Step-down adjusted p-values: rejecting those <= alpha keeps the family-wise error at alpha, dependent or not.

    Args:
        p: raw p-values in [0, 1], in any order.

    Returns:
        Adjusted values in the order given, never below the raw ones: max over smaller-or-equal ranks of (m - rank) p.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    raw = _checked(p)
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(len(raw), 0, -1)
    return _restored(np.maximum.accumulate(steps), order)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Step-up adjusted p-values: rejecting those <= q keeps the expected share of false discoveries at q.

    Args:
        p: raw p-values in [0, 1], in any order; independent or positively dependent.

    Returns:
        Adjusted values in the order given: min over larger-or-equal ranks of p m / rank.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    raw = _checked(p)
    order = np.argsort(raw, kind="stable")
    # The factor is formed first: it is >= 1, so rounding never takes an adjusted value below the raw one.
    steps = raw[order] * (len(raw) / np.arange(1, len(raw) + 1))
    return _restored(np.minimum.accumulate(steps[::-1])[::-1], order)


def _checked(p: Sequence[float]) -> NDArray[np.float64]:
    raw = np.asarray(list(p), dtype=np.float64)
    outside = [x for x in raw.tolist() if not 0.0 <= x <= 1.0]
    if outside:
        raise ValueError(f"p-value {outside[0]}. Expected a number in [0, 1]. Pass raw p-values.")
    return raw


def _restored(adjusted: NDArray[np.float64], order: NDArray[np.int64]) -> list[float]:
    out = np.empty(len(order), dtype=np.float64)
    out[order] = np.minimum(adjusted, 1.0)
    return out.tolist()
