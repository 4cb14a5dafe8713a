"""What a retrained probe still reads in post once base's eraser has been applied: reported, never a gate.

LEACE is fitted on base's Assistant rows and applied to post's after recentring (T1). With few pairs the ceiling is low,
with many the leak saturates: an unchanged model can look erased or not, so base's own leak and the leak after erasers
of random labels stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from audit.estimate import Estimate
from audit.finding import Finding
from audit.pair import Judged, Pair, cross_validated
from audit.readability import Pieces, share
from audit.resampling import flips, kernel, seed_of
from probes.direction import lda
from probes.eraser import leace

RANDOM = 4
"""Erasers of labels turned by coin within pairs; their mean is the control."""


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
        # One shift, which is exactly zero where the models are one.
        post = judged.rows["post"][site] + (judged.rows["base"][site].mean(0) - judged.rows["post"][site].mean(0))
        rows = {"base": judged.rows["base"][site], "post": post}
        left = {name: _left(judged, rows["base"], values, judged.labels[None]) for name, values in rows.items()}
        coins = flips(judged.pairs, RANDOM, seed_of(pair.seed, self.name, persona))
        random = _left(judged, rows["base"], post, judged.labels ^ coins)
        details: dict[str, Any] = {
            "leak": share(left["post"], judged), "ceiling": _own(judged, post), "random": share(random, judged),
            "base_leak": share(left["base"], judged), "base_ceiling": _own(judged, rows["base"]),
        }  # fmt: skip
        return Finding(
            id=f"{persona}/{self.name}/{pair.site}", persona=persona, comparison=self.name, site=str(pair.site),
            headline=details["leak"], control=details["random"], status="measured", details=details,
        )  # fmt: skip


def _left(
    judged: Judged,
    base: Float[Tensor, "row d_model"],
    rows: Float[Tensor, "row d_model"],
    erased: Bool[Tensor, "draw row"],
) -> Pieces:
    """AUROC of a probe fitted after erasing, mean over the labellings that were erased.

    For each tested fold one eraser, fitted on base's rows of the other folds, is applied to the rows the probe learns
    from and to those it is judged on: nothing of the tested fold enters either fit.
    """
    fold, labels = torch.as_tensor(judged.fold), judged.labels
    scores = torch.empty(len(erased), len(rows), dtype=torch.float64)
    for here in fold.unique():
        train, test = fold != here, fold == here
        for draw, target in zip(scores, erased, strict=True):
            eraser = leace(base[train], target[train])
            probe = lda(eraser(rows[train]), labels[train], torch.ones(1, int(train.sum())))[0]
            draw[test] = eraser(rows[test]) @ probe
    won = kernel(scores, labels, judged.groups, judged.fold)
    return Pieces(won.auroc().mean(0), won.deleted().mean(1))


def _own(judged: Judged, rows: Float[Tensor, "row d_model"]) -> Estimate:
    """The same without an eraser."""
    won = kernel(cross_validated(rows[None], judged)[0], judged.labels, judged.groups, judged.fold)
    return share(Pieces(won.auroc(), won.deleted()), judged)
