"""Cross-validated readings with their jackknife: what is refitted on the rows that it is judged on.

Leaving a group out of a cross-validated reading does two things: its rows are no longer judged, and nothing is learnt
from them. Where few groups are judged, or there are few rows to a dimension, a good part of either is not the group's
own doing but of two groups together: how one's rows compare with another's in its fold, and what one taught about
another. Each such interaction turns up in the deletion of both groups, so the plain jackknife counts it twice (Efron
and Stein 1981: its variance errs upwards, by the interactions), and intervals are too wide: simulated coverage 0.99 for
a nominal 0.95. Here each is counted once, by what the halves of the other groups agree on (`once`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.resampling import Kernel, Rows, auroc, fold_of, grouped, kernel, step_of

Fit: TypeAlias = Callable[
    [Float[Tensor, "layer row d"], Bool[Tensor, " row"], Float[Tensor, "fit row"]], Float[Tensor, "layer fit d"]
]
"""Rows, labels and 0/1 training weights to directions; layers are independent and may come in several calls."""
Judge: TypeAlias = Callable[[Bool[Tensor, "fit row"], Bool[Tensor, " row"]], Float[Tensor, "fit *stat tested"]]
"""Training masks and a mask of the rows to judge to those rows' scores under each fit."""


@dataclass(frozen=True, eq=False)
class Refits:
    """Every fit that group cross-validation and its delete-one-group jackknife need: fold by fold, undeleted first.

    Leaving out a group of the judged fold changes no training rows: k + G (k - 1) fits in all.

    Attributes:
        train: rows each fit learns from: other folds, without its deleted group.
        fold: the fold each fit is judged on.
        deleted: the group left out, an index into the sorted names, or -1.
    """

    train: Bool[Tensor, "fit row"]
    fold: Int[Tensor, " fit"]
    deleted: Int[Tensor, " fit"]


class Effects(NamedTuple):
    """What leaving out a group does to a reading, before interactions are counted once; readings' combine linearly.

    Attributes:
        judged: T, its rows are no longer judged.
        halves: the same, against either half of the other groups of its fold.
        learnt: L, nothing is learnt from it.
    """

    judged: Float[Tensor, " group *stat"]
    halves: Float[Tensor, "2 group *stat"]
    learnt: Float[Tensor, " group *stat"]

    @property
    def reliability(self) -> Float[Tensor, "*stat"]:
        """r: share of the spread of T that two halves agree on."""
        return _reliability(self.judged, *self.halves)


class Refitted(NamedTuple):
    """Scores, their AUROC (within folds, where there are some), it without each group (see `once`), and `Effects`."""

    scores: Float[Tensor, "*stat row"]
    full: Float[Tensor, "*stat"]
    deleted: Float[Tensor, " group *stat"]
    judged: Float[Tensor, " group *stat"]
    halves: Float[Tensor, "2 group *stat"]
    learnt: Float[Tensor, " group *stat"]

    @property
    def effects(self) -> Effects:
        """What leaving out a group does."""
        return Effects(self.judged, self.halves, self.learnt)


def refit_deletions(groups: Sequence[str], folds: Rows) -> Refits:
    """Enumerates the fits of group cross-validation, with no group and with each left out; groups keep their fold."""
    group = grouped(groups)[1]
    home = fold_of(group, folds)
    rows = [(int(f), left) for f in home.unique() for left in (-1, *(home != f).nonzero()[:, 0].tolist())]
    fold, deleted = torch.tensor(rows).T
    return Refits((home[group] != fold[:, None]) & (group != deleted[:, None]), fold, deleted)


def refitted(
    judge: Judge, labels: Bool[Tensor, " row"], groups: Sequence[str], folds: Rows, step: int = 64
) -> Refitted:
    """Cross-validates by group, and again without each group: for any statistic fitted on the rows it is judged on.

    Args:
        judge: called with at most `step` training masks of one fold, and the mask of that fold's rows.
        labels, groups, folds: as for `kernel`.
        step: fits in one call of `judge`.
    """
    labels, fold, refits = torch.as_tensor(labels).bool(), torch.as_tensor(folds), refit_deletions(groups, folds)
    group = grouped(groups)[1]
    scores, moved, taught = torch.empty(0, dtype=torch.float64), {}, []
    for here in refits.fold.unique().tolist():
        tested, fits = fold == here, refits.fold == here
        judged = torch.cat([judge(train, tested).double() for train in refits.train[fits].split(step)])
        scores = scores if scores.numel() else judged.new_empty(*judged.shape[1:-1], len(labels))
        scores[..., tested] = judged[0]
        if labels[tested].any() and not labels[tested].all():
            left = refits.deleted[fits][1:]
            moved[here] = left, auroc(judged[1:], labels[tested])
            taught.append((left, _by_halves(judged, labels[tested], group[tested])))
    own = kernel(scores, labels, groups, folds)
    without = own.deleted_by_fold()
    for index, here in enumerate(own.fold.unique().tolist()):
        if here in moved:
            without[index, moved[here][0]] = moved[here][1]
    effects = _effects(own)._replace(learnt=own.mean_without(without) - own.deleted())
    return Refitted(scores, own.auroc(), once(own.auroc(), effects, taught), *effects)


def fixed(
    scores: Float[Tensor, "*stat row"],
    labels: Bool[Tensor, " row"],
    groups: Sequence[str],
    folds: Rows | None = None,
) -> Refitted:
    """AUROC of scores by a fit on other rows, which learns nothing of any group; within folds over a ceiling."""
    own = kernel(scores, labels, groups, folds)
    effects = _effects(own)
    return Refitted(scores, own.auroc(), once(own.auroc(), effects, []), *effects)


def once(
    full: Float[Tensor, "*stat"],
    effects: Effects,
    taught: Sequence[tuple[Int[Tensor, " left"], Float[Tensor, "2 left *stat"] | None]],
) -> Float[Tensor, " group *stat"]:
    """Values with a group left out whose jackknife counts every interaction of two groups once.

    A value is full + sqrt((1 + r)/2) T + c L.

    - r, the reliability of T over halves of a group's opponents. Interactions of two judged groups occur in the T of
      both, so half of what the halves disagree on goes.
    - c, from the reliability q of L over halves of the judged groups. What group g teaches about h is what h teaches
      about g (a linear probe's score of h moves by x_g' S^-1 x_h), so an interaction I adds 2I to the reading, variance
      4 var I, and T and L of both groups hold one I each. T^2 counts 2 var I, 2TL counts 4c var I, L^2 2c^2 var I:
      with a share 1 - q of L's variance from interactions, c^2 + 2c(1 - q) = 1.

    Args:
        full: the value on all groups.
        effects: what leaving out a group does.
        taught: for each fold the groups left out, and what halves of its groups say of L; None where a half lacks a
            label, and then c is 1.
    """
    q = torch.ones_like(full)
    known = [(left, halves) for left, halves in taught if halves is not None]
    if known and len(known) == len(taught):
        rows = torch.zeros_like(effects.halves)
        for left, halves in known:
            rows[:, left] += halves
        q = _reliability(rows.mean(0), rows[0], rows[1])
    c = ((1 - q).square() + 1).sqrt() - (1 - q)
    # Two scales: their sum may leave the range of a share by a little.
    return (full + ((1 + effects.reliability) / 2).sqrt() * effects.judged + c * effects.learnt).clamp(0.0, 1.0)


def ratio_once(
    full: Float[Tensor, "*stat"], part: Effects, whole: Effects, slope: Float[Tensor, "*stat"]
) -> tuple[Float[Tensor, " group *stat"], Effects]:
    """Values of part / whole with a group left out, interactions counted once in the two together, and its effects.

    Where part and whole read nearly alike, what single groups do cancels and interactions are most of what is left:
    they are counted in T_part - full T_whole and in L likewise, of which a value is

        full + slope k sqrt((1 + r)/2) T,  k^2 = 1 + max(0, sum T L / sum T^2)

    T^2 counts 2 var I of what two groups teach about each other (see `once`), TL the other 2 var I. L^2 is left out:
    what g teaches changes comparisons of two other groups, and the T of both hold that already.

    Args:
        full: the ratio on all groups.
        part: effects on what stands above the line.
        whole: effects on what stands below it.
        slope: the ratio's derivative in what stands above the line.
    """
    both = Effects(*((above - full * below) * slope for above, below in zip(part, whole, strict=True)))
    judged = ((1 + both.reliability) / 2).sqrt() * both.judged
    spread, shared = (_spread(judged, other) for other in (judged, both.learnt))
    scale = torch.where(spread > 0, 1 + shared.clamp_min(0.0) / spread.clamp_min(1e-300), 1.0)
    return full + scale.sqrt() * judged, both


def _effects(own: Kernel) -> Effects:
    """T of `once` with its halves, and an L of 0.

    Folds are strata of what is judged: T has the factor s, s^2 = (n - 1)/n / ((G - 1)/G) for a fold of n of the G
    groups, that of a jackknife inside the fold over the one that `estimate.jackknife` applies. Shares of comparisons
    won are brought to its scale fold by fold.
    """
    full, (whole, *halves) = own.auroc(), own.shares_by_halves()
    same = (own.fold[:, None] == own.fold).double()
    stratum = ((1 - 1 / same.sum(1)) / (1 - 1 / len(own.names))).sqrt().reshape(-1, *(1,) * full.ndim)
    judged = stratum * (own.deleted() - full)
    along, length = (torch.einsum("gh,h...->g...", same, whole * other) for other in (judged, whole))
    scale = torch.where(length > 0, along / length.clamp_min(1e-300), 0.0)
    return Effects(judged, torch.stack([scale * half for half in halves]), torch.zeros_like(judged))


def _by_halves(
    judged: Float[Tensor, "fit *stat tested"], labels: Bool[Tensor, " tested"], group: Int[Tensor, " tested"]
) -> Float[Tensor, "2 left *stat"] | None:
    """What halves of the judged groups say of each refit: their AUROC's change from the first fit's."""
    even = torch.isin(group, group.unique()[::2])
    if any(labels[half].all() or not labels[half].any() for half in (even, ~even)):
        return None
    areas = [auroc(judged[..., half], labels[half]) for half in (even, ~even)]
    return torch.stack([area[1:] - area[:1] for area in areas])


def _reliability(
    whole: Float[Tensor, " group *stat"], one: Float[Tensor, " group *stat"], other: Float[Tensor, " group *stat"]
) -> Float[Tensor, "*stat"]:
    """Share of the groups' spread that two halves agree on, 0 to 1; 1 where nothing spreads."""
    spread = _spread(whole, whole)
    return torch.where(spread > 0, _spread(one, other) / spread.clamp_min(1e-300), 1.0).clamp(0.0, 1.0)


def _spread(one: Float[Tensor, " group *stat"], other: Float[Tensor, " group *stat"]) -> Float[Tensor, "*stat"]:
    return ((one - one.mean(0)) * (other - other.mean(0))).sum(0)


def ceiling(
    rows: Float[Tensor, "layer row d"], labels: Bool[Tensor, " row"], groups: Sequence[str], folds: Rows, fit: Fit
) -> Refitted:
    """What a direction fitted on the judged rows reads of them, by group cross-validation with refitted deletions.

    Args:
        rows: activations; as many layers at once as fit the memory budget.
        labels, groups, folds: as for `kernel`.
        fit: directions from rows and 0/1 training weights; called once for many fits and layers.
    """
    labels, (n_rows, width) = torch.as_tensor(labels).bool(), rows.shape[1:]

    def one(part: Float[Tensor, "layer row d"]) -> Refitted:
        def judge(train: Bool[Tensor, "fit row"], tested: Bool[Tensor, " row"]) -> Float[Tensor, "fit layer tested"]:
            return torch.einsum("lfd,lrd->flr", fit(part, labels, train.double()).double(), part[:, tested])

        return refitted(judge, labels, groups, folds, step_of(len(part) * (min(n_rows, width) ** 2 + n_rows + width)))

    parts = [one(part.double()) for part in rows.split(step_of(n_rows * width))]
    layer = (0, 0, 1, 1, 2, 1)
    return Refitted(*(torch.cat(each, at) for each, at in zip(zip(*parts, strict=True), layer, strict=True)))
