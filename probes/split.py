"""Group folds and halves: rows of one group never part, and the caller owns the randomness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probes.digest import AuditError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


def folds(groups: Sequence[str], k: int, rng: np.random.Generator) -> Int[np.ndarray, " row"]:
    """Deals whole groups into `k` folds of nearly equal numbers of rows.

    The largest groups are dealt first, each to the fold with the fewest rows; equal ones in an order drawn from `rng`.
    The result depends on the groups and the generator only, not on the order of the rows.

    Args:
        groups: the group of each row.
        k: number of folds, at least 2.
        rng: decides among groups of equal size.

    Returns:
        The fold of each row, 0 to k - 1; every fold holds at least one group.

    Raises:
        AuditError: if `k` is below 2 or there are fewer groups than folds.
    """
    sizes = Counter(groups)
    if k < 2 or len(sizes) < k:
        raise AuditError(
            f"{len(sizes)} groups for {k} folds", "two folds or more, and a group for each", "Add scenarios"
        )
    names = sorted(sizes)
    shuffled = [names[i] for i in rng.permutation(len(names))]
    rows, counts = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=np.int64)
    fold: dict[str, int] = {}
    for name in sorted(shuffled, key=lambda name: -sizes[name]):
        # Ties go to the fold with fewer groups, so that no fold stays empty.
        fold[name] = int(np.lexsort((counts, rows))[0])
        rows[fold[name]] += sizes[name]
        counts[fold[name]] += 1
    return np.array([fold[name] for name in groups], dtype=np.int64)


def halves(groups: Sequence[str], rng: np.random.Generator) -> Bool[np.ndarray, " row"]:
    """Deals whole groups into two halves of nearly equal numbers of rows.

    Returns:
        True for the rows of one half; which half that is is drawn from `rng` too.

    Raises:
        AuditError: if there are fewer than two groups.
    """
    side = bool(rng.integers(2))
    return (folds(groups, 2, rng) == 1) ^ side
