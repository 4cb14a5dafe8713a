"""Latents of post's own dictionary that base's activations leave silent on the same tokens: what base does not hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.encoded import Encoded
from audit.estimate import estimate, jackknife
from audit.pair import MODELS
from probes.dictionary import Dictionary

RARE = 1e-3
"""A latent that fires on a smaller share of the tokens is not asked about."""
SILENT = 0.1
"""In base it fires on less than this share of the tokens on which it fires in post."""
LISTED, WORDS = 20, 5


def fresh(theirs: Dictionary, read: Encoded) -> dict[str, Any]:
    """Post's latents whose rate in base is below a tenth of that in post, by the bound of a paired difference.

    The dictionary is post's: where it fires in post and not in base, the two models write different things on the same
    tokens there. Whether base writes the same thing elsewhere is not asked.

    Args:
        theirs: a dictionary of post's.
        read: the same tokens in both models.
    """
    codes = {model: theirs.encode(read.rows[model]) for model in MODELS}
    rates = {model: codes[model].firing() for model in MODELS}
    asked = ((rates["post"] >= RARE) & (rates["base"] < SILENT * rates["post"])).nonzero()[:, 0]
    group = read.group[read.tokens.passage]
    fires = {model: codes[model].of_latents(asked) != 0 for model in MODELS}
    counts = {model: _by_group(fires[model], group) for model in MODELS}
    tokens = torch.bincount(group, minlength=len(counts["post"])).double()[:, None]
    less = counts["base"] - SILENT * counts["post"]
    full, deleted = less.sum(0) / tokens.sum(), (less.sum(0) - less) / (tokens.sum() - tokens)
    if len(tokens) < 3 or not len(asked):
        return {"tried": theirs.width, "count": 0, "latents": []}
    kept = torch.from_numpy(jackknife(full, deleted, scale="identity").high < 0).nonzero()[:, 0]
    order = kept[rates["post"][asked[kept]].argsort(descending=True, stable=True)]
    listed = [
        {
            "latent": int(asked[at]),
            **{
                model: estimate(
                    counts[model][:, at].sum() / tokens.sum(),
                    (counts[model][:, at].sum() - counts[model][:, at]) / (tokens.sum() - tokens)[:, 0],
                    unit="share of tokens", n=len(read.tokens),
                )
                for model in MODELS
            },
            "words": _words(fires["post"][:, at], read),
        }
        for at in order[:LISTED].tolist()
    ]  # fmt: skip
    return {"tried": theirs.width, "count": len(kept), "latents": listed}


def _by_group(fires: Bool[Tensor, "row latent"], group: Int[Tensor, " row"]) -> Float[Tensor, "group latent"]:
    zeros = torch.zeros(int(group.max()) + 1, fires.shape[1], dtype=torch.float64)
    return zeros.index_add(0, group, fires.double())


def _words(fires: Bool[Tensor, " row"], read: Encoded) -> list[Any]:
    """The words on which a latent fires most, each with what stands before it."""
    tokens = read.tokens
    seen = Counter(
        " ".join(tokens.words[at] for at in (before, word) if at >= 0)
        for before, word in zip(tokens.before[fires].tolist(), tokens.word[fires].tolist(), strict=True)
    )
    total = sum(seen.values())
    return [{"word": word, "share": count / total} for word, count in seen.most_common(WORDS)]
