"""Labelled rows at sites, and the poolings that make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.digest import AuditError
from probes.site import Site

Pooling = Literal["span_mean", "last_token", "tokens"]
"""span_mean: mean over the span; last_token: the span's last token; tokens: every token of the span, a row each."""

POOLINGS: tuple[Pooling, ...] = ("span_mean", "last_token", "tokens")


@dataclass(frozen=True, eq=False)
class Activations:
    """What one model held at some sites while it read some passages."""

    values: Float[Tensor, "row site d_model"]
    """float32 on the CPU; a large recording is a private memory map of a file, paged in as it is read."""
    sites: tuple[Site, ...]
    """Names of the second axis."""
    passages: tuple[str, ...]
    """Row ids: the passage's id, or "passage:token" where every token has a row."""
    surprisal: Float[Tensor, " row"] | None = None
    """Mean −log p of the span's tokens, nats per token, float64; None where it was not asked for."""

    def __post_init__(self) -> None:
        rows = len(self.passages)
        if self.values.ndim != 3 or self.values.shape[:2] != (rows, len(self.sites)):
            raise ValueError(
                f"values of shape {tuple(self.values.shape)} for {rows} rows and {len(self.sites)} sites: "
                "expected [row, site, d_model]"
            )
        if self.surprisal is not None and self.surprisal.shape != (rows,):
            raise ValueError(f"surprisal of shape {tuple(self.surprisal.shape)} for {rows} rows")

    def __len__(self) -> int:
        return len(self.passages)

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.sites))
        return f"Activations({len(self)} rows at {where}, d_model {self.values.shape[2]})"

    def take(self, ids: Sequence[str]) -> Activations:
        """The rows with these ids, in this order; an id may be asked for more than once.

        Raises:
            AuditError: an id was not recorded.
        """
        position = {name: row for row, name in reversed(list(enumerate(self.passages)))}
        missing = [name for name in ids if name not in position]
        if missing:
            raise AuditError(
                found=f"{len(missing)} of {len(ids)} rows were not recorded, the first is {missing[0]}",
                expected=f"ids among the {len(self)} recorded rows",
                do="Record these passages first",
            )
        rows = torch.tensor([position[name] for name in ids], dtype=torch.long)
        surprisal = None if self.surprisal is None else self.surprisal[rows]
        return Activations(self.values[rows], self.sites, tuple(ids), surprisal)

    def at(self, site: Site) -> Float[Tensor, "row d_model"]:
        """The rows at one site, a view.

        Raises:
            AuditError: the site was not recorded.
        """
        if site not in self.sites:
            raise AuditError(
                found=f"{site} was not recorded",
                expected="one of " + ", ".join(map(str, self.sites)),
                do="Record that site or ask for one of these",
            )
        return self.values[:, self.sites.index(site)]


class RowWriter:
    """Rows of known number, filled in any order: in memory, or in a file that is then mapped.

    Written through the file and mapped at the end, rows cost no memory until they are read.
    """

    def __init__(self, shape: tuple[int, int, int], file: BinaryIO | None = None) -> None:
        """Takes [row, site, d_model] and an open binary file, or None for memory."""
        self.shape, self.file = shape, file
        self.memory = torch.empty(shape) if file is None else None

    def put(self, positions: Int[np.ndarray, " part"], rows: Float[Tensor, "part site d_model"]) -> None:
        """Writes these rows at these positions."""
        if self.memory is not None:
            self.memory[torch.from_numpy(positions)] = rows
            return
        assert self.file is not None
        for position, row in zip(positions.tolist(), rows.contiguous().numpy(), strict=True):
            self.file.seek(position * row.nbytes)
            self.file.write(row.data)

    def tensor(self) -> Float[Tensor, "row site d_model"]:
        """All rows; of a file, a private map that outlives the file's name and is never written back."""
        if self.memory is not None:
            return self.memory
        assert self.file is not None
        self.file.flush()
        return torch.from_numpy(np.memmap(self.file, np.float32, "c", shape=self.shape))


def pooler(
    mask: Bool[Tensor, "batch token"], pooling: Pooling
) -> Callable[[Float[Tensor, "batch token d_model"]], Float[Tensor, "row d_model"]]:
    """The pooling of one batch as a function of hidden states, to be applied at every site of the same pass.

    Weights and indices are made once here: a check inside the function would make an accelerator wait at every site.

    Args:
        mask: the tokens to pool, at least one a passage.
        pooling: how; "tokens" gives one row per chosen token, passage after passage.

    Raises:
        ValueError: a passage has no token to pool, or the pooling is unknown.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"passages {empty} of the batch have no token to pool")
    if pooling == "span_mean":
        weight = mask.float() / mask.sum(1, keepdim=True)
        # In float32 whatever the model's dtype: a bfloat16 sum of 100 tokens is off by 1 %.
        return lambda hidden: torch.bmm(weight.unsqueeze(1), hidden.float()).squeeze(1)
    if pooling == "last_token":
        token = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
        row = torch.arange(len(mask), device=mask.device)
    else:
        row, token = mask.nonzero(as_tuple=True)
    return lambda hidden: hidden[row, token].float()


def pool(
    hidden: Float[Tensor, "batch token d_model"], span_mask: Bool[Tensor, "batch token"], pooling: Pooling
) -> Float[Tensor, "row d_model"]:
    """Rows of one batch, float32: one a passage, or one per chosen token when pooling is "tokens".

    Example:
        >>> hidden = torch.arange(6.0).reshape(1, 3, 2)
        >>> pool(hidden, torch.tensor([[False, True, True]]), "span_mean").tolist()
        [[3.0, 4.0]]
    """
    return pooler(span_mask, pooling)(hidden)
