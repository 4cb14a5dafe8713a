"""One persona's scored tokens in halves: which latents differ on one, what their rules and uses are on the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from audit.encoded import Encoded
from audit.label_test import Bench, rule_of
from audit.pair import Model
from probes.codes import Codes
from probes.dictionary import Dictionary, randomised
from probes.rule import Rule
from probes.sparse_probe import contrasted, strongest
from probes.split import halves
from probes.tokens import Tokens, pooled

LISTED = 16
"""Latents that are listed of each domain."""
SEEDS = 20
"""Random dictionaries; the best latents of each, 16, let p fall below 0.05 / 16."""
LATENTS = 4_096
"""Latents of a random dictionary, at most; as large a share of them fires as of the real one's."""


@dataclass(frozen=True, eq=False)
class Study:
    """One persona's scored tokens, halved by scenario: rules are learned on one half of base's, judged on the other.

    Only scored tokens are asked about: of the others no label says anything.

    Attributes:
        own: base's dictionary.
        chats: the Assistant's tokens in both models.
        learns: passages that rules are learned on.
        contrast: each latent's contrast on those scenarios.
        stories: each latent's contrast on all stories.
        bench: the other rows, with the null of exchanged labels.
        seed: of random dictionaries.
    """

    own: Dictionary
    chats: Encoded
    learns: Bool[Tensor, " passage"]
    contrast: Float[Tensor, " latent"]
    stories: Float[Tensor, " latent"]
    bench: Bench
    seed: int

    @cached_property
    def learning(self) -> Tokens:
        """The rows that rules are learned on."""
        return self.chats.tokens.rows(self.half(True))

    def half(self, learning: bool) -> Bool[Tensor, " row"]:
        """Scored rows of one half of the scenarios."""
        tokens = self.chats.tokens
        return tokens.scored & (self.learns[tokens.passage] == learning)

    @property
    def n_learned(self) -> int:
        """Their scenarios."""
        return len(Bench.scenarios(self.learning))

    def chosen(self, explained: Iterable[int] = ()) -> dict[int, str]:
        """The listed latents, and where each was found; one that somebody explained is always listed."""
        ours = [int(at) for at in strongest(self.contrast, LISTED) if self.contrast[at] != 0]
        theirs = [int(at) for at in strongest(self.stories, LISTED) if self.stories[at] != 0]
        found = {at: "both" if at in theirs else "assistant" for at in ours}
        found |= {at: "story" for at in theirs if at not in found}
        return found | {at: "explained" for at in explained if at not in found}

    def activations(self, latent: int, *, learning: bool = False) -> dict[Model, Float[Tensor, " row"]]:
        """One latent's activations on the judged rows of both models, or on those rules are learned on."""
        wanted = torch.tensor([latent])
        return {model: codes.of_latents(wanted)[:, 0] for model, codes in self._codes[learning].items()}

    @cached_property
    def _codes(self) -> dict[bool, dict[Model, Codes]]:
        """What base's dictionary finds on either half, cut out once: many latents are asked for."""
        found = self.chats.found.items()
        return {side: {model: one.codes.rows(self.half(side)) for model, one in found} for side in (False, True)}

    def fires(self, latent: int, *, learning: bool = False) -> dict[Model, Bool[Tensor, " row"]]:
        """Where it fires."""
        return {model: values != 0 for model, values in self.activations(latent, learning=learning).items()}


def study_of(own: Dictionary, story: Encoded, chats: Encoded, rng: np.random.Generator, draws: int) -> Study:
    """The halves drawn, latents contrasted on the first, and the null of exchanged labels drawn for the second."""
    learns = torch.from_numpy(halves(chats.groups, rng))
    seen = torch.zeros(len(set(chats.groups)), dtype=torch.bool)
    seen[chats.group[learns]] = True
    contrast = contrasted(chats.pooled["base"], chats.labels, chats.group, seen[None])[0]
    everything = torch.ones(1, len(set(story.groups)), dtype=torch.bool)
    stories = contrasted(story.pooled["base"], story.labels, story.group, everything)[0]
    tokens = chats.tokens
    bench = Bench.of(tokens.rows(tokens.scored & ~learns[tokens.passage]), draws, rng)
    return Study(own, chats, learns, contrast, stories, bench, int(rng.integers(2**31)))


def by_chance(study: Study) -> Float[Tensor, " score"]:
    """What labels add to the rules of random dictionaries' best latents, chosen, learned and judged like the others."""
    chats, found = study.chats, []
    # No other token is asked about.
    tokens, rows = chats.tokens.rows(chats.tokens.scored), chats.rows["base"][chats.tokens.scored]
    learning = study.learns[tokens.passage]
    judging = ~learning
    seen = torch.zeros(1, len(set(chats.groups)), dtype=torch.bool)
    seen[0, chats.group[study.learns]] = True
    for seed in range(SEEDS):
        codes = drawn(study.own, rows, chats.found["base"].active, study.seed + seed).encode(rows)
        contrast = contrasted(pooled(codes, tokens), chats.labels, chats.group, seen)[0]
        dense = codes.of_latents(strongest(contrast, LISTED)) != 0
        for fires in dense.T:
            rule, tested = rule_of(fires[learning], study.learning), fires[judging]
            if isinstance(rule, Rule) and study.bench.enough(tested) is None:
                told = study.bench.follow(rule)
                found.append(study.bench.judged(tested, told).full - study.bench.exchanged(tested, told).mean)
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)


def drawn(own: Dictionary, rows: Float[Tensor, "row d_model"], active: float, seed: int) -> Dictionary:
    """A dictionary of random directions of which as large a share fires.

    Args:
        own: whose site and width it has, but `LATENTS` at most.
        rows: activations there.
        active: latents of `own` that fire in a row.
        seed: of the directions.
    """
    width = min(own.width, LATENTS)
    return randomised(own, rows, max(1, round(active * width / own.width)), seed, width)
