"""What a model predicts when something else stands at one of its sites: cross-entropy and KL, passage by passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from probes.passage import Passage
from probes.site import Site, tap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from probes.model import Subject

Edit = Callable[[Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]
"""Rows of a site to rows that stand in their place."""
LOGITS = 2**24
"""Logits that are in memory at a time, for each of the two predictions compared: 64 MiB."""


@dataclass(frozen=True, eq=False)
class Spliced:
    """Sums over the tokens of each passage but its first, float64.

    Attributes:
        tokens: predicted tokens.
        cross_entropy: -log p of them in nats, by edit; "clean" is the model as it is.
        divergence: KL of the clean prediction from the edited one, KL(clean || edited), in nats, by edit.
    """

    tokens: Int[Tensor, " passage"]
    cross_entropy: Mapping[str, Float[Tensor, " passage"]]
    divergence: Mapping[str, Float[Tensor, " passage"]]


def spliced(subject: Subject, passages: Sequence[Passage], site: Site, edits: Mapping[str, Edit]) -> Spliced:
    """Runs the passages as they are and under every edit of a site; all tokens but the first are edited.

    The first token (the BOS where there is one) serves models as a resting place for attention, and no dictionary is
    asked to make it.

    Args:
        subject: the model; as before afterwards.
        passages: what it reads, each of two tokens or more.
        site: where the edits are made.
        edits: by name; "clean" is taken.
    """
    sums = {name: torch.zeros(len(passages), dtype=torch.float64) for name in ("clean", *edits)}
    apart = {name: torch.zeros(len(passages), dtype=torch.float64) for name in edits}
    # Longest first: the first of a batch is what the others are padded to.
    order = sorted(range(len(passages)), key=lambda i: -len(passages[i].token_ids))
    at = 0
    while at < len(order):
        longest = len(passages[order[at]].token_ids)
        step = max(1, LOGITS // (subject.vocab_size * max(longest, 1)))
        some = order[at : at + step]
        at += step
        ids, real = _padded([passages[i].token_ids for i in some], subject.device)
        wanted, targets = real[:, 1:], ids[:, 1:]
        clean = _log_p(subject, ids, real)
        picked = torch.tensor(some)
        sums["clean"][picked] = _total(-_of(clean, targets), wanted)
        for name, edit in edits.items():
            with _edited(subject, site, real, edit):
                other = _log_p(subject, ids, real)
            sums[name][picked] = _total(-_of(other, targets), wanted)
            # In float32 a tiny divergence may come out below zero by rounding; it stays what it is.
            apart[name][picked] = _total((clean.exp() * (clean - other)).sum(-1), wanted)
    tokens = torch.tensor([len(passage.token_ids) - 1 for passage in passages])
    return Spliced(tokens, sums, apart)


@contextmanager
def _edited(subject: Subject, site: Site, real: Tensor, edit: Edit) -> Iterator[None]:
    inside = real.clone()
    inside[:, 0] = False

    def change(hidden: Tensor) -> Tensor:
        made = hidden.clone()
        made[inside] = edit(hidden[inside].float()).to(hidden.dtype)
        return made

    handle = tap(subject.hf, site).edit(change)
    try:
        yield
    finally:
        handle.remove()


def _log_p(subject: Subject, ids: Tensor, real: Tensor) -> Float[Tensor, "passage token vocab"]:
    """Log-probabilities of the next token in float32, for every token but the last."""
    subject.forwards += 1
    with torch.no_grad():
        logits = subject.hf(input_ids=ids, attention_mask=real.long(), use_cache=False).logits[:, :-1]
    return torch.log_softmax(logits.float(), -1)


def _of(log_p: Tensor, targets: Tensor) -> Tensor:
    return log_p.gather(-1, targets[..., None])[..., 0]


def _total(values: Tensor, wanted: Tensor) -> Float[Tensor, " passage"]:
    return torch.where(wanted, values, 0.0).double().sum(1).cpu()


def _padded(texts: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    real = pad_sequence([torch.ones(len(text), dtype=torch.bool) for text in texts], batch_first=True)
    return ids.to(device), real.to(device)
