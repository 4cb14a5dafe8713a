"""Do the two models share the direction itself, and what did post-training do to the space around it?

S^2 (`shared`) decides between reused and rotated, for AUROC cannot see a turn of 45 degrees. Everything else describes:
cross-split cosines, debiased CKA, held-out Procrustes, principal angles, and how much of base's activations post
explains as it is, shifted, turned, and under any affine map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.estimate import Estimate, drawn, estimate
from audit.finding import Finding
from audit.pair import MODELS, Judged, Pair
from audit.resampling import flips, seed_of
from audit.shared_share import SharedShare, metric_factor, shared_share, u_statistic
from audit.transport import TokenRows
from probes.alignment import Alignment, affine, rotate
from probes.direction import lda, pca
from probes.moments import moments_of
from probes.split import halves

SPLITS = 10
"""Random halves of the groups behind reliabilities and cross-split cosines."""
TURNED = 20
"""Draws of turned pairs behind the control of S^2."""
ANGLES = 5
"""Rank of the subspaces whose principal angles are reported."""


@dataclass(frozen=True)
class Geometry:
    """Settings of the comparison.

    Attributes:
        splits: random halves of the groups.
    """

    splits: int = SPLITS

    name = "geometry"

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The finding at the pair's chosen site; S^2 is the headline, S^2 of turned pairs its control."""
        finding = self.decide(pair)
        if finding.status == "not_measured":
            return finding
        tokens, maps = pair.tokens(pair.chosen), pair.maps(pair.chosen)
        details = {**finding.details, **_halves(pair, self.splits, rng), **_spaces(tokens, maps.fitted, rng)}
        return finding.model_copy(update={"details": details})

    def decide(self, pair: Pair) -> Finding:
        """What the verdict table reads: S^2 as it is and after every map."""
        persona = pair.persona.name
        if pair.assistant.n_groups < 4:
            return Finding.not_measured(persona, self.name, str(pair.site), "too few groups")
        maps = pair.maps(pair.chosen)
        details: dict[str, Any] = _shared(pair, pair.tokens(pair.chosen), maps.fitted)
        details["not_measured"] = dict(maps.absent)
        if details["shared"].get("T0") is None:
            details["shared"].pop("T0", None)
            details["not_measured"]["T0"] = "the class difference of a model is not established"
        details["shared_assistant"] = details["shared"]
        details["established_assistant"] = details["established"]
        headline = details["shared"].get("T0") or details["post_strength"]
        return Finding(
            id=f"{persona}/{self.name}/{pair.site}", persona=persona, comparison=self.name, site=str(pair.site),
            headline=headline, control=details["shared_control"], status="measured", details=details,
        )  # fmt: skip


def differences(judged: Judged, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "group d_model"]:
    """Each group's mean over its pairs of (positive - negative), groups sorted by name."""
    sign = torch.where(judged.labels, 1.0, -1.0).double()
    sums = torch.zeros(judged.n_groups, rows.shape[1], dtype=torch.float64)
    sums.index_add_(0, judged.group, rows * sign[:, None])
    return sums / (torch.bincount(judged.group)[:, None] / 2)


def metric(tokens: TokenRows) -> Float[Tensor, "d_model d_model"]:
    """Factor of the metric of S^2, from base's plain token rows where there are some."""
    return metric_factor(moments_of(tokens.base[tokens.plain] if bool(tokens.plain.any()) else tokens.base).covariance)


def _shared(pair: Pair, tokens: TokenRows, maps: dict[str, Alignment]) -> dict[str, Any]:
    """S^2 as it is and after transport; the metric is base's plain tokens', never the judged rows'."""
    judged, n = pair.assistant, len(pair.assistant.passages)
    factor = metric(tokens)
    delta = {model: differences(judged, judged.rows[model][pair.chosen]) for model in MODELS}
    own = shared_share(delta["base"], delta["post"], factor, n=n)
    shared: dict[str, Estimate] = {} if own.share is None else {"T0": own.share}
    for rung, to_base in maps.items():
        after = shared_share(delta["base"], to_base.transport(delta["post"]), factor, n=n).share
        if after is not None:
            shared[rung] = after
    return {
        "shared": shared, "established": own.share is not None, "base_strength": own.base, "post_strength": own.post,
        "shared_control": _turned_share(pair, delta["base"], factor, own),
    }  # fmt: skip


def _turned_share(
    pair: Pair, base: Float[Tensor, "group d_model"], factor: Float[Tensor, "d_model rank"], own: SharedShare
) -> Estimate:
    """S^2 where there is nothing to share: the pairs of post turned by coin, over the strengths of the unturned labels.

    One coin a pair, the same in each of its halves; mean and 95 % over `TURNED` draws.
    """
    judged = pair.assistant
    coins = flips(judged.pairs, TURNED, seed_of(pair.seed, "geometry", "turned", pair.persona.name))
    rows, values = judged.rows["post"][pair.chosen], []
    whole = max(abs(own.base.value * own.post.value), 1e-300)
    for coin in coins:
        crossed = u_statistic(base, differences(judged, torch.where(coin[:, None], -rows, rows)), factor).full
        values.append(float(crossed * crossed.abs()) / whole)
    return _spread(values, len(judged.passages), judged.n_groups, "shared share")


def _halves(pair: Pair, splits: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reliability of the directions (correlation of two halves' scores on held-out rows), cross-split cosines."""
    judged = pair.assistant
    found: dict[str, list[float]] = {"base": [], "post": [], "cosine": []}
    for _ in range(splits):
        half = torch.from_numpy(np.asarray(halves(judged.groups, rng))).bool()
        vectors = {m: _both(judged.rows[m][pair.chosen], judged.labels, half) for m in MODELS}
        for model in MODELS:
            scores = pair.story.rows[model][pair.chosen] @ vectors[model].T
            found[model].append(float(torch.corrcoef(scores.T)[0, 1]))
        crossed = (vectors["base"][0] @ vectors["post"][1] + vectors["base"][1] @ vectors["post"][0]) / 2
        own = [float(vectors[m][0] @ vectors[m][1]) for m in MODELS]
        found["cosine"].append(float(crossed) / max(1e-6, (max(own[0], 0.0) * max(own[1], 0.0)) ** 0.5))
    n, groups = len(judged.passages), judged.n_groups
    spread = {
        name: _spread(values, n, groups, "correlation" if name in MODELS else "cosine")
        for name, values in found.items()
    }
    return {
        "reliability": {"base": spread["base"], "post": spread["post"]}, "cosine": spread["cosine"],
        "cosine_control": _turned_labels(judged, pair.chosen, splits, rng),
    }  # fmt: skip


def _both(rows: Tensor, labels: Tensor, half: Tensor) -> Float[Tensor, "half d_model"]:
    """The directions of two halves. Each is fitted on its own rows: halves are no near copies to be solved as one."""
    return torch.cat([lda(rows[some], labels[some], torch.ones(1, int(some.sum()))) for some in (half, ~half)])


def _turned_labels(judged: Judged, chosen: int, splits: int, rng: np.random.Generator) -> Estimate:
    """The cross-model cosine of directions fitted to coin-flipped pairs: what shared texts alone would give."""
    values = []
    for _ in range(splits):
        half = torch.from_numpy(np.asarray(halves(judged.groups, rng))).bool()
        coin = {name: bool(rng.integers(2)) for name in sorted(set(judged.pairs))}
        labels = judged.labels ^ torch.tensor([coin[name] for name in judged.pairs])
        if any(not 0 < int(labels[some].sum()) < int(some.sum()) for some in (half, ~half)):
            continue
        base, post = (_both(judged.rows[m][chosen], labels, half) for m in MODELS)
        values.append(float(base[0] @ post[1]))
    return _spread(values or [0.0], len(judged.passages), judged.n_groups, "cosine")


def _spread(values: list[float], n: int, groups: int, unit: str) -> Estimate:
    return drawn(values, method="random draws", unit=unit, n=n, n_groups=groups)


def _spaces(tokens: TokenRows, maps: dict[str, Alignment], rng: np.random.Generator) -> dict[str, Any]:
    """How alike the two spaces are on the same plain tokens: CKA, held-out ladder of R^2, principal angles."""
    half = torch.from_numpy(np.asarray(halves(tokens.groups, rng))).bool()
    train, held = half.nonzero()[:, 0], (~half).nonzero()[:, 0]
    base, post = tokens.base, tokens.post
    groups = [tokens.groups[i] for i in held.tolist()]
    ladder: dict[str, Estimate] = {}
    identity: Callable[[Tensor], Tensor] = lambda rows: rows  # noqa: E731
    shift = base[train].mean(0) - post[train].mean(0)
    candidates: dict[str, Callable[[Tensor], Tensor]] = {"identity": identity, "shift": lambda rows: rows + shift}
    names = {"T3": "rotation", "T4": "affine"}
    for rung, fit in (("T3", rotate), ("T4", affine)):
        if rung in maps and len(train) >= 4 * base.shape[1]:
            candidates[names[rung]] = fit(post[train], base[train], [tokens.groups[i] for i in train.tolist()], rng)
    for name, to_base in candidates.items():
        ladder[name] = _explained(base[held], to_base(post[held]), base[train].mean(0), groups)
    some = held[:2_000]
    moments = {"base": moments_of(base), "post": moments_of(post)}
    rank = min(ANGLES, base.shape[1])
    cosines = torch.linalg.svdvals(pca(moments["base"], rank) @ pca(moments["post"], rank).T).clamp(max=1.0)
    return {
        "ladder_r2": ladder, "cka": debiased_cka(base[some], post[some]),
        "procrustes": ladder.get("rotation"),
        "angles_degrees": torch.rad2deg(torch.arccos(cosines)).tolist(),
    }  # fmt: skip


def _explained(base: Tensor, mapped: Tensor, mean: Tensor, groups: list[str]) -> Estimate:
    """1 - squared error / squared distance from the training mean, on held-out groups, with its jackknife interval."""
    names = sorted(set(groups))
    at = torch.tensor([names.index(group) for group in groups])
    error = torch.zeros(len(names)).double().index_add_(0, at, (base - mapped).square().sum(1))
    total = torch.zeros(len(names)).double().index_add_(0, at, (base - mean).square().sum(1))
    deleted = 1 - (error.sum() - error) / (total.sum() - total)
    return estimate(1 - error.sum() / total.sum(), deleted, unit="R2", n=len(base))


def debiased_cka(base: Float[Tensor, "row d_model"], post: Float[Tensor, "row d_model"]) -> float:
    """Linear CKA from the unbiased HSIC (Song et al. 2012): near 0 for unrelated rows whatever their number."""
    grams = []
    for rows in (base, post):
        gram = (rows - rows.mean(0)) @ (rows - rows.mean(0)).T
        grams.append(gram.fill_diagonal_(0.0))

    def hsic(k: Tensor, other: Tensor) -> Tensor:
        n = len(k)
        cross = (k.sum(0) * other.sum(0)).sum()
        return ((k * other).sum() + k.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))

    return float(hsic(*grams) / (hsic(grams[0], grams[0]) * hsic(grams[1], grams[1])).clamp(min=1e-300).sqrt())
