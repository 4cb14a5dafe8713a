"""Linear discriminants with shrinkage, many fits at a time.

One eigendecomposition of a training set serves every fit that leaves a few of its rows out (`probes.spectrum`). That
makes a delete-one-group jackknife with refit, and a permutation null with refit, affordable.

The covariance is the *total* one of the training rows, which no label enters. It gives the direction of the
within-class covariance with the same absolute ridge: total = within + c * delta delta', and by Sherman-Morrison
(W + rI + c delta delta')^-1 delta is a positive multiple of (W + rI)^-1 delta.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.digest import AuditError
from probes.spectrum import Downdate, Shrinkage, Spectrum, downdate, gather, solve, spectrum


def finite(rows: Tensor) -> Tensor:
    """The rows in float64, on the CPU.

    Raises:
        AuditError: if any of them is NaN or infinite.
    """
    rows = rows.detach().to("cpu", torch.float64)
    bad = int((~torch.isfinite(rows)).sum())
    if bad:
        raise AuditError(
            found=f"{bad} of {rows.numel()} activations are NaN or infinite",
            expected="finite activations",
            do="Load the model in float32, or leave out the passages that overflow",
        )
    return rows


def unit(vectors: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Vectors of norm one; a zero vector stays zero (it scores every row alike, AUROC one half)."""
    largest = vectors.abs().amax(-1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, 1.0)
    norms = scaled.norm(dim=-1, keepdim=True)
    return scaled / torch.where(norms > 0, norms, 1.0)


def contrasts(labels: Bool[Tensor, " row"], weight: Float[Tensor, "fit row"]) -> Float[Tensor, "fit row"]:
    """Row weights c such that c @ rows = mean of label 1 minus mean of label 0 over a fit's training rows.

    A fit that holds only one of the classes gets weights of zero.
    """
    weight = weight.to(torch.float64)
    ones, zeros = weight * labels, weight * ~labels
    n_ones, n_zeros = ones.sum(-1, keepdim=True), zeros.sum(-1, keepdim=True)
    both = (n_ones > 0) & (n_zeros > 0)
    return torch.where(both, ones / n_ones.clamp_min(1.0) - zeros / n_zeros.clamp_min(1.0), 0.0)


def check_fits(labels: Bool[Tensor, " row"], weight: Float[Tensor, "fit row"]) -> None:
    """Refuse training masks that are not 0/1 and fits that lack a class.

    Raises:
        AuditError: naming the first fit that lacks a class.
    """
    if not bool(((weight == 0) | (weight == 1)).all()):
        raise AuditError(
            found="training weights other than 0 and 1", expected="a 0/1 mask", do="Pass 1 for the training rows"
        )
    chosen = weight.to(torch.float64)
    ones, zeros = chosen @ labels.to(torch.float64), chosen @ (~labels).to(torch.float64)
    lacking = ((ones == 0) | (zeros == 0)).nonzero()
    if len(lacking):
        at = int(lacking[0])
        raise AuditError(
            found=f"fit {at} trains on {int(ones[at])} rows of label 1 and {int(zeros[at])} of label 0",
            expected="both labels in every training set",
            do="Use fewer folds, or add groups that hold both labels",
        )


def lda(
    rows: Float[Tensor, "*batch row d_model"],
    labels: Bool[Tensor, " row"],
    weight: Float[Tensor, "fit row"],
    shrinkage: Shrinkage = "auto",
) -> Float[Tensor, "*batch fit d_model"]:
    """Unit directions ((1-g) S + g tr(S)/d I)^-1 (mean of label 1 - mean of label 0).

    S is the total covariance of the fit's training rows. Fits that leave out few rows of another fit are solved from
    its eigendecomposition.

    Args:
        rows: activations, in the model's own unit.
        labels: true for label 1; the direction points towards it.
        weight: 0/1, the training rows of each fit.
        shrinkage: g in [0, 1] (1 is the mean difference), or "auto": Ledoit and Wolf (2004) on the training rows.

    Raises:
        AuditError: if a fit lacks a class, rows are not finite, or g is 0 with no more training rows than dimensions.
    """
    rows = finite(rows)
    check_fits(labels, weight)
    families = gather(weight, rows.shape[-1], shrinkage)
    contrast = contrasts(labels, weight)
    flat = rows.reshape(-1, *rows.shape[-2:])
    found = flat.new_zeros(len(flat), len(weight), flat.shape[-1])
    for family in families:
        for layer, matrix in zip(found, flat, strict=True):
            kept = matrix[family.kept]
            if family.single:
                direct = solve(kept, contrast[family.fits[0], family.kept], shrinkage)
                if direct is not None:
                    layer[family.fits[0]] = direct
                    continue
            fitted = spectrum(kept)
            for fits, removed in family.chunks(fitted):
                z = contrast[fits][:, family.kept] @ fitted.coordinates
                layer[fits] = downdate(fitted, removed, shrinkage).apply(z[:, None])[:, 0] @ fitted.basis.T
    return unit(found).reshape(*rows.shape[:-2], len(weight), -1)


def lda_scores(
    rows: Float[Tensor, "*batch row d_model"],
    draws: Bool[Tensor, "draw row"],
    weight: Float[Tensor, "fit row"],
    judged: Float[Tensor, "*batch judged d_model"],
    shrinkage: Shrinkage = "auto",
) -> Float[Tensor, "*batch fit draw judged"]:
    """Scores of `judged` rows under LDA refitted for every draw of the labels.

    The covariance holds no labels, so each draw is one matrix product. Scores are x' (shrunk S)^-1 delta: comparable
    within one fit and draw (for AUROC), of no common scale or origin across them. A draw that leaves a fit with one
    class scores zero everywhere.

    Args:
        rows: the rows to fit on.
        draws: one labelling of `rows` per draw, for example permuted within pairs.
        weight: 0/1, the training rows of each fit.
        judged: the rows to score, of the same batch as `rows`; they may be `rows`, another domain or another model.
        shrinkage: as in `lda`.
    """
    rows, judged = finite(rows), finite(judged)
    flat, targets = (values.reshape(-1, *values.shape[-2:]) for values in (rows, judged))
    scores = flat.new_empty(len(flat), len(weight), len(draws), targets.shape[1])
    for layer, fit, drawn in _refits(flat, draws, weight, shrinkage):
        scores[layer, fit] = drawn.scores(targets[layer])
    return scores.reshape(*rows.shape[:-2], *scores.shape[1:])


def lda_null(
    rows: Float[Tensor, "*batch row d_model"],
    draws: Bool[Tensor, "draw row"],
    folds: Int[Tensor, " row"],
    shrinkage: Shrinkage = "auto",
) -> Float[Tensor, "*batch draw row"]:
    """Held-out scores of every row under LDA refitted for every draw of the labels.

    Each row is scored by the fit on the other folds. Scores are comparable within a fold only (see `lda_scores`), so
    judge them by the AUROC within folds, averaged. The observed labels may be passed as one more draw.

    Args:
        rows: activations.
        draws: one labelling of the rows per draw.
        folds: the fold of each row; whole groups share a fold.
        shrinkage: as in `lda`.
    """
    rows, folds = finite(rows), torch.as_tensor(folds)
    held = folds[None] == folds.unique()[:, None]
    flat = rows.reshape(-1, *rows.shape[-2:])
    scores = flat.new_empty(len(flat), *draws.shape)
    for layer, fit, drawn in _refits(flat, draws, (~held).to(torch.float64), shrinkage):
        scores[layer, :, held[fit]] = drawn.scores(flat[layer][held[fit]])
    return scores.reshape(*rows.shape[:-2], *draws.shape)


@dataclass(frozen=True, eq=False)
class _Labels:
    """Every draw's labels of one fit's training rows."""

    stay: Int[Tensor, " train"]
    ones: Float[Tensor, "draw train"]

    @classmethod
    def of(
        cls, draws: Bool[Tensor, "draw row"], kept: Int[Tensor, " kept"], removed: Int[Tensor, " removed"]
    ) -> _Labels:
        """The labels of `kept` less `removed`."""
        stay = torch.ones(len(kept), dtype=torch.bool)
        stay[removed] = False
        return cls(stay.nonzero()[:, 0], draws[:, kept[stay]].to(torch.float64))


@dataclass(frozen=True, eq=False)
class _Refit:
    """One layer's LDA on one fit's training rows, for every draw of their labels."""

    fitted: Spectrum
    inverse: Downdate
    labels: _Labels

    def scores(self, judged: Float[Tensor, "judged d_model"]) -> Float[Tensor, "draw judged"]:
        """Each draw's difference of class means, read out."""
        readout = self.inverse.apply(((judged - self.fitted.mean) @ self.fitted.basis)[None])[0]
        # With L the 0/1 labels and C the rows: L C / n1 - (1 - L) C / n0 = L C (1 / n1 + 1 / n0) - sum(C) / n0.
        rows, ones = self.fitted.coordinates[self.labels.stay], self.labels.ones.sum(1, keepdim=True)
        zeros = len(rows) - ones
        # In the order that costs least: rank and number of rows may be either way round.
        along = torch.linalg.multi_dot([self.labels.ones, rows, readout.T])
        scores = along * (1 / ones + 1 / zeros) - (readout @ rows.sum(0)) / zeros
        return torch.where((ones > 0) & (zeros > 0), scores, 0.0)


def _refits(
    rows: Float[Tensor, "layer row d_model"],
    draws: Bool[Tensor, "draw row"],
    weight: Float[Tensor, "fit row"],
    shrinkage: Shrinkage,
) -> Iterator[tuple[int, int, _Refit]]:
    """Every layer's refit of every fit, one eigendecomposition a family and layer."""
    for family in gather(weight, rows.shape[-1], shrinkage):
        labels = [_Labels.of(draws, family.kept, removed) for removed in family.removed]
        for layer, matrix in enumerate(rows):
            fitted = spectrum(matrix[family.kept])
            for fit, removed, drawn in zip(family.fits.tolist(), family.removed, labels, strict=True):
                yield layer, fit, _Refit(fitted, downdate(fitted, removed[None], shrinkage), drawn)


def ledoit_wolf(
    rows: Float[Tensor, "*batch row d_model"], weight: Float[Tensor, "fit row"]
) -> Float[Tensor, "*batch fit"]:
    """Shrinkage g of each fit's training rows (Ledoit and Wolf 2004; equal to sklearn.covariance.ledoit_wolf)."""
    rows = finite(rows)
    flat = rows.reshape(-1, *rows.shape[-2:])
    found = flat.new_empty(len(flat), len(weight))
    for family in gather(weight, rows.shape[-1], "auto"):
        for layer, matrix in zip(found, flat, strict=True):
            fitted = spectrum(matrix[family.kept])
            for fits, removed in family.chunks(fitted):
                layer[fits] = downdate(fitted, removed, "auto").shrinkage
    return found.reshape(*rows.shape[:-2], len(weight))
