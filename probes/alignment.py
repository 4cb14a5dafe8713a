"""Label-free maps from post's coordinates to base's, fitted on the same tokens in both models.

    T0 nothing · T1 mean · T2 mean and covariance (Bures) · T3 rotation · T4 affine, shrunk towards the identity

All but T0 move post's mean onto base's. Rows are row vectors: a map is (x - source_mean) @ matrix + target_mean.
To deploy T2-T4 with means of another domain, `dataclasses.replace` the two means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.digest import AuditError
from probes.discriminant import finite
from probes.moments import Moments
from probes.split import folds

Rung = Literal["T0", "T1", "T2", "T3", "T4"]
Rows = Float[Tensor, "row d_model"]
Matrix = Float[Tensor, "d_model d_model"]

ROWS_PER_DIMENSION = 4
FOLDS = 4
# Pull towards the identity, in mean eigenvalues of post's scatter (T3: in mean entries of the diagonal, the same).
STRENGTHS = (1e-6, 1e-4, 1e-2, 1e-1, 1.0, 10.0, 1e3)
# Ridge of T2 in mean variances of base: a dimension dead in both models maps to itself.
RIDGE = 1e-9


class TooFewRows(AuditError):
    """Fewer paired rows than a map between the models needs."""

    def __init__(self, rows: int, d_model: int) -> None:
        """Names what there is and what is needed."""
        super().__init__(
            found=f"{rows} paired rows in {d_model} dimensions",
            expected=f"{ROWS_PER_DIMENSION * d_model} or more ({ROWS_PER_DIMENSION} per dimension)",
            do="Record more tokens of plain text",
        )


@dataclass(frozen=True, eq=False)
class Alignment:
    """A map from post's activations into base's coordinates.

    Attributes:
        rung: which of the ladder's steps.
        matrix: the linear part, acting on row vectors from the right.
        source_mean: taken off post's rows.
        target_mean: added in base.
        strength: chosen pull towards the identity, in mean eigenvalues of post's scatter (T3, T4).
        r2: share of base's variance about its mean that the map explains on held-out groups (T3, T4).
    """

    rung: Rung
    matrix: Matrix
    source_mean: Float[Tensor, " d_model"]
    target_mean: Float[Tensor, " d_model"]
    strength: float | None = None
    r2: float | None = None

    def __call__(self, rows: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Post's rows in base's coordinates, float64."""
        return (finite(rows) - self.source_mean) @ self.matrix + self.target_mean

    def transport(self, delta: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """A difference of post's rows in base's coordinates; no mean enters."""
        return finite(delta) @ self.matrix


def frozen(d_model: int) -> Alignment:
    """T0: post's rows as they are."""
    zero = torch.zeros(d_model, dtype=torch.float64)
    return Alignment("T0", torch.eye(d_model, dtype=torch.float64), zero, zero)


def recentre(post_rows: Float[Tensor, "post d_model"], base_rows: Float[Tensor, "base d_model"]) -> Alignment:
    """T1: post's mean to base's; the rows need not be paired.

    Raises:
        AuditError: if one side has no rows, or rows are not finite.
    """
    if not len(post_rows) or not len(base_rows):
        raise AuditError(
            found=f"{len(post_rows)} rows of post and {len(base_rows)} of base", expected="both", do="Record them"
        )
    post, base = finite(post_rows).mean(0), finite(base_rows).mean(0)
    return Alignment("T1", torch.eye(len(post), dtype=torch.float64), post, base)


def recolour(post_moments: Moments, base_moments: Moments) -> Alignment:
    """T2: post's mean and covariance onto base's, by the smallest move (the Bures map between Gaussians).

    P^-1/2 (P^1/2 B P^1/2)^1/2 P^-1/2 with P and B the covariances, each plus the same minute ridge. It is symmetric
    positive definite, so it turns nothing that is not also stretched.

    Raises:
        TooFewRows: if either side has fewer than four rows per dimension.
        AuditError: if a side does not vary at all.
    """
    d_model = len(post_moments.mean)
    count = min(post_moments.count, base_moments.count)
    if count < ROWS_PER_DIMENSION * d_model:
        raise TooFewRows(count, d_model)
    post, base = finite(post_moments.covariance), finite(base_moments.covariance)
    smallest = float(torch.minimum(post.trace(), base.trace())) / d_model
    if not smallest > 0:
        raise AuditError(found="Activations that do not vary", expected="rows that differ", do="Choose another site")
    values, axes = torch.linalg.eigh(post)
    root = (values.clamp_min(0.0) + RIDGE * smallest).sqrt()
    base = base + RIDGE * smallest * torch.eye(d_model, dtype=torch.float64)
    inner = root[:, None] * (axes.T @ base @ axes) * root
    inner_values, inner_axes = torch.linalg.eigh((inner + inner.T) / 2)
    middle = (inner_axes * inner_values.clamp_min(0.0).sqrt()) @ inner_axes.T
    matrix = axes @ (middle / root / root[:, None]) @ axes.T
    return Alignment("T2", (matrix + matrix.T) / 2, finite(post_moments.mean), finite(base_moments.mean))


def rotate(post_rows: Rows, base_rows: Rows, groups: Sequence[str], rng: np.random.Generator) -> Alignment:
    """T3: the orthogonal matrix nearest to both the data and the identity, the polar factor of P'B + lambda I.

    It minimises |P R - B|^2 + lambda |R - I|^2 over orthogonal R, P and B the centred rows; lambda by 4-fold group CV.

    Args:
        post_rows: post's activations.
        base_rows: base's activations of the same tokens, in the same order.
        groups: the group of each row; whole groups are held out.
        rng: deals the groups to the folds.

    Raises:
        TooFewRows: if there are fewer than four rows per dimension.
        AuditError: if the rows do not pair up, or there are fewer than four groups.
    """

    def fit(post: Rows, base: Rows) -> Callable[[float], Matrix]:
        cross, scale, eye = post.T @ base, float(post.square().sum()) / post.shape[1], _eye(post)
        return lambda strength: _polar(cross + strength * scale * eye)

    return _regularised("T3", fit, post_rows, base_rows, groups, rng)


def affine(post_rows: Rows, base_rows: Rows, groups: Sequence[str], rng: np.random.Generator) -> Alignment:
    """T4: the affine map of ridge regression towards the identity, (P'P + lambda I)^-1 (P'B + lambda I).

    It minimises |P M - B|^2 + lambda |M - I|^2, P and B the centred rows; lambda by 4-fold group CV.

    Args and errors as in `rotate`.
    """

    def fit(post: Rows, base: Rows) -> Callable[[float], Matrix]:
        values, axes = torch.linalg.eigh(post.T @ post)
        values = values.clamp_min(0.0)
        pull, scale, eye = axes.T @ (post.T @ (base - post)), values.mean(), _eye(post)
        return lambda strength: eye + axes @ (pull / (values + strength * scale)[:, None])

    return _regularised("T4", fit, post_rows, base_rows, groups, rng)


def _regularised(
    rung: Rung,
    fit: Callable[[Rows, Rows], Callable[[float], Matrix]],
    post_rows: Rows,
    base_rows: Rows,
    groups: Sequence[str],
    rng: np.random.Generator,
) -> Alignment:
    """Choose the strength by held-out squared error over all groups, then fit on all rows."""
    post, base = finite(post_rows), finite(base_rows)
    if post.shape != base.shape or len(groups) != len(post):
        raise AuditError(
            found=f"{tuple(post.shape)} rows of post, {tuple(base.shape)} of base, {len(groups)} groups",
            expected="the same tokens in both models, a group for each",
            do="Record both models on the same passages",
        )
    if len(post) < ROWS_PER_DIMENSION * post.shape[1]:
        raise TooFewRows(*post.shape)
    source, target = post.mean(0), base.mean(0)
    post, base = post - source, base - target
    if not float(post.square().sum()) > 0 or not float(base.square().sum()) > 0:
        raise AuditError(found="Activations that do not vary", expected="rows that differ", do="Choose another site")
    errors, total = _held_out(fit, post, base, torch.as_tensor(folds(groups, FOLDS, rng)))
    best = int(errors.argmin())
    matrix = fit(post, base)(STRENGTHS[best])
    return Alignment(rung, matrix, source, target, STRENGTHS[best], 1.0 - float(errors[best]) / total)


def _held_out(
    fit: Callable[[Rows, Rows], Callable[[float], Matrix]], post: Rows, base: Rows, fold: Int[Tensor, " row"]
) -> tuple[Float[Tensor, " strength"], float]:
    """Summed squared error on held-out folds per strength, and that of predicting the training mean."""
    errors = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    total = 0.0
    for each in fold.unique():
        held = fold == each
        source, target = post[~held].mean(0), base[~held].mean(0)
        solve = fit(post[~held] - source, base[~held] - target)
        seen, wanted = post[held] - source, base[held] - target
        total += float(wanted.square().sum())
        for at, strength in enumerate(STRENGTHS):
            errors[at] += (seen @ solve(strength) - wanted).square().sum()
    return errors, total


def _polar(matrix: Matrix) -> Matrix:
    left, _, right = torch.linalg.svd(matrix)
    return left @ right


def _eye(rows: Rows) -> Matrix:
    return torch.eye(rows.shape[1], dtype=rows.dtype)
