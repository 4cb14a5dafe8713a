"""What a dictionary found in some rows, kept sparse: which latents fire where, and how strongly.

The form is that of compressed sparse rows. A dense code of 131,072 latents is half a megabyte a token; one with 64
latents active is half a kilobyte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.digest import AuditError


@dataclass(frozen=True, eq=False)
class Codes:
    """Activations of a dictionary's latents, row by row; what is not listed is zero.

    Attributes:
        offsets: where each row's entries begin, and where the last one's end.
        latents: latent of each entry, rising within a row.
        values: its activation; never zero.
        width: how many latents the dictionary has.
    """

    offsets: Int[Tensor, " row_and_end"]
    latents: Int[Tensor, " entry"]
    values: Float[Tensor, " entry"]
    width: int

    def __post_init__(self) -> None:
        """Refuses entries that do not belong to the rows."""
        if len(self.latents) != len(self.values) or int(self.offsets[-1]) != len(self.values):
            raise ValueError(f"{len(self.latents)} latents, {len(self.values)} values, rows end at {self.offsets[-1]}")

    @classmethod
    def of(cls, dense: Float[Tensor, "row latent"]) -> Codes:
        """The entries that are not zero."""
        row, latent = dense.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(dense))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(offsets, latent.int(), dense[row, latent].float(), dense.shape[1])

    @classmethod
    def join(cls, parts: Iterable[Codes]) -> Codes:
        """Rows of several codes of one dictionary, one after another; there is one at least."""
        known = list(parts)
        ends = torch.tensor([0, *(int(part.offsets[-1]) for part in known[:-1])]).cumsum(0)
        starts = [part.offsets[:-1] + end for part, end in zip(known, ends, strict=True)]
        last = known[-1].offsets[-1:] + ends[-1]
        latents, values = (torch.cat([getattr(part, name) for part in known]) for name in ("latents", "values"))
        return cls(torch.cat([*starts, last]), latents, values, known[0].width)

    def __len__(self) -> int:
        """Rows."""
        return len(self.offsets) - 1

    @property
    def row(self) -> Int[Tensor, " entry"]:
        """Row of each entry."""
        return torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())

    @property
    def counts(self) -> Int[Tensor, " row"]:
        """Latents that fire in each row: L0."""
        return self.offsets.diff()

    def rows(self, kept: Bool[Tensor, " row"]) -> Codes:
        """Some of the rows, in their order."""
        counts = self.counts
        entries = torch.repeat_interleave(kept, counts)
        offsets = torch.cat([counts.new_zeros(1), counts[kept].cumsum(0)])
        return Codes(offsets, self.latents[entries], self.values[entries], self.width)

    def of_latents(self, wanted: Int[Tensor, " wanted"]) -> Float[Tensor, "row wanted"]:
        """Activations of a few latents, dense.

        Raises:
            AuditError: the dictionary has no such latent.
        """
        outside = wanted[(wanted < 0) | (wanted >= self.width)]
        if len(outside):
            raise AuditError(f"Latent {int(outside[0])}", f"0 to {self.width - 1}", "Name one that the dictionary has")
        column = torch.full((self.width,), -1, dtype=torch.int64)
        column[wanted] = torch.arange(len(wanted))
        at = column[self.latents.long()]
        kept = at >= 0
        dense = torch.zeros(len(self), len(wanted))
        dense[self.row[kept], at[kept]] = self.values[kept]
        # A latent that is asked for twice has one column in the map.
        return dense[:, column[wanted]]

    def firing(self) -> Float[Tensor, " latent"]:
        """Share of rows in which each latent fires."""
        return torch.bincount(self.latents.long(), minlength=self.width).double() / max(1, len(self))

    def sums(self, weights: Float[Tensor, "row weight"]) -> Float[Tensor, "latent weight"]:
        """Sum over rows of activation times weight, for every latent."""
        each = self.values.double()[:, None] * weights.double()[self.row]
        return torch.zeros(self.width, weights.shape[1], dtype=torch.float64).index_add_(0, self.latents.long(), each)
