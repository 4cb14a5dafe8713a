"""The pair contract: base and post read on the same tokens, row by row.

`material` records both models on the texts they agree on and makes one persona's `Pair`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.resampling import kernel, seed_of
from audit.texts import Texts
from audit.transport import Maps, TokenRows, fit_maps
from probes.activations import Activations, Pooling
from probes.digest import AuditError
from probes.direction import lda
from probes.passage import Passage
from probes.persona import Persona
from probes.recorder import record, record_tokens
from probes.site import Site
from probes.splice import Edit, Spliced, spliced
from probes.split import folds
from probes.store import Store

if TYPE_CHECKING:
    from probes.model import Subject

One = TypeVar("One")
Model = Literal["base", "post"]
Judging = Literal["story", "assistant"]
MODELS: tuple[Model, Model] = ("base", "post")
DOMAINS: tuple[Judging, Judging] = ("story", "assistant")

FOLDS = 5
TOKENS_PER_DIMENSION = 8
"""Token rows recorded for the label-free maps, per dimension: twice what they need, so that half may be held out."""
LEAST_TOKENS = 4_096
ROWS_PER_TEXT = 16
"""Token rows that the maps take of one text at most, where there are texts enough: the next token says little more."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One persona's passages in one domain: labels and groups are common to both models, row by row."""

    passages: tuple[Passage, ...]
    fold: Int[np.ndarray, " row"]
    """The fold of each row, fixed by the plan's seed; whole groups share one."""
    rows: dict[Model, Float[Tensor, "site row d_model"]]
    """Pooled activations in float64, sites first so that they batch."""
    surprisal: dict[Model, Float[Tensor, " row"]]
    """Mean -log p of the scored span, nats a token."""

    @cached_property
    def labels(self) -> Bool[Tensor, " row"]:
        """True for label 1."""
        return torch.tensor([passage.label == 1 for passage in self.passages])

    @cached_property
    def groups(self) -> list[str]:
        """Each row's scenario."""
        return [passage.group for passage in self.passages]

    @cached_property
    def group(self) -> Int[Tensor, " row"]:
        """Each row's scenario as an index into their sorted names."""
        return torch.from_numpy(np.unique(np.asarray(self.groups, dtype=str), return_inverse=True)[1])

    @cached_property
    def pairs(self) -> list[str]:
        """Each row's contrast pair."""
        return [str(passage.pair) for passage in self.passages]

    @cached_property
    def n_groups(self) -> int:
        """Scenarios."""
        return len(set(self.groups))


class Source(Protocol):
    """Where a pair's token rows come from, and where small results are kept: a `Recorder`, or planted activations."""

    def tokens(self, story: Sequence[Passage], around: Sequence[Site]) -> Callable[[Site], TokenRows]:
        """Token rows for the label-free maps, in both models: read once, then given by site."""
        ...

    def token_values(self, passages: Sequence[Passage], site: Site) -> dict[Model, Activations]:
        """Every token of a few passages, in both models."""
        ...

    def remember(self, given: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """A small result by what it is computed from."""
        ...


@dataclass(frozen=True, eq=False)
class Pair:
    """One persona under both models: what a comparison is called with."""

    persona: Persona
    sites: tuple[Site, ...]
    chosen: int
    """Index into `sites`, chosen on base's stories alone."""
    story: Judged
    assistant: Judged
    recorder: Source
    seed: int
    controls: dict[tuple[str, Judging], Judged] = field(default_factory=dict)
    """Control texts by kind and domain: nothing is fitted on them, and no verdict rests on them."""
    remembered: dict[int, Maps] = field(default_factory=dict, repr=False)
    """Maps by site, filled as they are asked for: several comparisons use them."""

    @property
    def site(self) -> Site:
        """The chosen site."""
        return self.sites[self.chosen]

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The chosen site and the recorded ones beside it."""
        return tuple(i for i in (self.chosen - 1, self.chosen, self.chosen + 1) if 0 <= i < len(self.sites))

    def judged(self, domain: Judging) -> Judged:
        """The rows of one domain."""
        return self.story if domain == "story" else self.assistant

    def tokens(self, site: int) -> TokenRows:
        """Paired token rows at one of the sites; recorded at the chosen site and its neighbours only."""
        return self._tokens(self.sites[site])

    @cached_property
    def _tokens(self) -> Callable[[Site], TokenRows]:
        return self.recorder.tokens(self.story.passages, tuple(self.sites[i] for i in self.neighbours))

    def maps(self, site: int) -> Maps:
        """The label-free maps from post to base at one of the sites, fitted once."""
        if site not in self.remembered:
            rng = seed_of(self.seed, "maps", self.persona.name, str(self.sites[site]))
            self.remembered[site] = fit_maps(self.tokens(site), rng)
        return self.remembered[site]


@dataclass(frozen=True, eq=False)
class Recorder:
    """Both models, the store, and what is read for everyone: the one that runs forward passes."""

    base: Subject
    post: Subject
    plain: tuple[Passage, ...]
    pooling: Pooling = "span_mean"
    store: Store | None = None
    progress: bool = True

    def judged(self, passages: Sequence[Passage], sites: Sequence[Site]) -> dict[Model, Activations]:
        """Both models' pooled rows of the same passages, with the surprisal of their spans."""
        return {
            name: record(
                subject, passages, sites, pooling=self.pooling, store=self.store, surprisal=True, progress=self.progress
            )
            for name, subject in self._models()
        }

    def tokens(self, story: Sequence[Passage], around: Sequence[Site]) -> Callable[[Site], TokenRows]:
        """Token rows of the texts that `token_passages` chooses, in both models."""
        passages, limit = token_passages(self.plain, story, self.base.d_model)
        read = {
            name: record_tokens(subject, passages, around, limit=limit, store=self.store, progress=self.progress)
            for name, subject in self._models()
        }
        plain = {passage.id for passage in self.plain}
        group = {passage.id: passage.group for passage in passages}
        ids = [row.rpartition(":")[0] for row in read["base"].passages]
        groups, neutral = [group[i] for i in ids], torch.tensor([i in plain for i in ids])

        def rows(site: Site) -> TokenRows:
            base, post = (read[name].at(site).double() for name in MODELS)
            return TokenRows(base, post, groups, neutral)

        return rows

    def token_values(self, passages: Sequence[Passage], site: Site) -> dict[Model, Activations]:
        """Every token but the first of a few passages at one site, in both models."""
        return {
            name: record_tokens(subject, passages, [site], store=self.store, progress=False)
            for name, subject in self._models()
        }

    def spliced(self, model: Model, passages: Sequence[Passage], site: Site, edits: Mapping[str, Edit]) -> Spliced:
        """What one model predicts of a few passages with something else at a site."""
        return spliced(self.base if model == "base" else self.post, passages, site, edits)

    def remember(self, given: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """A small result by what it is computed from, kept in the store where there is one."""
        return make() if self.store is None else self.store.remembered(given, make)

    def _models(self) -> Iterator[tuple[Model, Subject]]:
        yield "base", self.base
        yield "post", self.post


def token_passages(plain: Sequence[Passage], story: Sequence[Passage], d_model: int) -> tuple[list[Passage], int]:
    """The texts that the label-free maps are fitted on, and at most how many of their tokens.

    Plain texts and as many stories, evenly spaced, but no more than the wanted rows need at `ROWS_PER_TEXT` each.
    """
    limit = max(LEAST_TOKENS, TOKENS_PER_DIMENSION * d_model)
    each = [min(len(passage.token_ids) - 1, ROWS_PER_TEXT) for passage in plain]
    count = min(len(plain), -(-limit * len(plain) // max(1, 2 * sum(each))))
    chosen = (*evenly(plain, count), *evenly(story, max(1, count)))
    return list(dict.fromkeys(chosen)), limit


def evenly(some: Sequence[One], count: int) -> list[One]:
    """As many of some things, evenly spaced, the first and the last among them; all where there are no more."""
    return [some[at] for at in np.linspace(0, len(some) - 1, min(count, len(some))).round().astype(int)]


def material(persona: Persona, texts: Texts, recorder: Recorder, sites: Sequence[Site], seed: int) -> Pair:
    """Records both models on a persona's passages; the site is chosen on base's stories.

    Raises:
        NotFinite: a model gave NaN or infinity; named by passage and layer.
    """
    passages = texts.passages[persona.name]
    read = recorder.judged(passages, sites)
    story, assistant = (
        _judged(passages, read, (domain, None), seed_of(seed, "folds", persona.name, domain)) for domain in DOMAINS
    )
    controls: dict[tuple[str, Judging], Judged] = {
        (kind, domain): _judged(passages, read, (domain, kind), seed_of(seed, "folds", persona.name, kind, domain))
        for kind in sorted({passage.control for passage in passages if passage.control})
        for domain in DOMAINS if any((one.domain, one.control) == (domain, kind) for one in passages)
    }  # fmt: skip
    return Pair(persona, tuple(sites), choose(story), story, assistant, recorder, seed, controls)


def _judged(
    passages: Sequence[Passage],
    read: dict[Model, Activations],
    kind: tuple[Judging, str | None],
    rng: np.random.Generator,
) -> Judged:
    """The passages of one domain, and of one kind of control text or of none."""
    at = [i for i, passage in enumerate(passages) if (passage.domain, passage.control) == kind]
    mine = tuple(passages[i] for i in at)
    groups = [passage.group for passage in mine]
    fold = (
        folds(groups, min(FOLDS, len(set(groups))), rng) if len(set(groups)) > 1 else np.zeros(len(at), dtype=np.int64)
    )
    rows: dict[Model, Tensor] = {
        name: values.values[at].double().transpose(0, 1).contiguous() for name, values in read.items()
    }
    surprisal: dict[Model, Tensor] = {
        name: values.surprisal[at].double() for name, values in read.items() if values.surprisal is not None
    }
    return Judged(mine, fold, rows, surprisal)


def cross_validated(
    rows: Float[Tensor, "site row d_model"], judged: Judged, tested: Float[Tensor, "site row d_model"] | None = None
) -> Float[Tensor, "site row"]:
    """Each row's LDA score under the fit on the other folds; `tested` may be the other model's rows of them."""
    fold = torch.as_tensor(judged.fold)
    names = fold.unique()
    directions = lda(rows, judged.labels, (fold[None] != names[:, None]).double())
    scores = (rows if tested is None else tested) @ directions.transpose(-1, -2)
    return scores.gather(-1, (fold[:, None] == names).int().argmax(1).expand(len(rows), -1)[..., None])[..., 0]


def choose(story: Judged) -> int:
    """The middle of base's best plateau: the run of sites around the best within one standard error of it.

    Base's stories alone are used, whose scenarios are never judged under post's Assistant.
    """
    if story.n_groups < 2 or len(story.rows["base"]) == 1:
        return len(story.rows["base"]) // 2
    try:
        won = kernel(cross_validated(story.rows["base"], story), story.labels, story.groups, story.fold)
    except AuditError:
        # Nothing can be fitted (a handful of equal texts): the comparisons will say so, at the middle.
        return len(story.rows["base"]) // 2
    value, deleted = won.auroc(), won.deleted()
    count = len(deleted)
    error = ((count - 1) / count * (deleted - deleted.mean(0)).square().sum(0)).sqrt()
    best = int(value.argmax())
    inside = (value >= value[best] - error[best]).tolist()
    low = high = best
    while low > 0 and inside[low - 1]:
        low -= 1
    while high + 1 < len(inside) and inside[high + 1]:
        high += 1
    return (low + high) // 2
