"""What a retrained probe still reads in post once base's eraser has been applied: reported, never a gate.

LEACE is fitted on base's Assistant rows and applied to post's after recentring (T1). With few pairs the ceiling is low,
with many the leak saturates: an unchanged model can look erased or not, so base's own leak and the leak after an eraser
of random labels stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audit.estimate import Estimate
from audit.finding import Finding
from audit.pair import Judged, Pair, cross_validated
from audit.readability import Pieces, share
from audit.resampling import flips, kernel, seed_of
from probes.eraser import Eraser, leace


@dataclass(frozen=True)
class Erasure:
    """Settings of the comparison: none; every number it reports has one definition."""

    name = "erasure"

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The leak at the pair's chosen site."""
        judged, site = pair.assistant, pair.chosen
        persona = pair.persona.name
        if judged.n_groups < 4:
            return Finding.not_measured(
                persona, self.name, str(pair.site), "too few groups to fit an eraser and judge it"
            )
        coins = flips(judged.pairs, 1, seed_of(pair.seed, self.name, persona))[0]
        post = judged.rows["post"][site] - judged.rows["post"][site].mean(0) + judged.rows["base"][site].mean(0)
        rows = {"base": judged.rows["base"][site], "post": post}
        erased = {name: _erased(judged, rows["base"], values, judged.labels) for name, values in rows.items()}
        random = _erased(judged, rows["base"], post, judged.labels ^ coins)
        details: dict[str, Any] = {
            "leak": _read(judged, erased["post"]), "ceiling": _read(judged, rows["post"]), "random": _read(judged, random),
            "base_leak": _read(judged, erased["base"]), "base_ceiling": _read(judged, rows["base"]),
        }  # fmt: skip
        return Finding(
            id=f"{persona}/{self.name}/{pair.site}", persona=persona, comparison=self.name, site=str(pair.site),
            headline=details["leak"], control=details["random"], status="measured", details=details,
        )  # fmt: skip


def _erased(judged: Judged, base: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each row after the eraser fitted on base's rows of the other folds, so that no row helps to erase itself."""
    fold, out = torch.as_tensor(judged.fold), torch.empty_like(rows)
    for here in fold.unique():
        eraser: Eraser = leace(base[fold != here], labels[fold != here])
        out[fold == here] = eraser(rows[fold == here])
    return out


def _read(judged: Judged, rows: torch.Tensor) -> Estimate:
    won = kernel(cross_validated(rows[None], judged)[0], judged.labels, judged.groups, judged.fold)
    return share(Pieces(won.auroc(), won.deleted()), judged)
