"""Pairs of models that never existed: activations with a planted geometry, for tests of the comparisons and verdicts.

A row is scenario + label * direction + noise, in base and in post. What was planted is the test's truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from audit.pair import FOLDS, Judged, Pair, TokenRows, choose
from probes.activations import Activations
from probes.passage import Passage
from probes.persona import Persona
from probes.site import Site
from probes.split import folds

WIDTH = 24
GROUPS = 60
STRENGTH = 4.0
"""Distance between the classes in standard deviations of the noise: AUROC 0.998 for the ideal direction."""


def unit(index: int) -> torch.Tensor:
    """A basis vector."""
    return torch.eye(WIDTH, dtype=torch.float64)[index]


@dataclass(frozen=True)
class Plant:
    """What differs between base and post.

    Attributes:
        base: the class difference in base's Assistant (its stories too, unless `story` says otherwise).
        post: the class difference in post's Assistant.
        story: the class difference in base's stories.
        everywhere: what post does to every activation of every text.
        chats: what post does to Assistant rows only.
        groups: scenarios in each domain.
    """

    base: torch.Tensor = field(default_factory=lambda: STRENGTH * unit(0))
    post: torch.Tensor = field(default_factory=lambda: STRENGTH * unit(0))
    story: torch.Tensor | None = None
    everywhere: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows
    chats: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows
    groups: int = GROUPS


@dataclass(frozen=True, eq=False)
class Source:
    """Token rows without a model."""

    base: torch.Tensor
    post: torch.Tensor

    def tokens(self, story, around, site) -> TokenRows:
        """The same tokens in both."""
        groups = [f"text-{i // 20}" for i in range(len(self.base))]
        return TokenRows(self.base, self.post, groups, torch.ones(len(self.base), dtype=torch.bool))

    def remember(self, given, make):
        """Nothing is kept."""
        return make()

    def token_values(self, passages, site):
        """Any values: only the report shows them."""
        ids = tuple(f"{p.id}:{t}" for p in passages for t in range(1, len(p.token_ids)))
        values = torch.zeros(len(ids), 1, WIDTH)
        return {name: Activations(values, (site,), ids, None) for name in ("base", "post")}


def passages(domain: str, groups: int) -> tuple[Passage, ...]:
    """Two pairs in each scenario; words are the same everywhere."""
    made = []
    for group in range(groups):
        for pair in "ab":
            for label in (1, 0):
                made.append(Passage(
                    f"{domain}-{group}-{pair}-{label}", "planted", domain, label, f"{domain}-{group}{pair}",
                    f"{domain}-{group}", None, (1, 2, 3), (1, 3), "one two", ((0, 0), (0, 3), (4, 7)),
                ))  # fmt: skip
    return tuple(made)


def rows(some: tuple[Passage, ...], delta: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Scenario effects, half a class difference either way, and unit noise."""
    names = {name: i for i, name in enumerate(dict.fromkeys(p.group for p in some))}
    scenario = torch.from_numpy(rng.standard_normal((len(names), WIDTH)))
    sign = torch.tensor([0.5 if p.label else -0.5 for p in some], dtype=torch.float64)
    noise = torch.from_numpy(rng.standard_normal((len(some), WIDTH)))
    return scenario[[names[p.group] for p in some]] + sign[:, None] * delta + noise


def pair(plant: Plant, seed: int = 0) -> Pair:
    """A pair with one site. Post sees base's scenarios and noise: the texts are the same."""
    rng = np.random.default_rng(seed)
    judged = {}
    for domain, own in (("story", plant.base if plant.story is None else plant.story), ("assistant", plant.base)):
        some = passages(domain, plant.groups)
        base = rows(some, own, rng)
        sign = torch.tensor([0.5 if p.label else -0.5 for p in some], dtype=torch.float64)
        post = base + sign[:, None] * (plant.post - own) if domain == "assistant" else base
        post = plant.everywhere(plant.chats(post) if domain == "assistant" else post)
        names = [p.group for p in some]
        judged[domain] = Judged(
            some, folds(names, min(FOLDS, plant.groups), rng), {"base": base[None], "post": post[None]},
            {"base": torch.from_numpy(rng.random(len(some))), "post": torch.from_numpy(rng.random(len(some)))},
        )  # fmt: skip
    tokens = torch.from_numpy(rng.standard_normal((1_200, WIDTH))) * torch.linspace(0.5, 2.0, WIDTH)
    persona = Persona("planted", "planted", "label one", True, (), "0" * 64, "MIT", "by a test", "")
    source = Source(tokens, plant.everywhere(tokens))
    made = Pair(persona, (Site(0, "resid_post"),), 0, judged["story"], judged["assistant"], source, 0)
    assert choose(made.story) == 0
    return made


def turn(degrees: float) -> torch.Tensor:
    """The planted direction turned towards another basis vector."""
    angle = np.deg2rad(degrees)
    return STRENGTH * (np.cos(angle) * unit(0) + np.sin(angle) * unit(1))


def basis(seed: int = 5) -> torch.Tensor:
    """A seeded orthogonal matrix whose first axis is far from where it was."""
    matrix = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(matrix)[0].roll(WIDTH // 2, 0)
