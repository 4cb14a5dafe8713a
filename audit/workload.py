"""The bytes and seconds that a run will take, predicted before it starts.

Bytes are counted. Seconds are measured: both models read a sample of the passages, and the statistics that dominate a
run (a refitted ceiling, the label null) are timed on random rows of the run's own shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from audit.controls import SAMPLE
from audit.pair import FOLDS, Judged, Recorder, token_passages
from audit.readability import ceiling, permutation_null
from audit.texts import Texts, judged
from probes.alignment import rotate
from probes.model import Subject
from probes.passage import Passage
from probes.recorder import record
from probes.site import Site

TRIAL_PASSAGES = 64
TRIAL_DRAWS = 20, 120
"""Draws of two trial nulls: a part of the price does not depend on their number."""
TRIAL_SITES = 4
"""Sites of a trial null: its price is that of each, times their number."""
REFITS = 9
"""Ceilings' worth of refitting in one persona, as measured: the two ceilings, readings by refitted directions, and all
smaller fits."""
MAPS = 6
"""Rotations' worth of map fitting in one persona: three sites, and geometry on its own rows."""
START = 4.0
"""Seconds for imports, loading and writing that no trial sees."""


@dataclass(frozen=True)
class Forecast:
    """What a first run will cost."""

    bytes: int
    seconds: float


class Costs(NamedTuple):
    """What a first run costs beside the models' passes.

    Attributes:
        bytes: in the store.
        seconds: of the statistics.
        tokens: that each model reads.
    """

    bytes: int
    seconds: float
    tokens: int


def forecast(texts: Texts, recorder: Recorder, sites: Sequence[Site], permutations: int) -> Forecast:
    """Predicts a first run: with everything recorded already, only the statistics remain.

    Args:
        permutations: draws of the label null.
    """
    passages = [passage for some in texts.passages.values() for passage in some]
    spent = costs(texts, recorder.base.d_model, len(sites), permutations)
    reading = sum(_reading(subject, passages, spent.tokens, sites) for subject in (recorder.base, recorder.post))
    return Forecast(spent.bytes, START + reading + spent.seconds)


def costs(texts: Texts, width: int, n_sites: int, permutations: int) -> Costs:
    """What a first run costs beside the models' passes, and what they read.

    Args:
        texts: what is read.
        width: of the residual stream.
        n_sites: recorded sites.
        permutations: draws of the label null.
    """
    passages = [passage for some in texts.passages.values() for passage in some]
    mapped = {name: _mapped(texts, some, width) for name, some in texts.passages.items()}
    # The maps read their texts once more for every persona, without the unembedding.
    again = sum(len(passage.token_ids) for some, _ in mapped.values() for passage in some)
    # One trial, of the largest persona: the others cost as much for each of their passages.
    sizes = {name: len(judged(some, "assistant")) for name, some in texts.passages.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    trial = _statistics(texts.passages[largest], n_sites, width, mapped[largest][1], permutations)
    seconds = trial * sum(sizes.values()) / max(1, sizes[largest])
    size, rows = 4 * width * n_sites + 4, sum(count for _, count in mapped.values())
    shown = sum(_shown(judged(some, "assistant")) for some in texts.passages.values())
    stored = 2 * (len(passages) * size + rows * 4 * min(3, n_sites) * width + shown * 4 * width)
    return Costs(stored, seconds, again + sum(len(passage.token_ids) for passage in passages))


def _shown(passages: Sequence[Passage]) -> int:
    """Tokens of the fixed sample of which the worst misread are shown: each of them is kept."""
    some = passages[:: max(1, len(passages) // SAMPLE)][:SAMPLE]
    return sum(len(passage.token_ids) - 1 for passage in some)


def _mapped(texts: Texts, passages: Sequence[Passage], width: int) -> tuple[list[Passage], int]:
    """The texts of one persona's maps, and how many token rows they give."""
    chosen, limit = token_passages(texts.plain, judged(passages, "story"), width)
    return chosen, min(limit, sum(len(passage.token_ids) - 1 for passage in chosen))


def _reading(subject: Subject, passages: Sequence[Passage], tokens: int, sites: Sequence[Site]) -> float:
    """Seconds for one model's passes over so many tokens, from a sample of all lengths."""
    ordered = sorted(passages, key=lambda passage: len(passage.token_ids))
    some = ordered[:: max(1, len(ordered) // TRIAL_PASSAGES)]
    spent = timed(lambda: record(subject, some, sites, surprisal=True, progress=False), warm=True)
    return spent * tokens / sum(len(passage.token_ids) for passage in some)


def _statistics(passages: Sequence[Passage], n_sites: int, width: int, tokens: int, permutations: int) -> float:
    """Seconds for one persona's comparisons, from random rows of its shape."""
    made = _random(judged(passages, "assistant"), min(n_sites, TRIAL_SITES), width)
    if made is None:
        return 0.0
    rows = made.rows["base"]
    one = timed(lambda: ceiling(made, rows[0]))
    few, more = (timed(partial(permutation_null, rows, made, draws, 0, "forecast")) for draws in TRIAL_DRAWS)
    null = few + max(0.0, more - few) * (permutations - TRIAL_DRAWS[0]) / (TRIAL_DRAWS[1] - TRIAL_DRAWS[0])
    null *= n_sites / len(rows)
    rng = np.random.default_rng(0)
    fewest = min(tokens, 4 * width + 64)
    base, post = (torch.from_numpy(rng.standard_normal((fewest, width))) for _ in range(2))
    maps = timed(lambda: rotate(post, base, [str(i % 40) for i in range(fewest)], rng)) if tokens >= 4 * width else 0.0
    return REFITS * one + 2 * max(0.0, null) + MAPS * maps


def _random(passages: Sequence[Passage], n_sites: int, width: int) -> Judged | None:
    groups = sorted({passage.group for passage in passages})
    if len(groups) < 4:
        return None
    fold = np.array([groups.index(passage.group) % FOLDS for passage in passages])
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((n_sites, len(passages), width)))
    return Judged(tuple(passages), fold, {"base": rows, "post": rows}, {})


def timed(work: Callable[[], object], *, warm: bool = False) -> float:
    """Seconds that some work takes; with `warm` it is done once before."""
    if warm:
        work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
