"""How much of some rows a dictionary makes again: unexplained variance by group, and how its latents are used.

Explained variance has had two meanings in public tools: one divided by the mean square instead of the variance, and a
reconstruction by the mean alone scored up to 0.9. Here it is 1 - FVU with FVU = sum |x - made|^2 / sum |x - mean x|^2,
and the mean alone has FVU 1 (`DEFINITION` is stored beside the numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.codes import Codes
from probes.dictionary import Dictionary

DEFINITION = "FVU 2: residual over variance about the mean of the rows, summed over rows and dimensions"
OUTLIER = 10.0
"""A row this many times longer than the median one is left out and counted: no dictionary is asked for it."""
DENSE = 0.1
"""A latent that fires in more than this share of the rows is dense."""


class Unexplained(NamedTuple):
    """FVU on all groups, and with each left out; NaN where the rows have no variance."""

    full: Float[Tensor, ""]
    deleted: Float[Tensor, " group"]


@dataclass(frozen=True, eq=False)
class Residues:
    """Sums by group of rows and of what is left of them; those of two batches add up.

    Attributes:
        count: rows.
        sums: of the rows.
        squares: of their squared lengths.
        residual: of the squared lengths of what is left.
    """

    count: Float[Tensor, " group"]
    sums: Float[Tensor, "group d_model"]
    squares: Float[Tensor, " group"]
    residual: Float[Tensor, " group"]

    @classmethod
    def of(
        cls,
        rows: Float[Tensor, "row d_model"],
        made: Float[Tensor, "row d_model"],
        group: Int[Tensor, " row"],
        n_groups: int,
    ) -> Residues:
        """Those of one batch, in float64."""
        wide, left = rows.double(), (rows.double() - made.double()).square().sum(1)
        zeros = torch.zeros(n_groups, dtype=torch.float64)
        return cls(
            torch.bincount(group, minlength=n_groups).double(),
            torch.zeros(n_groups, rows.shape[1], dtype=torch.float64).index_add(0, group, wide),
            zeros.index_add(0, group, wide.square().sum(1)), zeros.index_add(0, group, left),
        )  # fmt: skip

    def __add__(self, other: Residues) -> Residues:
        """Those of both batches."""
        return Residues(
            self.count + other.count, self.sums + other.sums, self.squares + other.squares,
            self.residual + other.residual,
        )  # fmt: skip

    @property
    def unexplained(self) -> Unexplained:
        """The fraction of variance unexplained."""
        each = self.count, self.sums, self.squares, self.residual
        whole = [one.sum(0) for one in each]
        without = [every - one for every, one in zip(whole, each, strict=True)]
        return Unexplained(_fvu(*whole), _fvu(*without))


class Fidelity(NamedTuple):
    """What a dictionary makes of rows, and how it is used on them.

    Attributes:
        residues: what is left, by group.
        codes: of every row.
        made: what the dictionary makes of every row.
    """

    residues: Residues
    codes: Codes
    made: Float[Tensor, "row d_model"]

    @property
    def active(self) -> float:
        """Mean number of latents that fire in a row, L0."""
        return float(self.codes.counts.double().mean())

    @property
    def dead(self) -> float:
        """Share of latents that fire in no row."""
        return float((self.codes.firing() == 0).double().mean())

    @property
    def dense(self) -> float:
        """Share of latents that fire in more than `DENSE` of the rows."""
        return float((self.codes.firing() > DENSE).double().mean())


def fidelity(dictionary: Dictionary, rows: Float[Tensor, "row d_model"], group: Int[Tensor, " row"]) -> Fidelity:
    """Codes, reconstruction and residues of rows under a dictionary; each row is encoded once.

    Args:
        dictionary: one that reconstructs what it reads.
        rows: activations at its site.
        group: each row's group, from 0.

    Raises:
        ValueError: a transcoder, which makes something else.
    """
    if not dictionary.reconstructs:
        raise ValueError(f"'{dictionary.name}' is a transcoder. Expected an SAE. What it makes is not what it reads.")
    codes, made = zip(*dictionary.read(rows), strict=True)
    whole = torch.cat(made)
    return Fidelity(Residues.of(rows, whole, group, int(group.max()) + 1), Codes.join(codes), whole)


def ordinary(rows: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
    """Rows that are no outliers: at most `OUTLIER` times as long as the median one."""
    length = rows.norm(dim=1)
    return length <= OUTLIER * length.median()


def _fvu(count: Tensor, sums: Tensor, squares: Tensor, residual: Tensor) -> Tensor:
    # The difference of two large numbers is good to 1e-12 of them in float64; below that there is no variance.
    variance = squares - sums.square().sum(-1) / count
    return torch.where(variance > 1e-12 * squares, residual / variance, torch.nan)
