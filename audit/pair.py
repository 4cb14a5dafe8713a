"""The pair contract: base and post read on the same tokens, row by row.

Passages are tokenised once. Where the two tokenizers disagree on a passage its whole contrast pair is counted out and
named; where they agree on none the pair is refused. `material` records both models and hands out one `Pair` a persona.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.resampling import kernel, seed_of
from audit.transport import Maps, TokenRows, fit_maps
from probes.activations import Activations, Pooling
from probes.digest import AuditError, digest
from probes.direction import lda
from probes.line import Line
from probes.passage import Passage, render
from probes.persona import Persona
from probes.recorder import record, record_tokens
from probes.site import Site
from probes.split import folds
from probes.store import Store

if TYPE_CHECKING:
    from probes.model import Subject

Model = Literal["base", "post"]
Judging = Literal["story", "assistant"]
MODELS: tuple[Model, Model] = ("base", "post")

FOLDS = 5
TOKENS_PER_DIMENSION = 8
"""Token rows recorded for the label-free maps, per dimension: twice what they need, so that half may be held out."""
LEAST_TOKENS = 4_096


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

    @property
    def labels(self) -> Bool[Tensor, " row"]:
        """True for label 1."""
        return torch.tensor([passage.label == 1 for passage in self.passages])

    @property
    def groups(self) -> list[str]:
        """Each row's scenario."""
        return [passage.group for passage in self.passages]

    @property
    def pairs(self) -> list[str]:
        """Each row's contrast pair."""
        return [str(passage.pair) for passage in self.passages]

    @property
    def n_groups(self) -> int:
        """Scenarios."""
        return len(set(self.groups))


@dataclass(frozen=True, eq=False)
class Pair:
    """One persona under both models: what a comparison is called with."""

    persona: Persona
    sites: tuple[Site, ...]
    chosen: int
    """Index into `sites`, chosen on base's stories alone."""
    story: Judged
    assistant: Judged
    recorder: Recorder
    seed: int
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
        around = tuple(self.sites[i] for i in self.neighbours)
        return self.recorder.tokens(self.story.passages, around, self.sites[site])

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

    def tokens(self, story: Sequence[Passage], around: Sequence[Site], site: Site) -> TokenRows:
        """Token rows of plain passages and of as many stories, in both models."""
        step = max(1, len(story) // max(1, len(self.plain)))
        passages = list(dict.fromkeys((*self.plain, *story[::step])))
        limit = max(LEAST_TOKENS, TOKENS_PER_DIMENSION * self.base.d_model)
        read = {
            name: record_tokens(subject, passages, around, limit=limit, store=self.store, progress=self.progress)
            for name, subject in self._models()
        }
        plain = {passage.id for passage in self.plain}
        group = {passage.id: passage.group for passage in passages}
        ids = [row.rpartition(":")[0] for row in read["base"].passages]
        rows = {name: values.at(site).double() for name, values in read.items()}
        return TokenRows(rows["base"], rows["post"], [group[i] for i in ids], torch.tensor([i in plain for i in ids]))

    def token_values(self, passages: Sequence[Passage], site: Site) -> dict[Model, Activations]:
        """Every token (but the first) of a few passages at one site, in both models."""
        return {
            name: record_tokens(subject, passages, [site], store=self.store, progress=False)
            for name, subject in self._models()
        }

    def _models(self) -> Iterator[tuple[Model, Subject]]:
        yield "base", self.base
        yield "post", self.post


@dataclass(frozen=True)
class Excluded:
    """A contrast pair that was counted out, or a plain text, which goes by its scenario and has no persona."""

    pair: str
    reason: str
    persona: str | None = None


@dataclass(frozen=True, eq=False)
class Texts:
    """Every persona's passages as both tokenizers agree on them."""

    passages: dict[str, tuple[Passage, ...]]
    plain: tuple[Passage, ...]
    excluded: tuple[Excluded, ...]
    template: str | None
    template_from: str
    """Who the chat template was taken from: base, post, or a file."""

    @property
    def ids(self) -> str:
        """Digest of every token id of every passage: what "the same text in both models" means."""
        everything = (*(p for name in sorted(self.passages) for p in self.passages[name]), *self.plain)
        return digest([[list(passage.token_ids), list(passage.span)] for passage in everything])

    def named(self, message: str) -> str:
        """A message in which a passage is called by its pair and scenario, as its file has them, and not by its id."""

        def name(match: re.Match[str]) -> str:
            everything = (*self.plain, *(passage for some in self.passages.values() for passage in some))
            for passage in everything:
                if passage.id == match[1]:
                    own = f"pair {passage.pair!r}" if passage.pair else "the plain text"
                    return f"{own} of scenario {passage.group!r}"
            return match[0]

        return re.sub(r"passage ([0-9a-f]{64})", name, message)


def template_of(base: Subject, post: Subject, choice: str) -> tuple[str | None, str]:
    """The one chat template both models are read under, and who it came from.

    Args:
        choice: "auto" (base's own, else post's), "base", "post", or the path of a jinja file.

    Raises:
        AuditError: the named side has none, or the file cannot be read.
    """
    own = {"base": base.template, "post": post.template}
    if choice == "auto":
        name = "base" if own["base"] is not None else "post"
        return own[name], name
    if choice in own:
        if own[choice] is None:
            raise AuditError(
                f"{choice} has no chat template", "one, as the plan's pair.template says", "Set it to 'auto'"
            )
        return own[choice], choice
    try:
        return Path(choice).read_text(encoding="utf-8"), choice
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise AuditError(
            f"pair.template = '{choice}' cannot be read ({reason})",
            "auto, base, post or a jinja file",
            "Mend the path or the file",
        ) from error


def agree(
    personas: Sequence[Persona], plain: Sequence[Line], base: Subject, post: Subject, template: str = "auto"
) -> Texts:
    """Tokenises everything once, and counts out what the two tokenizers do not agree on.

    Raises:
        AuditError: no passage is tokenised alike, or there are chats and no template anywhere.
    """
    text, origin = template_of(base, post, template)
    other = None if base.tokenizer_digest == post.tokenizer_digest else post
    reason = "the two tokenizers split it differently"
    excluded: list[Excluded] = []
    passages: dict[str, tuple[Passage, ...]] = {}
    for persona in personas:
        ours = [render(line, base.tokenizer, text) for line in persona.lines]
        apart = {str(passage.pair) for passage in _differing(persona.lines, ours, other, text)}
        excluded += [Excluded(pair, reason, persona.name) for pair in sorted(apart)]
        passages[persona.name] = tuple(passage for passage in ours if passage.pair not in apart)
        if not passages[persona.name]:
            raise AuditError(
                f"base and post split every passage of '{persona.name}' differently",
                "two models with one tokenizer", "Audit models of one family",
            )  # fmt: skip
    readable = [line for line in plain if line.messages is None or text is not None]
    neutral = [render(line, base.tokenizer, text) for line in readable]
    differ = dict.fromkeys(_differing(readable, neutral, other, text))
    excluded += [Excluded(passage.group, f"plain text: {reason}") for passage in differ]
    kept = tuple(passage for passage in dict.fromkeys(neutral) if passage not in differ)
    return Texts(passages, kept, tuple(excluded), text, origin)


def _differing(
    lines: Sequence[Line], ours: Sequence[Passage], other: Subject | None, template: str | None
) -> list[Passage]:
    """Those of our passages that the other model's tokenizer, where it has one of its own, splits otherwise."""
    if other is None:
        return []
    theirs = (render(line, other.tokenizer, template) for line in lines)
    return [our for our, their in zip(ours, theirs, strict=True) if our.token_ids != their.token_ids]


def material(
    personas: Sequence[Persona], texts: Texts, recorder: Recorder, sites: Sequence[Site], seed: int
) -> Iterator[Pair]:
    """Records both models and hands out one `Pair` a persona, its site chosen on base's stories.

    Raises:
        NotFinite: a model gave NaN or infinity; named by passage and layer.
    """
    for persona in personas:
        passages = texts.passages[persona.name]
        read = recorder.judged(passages, sites)
        story, assistant = (
            _judged(passages, read, domain, seed_of(seed, "folds", persona.name, domain))
            for domain in ("story", "assistant")
        )
        pair = Pair(persona, tuple(sites), 0, story, assistant, recorder, seed)
        yield replace(pair, chosen=choose(story))


def _judged(
    passages: Sequence[Passage], read: dict[Model, Activations], domain: Judging, rng: np.random.Generator
) -> Judged:
    at = [i for i, passage in enumerate(passages) if passage.domain == domain]
    mine = tuple(passages[i] for i in at)
    groups = [passage.group for passage in mine]
    fold = (
        folds(groups, min(FOLDS, len(set(groups))), rng) if len(set(groups)) > 1 else np.zeros(len(at), dtype=np.int64)
    )
    rows = {name: values.values[at].double().transpose(0, 1).contiguous() for name, values in read.items()}
    surprisal = {name: values.surprisal[at].double() for name, values in read.items() if values.surprisal is not None}
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
