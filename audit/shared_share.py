"""The shared share S2: how much of their class difference two models have in common, beyond the noise they share.

AUROC cannot see a turn of 45 degrees; a plain cosine of two noisy differences is below one for an unchanged model. S2
is a ratio of u-statistics over groups: noise that both models owe to the same texts never meets itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from audit.estimate import Estimate, estimate
from probes.digest import AuditError
from probes.discriminant import finite

LEAST = 0.61
"""Of the plain jackknife's variance, at least this share is kept.

Interactions of two groups are all there is near 0 and 1, and counting each once halves the variance (section 4 of
docs/statistics.md). What is left is skew: at a half, 90 % of intervals held a share of 1 (chosen on development draws).
"""


class Strength(NamedTuple):
    """A u-statistic on all groups, with each group left out, and with every two: 0 where they are one."""

    full: Float[Tensor, ""]
    deleted: Float[Tensor, " group"]
    both: Float[Tensor, "group group"]


@dataclass(frozen=True)
class SharedShare:
    """How much of their class difference two models have in common.

    Attributes:
        share: S2, cos^2 of the turn with the cosine's sign; None when either strength's lower bound is <= 0.
        base: u(base, base), the unbiased squared length of base's difference in the metric.
        post: the same of post.
    """

    share: Estimate | None
    base: Estimate
    post: Estimate


def metric_factor(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """F with F F' = (covariance + trace / d identity)^-1: `shared_share`'s metric, from base's plain token rows."""
    wide = covariance.double()
    eye = torch.eye(len(wide), dtype=torch.float64)
    root = torch.linalg.cholesky(wide + wide.trace() / len(wide) * eye)
    return torch.linalg.solve_triangular(root, eye, upper=False).mT


def u_statistic(x: Float[Tensor, "group d"], y: Float[Tensor, "group d"], factor: Float[Tensor, "d rank"]) -> Strength:
    """Sum over i != j of x_i' M y_j / (G (G - 1)), M = factor factor', and the same without each group.

    Unbiased for (mean x)' M (mean y): noise that x_i and y_i share never meets itself. Needs three groups.
    """
    x, y = finite(x), finite(y)
    left = x @ factor
    return _cross(left, left if torch.equal(x, y) else y @ factor)


def shared_share(
    base: Float[Tensor, "group d"], post: Float[Tensor, "group d"], factor: Float[Tensor, "d rank"], *, n: int = 0
) -> SharedShare:
    """S2 = sign(u_bp) u_bp^2 / (u_bb u_pp) with its jackknife-t interval; exactly 1 [1, 1] when base equals post.

    Interactions of two groups, which the plain jackknife counts twice, are counted once (Efron and Stein 1981).

    Args:
        base: each group's mean over its pairs of (positive - negative), in base.
        post: the same groups in post, or carried to base's coordinates.
        factor: see `metric_factor`.
        n: rows behind the groups (their number if not given).
    """
    base, post, n = finite(base), finite(post), n or len(base)
    b = base @ factor
    p = b if torch.equal(base, post) else post @ factor
    own, other, both = _cross(b, b), _cross(p, p), _cross(b, p)
    strength, strength_post = (estimate(u.full, u.deleted, unit="squared length", n=n) for u in (own, other))
    share = None
    if strength.above(0.0) and strength_post.above(0.0) and bool((torch.minimum(own[1], other[1]) > 0).all()):
        s2 = Strength(*(c * c.abs() / (u * v) for u, v, c in zip(own, other, both, strict=True)))
        share = estimate(s2.full, once(s2), unit="shared share", n=n)
    return SharedShare(share, strength, strength_post)


def once(statistic: Strength) -> Float[Tensor, " group"]:
    """Deletions whose jackknife variance is V - sum over pairs of (Q - mean Q)^2 / (n (n + 1)), `LEAST` V or more.

    V is the plain jackknife's and Q = n full - (n - 1) (without g + without h) + (n - 2) (without both): Efron and
    Stein (1981), The jackknife estimate of variance, section 5.
    """
    full, deleted, both = statistic
    n = len(deleted)
    variance = (n - 1) / n * (deleted - deleted.mean()).square().sum()
    if n < 4 or variance == 0:
        return deleted
    first, second = torch.triu_indices(n, n, 1)
    q = n * full - (n - 1) * (deleted[first] + deleted[second]) + (n - 2) * both[first, second]
    left = 1 - (q - q.mean()).square().sum() / (n * (n + 1)) / variance
    return full + left.clamp_min(LEAST).sqrt() * (deleted - full)


def _cross(x: Float[Tensor, "group rank"], y: Float[Tensor, "group rank"]) -> Strength:
    n = len(x)
    if n < 3:
        raise AuditError(f"{n} groups", "three groups or more", "Add scenarios")
    each = x @ y.mT
    each = (each + each.mT).fill_diagonal_(0.0)
    with_others = each.sum(1)
    whole = with_others.sum() / 2
    without = whole - with_others
    both = (without[:, None] + without - whole + each).fill_diagonal_(0.0)
    return Strength(whole / (n * (n - 1)), without / ((n - 1) * (n - 2)), both / max(1, (n - 2) * (n - 3)))
