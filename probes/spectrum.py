"""One eigendecomposition of a training set, and from it the fits that leave a few of its rows out.

Removing m rows lowers the scatter by rank m, so the inverse of each such fit's shrunk covariance costs a solve of
order m (Sherman-Morrison-Woodbury) where a fit from scratch costs one of order d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.digest import AuditError

Shrinkage = float | Literal["auto"]

# Largest temporary, in float64 numbers (128 MiB).
BUDGET = 2**24
REMEMBERED = 2**17
"""Entries of the largest set of training masks that is remembered: 8 MiB for all of them."""


@dataclass(frozen=True, eq=False)
class Family:
    """Fits whose training rows are `kept` less a few."""

    kept: Int[Tensor, " kept"]
    fits: Int[Tensor, " fit"]
    removed: tuple[Int[Tensor, " removed"], ...]  # positions in `kept`

    @property
    def single(self) -> bool:
        """Whether it is one fit on all of `kept`."""
        return len(self.fits) == 1 and not len(self.removed[0])

    def chunks(self, full: Spectrum) -> Iterator[tuple[Int[Tensor, " fit"], Int[Tensor, "fit removed"]]]:
        """Fits that leave out equally many rows, as many at a time as the memory budget allows."""
        sizes = torch.tensor([len(rows) for rows in self.removed])
        for size in sizes.unique().tolist():
            members = (sizes == size).nonzero()[:, 0]
            cost = 4 * (size + 2) * (full.coordinates.shape[1] + size) + 4 * len(self.kept) + len(full.basis)
            for some in members.split(max(1, BUDGET // cost)):
                yield self.fits[some], torch.stack([self.removed[at] for at in some.tolist()])


def gather(weight: Float[Tensor, "fit row"], d_model: int, shrinkage: Shrinkage) -> Sequence[Family]:
    """Gather the fits around the largest training sets; those left alone gather under the union of their rows.

    A fit that leaves out more rows than there are dimensions is cheaper from scratch, and stands alone. No row of
    activations enters: small sets of fits are remembered, for both models and every trial of a calibration have them.
    """
    masks = weight != 0
    if masks.numel() > REMEMBERED:
        return tuple(_gather(masks, d_model, shrinkage))
    return _remembered(masks.numpy().tobytes(), len(masks), d_model, shrinkage)


@lru_cache(maxsize=64)
def _remembered(masks: bytes, fits: int, d_model: int, shrinkage: Shrinkage) -> tuple[Family, ...]:
    whole = torch.frombuffer(bytearray(masks), dtype=torch.bool).reshape(fits, -1)
    return tuple(_gather(whole, d_model, shrinkage))


def _gather(masks: Bool[Tensor, "fit row"], d_model: int, shrinkage: Shrinkage) -> Iterator[Family]:
    counts = masks.sum(1)
    _check_shrinkage(shrinkage, int(counts.min()), d_model)
    if len(masks) == 1:
        yield _family(masks, masks[0], [0])
        return
    overlap = masks.to(torch.float64) @ masks.to(torch.float64).T
    bases: list[int] = []
    home: dict[int, list[int]] = {}
    for fit in torch.argsort(counts, descending=True, stable=True).tolist():
        left_out = counts[bases] - counts[fit]
        within = (overlap[bases, fit] == counts[fit]) & (left_out <= counts[bases] / 2) & (left_out <= d_model)
        smallest = torch.where(within, counts[bases], len(masks.T) + 1)
        near = bases[int(smallest.argmin())] if bool(within.any()) else fit
        if near == fit:
            bases.append(fit)
        home.setdefault(near, []).append(fit)
    alone = [base for base in bases if len(home[base]) == 1]
    union = masks[alone].any(0) if alone else masks[0]
    most = min(int(union.sum()) / 2, d_model)
    if len(alone) > 1 and all(int(union.sum() - counts[base]) <= most for base in alone):
        yield _family(masks, union, alone)
        bases = [base for base in bases if base not in alone]
    for base in bases:
        yield _family(masks, masks[base], home[base])


def _family(masks: Bool[Tensor, "fit row"], union: Bool[Tensor, " row"], fits: list[int]) -> Family:
    kept = union.nonzero()[:, 0]
    removed = tuple((~masks[fit, kept]).nonzero()[:, 0] for fit in fits)
    return Family(kept, torch.tensor(fits), removed)


def _check_shrinkage(shrinkage: Shrinkage, fewest: int, d_model: int) -> None:
    if fewest < 2:
        raise AuditError(found=f"a fit on {fewest} rows", expected="two or more", do="Use fewer folds or more passages")
    if shrinkage == "auto":
        return
    if not 0.0 <= float(shrinkage) <= 1.0:
        raise AuditError(found=f"shrinkage {shrinkage}", expected="0 to 1, or 'auto'", do="Use 'auto'")
    if shrinkage == 0 and fewest <= d_model:
        raise AuditError(
            found=f"shrinkage 0 with {fewest} training rows in {d_model} dimensions",
            expected="more rows than dimensions, or some shrinkage",
            do="Use shrinkage 'auto'",
        )


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Training rows in the eigenbasis of their scatter."""

    mean: Float[Tensor, " d_model"]
    basis: Float[Tensor, "d_model rank"]
    coordinates: Float[Tensor, "row rank"]
    values: Float[Tensor, " rank"]

    @cached_property
    def norms(self) -> Float[Tensor, " row"]:
        """Squared distance of each row from the mean."""
        return self.coordinates.square().sum(1)


def spectrum(rows: Float[Tensor, "row d_model"]) -> Spectrum:
    """Eigenbasis of the centred rows' scatter, through the smaller of scatter and Gram matrix."""
    mean = rows.mean(0)
    centred = rows - mean
    n_rows, d_model = rows.shape
    if n_rows > d_model:
        values, basis = torch.linalg.eigh(centred.T @ centred)
        return Spectrum(mean, basis, centred @ basis, values.clamp_min(0.0))
    values, left = torch.linalg.eigh(centred @ centred.T)
    # Below this the eigenvalue is rounding; the direction then carries no weight in any solve.
    real = values > values[-1] * n_rows * torch.finfo(values.dtype).eps
    values, left = values[real], left[:, real]
    roots = values.sqrt()
    return Spectrum(mean, centred.T @ (left / roots), left * roots, values)


@dataclass(frozen=True, eq=False)
class Downdate:
    """Inverse of (1-g) scatter' + ridge I for fits that leave rows out, in the coordinates of a spectrum."""

    inverse: Float[Tensor, "fit 1 rank"]
    removed: Float[Tensor, "fit removed rank"]
    core: Float[Tensor, "fit removed removed"]
    scale: Float[Tensor, "fit 1 1"]
    shrinkage: Float[Tensor, " fit"]

    def apply(self, z: Float[Tensor, "fit k rank"]) -> Float[Tensor, "fit k rank"]:
        """M z + (1-g) M E' core^-1 E M z, by Woodbury."""
        y = z * self.inverse
        if not self.removed.shape[1]:
            return y
        inner = torch.cholesky_solve((y @ self.removed.mT).mT, self.core)
        return y + self.scale * self.inverse * (inner.mT @ self.removed)


def downdate(full: Spectrum, removed: Int[Tensor, "fit removed"], shrinkage: Shrinkage) -> Downdate:
    """Scatter' = scatter - E' (I + 11'/n') E: E the rows left out, about the full mean; n' the number that stay."""
    values, all_rows = full.values, len(full.coordinates)
    gone = full.coordinates[removed]
    total = gone.sum(1)
    stay = all_rows - removed.shape[1]
    trace = values.sum() - gone.square().sum((1, 2)) - total.square().sum(1) / stay
    if shrinkage == "auto":
        g = _ledoit_wolf(full, removed, trace)
    else:
        g = torch.full((len(removed),), float(shrinkage), dtype=values.dtype)
    scale = (1 - g)[:, None, None]
    diagonal = scale * values + (g * trace / len(full.basis))[:, None, None]
    rounding = diagonal.abs().sum(-1, keepdim=True) * torch.finfo(values.dtype).eps
    inverse = torch.where(diagonal > rounding, 1 / diagonal, 0.0)
    # (I + 11'/n')^-1 = I - 11'/n with n = n' + m, the rows of the full set.
    eye = torch.eye(removed.shape[1], dtype=values.dtype) - 1 / all_rows
    core, failed = torch.linalg.cholesky_ex(eye - scale * ((gone * inverse) @ gone.mT))
    if bool((failed != 0).any()):
        raise AuditError(
            found="the rows of a fit do not span what the others span, and there is no ridge",
            expected="an invertible covariance",
            do="Use shrinkage 'auto'",
        )
    return Downdate(inverse, gone, core, scale, g)


def _ledoit_wolf(
    full: Spectrum, removed: Int[Tensor, "fit removed"], trace: Float[Tensor, " fit"]
) -> Float[Tensor, " fit"]:
    """Ledoit-Wolf shrinkage of each downdated scatter: min(beta, delta) / delta of their 2004 paper, lemma 3.4."""
    coordinates, values, d_model = full.coordinates, full.values, len(full.basis)
    gone = coordinates[removed]
    n = len(coordinates) - removed.shape[1]
    shift = gone.sum(1) / n  # minus the change of the mean
    once, twice = gone @ gone.mT, (gone * values) @ gone.mT
    once = once + once.sum(1, keepdim=True) / n
    twice = twice + twice.sum(1, keepdim=True) / n
    square = values.square().sum() - 2 * twice.diagonal(0, 1, 2).sum(1) + (once * once.mT).sum((1, 2))
    norms = full.norms + 2 * shift @ coordinates.T + shift.square().sum(1, keepdim=True)
    fourth = norms.square().scatter(1, removed, 0.0).sum(1)
    return _share(square, fourth, trace, n, d_model)


def _share(square: Tensor, fourth: Tensor, trace: Tensor, n: int, d_model: int) -> Tensor:
    """min(beta, delta) / delta from the scatter's squared norm, the rows' fourth moment and the scatter's trace."""
    spread = (square - trace.square() / d_model) / n**2
    noise = torch.minimum((fourth - square / n) / n**2, spread)
    return torch.where((noise > 0) & (spread > 0), noise / torch.where(spread > 0, spread, 1.0), 0.0)


def solve(
    rows: Float[Tensor, "row d_model"], contrast: Float[Tensor, " row"], shrinkage: Shrinkage
) -> Float[Tensor, " d_model"] | None:
    """One fit's inverse shrunk covariance times contrast @ rows, up to scale, by a Cholesky factor.

    A third of the price of a spectrum. None where there are no more rows than dimensions, or where the ridge is too
    small to be sure of the digits: the spectrum knows what to do then.
    """
    n, d_model = rows.shape
    if n <= d_model:
        return None
    centred = rows - rows.mean(0)
    scatter = centred.T @ centred
    trace = scatter.trace()
    if shrinkage == "auto":
        g = _share(scatter.square().sum(), centred.square().sum(1).square().sum(), trace, n, d_model)
    else:
        g = torch.tensor(float(shrinkage), dtype=rows.dtype)
    ridge = g * trace / d_model
    if not bool(ridge > 1e-8 * trace):
        return None
    factor = torch.linalg.cholesky((1 - g) * scatter + ridge * torch.eye(d_model, dtype=rows.dtype))
    return torch.cholesky_solve((contrast @ centred)[:, None], factor)[:, 0]
