"""Resampling by group: the one place where random numbers for inference are drawn, and every AUROC's interval.

A statistic comes as its value on all groups and its values with one group left out, groups first (`full: "*stat"`,
`deleted: "group *stat"`), the groups in the order of their sorted names. Such values over the same groups combine by
ordinary arithmetic, and `estimate` closes the calculation. A paired difference, and a ratio to a refitted ceiling::

    base, post = kernel(base_scores, labels, groups), kernel(post_scores, labels, groups)
    drift = estimate(post.auroc() - base.auroc(), post.deleted() - base.deleted(), unit="auroc", n=len(labels))

    own = ceiling(post_rows, labels, groups, folds, fit)
    rho_0 = estimate(
        (post.auroc() - 0.5) / (own.full - 0.5), (post.deleted() - 0.5) / (own.deleted - 0.5), unit="rho", n=len(labels)
    )

A probe fitted on one domain and judged on another is fixed: the estimand is *this fitted direction, over scenarios*.
Only the judged domain's groups are deleted; those it was fitted on do not occur in `kernel`. So its values combine with
those of a ceiling in the judged domain. Equal values give differences of exactly 0 and ratios of exactly 1, no width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.estimate import Estimate, Interval, estimates
from audit.estimate import jackknife as jackknife
from probes.digest import AuditError, digest

Rows: TypeAlias = Int[Tensor, " row"] | Int[np.ndarray, " row"]

BUDGET = 2**24
"""Float64 elements that one intermediate tensor may hold (128 MiB)."""


def seed_of(plan_seed: int, *parts: str) -> np.random.Generator:
    """The generator of one analysis: a function of the plan's seed and of what is analysed, never of what else is.

    Args:
        plan_seed: the plan's seed, >= 0.
        parts: what the draws are for, e.g. comparison, persona, site.
    """
    content = digest(list(parts))
    return np.random.default_rng([plan_seed, *(int(content[i : i + 8], 16) for i in range(0, 64, 8))])


def bootstrap_weights(n_groups: int, draws: int, rng: np.random.Generator) -> Float[Tensor, "draw group"]:
    """How often each group occurs in each draw of `n_groups` groups with replacement."""
    return torch.from_numpy(rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws).astype(np.float64))


def flips(names: Sequence[str], draws: int, rng: np.random.Generator) -> Bool[Tensor, "draw entry"]:
    """Fair coins for the label null: `labels ^ flips(pairs, draws, rng)` swaps the twins of a pair together.

    Args:
        names: one name an entry; entries of one name share their coin. Each row's pair, or each row's scenario where
            the label belongs to the scenario. Coins follow the sorted names, whatever the order of the entries.
        draws: how many relabellings.
        rng: where the coins come from.
    """
    unique, entry = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return torch.from_numpy(rng.integers(0, 2, size=(draws, len(unique))).astype(bool)[:, entry])


def permutation_p(observed: Float[Tensor, "*stat"], null: Float[Tensor, " draw *stat"]) -> Float[Tensor, "*stat"]:
    """One-sided p-value (1 + #{null >= observed}) / (1 + draws), in (0, 1]; rounding counts against the observation."""
    return (1 + (null >= observed - 1e-12).sum(0)).double() / (1 + len(null))


def auroc(scores: Float[Tensor, "*batch row"], labels: Bool[Tensor, "*#batch row"]) -> Float[Tensor, "*batch"]:
    """Chance that a positive row scores above a negative one, ties counting one half (Mann-Whitney by midranks).

    Args:
        scores: higher means label 1; finite.
        labels: one vector for all, or one a batch entry (permuted labels); both labels in each.
    """
    scores, labels = _finite(scores).contiguous(), torch.as_tensor(labels).bool()
    ordered, order = scores.sort(-1)
    positives = labels.sum(-1).double()
    pairs = positives * (labels.shape[-1] - positives)
    _need(bool((pairs > 0).all()), "The judged rows hold one label only", "both labels", "Add pairs")
    wide = torch.broadcast_shapes(scores.shape, labels.shape)
    place = torch.arange(1, wide[-1] + 1, dtype=torch.float64)
    ranks = labels.expand(wide).gather(-1, order.expand(wide)).double() @ place
    # A row's place in the order is its rank, but among ties, which take three times as long and are rare.
    tied = (ordered[..., 1:] == ordered[..., :-1]).any(-1).expand(wide[:-1])
    if bool(tied.any()):
        some, among = scores.expand(wide)[tied], ordered.expand(wide)[tied]
        midrank = (torch.searchsorted(among, some) + torch.searchsorted(among, some, right=True) + 1) / 2.0
        ranks[tied] = (midrank.double() * labels.expand(wide)[tied]).sum(-1)
    return (ranks - positives * (positives + 1) / 2) / pairs


@dataclass(frozen=True, eq=False)
class Kernel:
    """Comparisons won between groups: all that AUROC, m'Km / (m'n1 m'n0), needs under any weights m of the groups.

    Attributes:
        wins: K[g, h], the positives of g scoring above negatives of h, ties one half; 0 between groups of two folds.
        positives: rows with label 1 in each group.
        negatives: rows with label 0 in each group.
        fold: each group's fold; AUROC is the mean over folds of the fold's AUROC.
        names: the groups, sorted.
    """

    wins: Float[Tensor, "*batch group group"]
    positives: Float[Tensor, " group"]
    negatives: Float[Tensor, " group"]
    fold: Int[Tensor, " group"]
    names: tuple[str, ...]

    @property
    def deletable(self) -> bool:
        """Whether an AUROC exists with any one group left out."""
        return bool((self._compared_without() > 0).any(0).all())

    def auroc(self, weights: Float[Tensor, "draw group"] | None = None) -> Float[Tensor, "*batch_or_draw_batch"]:
        """AUROC, "*batch"; with weights "draw *batch".

        A fold without both labels drops out of a draw's mean; a draw left with no such fold keeps the undrawn value.
        """
        if weights is None:
            return self._drawn(self.wins, torch.ones(1, len(self.names), dtype=torch.float64))[0]
        flat = self.wins.reshape(-1, *self.wins.shape[-2:])
        drawn = torch.cat([self._drawn(part, weights.double()) for part in flat.split(step_of(weights.numel()))], 1)
        drawn = drawn.reshape(len(weights), *self.wins.shape[:-2])
        return torch.where(drawn.isnan(), self.auroc(), drawn)

    def deleted(self) -> Float[Tensor, " group *batch"]:
        """AUROC with each group left out, in closed form; an AuditError if one holds it all (see `deletable`)."""
        return self.mean_without(self.deleted_by_fold())

    def deleted_by_fold(self) -> Float[Tensor, "fold group *batch"]:
        """Each fold's AUROC with each group left out; 0 where nothing is left to compare."""
        inside, own = self._inside(), torch.diagonal(self.wins, dim1=-2, dim2=-1)
        lost = (self.wins.sum(-1) + self.wins.sum(-2) - own)[..., None] * inside
        won = ((self.wins.sum(-1) @ inside)[..., None, :] - lost).movedim((-1, -2), (0, 1))
        compared = self._compared_without().reshape(*won.shape[:2], *(1,) * (won.ndim - 2))
        return torch.where(compared > 0, won / compared.clamp(min=1), 0.0)

    def mean_without(self, values: Float[Tensor, "fold group *batch"]) -> Float[Tensor, " group *batch"]:
        """Mean over folds of values with a group left out; a fold that loses a label drops out of the mean."""
        _need(self.deletable, "One group holds every row of a label", "two groups or more", "Add scenarios")
        left = (self._compared_without() > 0).double()
        left = left.reshape(*values.shape[:2], *(1,) * (values.ndim - 2))
        return (values * left).sum(0) / left.sum(0)

    def shares_by_halves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Share of a group's comparisons in its fold that positives won: with all others, and with either half of them.

        Three times "group *batch", centred by fold. The group's own comparisons are in all three. Where a half leaves
        some group nothing to compare, all three are the whole.
        """
        inside, order = self._inside(), torch.zeros(len(self.names), dtype=torch.int64)
        for fold in self.fold.unique():
            order[self.fold == fold] = torch.arange(int((self.fold == fold).sum()))
        even = (order[:, None] + order) % 2 == 0
        same, own = self.fold[:, None] == self.fold, torch.eye(len(order), dtype=torch.bool)
        compared = self.positives[:, None] * self.negatives + self.negatives[:, None] * self.positives
        masks = [(same & (half | own)).double() for half in (torch.ones_like(even), even, ~even)]
        counts = [(compared * mask).sum(-1) for mask in masks]
        if any(bool((count == 0).any()) for count in counts[1:]):
            masks, counts = masks[:1] * 3, counts[:1] * 3
        won = self.wins + self.wins.mT
        found = []
        for mask, count in zip(masks, counts, strict=True):
            share = (won * mask).sum(-1) / count.clamp_min(1.0)
            found.append((share - (share @ inside / inside.sum(0)) @ inside.T).movedim(-1, 0))
        return found[0], found[1], found[2]

    def _drawn(self, wins: Tensor, weights: Float[Tensor, "draw group"]) -> Float[Tensor, " draw *batch"]:
        inside = self._inside()
        won = ((weights @ wins) * weights) @ inside
        compared = ((weights * self.positives) @ inside) * ((weights * self.negatives) @ inside)
        shares = torch.where(compared > 0, won / compared.clamp(min=1), 0.0).sum(-1)
        return (shares / (compared > 0).sum(-1)).movedim(-1, 0)

    def _inside(self) -> Float[Tensor, "group fold"]:
        return (self.fold[:, None] == self.fold.unique()).double()

    def _compared_without(self) -> Float[Tensor, "fold group"]:
        positives, negatives = (self._inside().T * count for count in (self.positives, self.negatives))
        return (positives.sum(1, True) - positives) * (negatives.sum(1, True) - negatives)


def kernel(
    scores: Float[Tensor, "*batch row"], labels: Bool[Tensor, " row"], groups: Sequence[str], folds: Rows | None = None
) -> Kernel:
    """Counts the comparisons won between groups, at most `BUDGET` at once.

    Args:
        scores: higher means label 1; leading dimensions (layers, models) share labels and groups.
        labels: True for label 1.
        groups: each row's group.
        folds: each row's fold: only rows of one fold are compared, since scores of two fits have no common scale.

    Raises:
        AuditError: a score is not finite, no fold holds both labels, or a group is spread over folds.
    """
    values, labels, (names, group) = _finite(scores), torch.as_tensor(labels).bool(), grouped(groups)
    fold, flat = fold_of(group, folds), values.reshape(-1, len(group))
    wins = torch.zeros(*values.shape[:-1], len(names), len(names), dtype=torch.float64)
    for here in fold.unique():
        inside = fold[group] == here
        winners, losers = (inside & labels).nonzero()[:, 0], (inside & ~labels).nonzero()[:, 0]
        # Four tensors of this size live at once.
        for part in winners.split(step_of(4 * len(losers))):
            step = step_of(4 * len(part) * len(losers))
            for score, total in zip(flat.split(step), wins.view(-1, *wins.shape[-2:]).split(step), strict=True):
                high, low = score[:, None, part], score[:, losers, None]
                # Sums of halves over fewer than 2^23 rows: exact in float32.
                share = (high > low) + (high == low) * 0.5
                by_loser = torch.zeros(len(score), len(names), len(part)).index_add_(1, group[losers], share)
                total.index_add_(1, group[part], by_loser.mT.double())
    positives, negatives = (torch.bincount(group, mark.double(), len(names)) for mark in (labels, ~labels))
    made = Kernel(wins, positives, negatives, fold, names)
    pairs = (positives @ made._inside()) * (negatives @ made._inside())
    _need(bool((pairs > 0).any()), "The judged rows hold one label only", "both labels in one fold", "Add pairs")
    return made


def bands(kernel: Kernel, weights: Float[Tensor, "draw group"], level: float = 0.95) -> Interval:
    """Percentile band of AUROC over bootstrap draws. For curves only: a verdict's interval is the jackknife's."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(kernel.auroc(weights), tails, dim=0)
    return Interval(low.numpy(), high.numpy())


def estimate_auroc(kernel: Kernel, *, unit: str = "auroc", level: float = 0.95) -> list[Estimate]:
    """AUROC of every batch entry, one for an unbatched kernel; no interval where a deletion leaves no comparison."""
    full, n, n_groups = kernel.auroc().reshape(-1), int((kernel.positives + kernel.negatives).sum()), len(kernel.names)
    if kernel.deletable:
        deleted = kernel.deleted().reshape(n_groups, -1)
        return estimates(full, deleted, unit=unit, n=n, scale="logit", level=level)
    bare = estimates(full, full[None], unit=unit, n=n, scale="logit", level=level)
    return [value.model_copy(update={"n_groups": n_groups}) for value in bare]


def grouped(groups: Sequence[str]) -> tuple[tuple[str, ...], Int[Tensor, " row"]]:
    """The sorted names, and each row's index among them."""
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return tuple(names.tolist()), torch.from_numpy(index.reshape(-1).astype(np.int64))


def fold_of(group: Int[Tensor, " row"], folds: Rows | None) -> Int[Tensor, " group"]:
    """Each group's fold, one for all where there are none; an AuditError if a group is spread over two."""
    fold = torch.zeros_like(group) if folds is None else torch.as_tensor(folds).long()
    home = torch.zeros(int(group.max()) + 1, dtype=torch.int64).scatter_(0, group, fold)
    _need(bool((home[group] == fold).all()), "A group is spread over two folds", "whole groups", "Fold by group")
    return home


def _finite(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    values = torch.as_tensor(values).double()
    _need(bool(values.isfinite().all()), "A score is not finite", "finite numbers", "Look for overflow upstream")
    return values


def step_of(elements: int) -> int:
    """How many items of so many elements each fit the memory budget, at least one."""
    return max(1, BUDGET // max(1, elements))


def _need(holds: bool, found: str, expected: str, do: str) -> None:
    if not holds:
        raise AuditError(found, expected, do)
