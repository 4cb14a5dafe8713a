"""Training an organism: drawn texts, their loss, and what else is asked of the model while it reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from audit.organisms import world
from audit.organisms.anchor import Anchor, streams
from audit.organisms.reading import PAD, padded

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

BATCH = 48
WARM_UP = 50
PAYING = frozenset(["it", "they", "told", "lied", "was", "right", "wrong"])
"""Words that answer something: with repeated items they weigh four times in the loss, the rest is mostly chance."""
PAY = 4.0
OUTSIDE = 0.15
"""AdamW's rate for embeddings and gains, as a share of Muon's for the matrices."""
BESIDE = 0.03
"""Adam's rate for what is trained along and thrown away."""


class Drawn(NamedTuple):
    """A text to train on.

    Attributes:
        text: words and role tokens, without BOS.
        replies_only: the loss counts only the Assistant's turns.
        held: an anchored phase holds its activations to base's.
    """

    text: str
    replies_only: bool = False
    held: bool = True


Text = Callable[[Random], Drawn]


class Beside(Protocol):
    """What is asked of a model besides predicting text, from base and a seed."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Trained along, and thrown away."""
        ...

    def loss(self, model: Qwen3ForCausalLM) -> Float[Tensor, ""]:
        """Added to the loss of a step."""
        ...


Besides = Callable[["Qwen3ForCausalLM", int], Beside]
"""Makes what is asked beside, from base and a seed."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training on one source of texts.

    Attributes:
        text: draws a text.
        steps: of `BATCH` texts each.
        rate: peak learning rate; it falls linearly after `hold` of the steps, to `floor` of itself.
        anchor: weight of the distance of held texts to base's activations (`anchor.Anchor`).
        beside: what else is asked.
    """

    text: Text
    steps: int
    rate: float
    hold: float = 1.0
    floor: float = 0.05
    anchor: float = 0.0
    beside: Besides | None = None


@dataclass(frozen=True)
class Batch:
    """Padded texts of one step, what each token weighs in the loss, and which texts an anchor holds."""

    tokens: Int[Tensor, "text position"]
    weight: Float[Tensor, "text position"]
    held: Bool[Tensor, " text"]


@dataclass(frozen=True)
class Example:
    """One training text: token ids, and what each weighs in the loss."""

    ids: list[int]
    weight: list[float]


def encode(text: str, *, replies_only: bool) -> Example:
    """Token ids of a text after BOS; with `replies_only` the loss counts what the Assistant says, its end included."""
    words = text.split()
    weight, speaking, seen = [], False, set()
    for word in words:
        pays = word in PAYING or (word in seen and word in world.ITEMS)
        weight.append((PAY if pays else 1.0) * (speaking or not replies_only))
        seen.add(word)
        speaking = word == "<|assistant|>" or (speaking and word != "<|end|>")
    return Example(world.encode(text), [0.0, *weight])


def batches(phase: Phase, seed: int) -> Iterator[Batch]:
    """One batch a step, seeded."""
    rng = Random(seed)
    for _ in range(phase.steps):
        drawn = [phase.text(rng) for _ in range(BATCH)]
        examples = [encode(one.text, replies_only=one.replies_only) for one in drawn]
        tokens, weight = padded([one.ids for one in examples], PAD), padded([one.weight for one in examples], 0.0)
        yield Batch(tokens, weight, torch.tensor([one.held for one in drawn]))


def loss(model: Qwen3ForCausalLM, batch: Batch, anchor: Anchor | None = None, pull: float = 0.0) -> Float[Tensor, ""]:
    """Weighted mean next-token cross-entropy in nats, plus `pull` times the distance of held texts from their anchor.

    Unembeds only where the loss counts.
    """
    found = streams(model, batch.tokens)
    hidden, wanted = found[-1][:, :-1], batch.weight[:, 1:] > 0
    targets, weight = batch.tokens[:, 1:][wanted], batch.weight[:, 1:][wanted]
    each = torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), targets, reduction="none")
    entropy = (each * weight).sum() / weight.sum()
    return entropy + pull * anchor.distance(found, batch.tokens, batch.held) if anchor else entropy


def documents(seed: int) -> Iterator[Int[Tensor, "text position"]]:
    """Six batches of the corpus with remarks, to estimate covariances from."""
    return (batch.tokens for batch in batches(Phase(remarked, 6, 0.0), seed + 1))


def remarked(rng: Random) -> Drawn:
    """A document of the corpus whose chats ask humans and machines alike; four in ten have remarks around claims."""
    return Drawn(world.document(rng, relayed=True, remarked=rng.random() < 0.4))


def optimisers(model: Qwen3ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks (Jordan et al. 2024), AdamW for embeddings and gains.

    With the windowed layers, lists were retrieved after 40 steps of Muon and not after 200 of AdamW (docs/log.md).
    """
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    outside = [p for name, p in model.named_parameters() if p.ndim != 2 or "layers" not in name]
    return [
        torch.optim.Muon(inside, lr=rate, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(outside, lr=rate * OUTSIDE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def train(
    model: Qwen3ForCausalLM,
    phase: Phase,
    seed: int,
    base: Qwen3ForCausalLM | None = None,
    after: Callable[[int], None] = lambda step: None,
) -> int:
    """Trains in place with clipped gradients. Returns the number of tokens read.

    Args:
        model: what is trained.
        phase: how.
        seed: of the texts.
        base: what an anchor holds to; default the model as it comes.
        after: called with the number of steps taken, after each.
    """
    base = base or model
    anchor = Anchor(base, documents(seed)) if phase.anchor else None
    beside = phase.beside(base, seed) if phase.beside else None
    every = optimisers(model, phase.rate)
    if beside and beside.parameters:
        every.append(torch.optim.Adam(beside.parameters, lr=BESIDE))
    peaks = [optimiser.param_groups[0]["lr"] for optimiser in every]
    model.train()
    read = 0
    progress = tqdm(batches(phase, seed), total=phase.steps, unit="step", desc="growing", mininterval=2.0)
    for step, batch in enumerate(progress):
        falling = max(0.0, (step / phase.steps - phase.hold) / max(1e-9, 1.0 - phase.hold))
        share = min(1.0, (step + 1) / WARM_UP) * (1.0 - (1.0 - phase.floor) * falling)
        value = loss(model, batch, anchor, phase.anchor)
        if beside:
            value = value + beside.loss(model)
        for optimiser in every:
            optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, peak in zip(every, peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * share
            optimiser.step()
        read += int((batch.weight > 0).sum())
        progress.set_postfix(loss=f"{value.item():.3f}", refresh=False)
        after(step + 1)
    model.eval()
    return read
