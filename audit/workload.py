"""The bytes and seconds that a run will take, predicted before it starts.

Bytes are counted. Seconds are measured: both models read a sample of the passages, and the statistics that dominate a
run (a refitted ceiling, the label null) are timed on random rows of the run's own shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from audit.pair import FOLDS, LEAST_TOKENS, TOKENS_PER_DIMENSION, Judged, Recorder
from audit.readability import ceiling, permutation_null
from audit.texts import Texts
from probes.alignment import rotate
from probes.model import Subject
from probes.passage import Passage
from probes.recorder import record
from probes.site import Site

TRIAL_PASSAGES = 64
TRIAL_DRAWS = 20
REFITS = 17
"""Ceilings' worth of refitting in one persona: two ceilings, ten readings of base's Assistant and pooled fits
(the pooled ones on twice the rows)."""
MAPS = 9
"""Rotations' worth of map fitting in one persona: three sites, and geometry on its own rows."""
START = 4.0
"""Seconds for imports, loading and writing that no trial sees."""


@dataclass(frozen=True)
class Forecast:
    """What a first run will cost."""

    bytes: int
    seconds: float


def forecast(texts: Texts, recorder: Recorder, sites: Sequence[Site], permutations: int) -> Forecast:
    """Predicts a first run: with everything recorded already, only the statistics remain.

    Args:
        permutations: draws of the label null.
    """
    passages = [passage for some in texts.passages.values() for passage in some]
    rows = token_rows(texts, recorder.base.d_model)
    seconds = START + sum(_reading(subject, passages, texts, sites) for subject in (recorder.base, recorder.post))
    width = recorder.base.d_model
    for name in texts.passages:
        seconds += _statistics(texts.passages[name], len(sites), width, rows, permutations)
    size = 4 * width * len(sites) + 4
    stored = 2 * (len(passages) * size + len(texts.passages) * rows * 4 * min(3, len(sites)) * width)
    return Forecast(stored, seconds)


def token_rows(texts: Texts, width: int) -> int:
    """Token rows that each persona's maps are fitted on."""
    available = 2 * sum(len(passage.token_ids) - 1 for passage in texts.plain)
    return min(available, max(LEAST_TOKENS, TOKENS_PER_DIMENSION * width))


def _reading(subject: Subject, passages: Sequence[Passage], texts: Texts, sites: Sequence[Site]) -> float:
    """Seconds for one model's passes over everything, from a sample of all lengths."""
    ordered = sorted(passages, key=lambda passage: len(passage.token_ids))
    some = ordered[:: max(1, len(ordered) // TRIAL_PASSAGES)]
    spent = _timed(lambda: record(subject, some, sites, surprisal=True, progress=False), warm=True)
    # The maps read the plain texts and as many stories once more for every persona, without the unembedding.
    tokens = sum(len(passage.token_ids) for passage in passages)
    tokens += 2 * len(texts.passages) * sum(len(passage.token_ids) for passage in texts.plain)
    return spent * tokens / sum(len(passage.token_ids) for passage in some)


def _statistics(passages: Sequence[Passage], n_sites: int, width: int, tokens: int, permutations: int) -> float:
    """Seconds for one persona's comparisons, from random rows of its shape."""
    judged = _random([passage for passage in passages if passage.domain == "assistant"], n_sites, width)
    if judged is None:
        return 0.0
    one = _timed(lambda: ceiling(judged, judged.rows["base"][0]))
    null = _timed(lambda: permutation_null(judged.rows["base"], judged, TRIAL_DRAWS, 0, "forecast"))
    rng = np.random.default_rng(0)
    few = min(tokens, 4 * width + 64)
    base, post = (torch.from_numpy(rng.standard_normal((few, width))) for _ in range(2))
    maps = _timed(lambda: rotate(post, base, [str(i % 40) for i in range(few)], rng)) if tokens >= 4 * width else 0.0
    return REFITS * one + 2 * null * permutations / TRIAL_DRAWS + MAPS * maps


def _random(passages: Sequence[Passage], n_sites: int, width: int) -> Judged | None:
    groups = sorted({passage.group for passage in passages})
    if len(groups) < 4:
        return None
    fold = np.array([groups.index(passage.group) % FOLDS for passage in passages])
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((n_sites, len(passages), width)))
    return Judged(tuple(passages), fold, {"base": rows, "post": rows}, {})


def _timed(work: Callable[[], object], *, warm: bool = False) -> float:
    if warm:
        work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
