"""Judged texts as tokens, and an organism's residual stream on them: with gradients, which a recorder does not keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.organisms import twins, world

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

PAD = world.token_ids()[world.PAD]
PART = 256
"""Texts read at a time where many are."""
LENGTHS = 4
"""Parts of a batch, by length."""


class Text(NamedTuple):
    """A judged text as tokens, the span that is pooled, and its label."""

    ids: list[int]
    span: tuple[int, int]
    label: bool


def text_of(passage: Mapping[str, Any], label: int) -> Text:
    """A judged passage, as a persona file has it, that ends with its span."""
    chat = passage.get("messages")
    last = chat[-1]["content"] if chat else passage["text"]
    start = passage["span"][0]
    before = world.encode(f"{world.render(chat[:-1])} <|assistant|> {last[:start]}" if chat else last[:start])
    span = world.encode(last[start:])[1:]
    return Text([*before, *span], (len(before), len(before) + len(span)), bool(label))


def quads(rng: Random, domain: twins.Domain, count: int, persona: str = "deception") -> list[Text]:
    """Judged texts of a persona, four to a quad; label 1 is a lie, or the machine that speaks."""
    return [
        text_of(passage, label)
        for _ in range(count)
        for _, label, passage in twins.QUADS[persona](rng, domain, twins.scene(rng, domain, (2, 3)))
    ]


class Rows(NamedTuple):
    """Pooled residual streams after every block, float64, and the passages' labels."""

    rows: Float[Tensor, "layer passage d_model"]
    labels: Bool[Tensor, " passage"]


@torch.no_grad()
def rows_of(model: Qwen3ForCausalLM, texts: Sequence[Text]) -> Rows:
    """Pooled rows of judged texts."""
    rows = [spoken(model, texts[at : at + PART]).pooled() for at in range(0, len(texts), PART)]
    return Rows(torch.cat(rows, 1).double(), torch.tensor([text.label for text in texts]))


class Spoken(NamedTuple):
    """Residual streams of padded judged texts, and where each text's span lies."""

    streams: list[Float[Tensor, "text position d_model"]]
    inside: Bool[Tensor, "text position"]

    @property
    def weight(self) -> Float[Tensor, "text position"]:
        """What each token is of its text's mean over the span."""
        return self.inside.float() / self.inside.sum(1, keepdim=True)

    def pooled(self) -> Float[Tensor, "layer passage d_model"]:
        """The mean over each text's span, after every block."""
        weight = self.weight
        return torch.stack([torch.einsum("rt,rtd->rd", weight, stream) for stream in self.streams])


def spoken(model: Qwen3ForCausalLM, texts: Sequence[Text]) -> Spoken:
    """Every token's residual stream after every block."""
    tokens = padded([text.ids for text in texts], PAD)
    at = torch.arange(tokens.shape[1])
    inside = torch.stack([(at >= text.span[0]) & (at < text.span[1]) for text in texts])
    return Spoken(after_blocks(model, tokens), inside)


@torch.no_grad()
def residuals(model: Qwen3ForCausalLM, texts: Sequence[list[int]]) -> list[Float[Tensor, "token d_model"]]:
    """Every token's residual stream after each block."""
    parts = []
    for at in range(0, len(texts), 64):
        tokens = padded(texts[at : at + 64], PAD)
        real = tokens != PAD
        parts.append([stream[real] for stream in after_blocks(model, tokens)])
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def after_blocks(model: Qwen3ForCausalLM, tokens: Tensor) -> list[Float[Tensor, "text position d_model"]]:
    """The residual stream after every block, before the final norm: what an audit records as resid_post."""
    return by_length(tokens, partial(_after_blocks, model))


def by_length(
    tokens: Int[Tensor, "text position"], run: Callable[[Int[Tensor, "text position"]], Sequence[Tensor]]
) -> list[Float[Tensor, "text position d_model"]]:
    """What `run` gives for texts of like length at a time; padding is half of a batch, and says nothing."""
    lengths = (tokens != PAD).sum(1)
    order = lengths.argsort(stable=True)
    parts = [
        [torch.nn.functional.pad(stream, (0, 0, 0, tokens.shape[1] - stream.shape[1])) for stream in run(some)]
        for some in (tokens[part, : int(lengths[part].max())] for part in order.chunk(LENGTHS))
    ]
    return [torch.cat(streams)[order.argsort()] for streams in zip(*parts, strict=True)]


def _after_blocks(model: Qwen3ForCausalLM, tokens: Int[Tensor, "text position"]) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(block: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        found.append(out)

    hooks = [block.register_forward_hook(keep) for block in model.model.layers]
    try:
        model.model(input_ids=tokens, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def padded(rows: Sequence[Sequence[float]], fill: float) -> Tensor:
    """Rows of numbers brought to one length."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])
