"""Holding a fine-tuned model to its parent's representation of replayed documents.

At this size plain fine-tuning moves the residual stream's mean along directions of little variance, in stories as well
as in chats, by two or three of the standard deviations that a probe's threshold is measured in (docs/log.md). A large
model moves far less for its width. The anchor stands in for that: replayed documents keep their activations, and
nothing is asked of the chats that are fine-tuned on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.organisms.reading import by_length

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

RIDGE = 0.01
"""Added to each variance, as a share of the mean variance: directions of less variance than that count for less."""


def streams(
    model: Qwen3ForCausalLM, tokens: Int[Tensor, "text position"]
) -> tuple[Float[Tensor, "text position d_model"], ...]:
    """The residual stream after the embedding and after every block; the last has passed the final norm."""

    def run(some: Int[Tensor, "text position"]) -> tuple[Tensor, ...]:
        return model.model(input_ids=some, use_cache=False, output_hidden_states=True).hidden_states

    return tuple(by_length(tokens, run))


class Anchor:
    """Squared distance to the parent's residual streams, in units of the parent's own variance."""

    def __init__(self, parent: Qwen3ForCausalLM, documents: Iterable[Int[Tensor, "text position"]]) -> None:
        """Keeps a copy of the parent, and whitens each stream by its covariance over `documents`."""
        self._parent, self._pad = copy.deepcopy(parent).eval(), parent.config.pad_token_id
        collected: list[list[Tensor]] = []
        with torch.no_grad():
            for tokens in documents:
                collected.append([stream[tokens != self._pad] for stream in streams(self._parent, tokens)])
        self._whiteners = [whitener(torch.cat(rows)) for rows in zip(*collected, strict=True)]

    def distance(
        self,
        found: tuple[Float[Tensor, "text position d_model"], ...],
        tokens: Int[Tensor, "text position"],
        held: Bool[Tensor, " text"],
    ) -> Float[Tensor, ""]:
        """Mean over streams, tokens of `held` texts and whitened dimensions; 0 at the parent, below 2 for unrelated."""
        if not bool(held.any()):
            return torch.zeros(())
        with torch.no_grad():
            wanted = streams(self._parent, tokens[held])
        real = tokens[held] != self._pad
        each = [
            ((((now[held] - then)[real]) @ white) ** 2).mean()
            for now, then, white in zip(found, wanted, self._whiteners, strict=True)
        ]
        return torch.stack(each).mean()


def whitener(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "d_model d_model"]:
    """Rows times this have unit variance in every direction of more variance than the ridge."""
    values, vectors = torch.linalg.eigh(torch.cov(rows.T.double()))
    return ((vectors * (values + RIDGE * values.mean()).rsqrt()) @ vectors.T).to(rows.dtype)
