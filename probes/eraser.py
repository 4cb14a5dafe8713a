"""LEACE: the smallest affine change after which no linear probe reads a label (Belrose et al., arXiv:2306.03819)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.digest import AuditError
from probes.discriminant import check_fits, contrasts, finite


@dataclass(frozen=True, eq=False)
class Eraser:
    """x - left (right (x - mean)), in float64: an oblique projection of rank one about the training mean.

    Attributes:
        left: the part of the activations that carries the label.
        right: what reads it.
        mean: the training mean, which erasing leaves in place.
    """

    left: Float[Tensor, "d_model rank"]
    right: Float[Tensor, "rank d_model"]
    mean: Float[Tensor, " d_model"]

    def __call__(self, rows: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The rows with the label erased."""
        rows = finite(rows)
        return rows - (rows - self.mean) @ self.right.T @ self.left.T


def leace(rows: Float[Tensor, "row d_model"], labels: Bool[Tensor, " row"]) -> Eraser:
    """Fit LEACE with the covariance shrunk as in concept_erasure, so that fewer rows than dimensions will do.

    On the training rows the class means coincide afterwards, whatever the shrinkage. The labels may be random ones:
    that is the control.

    Args:
        rows: activations.
        labels: true for label 1.

    Raises:
        AuditError: if a class is missing, rows are not finite, or the fit leaves the class means apart.
    """
    from concept_erasure import LeaceFitter

    rows = finite(rows)
    everyone = torch.ones(1, len(rows))
    check_fits(labels, everyone)
    # Centred because the library accumulates covariances from a mean of zero; a weak label must be erased like a
    # strong one, hence the tolerance; the trace cannot grow, so its constraint would only react to rounding.
    mean = rows.mean(0)
    fitter = LeaceFitter(rows.shape[1], 1, dtype=torch.float64, constrain_cov_trace=False, svd_tol=1e-12)
    fitted = fitter.update(rows - mean, labels.to(torch.float64)).eraser
    eraser = Eraser(fitted.proj_left, fitted.proj_right, mean)
    delta = contrasts(labels, everyone) @ (rows - mean)
    left_over = float((contrasts(labels, everyone) @ (eraser(rows) - mean)).norm() / delta.norm().clamp_min(1e-300))
    if not left_over < 1e-6:
        raise AuditError(
            found=f"The eraser leaves {left_over:.1e} of the difference of class means",
            expected="less than 1e-6",
            do="Fit it on more rows, or on rows in which the classes differ",
        )
    return eraser
