"""What can be planted between base and post, how large, and which verdict it must get.

Angles are those of S^2: in the metric (covariance + trace / d identity)^-1 a turn by theta has S^2 = cos^2 theta. What
a plant puts elsewhere is invisible to base's best direction too: orthogonal in the noise's own metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.calibration.synthetic import Plant, Sample, Vector, noise_root, orthogonal, pair
from audit.pair import Pair
from audit.resampling import seed_of
from audit.rulebook import VerdictName
from audit.shared_share import metric_factor

Kind = Literal[
    "nothing", "turn", "offset", "gain", "extra", "hidden", "basis", "inverted", "lost", "acquired", "absent"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SAME, LOST = 0.01, 0.10
"""Balanced accuracy lost at which a threshold clearly holds, and clearly does not: twice the margin of 0.05."""
DEVELOPMENT = 1
"""Seed of the draws that margins were chosen on (tests/benchmarks/margins.py); what is reported comes from others."""
FAINT = 1.5
"""d' below which base itself may not be shown to carry what is planted: no verdict is then the one it must get."""
AWAY = 2.0
"""How far along the class difference all rows lie, in standard deviations, where a gain is planted."""


@dataclass(frozen=True)
class Planted:
    """One thing planted, and how much there is to see of it.

    Attributes:
        kind: what post does.
        effect: how much of it: degrees of a turn in the metric of S^2, standard deviations of an offset along the class
            difference, the factor of a gain, the length of what is extra, the share taken from base's direction while
            a whole difference is put elsewhere (hidden); 0 for the others.
        strength: d' of the classes: their distance in standard deviations along the best direction.
        sample: rows and noise.
    """

    kind: Kind = "nothing"
    effect: float = 0.0
    strength: float = 3.0
    sample: Sample = Sample()

    @property
    def expected(self) -> VerdictName | None:
        """The verdict it must get, or None between the margins and for what is faint: the table may go either way."""
        plain: dict[str, VerdictName] = {
            "nothing": "reused", "basis": "rotated", "inverted": "rotated", "lost": "lost", "acquired": "novel",
            "absent": "absent",
        }  # fmt: skip
        if self.strength < FAINT:
            return None
        if self.kind in plain:
            return plain[self.kind]
        if self.kind in ("offset", "gain"):
            return "reused" if self.loss <= SAME else "reweighted" if self.loss >= LOST else None
        clear: dict[str, tuple[tuple[float, float, VerdictName], ...]] = {
            "turn": ((0, 10, "reused"), (45, 45, "extended"), (90, 90, "novel")),
            "extra": ((0, 0.15, "reused"), (1, 2, "extended")),
            "hidden": ((0, 0.25, "extended"), (1, 1, "novel")),
        }
        return next((name for low, high, name in clear[self.kind] if low <= self.effect <= high), None)

    @property
    def loss(self) -> float:
        """Balanced accuracy that a threshold midway between base's classes loses on the best direction.

        With classes d' apart and moved by k standard deviations it is Phi(d'/2) - (Phi(d'/2 + k) + Phi(d'/2 - k)) / 2.
        A gain g moves the threshold by `AWAY` (g - 1) / g of what it scales.
        """
        from scipy.special import ndtr

        half = self.strength / 2
        moved = {"offset": self.effect, "gain": AWAY * (self.effect - 1) / max(self.effect, 1.0)}.get(self.kind, 0.0)
        return float(ndtr(half) - (ndtr(half + moved) + ndtr(half - moved)) / 2)

    def pair(self, seed: int, draw: int) -> Pair:
        """One draw of it."""
        return self.parts(seed, draw)[2]

    def parts(self, seed: int, draw: int) -> tuple[Plant, Float[Tensor, "d d"], Pair]:
        """One draw: what was planted, the root of the noise's covariance, and the pair."""
        rng = seed_of(seed, "calibration", str(self), str(draw))
        root = noise_root(self.sample, rng)
        plant = self._plant(root, rng)
        return plant, root, pair(plant, self.sample, root, rng, draw)

    def _plant(self, root: Float[Tensor, "d d"], rng: np.random.Generator) -> Plant:
        width, effect = self.sample.width, self.effect
        along = torch.from_numpy(rng.standard_normal(width))
        own = self.strength * along / along.norm() @ root
        other, nothing, step = elsewhere(own, root, rng), torch.zeros(width, dtype=torch.float64), own / self.strength
        if self.kind == "turn":
            angle = np.deg2rad(effect)
            return Plant(own, float(np.cos(angle)) * own + float(np.sin(angle)) * other)
        if self.kind == "offset":
            return Plant(own, own, chats=lambda rows: rows + effect * step)
        if self.kind == "gain":
            return Plant(own, own, chats=lambda rows: effect * rows, mean=AWAY * step)
        if self.kind == "basis":
            basis = orthogonal(width, rng)
            return Plant(own, own, everywhere=lambda rows: rows @ basis)
        post: Mapping[str, tuple[Vector, Vector]] = {
            "nothing": (own, own), "extra": (own, own + effect * other), "hidden": (own, (1 - effect) * own + other),
            "inverted": (own, -own), "lost": (own, nothing), "acquired": (nothing, own), "absent": (nothing, nothing),
        }  # fmt: skip
        return Plant(*post[self.kind])


def elsewhere(own: Vector, root: Float[Tensor, "d d"], rng: np.random.Generator) -> Vector:
    """A difference as long as `own` in the metric of S^2, orthogonal to it there and to base's best direction."""
    covariance = root.T @ root
    factor = metric_factor(covariance)
    blind = torch.stack([factor @ (own @ factor), torch.linalg.solve(covariance, own)], 1)
    free = torch.linalg.qr(blind)[0]
    found = torch.from_numpy(rng.standard_normal(len(own))) @ root
    found = found - free @ (free.T @ found)
    return found * ((own @ factor).norm() / (found @ factor).norm())
