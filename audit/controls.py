"""What stands beside a reading: other probes, what surprise and chance read, control texts, the worst passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.estimate import Estimate, drawn
from audit.pair import MODELS, Judged, Model, Pair
from audit.readability import (
    apart_from_surprisal,
    balanced_accuracy,
    difference,
    fitted,
    plainly,
    reading,
    scored,
    share,
)  # fmt: skip
from audit.resampling import auroc, estimate_auroc, flips, kernel, seed_of
from probes.digest import AuditError, digest
from probes.direction import Direction, choose_strength, lda, lda_scores, logistic, mass_mean
from probes.passage import Passage
from probes.site import Site

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse L2 strengths of the logistic probe, on standardised columns."""
MISREAD = 4
SAMPLE = 24
"""Passages of which the worst are shown."""


def other_probes(
    pair: Pair, permutations: int, logistic_null: int, rng: np.random.Generator
) -> dict[str, dict[str, Estimate]]:
    """Kinds of probe at the chosen site, fitted on base's stories: what each reads in the Assistant of both models.

    Under "null", what it reads in post when the labels of its stories are turned within pairs and it is fitted anew:
    `permutations` times, or `logistic_null` times for the logistic probe, its strength then fixed at the chosen one.
    """
    story, judged = pair.story, pair.assistant
    rows, everyone = story.rows["base"][pair.chosen], torch.ones(1, len(story.passages))
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64)
    best_ = choose_strength(rows, story.labels, everyone, story.groups, strengths, rng)
    strength = strengths[torch.as_tensor(best_).reshape(-1)]
    directions = {
        "lda": lda(rows, story.labels, everyone)[0],
        "mass_mean": mass_mean(rows, story.labels, everyone)[0],
        "logistic": logistic(rows, story.labels, everyone, strength).vector.reshape(-1),
        "pca": _first_axis(rows, story.labels),
    }
    out: dict[str, dict[str, Estimate]] = {}
    for name, direction in directions.items():
        out[name] = {m: share(scored(judged.rows[m][pair.chosen] @ direction, judged), judged) for m in MODELS}
    coins = flips(story.pairs, max(permutations, logistic_null), seed_of(pair.seed, "probes", pair.persona.name))
    labels, post = story.labels ^ coins, judged.rows["post"][pair.chosen]
    scores = {
        "lda": lda_scores(rows, labels[:permutations], everyone, post)[0],
        "mass_mean": lda_scores(rows, labels[:permutations], everyone, post, shrinkage=1.0)[0],
    }
    if logistic_null:
        fits = [logistic(rows, some, everyone, strength).vector.reshape(-1) for some in labels[:logistic_null]]
        scores["logistic"] = torch.stack(fits) @ post.T
    for name, values in scores.items():
        out[name]["null"] = turned(auroc(values, judged.labels), judged)
    return out


def turned(null: Float[Tensor, " draw"], judged: Judged) -> Estimate:
    """What is read of labels turned by coin within pairs: mean and 95 % of draws."""
    return drawn(null, method="labels turned within pairs", unit="auroc", n=len(judged.passages),
                 n_groups=judged.n_groups)  # fmt: skip


def _first_axis(rows: Float[Tensor, "row d_model"], labels: Tensor) -> Float[Tensor, " d_model"]:
    """The first principal axis, turned towards label 1."""
    axis = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][0]
    along = rows @ axis
    return axis if along[labels].mean() >= along[~labels].mean() else -axis


def surprise(pair: Pair) -> dict[str, Any]:
    """How surprising the span is under each model, what surprise alone reads, and the frozen reading apart from it."""
    judged, out = pair.assistant, {}
    for model in MODELS:
        surprisal = judged.surprisal[model]
        out[model] = share(scored(surprisal, judged), judged)
        out[f"{model}_nats"] = float(surprisal.mean())
    direction = fitted(pair, pair.chosen, "story", torch.ones(1, len(judged.passages), dtype=torch.bool))[0]
    scores = judged.rows["post"][pair.chosen] @ direction
    out["apart"] = share(scored(apart_from_surprisal(scores, judged.surprisal["post"]), judged), judged)
    return out


def specificity(pair: Pair, auroc_: float, draws: int, rng: np.random.Generator) -> float:
    """Share of random directions, drawn from the judged activations' own covariance, that read `auroc_` or better."""
    rows = pair.assistant.rows["post"][pair.chosen]
    centred = rows - rows.mean(0)
    coins = torch.from_numpy(rng.standard_normal((draws, len(rows)))) / len(rows) ** 0.5
    scores = coins @ centred @ centred.T
    found = auroc(scores, pair.assistant.labels)
    return float((torch.maximum(found, 1 - found) >= auroc_).double().mean())


def misread(pair: Pair) -> list[dict[str, Any]]:
    """The passages that base's frozen direction misplaces most in post, token by token in both models.

    They are the worst of a fixed sample, so that base's tokens are read once whatever it is compared with. Numbers are
    distances from base's threshold in standard deviations of base's Assistant passages.
    """
    judged, frozen_ = pair.assistant, reading(pair, pair.chosen, "story")
    fold = torch.as_tensor(judged.fold)
    sample = list(range(0, len(judged.passages), max(1, len(judged.passages) // SAMPLE)))[:SAMPLE]
    scores = frozen_.scores(judged.rows["post"][pair.chosen], fold)
    spread = frozen_.scores(judged.rows["base"][pair.chosen], fold).std().clamp(min=1e-12)
    wrong = torch.where(judged.labels, -scores, scores)
    worst = [judged.passages[i] for i in sorted(sample, key=lambda i: -float(wrong[i]))[:MISREAD]]
    values = pair.recorder.token_values([judged.passages[i] for i in sample], pair.site)
    shown: dict[Model, Tensor] = {
        m: (v.at(pair.site).double() @ frozen_.directions[0] - frozen_.thresholds[0]) / spread
        for m, v in values.items()
    }
    at = {name: i for i, name in enumerate(values["base"].passages)}
    found = []
    for passage in worst:
        own = [at[f"{passage.id}:{t}"] for t in range(1, len(passage.token_ids))]
        found.append(_tokens(passage, {"base": shown["base"][own], "post": shown["post"][own]}))
    return found


def _tokens(passage: Passage, along: dict[Model, Float[Tensor, " token"]]) -> dict[str, Any]:
    """One passage for the report: its tokens after the first, with their distances in both models."""
    ends = [end for _, end in passage.offsets]
    # From the end of the token before: a tokenizer that keeps no leading spaces would run the words together.
    words = [passage.text[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    span = [passage.span[0] - 1, passage.span[1] - 1]
    values = {model: [round(x, 4) for x in some.tolist()] for model, some in along.items()}
    return {
        "pair": passage.pair,
        "scenario": passage.group,
        "label": passage.label,
        "tokens": words,
        "span": span,
        **values,
    }


def control_texts(pair: Pair) -> dict[str, Estimate]:
    """What base's frozen direction reads in each kind of control text, where the persona's files have some."""
    out: dict[str, Estimate] = {}
    direction = fitted(pair, pair.chosen, "story", torch.ones(1, len(pair.assistant.passages), dtype=torch.bool))[0]
    for (kind, domain), judged in pair.controls.items():
        if 0 < int(judged.labels.sum()) < len(judged.passages):
            for model in MODELS:
                scores = judged.rows[model][pair.chosen] @ direction
                read = estimate_auroc(kernel(scores, judged.labels, judged.groups))[0]
                out[f"{kind.replace('_', ' ')}, {domain}, {model}"] = read
    return out


def load_direction(path: str, sites: Sequence[Site], width: int) -> Direction:
    """A user's own direction, which must fit the models and one of the plan's sites.

    Raises:
        AuditError: no such file, no direction, another width, or a site that is not recorded.
    """
    direction = Direction.load(Path(path))
    if len(direction.vector) != width:
        raise AuditError(
            f"{path} has {len(direction.vector)} dimensions", f"{width}, as both models have",
            "Give a direction of this base to probe_transfer.direction, or leave that out",
        )  # fmt: skip
    if direction.site not in sites:
        raise AuditError(
            f"{path} reads {direction.site}", f"one of the plan's sites: {', '.join(map(str, sites))}",
            "Add its stream and layer to [sites]",
        )  # fmt: skip
    return direction


def own_direction(pair: Pair, path: str) -> dict[str, Any]:
    """A user's own direction as a frozen probe, at the site it names."""
    judged = pair.assistant
    direction = load_direction(path, pair.sites, judged.rows["base"].shape[-1])
    at = pair.sites.index(direction.site)
    pieces = {model: scored(direction(judged.rows[model][at]), judged) for model in MODELS}
    accuracy = {model: balanced_accuracy(judged, direction(judged.rows[model][at])) for model in MODELS}
    return {
        "site": str(direction.site), "file": Path(path).name, "digest": digest(direction.vector),
        **{model: share(value, judged) for model, value in pieces.items()},
        "drift": plainly(difference(pieces["post"], pieces["base"]), judged, "auroc"),
        "accuracy": {model: share(value, judged, "balanced accuracy") for model, value in accuracy.items()},
    }  # fmt: skip
