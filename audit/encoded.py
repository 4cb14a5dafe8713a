"""One domain's tokens in both models, encoded by one dictionary: what is asked of single features is asked of this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.pair import Model, Recorder, evenly
from audit.resampling import grouped
from probes.codes import Codes
from probes.dictionary import Dictionary
from probes.fidelity import Fidelity, fidelity, ordinary
from probes.passage import Passage
from probes.tokens import Tokens, pooled


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows of both models, row by row of the same tokens.

    Attributes:
        tokens: what the rows are.
        rows: activations at the dictionary's site.
        found: what the dictionary makes of them.
        outliers: share of tokens that were left out, as outliers in one model or the other.
    """

    tokens: Tokens
    rows: dict[Model, Float[Tensor, "row d_model"]]
    found: dict[Model, Fidelity]
    outliers: float

    @cached_property
    def labels(self) -> Bool[Tensor, " passage"]:
        """True for passages of label 1."""
        return torch.tensor([passage.label == 1 for passage in self.tokens.passages])

    @cached_property
    def groups(self) -> list[str]:
        """Each passage's scenario."""
        return [passage.group for passage in self.tokens.passages]

    @cached_property
    def group(self) -> Int[Tensor, " passage"]:
        """Each passage's scenario as an index into their sorted names."""
        return grouped(self.groups)[1]

    @cached_property
    def pooled(self) -> dict[Model, Codes]:
        """Mean activation of each latent over the scored span, a row a passage."""
        return {model: pooled(found.codes, self.tokens) for model, found in self.found.items()}


def encoded(recorder: Recorder, passages: Sequence[Passage], own: Dictionary, limit: int) -> Encoded:
    """Reads whole passages in both models and encodes every token that is no outlier in either.

    Args:
        recorder: both models.
        passages: of one domain.
        own: a dictionary of base's.
        limit: tokens, at most; whole scenarios are left out, evenly.
    """
    some = within(passages, limit)
    read = recorder.token_values(some, own.site)
    rows: dict[Model, Tensor] = {model: values.at(own.site).float() for model, values in read.items()}
    kept = ordinary(rows["base"]) & ordinary(rows["post"])
    tokens = Tokens.of(some, read["base"].passages).rows(kept)
    rows = {model: values[kept] for model, values in rows.items()}
    group = grouped([passage.group for passage in some])[1][tokens.passage]
    found: dict[Model, Fidelity] = {model: fidelity(own, values, group) for model, values in rows.items()}
    return Encoded(tokens, rows, found, float((~kept).double().mean()))


def within(passages: Sequence[Passage], limit: int) -> tuple[Passage, ...]:
    """The passages of as many scenarios, evenly spaced, as hold about the limit of tokens; of one at least."""
    names = sorted({passage.group for passage in passages})
    total = sum(len(passage.token_ids) for passage in passages)
    count = max(1, min(len(names), int(len(names) * limit / max(total, 1))))
    kept = set(evenly(names, count))
    return tuple(passage for passage in passages if passage.group in kept)
