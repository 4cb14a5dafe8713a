"""Rows of single tokens: of which passage, which word, who speaks it, and whether it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probes.codes import Codes
from probes.passage import Passage


@dataclass(frozen=True, eq=False)
class Tokens:
    """What is known of each row before any model is asked.

    Attributes:
        passages: the texts.
        passage: each row's text, an index into `passages`.
        position: its place in that text.
    """

    passages: tuple[Passage, ...]
    passage: Int[Tensor, " row"]
    position: Int[Tensor, " row"]

    @classmethod
    def of(cls, passages: Sequence[Passage], names: Sequence[str]) -> Tokens:
        """Rows by their names "passage:token", as `record_tokens` gives them; a passage given twice is its first."""
        index = {passage.id: at for at, passage in reversed(list(enumerate(passages)))}
        parts = [name.rpartition(":") for name in names]
        text = torch.tensor([index[name] for name, _, _ in parts], dtype=torch.int64)
        return cls(tuple(passages), text, torch.tensor([int(at) for *_, at in parts], dtype=torch.int64))

    def __len__(self) -> int:
        """Rows."""
        return len(self.passage)

    def rows(self, kept: Bool[Tensor, " row"]) -> Tokens:
        """Some of the rows, in their order."""
        return Tokens(self.passages, self.passage[kept], self.position[kept])

    @cached_property
    def ids(self) -> Int[Tensor, " row"]:
        """Each row's token id."""
        pairs = zip(self.passage.tolist(), self.position.tolist(), strict=True)
        return torch.tensor([self.passages[text].token_ids[at] for text, at in pairs], dtype=torch.int64)

    @cached_property
    def word(self) -> Int[Tensor, " row"]:
        """Each row's token id as an index into `words`: from 0, without gaps."""
        return self.ids.unique(return_inverse=True)[1]

    @cached_property
    def before(self) -> Int[Tensor, " row"]:
        """The token before each row's as an index into `words`; -1 where there is none, or it has no row of its own."""
        known = self.ids.unique()
        pairs = zip(self.passage.tolist(), self.position.tolist(), strict=True)
        ids = torch.tensor([self.passages[text].token_ids[at - 1] if at else -1 for text, at in pairs])
        at = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
        return torch.where(known[at] == ids, at, -1)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The tokens that occur, as they stand in the text where each occurs first; by rising id."""
        first = torch.full((int(self.word.max()) + 1,), len(self), dtype=torch.int64)
        first.scatter_reduce_(0, self.word, torch.arange(len(self)), "amin")
        return tuple(self.said(row) for row in first.tolist())

    def said(self, row: int) -> str:
        """What one row's token covers of its text."""
        text = self.passages[int(self.passage[row])]
        return text.text[slice(*text.offsets[int(self.position[row])])]

    @cached_property
    def scored(self) -> Bool[Tensor, " row"]:
        """Rows inside their passage's scored span."""
        first, last = self._spans
        return (self.position >= first) & (self.position < last)

    @cached_property
    def final(self) -> Bool[Tensor, " row"]:
        """Rows that end their passage's scored span."""
        return self.position == self._spans[1] - 1

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """Who speaks anywhere in these rows, by `Passage.roles`, sorted."""
        return tuple(sorted(set(self._speakers)))

    def spoken(self, role: str) -> Bool[Tensor, " row"]:
        """Rows of one role; none of a role that does not occur."""
        return self._role == (self.roles.index(role) if role in self.roles else -1)

    @cached_property
    def _speakers(self) -> list[str]:
        roles = [passage.roles for passage in self.passages]
        return [roles[text][at] for text, at in zip(self.passage.tolist(), self.position.tolist(), strict=True)]

    @cached_property
    def _role(self) -> Int[Tensor, " row"]:
        index = {role: at for at, role in enumerate(self.roles)}
        return torch.tensor([index[role] for role in self._speakers], dtype=torch.int64)

    @property
    def _spans(self) -> tuple[Tensor, Tensor]:
        spans = torch.tensor([passage.span for passage in self.passages]).reshape(-1, 2)
        return spans[self.passage, 0], spans[self.passage, 1]


def pooled(codes: Codes, tokens: Tokens) -> Codes:
    """Mean activation of every latent over each passage's scored tokens: a row a passage, still sparse."""
    kept = tokens.scored
    scored, text = codes.rows(kept), tokens.passage[kept]
    counts = torch.bincount(text, minlength=len(tokens.passages)).clamp(min=1)
    row = text[scored.row]
    keys, at = (row * codes.width + scored.latents).unique(return_inverse=True)
    values = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, at, scored.values.double() / counts[row])
    rows = torch.bincount(keys // codes.width, minlength=len(tokens.passages))
    offsets = torch.cat([rows.new_zeros(1), rows.cumsum(0)])
    return Codes(offsets, (keys % codes.width).int(), values.float(), codes.width)
