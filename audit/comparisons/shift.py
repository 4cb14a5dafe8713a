"""Where did post-training move the Assistant's activations: along base's persona, or anywhere?

The change of an activation is post minus base on the same tokens. Its energy is split into a constant part (the same
in every scenario) and a context part (the rest), and the share of each along base's persona axis is held against
the same change placed at random and against the best axis that there is.

A change of rank one is "predicted" by any direction: projections on a random axis correlate with it nearly as well as
those on the persona's. Hence no correlation is reported here, only a share of energy, and none without the share that
the persona's axis would hold if the change had its energies along axes drawn from the activations' own covariance.
Random axes in the persona's place would not do: where the persona is an axis of high variance, any change drawn from
that covariance leans towards it, and p falls below 0.05 three times too often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.comparisons.geometry import differences
from audit.estimate import drawn
from audit.finding import Finding
from audit.pair import Judged, Pair
from audit.readability import Pieces, plainly
from audit.resampling import permutation_p

SHARE = "share of energy"
NOTHING = 1e-6
"""A part with less of the change's energy than this is rounding, or not there: it has no share along anything."""
MOST_AXES = 32
"""Principal axes of a change that are placed at random; those beyond hold next to nothing."""


class Energy(NamedTuple):
    """Mean squared length of a change, and of its parts.

    `whole` = `constant` + `context`. The constant part is unbiased, so it may fall below zero where there is none.
    """

    whole: Pieces
    constant: Pieces
    context: Pieces


@dataclass(frozen=True)
class Shift:
    """Settings of the comparison.

    Attributes:
        random_maps: draws of the change placed at random.
    """

    random_maps: int = 200

    name = "shift"

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The finding at the pair's chosen site: the share of the whole change; placed at random as its control."""
        judged, persona, site = pair.assistant, pair.persona.name, str(pair.site)
        if min(judged.n_groups, pair.story.n_groups) < 4:
            return Finding.not_measured(persona, self.name, site, "too few groups")
        base, post = (judged.rows[model][pair.chosen] for model in ("base", "post"))
        change = post - base
        if not bool(change.any()):
            return Finding.not_measured(persona, self.name, site, "post's activations equal base's: nothing moved")
        whole, own = energy(judged, change), energy(judged, base - base.mean(0))
        axis = persona_axis(pair)
        along = energy(judged, (change @ axis)[:, None])
        moved = {"whole": change, "constant": change.mean(0)[None], "context": change - change.mean(0)}
        n, groups = len(judged.passages), judged.n_groups
        details: dict[str, Any] = {
            "size": plainly(_over(whole.whole, own.whole), judged, "share of base's variance"),
            "best": plainly(_over(_best(judged, change), whole.whole), judged, SHARE),
            "parts": {}, "share": {}, "random": {}, "p": {}, "not_measured": {},
        }  # fmt: skip
        for part in Energy._fields:
            of = getattr(whole, part)
            details["parts"][part] = plainly(_over(of, whole.whole), judged, SHARE)
            if part != "whole" and not details["parts"][part].above(NOTHING):
                details["not_measured"][part] = f"the change has no {part} part that is established"
                continue
            share = _over(getattr(along, part), of)
            null = placed_at_random(base, moved[part], axis, self.random_maps, rng)
            details["share"][part] = plainly(share, judged, SHARE)
            details["random"][part] = drawn(
                null, method="the change placed at random", unit=SHARE, n=n, n_groups=groups
            )
            details["p"][part] = float(permutation_p(share.full, null))
        return Finding(
            id=f"{persona}/{self.name}/{site}", persona=persona, comparison=self.name, site=site,
            headline=details["share"]["whole"], control=details["random"]["whole"], p=details["p"]["whole"],
            status="measured", details=details,
        )  # fmt: skip


def persona_axis(pair: Pair) -> Float[Tensor, " d_model"]:
    """Unit vector along base's class difference in stories, mean over scenarios: where it lies, not a read-out."""
    story = differences(pair.story, pair.story.rows["base"][pair.chosen]).mean(0)
    return story / story.norm().clamp(min=1e-300)


def placed_at_random(
    rows: Float[Tensor, "row d_model"],
    change: Float[Tensor, "moved d_model"],
    axis: Float[Tensor, " d_model"],
    draws: int,
    rng: np.random.Generator,
) -> Float[Tensor, " draw"]:
    """Share of a change along `axis` if its principal energies lay along axes drawn from the rows' own covariance."""
    energies = torch.linalg.svdvals(change).square()
    energies = energies[energies > NOTHING * energies.sum()][:MOST_AXES]
    # Through the rows' triangular root, whose scatter is theirs: a draw has d_model numbers, not one for every row.
    root = torch.linalg.qr(rows - rows.mean(0), mode="r")[1]
    drawn_ = torch.from_numpy(rng.standard_normal((draws, len(energies), len(root)))) @ root
    frames = torch.linalg.qr(drawn_.mT)[0]
    return (axis @ frames).square() @ energies / energies.sum()


def energy(judged: Judged, change: Float[Tensor, "row axis"]) -> Energy:
    """Energy of a change, over groups of equal weight.

    whole = mean over groups of the mean squared length; constant = sum over g != h of m_g . m_h / (G (G - 1)), m_g the
    group's mean change: what differs between groups by chance adds nothing to it.
    """
    count = torch.bincount(judged.group).double()
    n = len(count)
    means = change.new_zeros(n, change.shape[1]).index_add_(0, judged.group, change) / count[:, None]
    lengths = change.new_zeros(n).index_add_(0, judged.group, change.square().sum(1)) / count
    total, own = means.sum(0), means.square().sum(1)
    crossed = total.square().sum() - own.sum()
    without = crossed - 2 * (means @ total - own)
    whole = Pieces(lengths.mean(), (lengths.sum() - lengths) / (n - 1))
    constant = Pieces(crossed / (n * (n - 1)), without / ((n - 1) * (n - 2)))
    return Energy(whole, constant, Pieces(whole.full - constant.full, whole.deleted - constant.deleted))


def _best(judged: Judged, change: Float[Tensor, "row d_model"]) -> Pieces:
    """Energy along the change's own first axis, fitted on the other folds: no axis chosen beforehand holds more."""
    fold, along = torch.as_tensor(judged.fold), change.new_empty(len(change), 1)
    for here in fold.unique():
        rest = change[fold != here]
        axis = torch.linalg.eigh(rest.T @ rest)[1][:, -1:]
        along[fold == here] = change[fold == here] @ axis
    return energy(judged, along).whole


def _over(part: Pieces, whole: Pieces) -> Pieces:
    return Pieces(part.full / whole.full, part.deleted / whole.deleted)
