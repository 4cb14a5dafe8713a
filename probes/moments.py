"""Count, mean and scatter of rows, kept in float64 while the rows stream past.

The update is the pairwise form of Chan, Golub and LeVeque (1979): two summaries merge exactly, so a recording may be
cut into batches, shards or workers anywhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.digest import AuditError


class Moments:
    """First and second moments of the rows seen so far.

    Example:
        >>> rows = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
        >>> Moments.empty(2).update(rows).covariance.tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """

    count: int
    """Rows seen."""
    mean: Float[Tensor, " d_model"]
    """Their mean, float64; zeros before the first row."""
    scatter: Float[Tensor, "d_model d_model"]
    """Sum over rows of (row − mean)(row − mean)', float64."""

    def __init__(self, count: int, mean: Float[Tensor, " d_model"], scatter: Float[Tensor, "d_model d_model"]) -> None:
        """Takes moments that are already known; `Moments.empty` starts from none.

        Raises:
            ValueError: the count is negative, or the shapes do not belong together.
        """
        d = mean.shape[-1]
        if count < 0 or mean.shape != (d,) or scatter.shape != (d, d):
            raise ValueError(f"moments of shapes {tuple(mean.shape)} and {tuple(scatter.shape)}, count {count}")
        self.count = int(count)
        self.mean = mean.to(torch.float64)
        self.scatter = scatter.to(torch.float64)

    @classmethod
    def empty(cls, d: int, device: torch.device | str = "cpu") -> Moments:
        """Moments of no rows of width `d`; `device` is where the sums are kept (it must know float64)."""
        zeros = torch.zeros(d, d, dtype=torch.float64, device=device)
        return cls(0, zeros[0].clone() if d else torch.zeros(0, dtype=torch.float64), zeros)

    def update(self, rows: Float[Tensor, "row d_model"]) -> Moments:
        """Adds rows of any float dtype, in place; returns itself.

        Raises:
            AuditError: a row holds NaN or infinity.
            ValueError: the rows have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"rows of shape {tuple(rows.shape)}, expected [row, {len(self.mean)}]")
        if len(rows) == 0:
            return self
        rows = rows.detach().to(self.mean.device, torch.float64)
        if not torch.isfinite(rows).all():
            bad = int((~torch.isfinite(rows).all(1)).nonzero()[0])
            raise AuditError(
                found=f"Row {bad} of {len(rows)} holds NaN or infinity",
                expected="finite activations",
                do="Load the model in float32 (plan key pair.dtype)",
            )
        mean = rows.mean(0)
        centred = rows - mean
        return self.merge(Moments(len(rows), mean, centred.T @ centred))

    def merge(self, other: Moments) -> Moments:
        """Adds the rows another summary has seen, in place; returns itself."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"moments of width {len(other.mean)} merged into width {len(self.mean)}")
        count = self.count + other.count
        if other.count == 0:
            return self
        step = other.mean.to(self.mean.device) - self.mean
        self.mean = self.mean + step * (other.count / count)
        between = torch.outer(step, step) * (self.count * other.count / count)
        self.scatter = self.scatter + other.scatter.to(self.scatter.device) + between
        self.count = count
        return self

    @property
    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """Unbiased covariance, scatter / (count − 1).

        Raises:
            AuditError: fewer than two rows were seen.
        """
        if self.count < 2:
            raise AuditError(
                found=f"A covariance was asked of {self.count} rows",
                expected="two rows or more",
                do="Give more passages",
            )
        return self.scatter / (self.count - 1)

    def __repr__(self) -> str:
        return f"Moments({self.count} rows, d_model {len(self.mean)})"


def moments_of(rows: Float[Tensor, "row d_model"]) -> Moments:
    """The moments of rows that are all there."""
    return Moments.empty(rows.shape[1]).update(rows)
