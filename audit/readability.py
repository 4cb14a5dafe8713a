"""Readings of a persona: which of base's directions read post's Assistant, and how well, as pieces that combine.

Every function gives `Pieces`: a value on all groups and its values with each judged group left out. A direction fitted
on stories is *fixed* when the Assistant is judged; one fitted on Assistant passages is refitted without the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit import refitting
from audit.estimate import Estimate, estimate
from audit.pair import MODELS, Judged, Model, Pair
from audit.refitting import Effects, Refitted, fixed, ratio_once, refitted
from audit.resampling import auroc, flips, seed_of
from probes.alignment import Alignment, frozen, recentre
from probes.direction import Direction, lda, lda_null

Origin = Literal["story", "assistant", "pooled"]
"""What base's direction was fitted on."""
Rows = Float[Tensor, "row d_model"]
Map = Callable[[Rows], Rows]

DRAWS_AT_ONCE = 2**25
"""Float64 scores that the permutation null holds at a time (256 MiB)."""


class Pieces(NamedTuple):
    """A statistic on all groups, and with each judged group left out; what its groups do, where a ratio asks for it."""

    full: Float[Tensor, "*stat"]
    deleted: Float[Tensor, "group ..."]
    effects: Effects | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """Base's direction of one origin, as it reads Assistant rows.

    Attributes:
        origin: what it was fitted on.
        directions: one for each fold of the Assistant's groups (all equal where the fit is fixed).
        thresholds: midway between the class means of base's Assistant rows that each direction may see.
    """

    origin: Origin
    directions: Float[Tensor, "fold d_model"]
    thresholds: Float[Tensor, " fold"]

    def scores(self, rows: Rows, fold: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Each row under the direction that never saw its group, above zero = label 1."""
        return (rows * self.directions[fold]).sum(-1) - self.thresholds[fold]


def reading(pair: Pair, site: int, origin: Origin) -> Reading:
    """Fits base's direction; a direction's threshold is calibrated on base's Assistant rows outside the tested fold."""
    judged, labels = pair.assistant, pair.assistant.labels
    rows, fold = judged.rows["base"][site], torch.as_tensor(judged.fold)
    names = fold.unique()
    outside = fold[None] != names[:, None]
    directions = fitted(pair, site, origin, outside)
    if origin == "story":
        # A deployed monitor has one threshold; the story direction never saw these groups, so one is enough.
        outside = torch.ones_like(outside)
    along = directions @ rows.T
    means = [(along * (outside & kind)).sum(1) / (outside & kind).sum(1) for kind in (labels, ~labels)]
    return Reading(origin, directions, (means[0] + means[1]) / 2)


def fitted(pair: Pair, site: int, origin: Origin, train: Bool[Tensor, "fit row"]) -> Float[Tensor, "fit d_model"]:
    """Base's LDA directions at a site under training masks over the Assistant's rows; stories are used whole."""
    story, assistant = pair.story, pair.assistant
    if origin == "story":
        direction = lda(story.rows["base"][site], story.labels, torch.ones(1, len(story.passages)))
        return direction.expand(len(train), -1)
    if origin == "assistant":
        return lda(assistant.rows["base"][site], assistant.labels, train.double())
    rows = torch.cat([assistant.rows["base"][site], story.rows["base"][site]])
    labels = torch.cat([assistant.labels, story.labels])
    return lda(rows, labels, torch.cat([train.double(), torch.ones(len(train), len(story.passages))], 1))


def read(
    pair: Pair, site: int, origin: Origin, tested: Mapping[str, Rows], *, folded: bool = False
) -> dict[str, Pieces]:
    """AUROC of base's direction on named rows of the Assistant, either model's, mapped or not: one fit for all.

    Args:
        pair: what is read.
        site: where.
        origin: what base's direction is fitted on.
        tested: the rows by name.
        folded: the story direction too is judged inside the folds. A ratio to a ceiling asks for it: what the ceiling
            compares, inside its folds, is then compared on both sides of the ratio, and in every deletion of it.
    """
    judged, rows = pair.assistant, torch.stack(list(tested.values()))
    if origin == "story":
        direction = fitted(pair, site, "story", torch.ones(1, len(judged.passages), dtype=torch.bool))[0]
        scores = rows @ direction
        found = fixed(scores, judged.labels, judged.groups, judged.fold if folded else None)
    else:

        def judge(train: Bool[Tensor, "fit row"], here: Bool[Tensor, " row"]) -> Float[Tensor, "fit name tested"]:
            return torch.einsum("fd,nrd->fnr", fitted(pair, site, origin, train), rows[:, here])

        # Few calls, for each decomposes its training rows anew; scores of a call stay within the budget.
        step = max(1, DRAWS_AT_ONCE // (rows[..., 0].numel() + len(pair.story.passages)))
        found = refitted(judge, judged.labels, judged.groups, judged.fold, step)
    return {name: _pieces(found, at) for at, name in enumerate(tested)}


def scored(scores: Float[Tensor, " row"], judged: Judged) -> Pieces:
    """AUROC of scores by something fitted elsewhere."""
    return _pieces(fixed(scores[None], judged.labels, judged.groups), 0)


def _pieces(found: Refitted, at: int) -> Pieces:
    """One of several readings of the same groups."""
    effects = Effects(found.judged[:, at], found.halves[:, :, at], found.learnt[:, at])
    return Pieces(found.full[at], found.deleted[:, at], effects)


def recentred(pair: Pair, site: int) -> dict[str, Alignment]:
    """T0 to T4 at a site. Their matrices come from plain tokens; the mean is the judged domain's, without a label."""
    judged = pair.assistant
    own = recentre(judged.rows["post"][site], judged.rows["base"][site])
    maps = {"T0": frozen(len(own.source_mean)), "T1": own}
    for rung, fitted in pair.maps(site).fitted.items():
        maps[rung] = replace(fitted, source_mean=own.source_mean, target_mean=own.target_mean)
    return maps


def rungs(
    pair: Pair, site: int, origin: Origin, maps: Mapping[str, Alignment], *, folded: bool = False
) -> dict[str, Pieces]:
    """Base's direction on post's Assistant rows at every rung, and on base's own under the name "base".

    T1 moves every row alike, so it has T0's AUROC. `folded` as for `read`.
    """
    rows = {model: pair.assistant.rows[model][site] for model in MODELS}
    tested = {rung: to_base(rows["post"]) for rung, to_base in maps.items() if rung not in ("T0", "T1")}
    found = read(pair, site, origin, {"T0": rows["post"], **tested, "base": rows["base"]}, folded=folded)
    return {"T0": found["T0"], "T1": found["T0"], **found}


def ceiling(judged: Judged, rows: Rows) -> Pieces:
    """T6: AUROC of a probe fitted and judged on the same rows by group, refitted without each group."""
    found = refitting.ceiling(rows[None], judged.labels, judged.groups, judged.fold, lda)
    return _pieces(found, 0)


def kept_ceiling(pair: Pair, model: Model) -> Pieces:
    """T6 of one model at the chosen site, kept in the store: base's is the same whatever it is compared with."""
    judged, rows = pair.assistant, pair.assistant.rows[model][pair.chosen]
    given = ("ceiling, 3", rows, judged.labels, judged.groups, judged.fold)
    found = pair.recorder.remember(given, lambda: _told_apart(ceiling(judged, rows)))
    return Pieces(found["full"], found["deleted"], Effects(*(found[name] for name in Effects._fields)))


def _told_apart(pieces: Pieces) -> dict[str, Tensor]:
    effects = pieces.effects._asdict() if pieces.effects else {}
    return {"full": pieces.full, "deleted": pieces.deleted, **effects}


def ratio(part: Pieces, whole: Pieces) -> Pieces:
    """rho = (A - 1/2) / (A_T6 - 1/2): the share of what can be read that this direction reads, both in folds.

    Raises:
        ValueError: a reading without its groups' effects.
    """
    if part.effects is None or whole.effects is None:
        raise ValueError("A reading without effects. Expected two of `read`, `ceiling`, `best` or `inverted`.")
    slope = 1 / _away(whole.full - 0.5)
    rho = (part.full - 0.5) * slope
    return Pieces(rho, *ratio_once(rho, part.effects, whole.effects, slope))


def _away(gap: Tensor) -> Tensor:
    # A ceiling at chance makes the ratio undefined; nobody reads it there (carried says no), and it stays finite.
    return torch.where(gap.abs() < 1e-3, torch.where(gap < 0, -1e-3, 1e-3), gap)


def inverted(pieces: Pieces) -> Pieces:
    """The same reading with the direction's sign turned."""
    effects = pieces.effects and Effects(*(-one for one in pieces.effects))
    return Pieces(1 - pieces.full, 1 - pieces.deleted, effects)


def best(readings: list[Pieces]) -> Pieces:
    """The largest, chosen anew without each group; a group's effects are those on what is then the largest."""
    full, deleted = (torch.stack([getattr(one, name) for one in readings]) for name in ("full", "deleted"))
    top, chosen = full.amax(0), deleted.argmax(0)
    # Where another is the largest without a group, it starts lower than the largest of all.
    step = full[chosen] - top
    judged, halves, learnt = (torch.stack([getattr(one.effects, name) for one in readings]) for name in Effects._fields)
    group = torch.arange(len(chosen))
    effects = Effects(step + judged[chosen, group], step + halves[chosen, :, group].T, learnt[chosen, group])
    return Pieces(top, deleted.amax(0), effects)


def difference(one: Pieces, other: Pieces) -> Pieces:
    """Paired difference."""
    return Pieces(one.full - other.full, one.deleted - other.deleted)


def share(pieces: Pieces, judged: Judged, unit: str = "auroc") -> Estimate:
    """An AUROC or another share with its interval."""
    return estimate(pieces.full, pieces.deleted, unit=unit, n=len(judged.passages), scale="logit")


def plainly(pieces: Pieces, judged: Judged, unit: str, level: float = 0.95) -> Estimate:
    """A difference or a ratio with its interval."""
    return estimate(pieces.full, pieces.deleted, unit=unit, n=len(judged.passages), level=level)


def balanced_accuracy(judged: Judged, scores: Float[Tensor, " row"]) -> Pieces:
    """Mean of sensitivity and specificity at threshold zero, and without each group."""
    right = torch.where(judged.labels, scores > 0, scores <= 0).double()
    parts = []
    for kind in (judged.labels, ~judged.labels):
        weighed = (right * kind, kind.double())
        hits, count = (torch.bincount(judged.group, values, judged.n_groups) for values in weighed)
        parts.append(Pieces(hits.sum() / count.sum(), (hits.sum() - hits) / (count.sum() - count).clamp(min=1)))
    return Pieces((parts[0].full + parts[1].full) / 2, (parts[0].deleted + parts[1].deleted) / 2)


def permutation_null(
    rows: Float[Tensor, "site row d_model"], judged: Judged, draws: int, seed: int, name: str
) -> Float[Tensor, "draw site"]:
    """Cross-validated AUROC under labels permuted within pairs, the direction refitted in every draw."""
    coins = flips(judged.pairs, draws, seed_of(seed, "permutation", name))
    labels, fold = judged.labels, torch.as_tensor(judged.fold)
    step = max(1, DRAWS_AT_ONCE // rows[..., 0].numel())
    parts = []
    for some in (labels ^ coins).split(step):
        scores = lda_null(rows, some, fold)
        parts.append(within_folds(scores, some, fold).T)
    return torch.cat(parts)


def within_folds(
    scores: Float[Tensor, "*site draw row"], labels: Bool[Tensor, "draw row"], fold: Int[Tensor, " row"]
) -> Float[Tensor, "*site draw"]:
    """Mean over folds of the AUROC inside each."""
    return torch.stack([auroc(scores[..., fold == f], labels[..., fold == f]) for f in fold.unique()]).mean(0)


def apart_from_surprisal(scores: Float[Tensor, " row"], surprisal: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
    """What is left of the scores once their label-free least-squares line in the spans' surprisal is taken off.

    It over-corrects where the surprisal itself carries the label, so what remains readable is not surprise.
    """
    centred = surprisal - surprisal.mean()
    slope = (centred @ (scores - scores.mean())) / centred.square().sum().clamp(min=1e-12)
    return scores - scores.mean() - slope * centred


def saved(pair: Pair, site: int, provenance: Mapping[str, str]) -> Direction:
    """Base's story direction at a site, with its threshold from base's stories, to be kept as a file."""
    story = pair.story
    rows = story.rows["base"][site]
    vector = lda(rows, story.labels, torch.ones(1, len(story.passages)))[0]
    return Direction.through(vector, rows, story.labels, pair.sites[site], "lda", dict(provenance))
