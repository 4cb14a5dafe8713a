"""What post alone writes on some words: latents of its own dictionary that base leaves silent on the same tokens there.

Asked word by word, with the word before: a model may put a known latent to a new use, and over all its tokens that
latent looks as it did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.encoded import Encoded
from audit.estimate import estimate, jackknife
from audit.label_test import LEAST
from audit.pair import MODELS, Model
from probes.codes import Codes

OFTEN, SILENT = 0.5, 0.1
"""A use is new where a latent fires on half of the tokens of a pair of words in post, in base on a tenth of that."""
LISTED, WORDS = 20, 5


class Use(NamedTuple):
    """A latent on a pair of words: shares of the tokens on which it fires in either model."""

    latent: int
    words: str
    shares: dict[Model, Any]
    tokens: int


def fresh(theirs: Mapping[Model, Codes], read: Encoded) -> dict[str, Any]:
    """Latents of post's with their new uses, by the bound of the paired difference of shares between scenarios.

    Args:
        theirs: what a dictionary of post's finds in both models' rows.
        read: the tokens of those rows.

    Returns:
        How many latents there are with a new use, the share of tokens that some new use touches, and the latents of
        most tokens, each with its pairs of words.
    """
    pair, n_pairs = _pairs(read)
    group = read.group[read.tokens.passage]
    seen = torch.bincount(pair, minlength=n_pairs)
    width, counts = theirs["post"].width, {model: _counts(codes, pair) for model, codes in theirs.items()}
    post, known = counts["post"]
    base = _looked_up(counts["base"], known)
    often = (post >= OFTEN * seen[known // width]) & (base < SILENT * post)
    uses: dict[int, list[Use]] = defaultdict(list)
    touched: set[int] = set()
    for key in known[often].tolist():
        use = _use(theirs, read, key % width, pair == key // width, group)
        if use is not None:
            uses[use.latent].append(use)
            touched.add(key // width)
    order = sorted(uses, key=lambda latent: (-sum(use.tokens for use in uses[latent]), latent))
    listed = [
        {"latent": latent, "uses": [
            {"words": use.words, "tokens": use.tokens, **use.shares}
            for use in sorted(uses[latent], key=lambda use: -use.tokens)[:WORDS]
        ]}
        for latent in order[:LISTED]
    ]  # fmt: skip
    share = float(seen[sorted(touched)].sum() / len(pair))
    return {"tried": width, "pairs_of_words": n_pairs, "count": len(uses), "tokens": share, "latents": listed}


def _pairs(read: Encoded) -> tuple[Int[Tensor, " row"], int]:
    """Each row's word with the one before it, as an index."""
    tokens = read.tokens
    found = ((tokens.before + 1) * len(tokens.words) + tokens.word).unique(return_inverse=True)[1]
    return found, int(found.max()) + 1


def _counts(codes: Codes, pair: Int[Tensor, " row"]) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"]]:
    """On how many rows of a pair a latent fires, and which pair and latent that is; only where it fires at all."""
    keys, counts = (pair[codes.row] * codes.width + codes.latents).unique(return_counts=True)
    return counts, keys


def _looked_up(
    counts: tuple[Int[Tensor, " entry"], Int[Tensor, " entry"]], keys: Int[Tensor, " wanted"]
) -> Int[Tensor, " wanted"]:
    values, known = counts
    at = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
    return torch.where(known[at] == keys, values[at], 0)


def _use(
    theirs: Mapping[Model, Codes], read: Encoded, latent: int, here: Bool[Tensor, " row"], group: Int[Tensor, " row"]
) -> Use | None:
    """The use with its intervals, where enough scenarios have the words and the bound agrees."""
    at = group[here].unique(return_inverse=True)[1]
    tokens = torch.bincount(at).double()
    if len(tokens) < LEAST:
        return None
    fires: dict[Model, Float[Tensor, " group"]] = {}
    for model in MODELS:
        values = theirs[model].rows(here).of_latents(torch.tensor([latent]))[:, 0]
        fires[model] = torch.bincount(at, (values != 0).double(), len(tokens))
    if not float(jackknife(*_share(fires["base"] - SILENT * fires["post"], tokens), scale="identity").high) < 0:
        return None
    row = int(here.nonzero()[0, 0])
    said = " ".join(read.tokens.words[i] for i in (int(read.tokens.before[row]), int(read.tokens.word[row])) if i >= 0)
    shares: dict[Model, Any] = {
        model: estimate(*_share(fires[model], tokens), unit="share of tokens", n=int(here.sum())) for model in MODELS
    }
    return Use(latent, said, shares, int(here.sum()))


def _share(fires: Float[Tensor, " group"], tokens: Float[Tensor, " group"]) -> tuple[Tensor, Tensor]:
    return fires.sum() / tokens.sum(), (fires.sum() - fires) / (tokens.sum() - tokens)
