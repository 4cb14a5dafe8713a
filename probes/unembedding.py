"""Which output tokens a direction in the residual stream promotes, straight through the final norm's gain.

What later blocks make of the direction is not in it (the logit lens of nostalgebraist, 2020): a direction may work
through them and promote nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.site import blocks

if TYPE_CHECKING:
    from torch import nn

    from probes.model import Subject

PIECE = 2**24
"""Weights of the unembedding that are made float32 at a time: 64 MiB."""


@dataclass(frozen=True)
class Word:
    """An output token, and by how much its logit rises, against the mean over the vocabulary, for one unit."""

    text: str
    logit: float


@dataclass(frozen=True)
class Words:
    """The tokens that a direction promotes most and those that it suppresses most, or why they are not known."""

    promoted: tuple[Word, ...] = ()
    suppressed: tuple[Word, ...] = ()
    why: str = ""


def written(rows: Float[Tensor, "row d_model"], subject: Subject, count: int) -> list[Words]:
    """What each direction writes toward: W_U (gain * row), centred over the vocabulary.

    Where the final norm subtracts the mean of its input, so is it here. Rows of the unembedding that the tokenizer has
    no token for are left out.

    Args:
        rows: directions in the residual stream.
        subject: whose final norm and unembedding.
        count: tokens either way.
    """
    norm, unembedding = _final_norm(subject.hf), subject.hf.get_output_embeddings()
    if norm is None or unembedding is None:
        why = f"the {'final norm' if norm is None else 'unembedding'} of a {subject.hf.config.model_type} is not known"
        return [Words(why=why) for _ in rows]
    directions = _through(norm, rows.float().cpu(), unembedding.weight)
    weights = unembedding.weight.detach()[: len(subject.tokenizer)]
    total = torch.zeros(len(rows), dtype=torch.float64)
    ends: dict[int, tuple[Tensor, Tensor]] = {}
    for start, piece in zip(_starts(weights), weights.split(_step(weights)), strict=True):
        scores = directions @ piece.float().cpu().T
        total += scores.double().sum(1)
        for sign in (1, -1):
            ends[sign] = _best(ends.get(sign), sign * scores, start, count)
    mean = (total / len(weights))[:, None]
    told = {sign: (sign * values - mean, at) for sign, (values, at) in ends.items()}
    named = {
        sign: [_named(subject, *one) for one in zip(values, at, strict=True)] for sign, (values, at) in told.items()
    }
    return [Words(*both) for both in zip(named[1], named[-1], strict=True)]


def spelled(tokenizer: Any, ids: list[int]) -> list[str]:
    """Vocabulary entries as they would stand in a text; one that is no whole character as the vocabulary has it."""
    out = []
    for own, entry in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        text = tokenizer.decode([own])
        if not text or "\ufffd" in text:
            text = str(entry)
        elif str(entry).startswith("▁") and not text.startswith(" "):
            text = " " + text
        out.append(text)
    return out


def _named(subject: Subject, values: Float[Tensor, " word"], ids: Int[Tensor, " word"]) -> tuple[Word, ...]:
    texts = spelled(subject.tokenizer, ids.tolist())
    return tuple(Word(text, value) for text, value in zip(texts, values.tolist(), strict=True))


def _final_norm(hf: nn.Module) -> nn.Module | None:
    """The one norm that stands beside the decoder blocks, whatever it is called there."""
    last = blocks(hf)[-1]
    for parent in hf.modules():
        beside = list(parent.children())
        if any(last in list(child.children()) for child in beside):
            norms = [child for child in beside if type(child).__name__.endswith("Norm")]
            return norms[0] if len(norms) == 1 else None
    return None


def _through(
    norm: nn.Module, rows: Float[Tensor, "row d_model"], like: Float[Tensor, "word d_model"]
) -> Float[Tensor, "row d_model"]:
    """Rows times the norm's gain, which is measured: some families store it less one.

    A vector of signs in turn has mean zero and length one a dimension, so a norm only scales it, and its bias cancels
    between the vector and its opposite. One of equal entries shows whether the mean is subtracted.
    """
    even = torch.ones(rows.shape[1], dtype=like.dtype, device=like.device)
    turns = even.clone()
    turns[1::2] = -1
    with torch.no_grad():
        gain, kept = (((norm(x) - norm(-x)) / 2 * x).float().cpu() for x in (turns, even))
    if float(kept.abs().max()) < 1e-3 * float(gain.abs().max()):
        rows = rows - rows.mean(1, keepdim=True)
    return rows * gain


def _best(
    known: tuple[Tensor, Tensor] | None, scores: Float[Tensor, "row word"], start: int, count: int
) -> tuple[Tensor, Tensor]:
    """The largest scores so far and whose they are."""
    values, at = scores.topk(min(count, scores.shape[1]))
    if known is None:
        return values, at + start
    both = torch.cat([known[0], values], 1)
    best = both.topk(min(count, both.shape[1]))
    return best.values, torch.cat([known[1], at + start], 1).gather(1, best.indices)


def _step(weights: Float[Tensor, "word d_model"]) -> int:
    return max(1, PIECE // weights.shape[1])


def _starts(weights: Float[Tensor, "word d_model"]) -> range:
    return range(0, len(weights), _step(weights))
