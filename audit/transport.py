"""The same tokens in both models at one site, and the maps from post to base that are fitted on them without a label.

They are material, not a reading: a global change of coordinates is undone by them, a representation that moved only
where the persona acts is not, because no judged row enters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from probes.alignment import Alignment, TooFewRows, affine, recolour, rotate
from probes.moments import moments_of


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The same tokens in both models at one site: what the label-free maps are fitted on."""

    base: Float[Tensor, "token d_model"]
    post: Float[Tensor, "token d_model"]
    groups: list[str]
    plain: Bool[Tensor, " token"]
    """Rows of plain text; the others are stories."""


@dataclass(frozen=True, eq=False)
class Maps:
    """T2 to T4 at one site.

    Attributes:
        fitted: the maps by rung, about the tokens' own means.
        absent: why a rung could not be fitted.
    """

    fitted: dict[str, Alignment]
    absent: dict[str, str]


def fit_maps(tokens: TokenRows, rng: np.random.Generator) -> Maps:
    """The three maps of a site; those that ask for more rows than there are, are absent."""
    fits: dict[str, Callable[[], Alignment]] = {
        "T2": lambda: recolour(moments_of(tokens.post), moments_of(tokens.base)),
        "T3": lambda: rotate(tokens.post, tokens.base, tokens.groups, rng),
        "T4": lambda: affine(tokens.post, tokens.base, tokens.groups, rng),
    }
    maps = Maps({}, {})
    for rung, fit in fits.items():
        try:
            maps.fitted[rung] = fit()
        except TooFewRows as error:
            maps.absent[rung] = str(error)
    return maps
