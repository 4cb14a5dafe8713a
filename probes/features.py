"""What a latent does, for display: where it fires, on what, what it writes toward, and which latents are like it.

Nothing is decided here and no number has an interval. Models that read the same tokens stand beside each other, the
first of them the one that the dictionary belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.codes import Codes
from probes.dictionary import BUDGET, Dictionary
from probes.examples import Reel, Show, Strip
from probes.tokens import Tokens, pooled
from probes.unembedding import Words, written

if TYPE_CHECKING:
    from probes.model import Subject

SHOWN = Show()


@dataclass(frozen=True)
class Firing:
    """How one model makes a latent fire on the tokens shown.

    Attributes:
        tokens: on which it fires.
        share: of all tokens.
        mean: activation over those tokens; None where there are none.
        largest: activation; 0 where there are none.
        counts: of those tokens, by bar of the histogram.
    """

    tokens: int
    share: float
    mean: float | None
    largest: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Neighbour:
    """A latent of the same dictionary, and the cosine of the two decoder rows."""

    latent: int
    cosine: float


@dataclass(frozen=True)
class Leaning:
    """How far a latent's mean activation over the scored span differs between the labels of a persona's texts.

    Attributes:
        persona: its name.
        domain: "story" or "assistant".
        values: under each model (mean of label 1 - mean of label 0) / root of the mean variance within the labels;
            positive = fires more for label 1; None where nothing varies.
    """

    persona: str
    domain: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Feature:
    """One latent, as it is shown.

    Attributes:
        latent: its number.
        edges: of the histogram's bars, from 0 to the largest activation under any model; empty where it never fires.
        firing: by model.
        strips: examples, the strongest first.
        words: output tokens that its decoder row promotes and suppresses, by model.
        neighbours: by falling cosine.
        leanings: by persona and domain.
    """

    latent: int
    edges: tuple[float, ...]
    firing: Mapping[str, Firing]
    strips: tuple[Strip, ...]
    words: Mapping[str, Words]
    neighbours: tuple[Neighbour, ...]
    leanings: tuple[Leaning, ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """What models made of the same tokens through one dictionary.

    Attributes:
        codes: by model, row by row.
        tokens: what is known of the rows: every token but the first of every passage, once.
    """

    codes: Mapping[str, Codes]
    tokens: Tokens

    def __post_init__(self) -> None:
        """Refuses rows that leave out a token: what is shown around one must have no holes."""
        whole = sum(len(passage.token_ids) - 1 for passage in self.tokens.passages)
        rows = {len(self.tokens), *(len(one) for one in self.codes.values())}
        if rows != {whole}:
            raise ValueError(f"{sorted(rows)} rows. Expected {whole}, every token but the first. Record without limit.")


def features(
    seen: Seen,
    latents: Sequence[int],
    dictionary: Dictionary,
    subjects: Mapping[str, Subject],
    show: Show = SHOWN,
) -> list[Feature]:
    """Some latents of a dictionary, laid out for display; only they are ever made dense, a few at a time.

    Args:
        seen: what the models made of some texts.
        latents: which.
        dictionary: through which the texts were read.
        subjects: the models by the same names: their unembeddings say what a latent promotes.
        show: how much.

    Raises:
        AuditError: the dictionary has no such latent.
    """
    if not latents:
        return []
    wanted = torch.tensor(list(latents), dtype=torch.int64)
    leaning = leanings(seen, wanted)
    near = neighbours(dictionary.decoder, wanted, show.neighbours)
    words = {name: written(dictionary.decoder[wanted], subject, show.words) for name, subject in subjects.items()}
    names = {passage.group: at for at, passage in enumerate(seen.tokens.passages)}
    group = torch.tensor([names[passage.group] for passage in seen.tokens.passages])[seen.tokens.passage].tolist()
    found: list[Feature] = []
    for part in wanted.split(max(1, BUDGET // max(1, len(seen.tokens)))):
        dense = {name: codes.of_latents(part) for name, codes in seen.codes.items()}
        for column, latent in enumerate(part.tolist()):
            at, values = len(found), {name: some[:, column] for name, some in dense.items()}
            edges, firing = histogram(values, show.bins)
            strips = Reel(values, seen.tokens, group, show).strips()
            own = {name: some[at] for name, some in words.items()}
            found.append(Feature(latent, edges, firing, strips, own, near[at], leaning[at]))
    return found


def histogram(values: Mapping[str, Float[Tensor, " row"]], bins: int) -> tuple[tuple[float, ...], dict[str, Firing]]:
    """Edges that all models share, and how each makes the latent fire; tokens on which it is silent are in no bar."""
    largest = max(float(some.max()) for some in values.values())
    firing = {}
    for name, some in values.items():
        fires = some[some > 0]
        counts = torch.histc(fires, bins, 0.0, largest).long().tolist() if largest > 0 else []
        mean = float(fires.double().mean()) if len(fires) else None
        firing[name] = Firing(len(fires), len(fires) / len(some), mean, max(0.0, float(some.max())), tuple(counts))
    return tuple(np.linspace(0.0, largest, bins + 1).tolist() if largest > 0 else ()), firing


def neighbours(
    decoder: Float[Tensor, "latent d_model"], wanted: Int[Tensor, " wanted"], count: int
) -> list[tuple[Neighbour, ...]]:
    """The latents whose decoder rows have the largest cosine with each wanted one's."""
    lengths = decoder.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    found = []
    for part in wanted.split(max(1, BUDGET // len(decoder))):
        cosine = decoder[part] @ decoder.T / lengths / lengths[part][:, None]
        cosine[torch.arange(len(part)), part] = -torch.inf
        best = cosine.topk(min(count, len(decoder) - 1))
        for values, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            found.append(tuple(Neighbour(latent, value) for latent, value in zip(at, values, strict=True)))
    return found


def leanings(seen: Seen, wanted: Int[Tensor, " wanted"]) -> list[tuple[Leaning, ...]]:
    """Of each wanted latent, the leanings in every persona and domain with two texts of either label or more.

    Raises:
        AuditError: the dictionary has no such latent.
    """
    passages = seen.tokens.passages
    means = {name: pooled(codes, seen.tokens).of_latents(wanted).double() for name, codes in seen.codes.items()}
    kinds = sorted({(passage.persona, passage.domain) for passage in passages if passage.persona is not None})
    found: list[list[Leaning]] = [[] for _ in wanted]
    for persona, domain in kinds:
        mine = torch.tensor([(passage.persona, passage.domain) == (persona, domain) for passage in passages])
        one, zero = (torch.tensor([passage.label == label for passage in passages]) & mine for label in (1, 0))
        if min(int(one.sum()), int(zero.sum())) < 2:
            continue
        each = {name: _leaning(some[one], some[zero]) for name, some in means.items()}
        for at, some in enumerate(found):
            some.append(Leaning(persona, domain, {name: values[at] for name, values in each.items()}))
    return [tuple(some) for some in found]


def _leaning(one: Float[Tensor, "row wanted"], zero: Float[Tensor, "row wanted"]) -> list[float | None]:
    spread = ((one.var(0) + zero.var(0)) / 2).sqrt()
    values = (one.mean(0) - zero.mean(0)) / spread
    return [value if away > 0 else None for value, away in zip(values.tolist(), spread.tolist(), strict=True)]
