"""Random passages of the tiny models' vocabulary, for the tests of what records them."""

from __future__ import annotations

import numpy as np

from probes.digest import digest
from probes.passage import Passage
from tests import tiny


def passages(n: int, *, shortest: int = 4, longest: int = 40, seed: int = 0) -> list[Passage]:
    """Random tokens of mixed lengths, each with a span somewhere after its first token."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        length = int(rng.integers(shortest, longest + 1))
        ids = tuple(int(token) for token in rng.integers(20, tiny.VOCABULARY, length))
        start = int(rng.integers(1, length))
        made.append(passage(ids, (start, int(rng.integers(start + 1, length + 1)))))
    return made


def passage(ids: tuple[int, ...], span: tuple[int, int]) -> Passage:
    return Passage(digest([ids, span]), "p", "story", 1, "pair", "group", None, ids, span, "", ())
