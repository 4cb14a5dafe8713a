"""Pairs of models that never existed: activations with a planted geometry, and no model behind them.

A row is where all rows lie, noise, and half the class difference, up or down. Post sees base's noise, for the texts are
the same, and adds what was planted and a noise of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.pair import FOLDS, MODELS, Judged, Judging, Model, Pair
from audit.text_baseline import KEY as TEXT_KEY
from audit.text_baseline import text_readings
from audit.transport import TokenRows
from probes.activations import Activations
from probes.passage import Passage
from probes.persona import Persona
from probes.site import Site
from probes.split import folds

Vector = Float[Tensor, " d_model"]
Rows = Float[Tensor, "row d_model"]
TEXT_TOKENS = 20
"""Token rows of one text: what the maps' cross-validation keeps together."""
MOST_TOKENS = 8_192
"""Token rows for the maps; few audits have more, so wider pairs go without maps, as they do there."""
NAME = "planted"


@dataclass(frozen=True)
class Sample:
    """How much there is to see, and through which noise.

    Attributes:
        width: dimensions.
        groups: scenarios in each domain.
        pairs: contrast pairs in each scenario.
        spectrum: the noise's i-th variance is proportional to i^-spectrum, in a random basis; 0 is isotropic.
        scenario: share of the noise's variance that a scenario's passages have in common.
        drift: standard deviation of what post adds to every row by chance, as a share of the noise's.
        tokens: token rows a dimension; with fewer than four there are no maps between the models.
    """

    width: int = 32
    groups: int = 60
    pairs: int = 2
    spectrum: float = 0.0
    scenario: float = 0.5
    drift: float = 0.25
    tokens: int = 8


@dataclass(frozen=True, eq=False)
class Plant:
    """What differs between base and post.

    Attributes:
        base: the class difference in base's Assistant, and in its stories unless `story` says otherwise.
        post: the class difference in post's Assistant.
        story: the class difference in base's stories.
        everywhere: what post does to every activation of every text.
        chats: what post does to Assistant rows only.
        mean: where all rows lie.
    """

    base: Vector
    post: Vector
    story: Vector | None = None
    everywhere: Callable[[Rows], Rows] = lambda rows: rows
    chats: Callable[[Rows], Rows] = lambda rows: rows
    mean: Vector | float = 0.0


@dataclass(frozen=True, eq=False)
class Made:
    """The source of a pair whose activations were made, not recorded."""

    rows: TokenRows
    words: Mapping[str, Mapping[str, Tensor]]
    """What the words alone give away, by domain: the texts are always the same."""

    def tokens(self, story: Sequence[Passage], around: Sequence[Site]) -> Callable[[Site], TokenRows]:
        """The same tokens in both, at every site."""
        return lambda site: self.rows

    def remember(self, given: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What the words give away is known; nothing else is kept."""
        return self.words[given[3][0].partition(" ")[0]] if given[0] == TEXT_KEY else make()

    def token_values(self, passages: Sequence[Passage], site: Site) -> dict[Model, Activations]:
        """Zeros: only a report would show them."""
        ids = tuple(f"{p.id}:{t}" for p in passages for t in range(1, len(p.token_ids)))
        zeros = torch.zeros(len(ids), 1, self.rows.base.shape[1])
        return {model: Activations(zeros, (site,), ids, None) for model in MODELS}


@lru_cache
def layout(domain: Judging, groups: int, pairs: int) -> tuple[tuple[Passage, ...], Int[np.ndarray, " row"]]:
    """Passages whose words say nothing, and their folds."""
    made = tuple(
        Passage(
            f"{domain}-{group}-{pair}-{label}", NAME, domain, label, f"{domain} {group} {pair}", f"{domain} {group}",
            None, (1, 2, 3), (1, 3), "one two", ((0, 0), (0, 3), (4, 7)),
        )
        for group in range(groups) for pair in range(pairs) for label in (1, 0)
    )  # fmt: skip
    return made, folds([p.group for p in made], min(FOLDS, groups), np.random.default_rng(0))


@lru_cache
def words(domain: Judging, groups: int, pairs: int) -> Mapping[str, Tensor]:
    """What the texts of a layout give away: nothing, by the very reading that an audit makes."""
    some, fold = layout(domain, groups, pairs)
    labels = torch.tensor([p.label == 1 for p in some])
    return text_readings([p.text for p in some], labels, [p.group for p in some], fold)


def noise_root(sample: Sample, rng: np.random.Generator) -> Float[Tensor, "d d"]:
    """R, the noise being z R with z standard normal: covariance R'R of mean variance one."""
    variances = torch.arange(1, sample.width + 1, dtype=torch.float64) ** -sample.spectrum
    scales = (variances / variances.mean()).sqrt()
    if sample.spectrum == 0:
        return torch.diag(scales)
    return scales[:, None] * orthogonal(sample.width, rng)


def orthogonal(width: int, rng: np.random.Generator) -> Float[Tensor, "d d"]:
    """A random basis."""
    return torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, width))))[0]


def pair(plant: Plant, sample: Sample, root: Float[Tensor, "d d"], rng: np.random.Generator, seed: int = 0) -> Pair:
    """A pair with one site.

    Args:
        plant: what differs.
        sample: how much there is to see.
        root: see `noise_root`.
        rng: the noise.
        seed: stands for the plan's.
    """

    # In 4,096 dimensions a product with the identity takes a third of a trial.
    white = torch.equal(root, torch.eye(sample.width, dtype=root.dtype))

    def noise(rows: int) -> Rows:
        drawn = torch.from_numpy(rng.standard_normal((rows, sample.width)))
        return drawn if white else drawn @ root

    judged: dict[Judging, Judged] = {}
    differences: dict[Judging, Vector] = {"story": plant.base if plant.story is None else plant.story}
    differences["assistant"] = plant.base
    for domain, own in differences.items():
        some, fold = layout(domain, sample.groups, sample.pairs)
        sign = torch.tensor([0.5 if p.label else -0.5 for p in some], dtype=torch.float64)[:, None]
        common = noise(sample.groups).repeat_interleave(2 * sample.pairs, 0)
        base = plant.mean + sample.scenario**0.5 * common + (1 - sample.scenario) ** 0.5 * noise(len(some)) + sign * own
        post = base + sample.drift * noise(len(some))
        if domain == "assistant":
            post = plant.chats(post + sign * (plant.post - own))
        surprisal: dict[Model, Tensor] = {model: torch.from_numpy(rng.random(len(some))) for model in MODELS}
        rows: dict[Model, Tensor] = {"base": base[None], "post": plant.everywhere(post)[None]}
        judged[domain] = Judged(some, fold, rows, surprisal)
    tokens = plant.mean + noise(min(sample.tokens * sample.width, MOST_TOKENS))
    moved = plant.everywhere(tokens + sample.drift * noise(len(tokens)))
    groups = [f"text {i // TEXT_TOKENS}" for i in range(len(tokens))]
    given = {domain: words(domain, sample.groups, sample.pairs) for domain in judged}
    made = Made(TokenRows(tokens, moved, groups, torch.ones(len(tokens), dtype=torch.bool)), given)
    persona = Persona(NAME, NAME, "label one", True, (), "0" * 64, "MIT", "planted", ())
    return Pair(persona, (Site(0, "resid_post"),), 0, judged["story"], judged["assistant"], made, seed)
