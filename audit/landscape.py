"""The view around one reading: every fit on every judge, every layer, the neighbours, a threshold set anew.

Nothing here decides a verdict; it shows what the choice of layer, domain, model and threshold would have changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.estimate import Estimate, drawn
from audit.pair import DOMAINS, MODELS, Pair, cross_validated
from audit.readability import Reading, recentred, rungs, share
from audit.resampling import Kernel, bands, bootstrap_weights, estimate_auroc, kernel
from probes.direction import lda

RELABELLED = 20


def matrix(pair: Pair) -> list[dict[str, Any]]:
    """Fit on (model, domain) x judged on (model, domain), LDA at the chosen site; same-domain cells by group folds."""
    cells = []
    for fit_model in MODELS:
        for fit_domain in DOMAINS:
            source = pair.judged(fit_domain)
            rows = source.rows[fit_model][pair.chosen]
            whole = lda(rows, source.labels, torch.ones(1, len(source.passages)))[0]
            for model in MODELS:
                for domain in DOMAINS:
                    target = pair.judged(domain)
                    tested = target.rows[model][pair.chosen]
                    if domain == fit_domain:
                        scores = cross_validated(rows[None], source, tested[None])[0]
                        won = kernel(scores, target.labels, target.groups, target.fold)
                    else:
                        won = kernel(tested @ whole, target.labels, target.groups)
                    cell = {
                        "fit_model": fit_model,
                        "fit_domain": fit_domain,
                        "judge_model": model,
                        "judge_domain": domain,
                    }
                    cells.append({**cell, "auroc": estimate_auroc(won)[0]})
    return cells


def curves(pair: Pair, null: Float[Tensor, "draw site"], draws: int, rng: np.random.Generator) -> dict[str, Any]:
    """AUROC at every recorded site with bootstrap bands, and the null's band."""
    judged = pair.assistant
    fit = lda(pair.story.rows["base"], pair.story.labels, torch.ones(1, len(pair.story.passages)))
    weights = bootstrap_weights(judged.n_groups, draws, rng)
    kernels = {
        "base": kernel(cross_validated(judged.rows["base"], judged), judged.labels, judged.groups, judged.fold),
        "post": kernel(cross_validated(judged.rows["post"], judged), judged.labels, judged.groups, judged.fold),
        "frozen": kernel((judged.rows["post"] @ fit.mT)[..., 0], judged.labels, judged.groups),
    }
    lines = {name: _banded(won, weights, len(judged.passages)) for name, won in kernels.items()}
    points = zip(pair.sites, *lines.values(), strict=True)
    curve = [{"layer": site.layer, **dict(zip(lines, values, strict=True))} for site, *values in points]
    low, high = torch.quantile(null, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).tolist()
    return {"curve": curve, "null_low": low, "null_high": high, "chosen": pair.site.layer}


def neighbours(pair: Pair) -> list[dict[str, Any]]:
    """The frozen direction and its maps at the sites beside the chosen one: how much the choice of layer matters."""
    out = []
    for site in pair.neighbours:
        if site != pair.chosen:
            read = rungs(pair, site, "story", recentred(pair, site))
            del read["base"]
            ladder = {rung: share(pieces, pair.assistant) for rung, pieces in read.items()}
            out.append({"layer": pair.sites[site].layer, "ladder": ladder})
    return out


def relabelled(pair: Pair, frozen_: Reading, draws: int, rng: np.random.Generator) -> Estimate:
    """T5: balanced accuracy of the frozen direction when its threshold is set anew on 20 labelled passages of post."""
    judged, fold = pair.assistant, torch.as_tensor(pair.assistant.fold)
    scores, labels = frozen_.scores(judged.rows["post"][pair.chosen], fold), judged.labels
    names: dict[str, list[int]] = {}
    for row, name in enumerate(judged.pairs):
        names.setdefault(name, []).append(row)
    accuracies = []
    members = list(names.values())
    for _ in range(draws):
        picked = rng.choice(len(members), min(RELABELLED // 2, len(members) - 1), replace=False)
        some = [row for member in picked for row in members[member]]
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[some] = False
        cut = (scores[some][labels[some]].mean() + scores[some][~labels[some]].mean()) / 2
        right = (scores > cut) == labels
        accuracies.append(((right[rest & labels].double().mean() + right[rest & ~labels].double().mean()) / 2).item())
    return drawn(
        accuracies, method="draws of 20 labels", unit="balanced accuracy", n=len(labels), n_groups=judged.n_groups
    )


def _banded(won: Kernel, weights: Float[Tensor, "draw group"], n: int) -> list[Estimate]:
    """AUROC of every site with its bootstrap band."""
    band, values = bands(won, weights), won.auroc().tolist()
    return [
        Estimate(value=value, low=min(float(low), value), high=max(float(high), value), method="group-bootstrap",
                 unit="auroc", n=n, n_groups=len(won.names))
        for value, low, high in zip(values, band.low, band.high, strict=True)
    ]  # fmt: skip
