"""Pairs of models that never existed: activations with a planted geometry, for tests of the comparisons and verdicts.

A row is scenario + label * direction + noise, in base and in post. What was planted is the test's truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from audit.calibration import synthetic
from audit.calibration.synthetic import Sample
from audit.pair import Pair, choose

WIDTH = 24
GROUPS = 60
STRENGTH = 4.0
"""Distance between the classes in standard deviations of the noise: AUROC 0.998 for the ideal direction."""


def unit(index: int) -> torch.Tensor:
    """A basis vector."""
    return torch.eye(WIDTH, dtype=torch.float64)[index]


@dataclass(frozen=True, eq=False)
class Plant(synthetic.Plant):
    """What differs between base and post: nothing, unless said.

    Attributes:
        groups: scenarios in each domain.
    """

    base: torch.Tensor = field(default_factory=lambda: STRENGTH * unit(0))
    post: torch.Tensor = field(default_factory=lambda: STRENGTH * unit(0))
    groups: int = GROUPS


def pair(plant: Plant, seed: int = 0) -> Pair:
    """A pair with one site. Post sees base's scenarios and noise and adds none: the texts are the same."""
    # Scenarios and passages each add a variance of one.
    root = 2**0.5 * torch.eye(WIDTH, dtype=torch.float64)
    made = synthetic.pair(plant, Sample(WIDTH, plant.groups, drift=0.0), root, np.random.default_rng(seed))
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
