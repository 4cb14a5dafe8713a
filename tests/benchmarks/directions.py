"""Ratios of the batched fits to the loops they replace, measured in one run. `python tests/benchmarks/directions.py`"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from probes.discriminant import lda, lda_null
from probes.regression import logistic

ROWS, FOLDS, LAYERS, WIDTHS, REPEATS = 480, 5, 12, (128, 768), 7
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# The loops are timed on a part and scaled up: fits in a loop cost the same each.
LOOPED_DRAWS, LOOPED_GROUPS = 1, 1


def ratio(name: str, batched: Callable[[], object], loop: Callable[[], object], parts: float) -> None:
    """Median CPU seconds of both, interleaved; the loop does one `parts`-th of the work."""
    seconds: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for spent, run in zip(seconds, (batched, loop), strict=True):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
    fast, slow = statistics.median(seconds[0]), statistics.median(seconds[1]) * parts
    print(f"{name:<64} {fast:8.2f} s   loop {slow:9.1f} s   {slow / fast:7.1f} x", flush=True)


def solve(x: torch.Tensor, labels: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """One LDA from scratch: scatter, Ledoit-Wolf, one solve."""
    from sklearn.covariance import ledoit_wolf

    x, labels = x[keep], labels[keep]
    g = ledoit_wolf(x.numpy())[1]
    total = torch.cov(x.T)
    ridged = (1 - g) * total + g * total.trace() / len(total) * torch.eye(len(total), dtype=x.dtype)
    return torch.linalg.solve(ridged, x[labels].mean(0) - x[~labels].mean(0))


def scikit(x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    for keep in weight.bool().numpy():
        z = StandardScaler().fit_transform(x.numpy()[keep])
        for strength in STRENGTHS:
            LogisticRegression(C=strength, max_iter=1000).fit(z, labels.numpy()[keep])


def measure(width: int) -> None:
    source = torch.Generator().manual_seed(0)
    labels, groups = torch.arange(ROWS) % 2 == 0, torch.arange(ROWS) // 2
    rows = torch.randn(LAYERS, ROWS, width, generator=source, dtype=torch.float64)
    rows[:, labels] += 0.1
    folds = groups % FOLDS
    weight = (folds != torch.arange(FOLDS)[:, None]).double()
    flips = torch.as_tensor(np.random.default_rng(0).random((1000, ROWS // 2)) < 0.5).repeat_interleave(2, 1)
    deleted = torch.arange(-1, ROWS // 2)
    jackknife = (weight[None] * (groups != deleted[:, None])[:, None]).reshape(-1, ROWS)

    def null() -> None:
        for draw in (labels ^ flips)[:LOOPED_DRAWS]:
            for keep in weight.bool():
                solve(rows[0], draw, keep)

    def refits() -> None:
        for keep in jackknife[: LOOPED_GROUPS * FOLDS].bool():
            solve(rows[0], labels, keep)

    size = f"{LAYERS} layers, {ROWS} rows, d {width}"
    strengths = torch.tensor(STRENGTHS)
    ratio(
        f"logistic, {FOLDS} folds x {len(STRENGTHS)} strengths, {size}",
        lambda: logistic(rows, labels, weight, strengths),
        lambda: scikit(rows[0], labels, weight),
        LAYERS,
    )
    parts = LAYERS * len(flips) / LOOPED_DRAWS
    ratio(f"LDA null, 1000 draws x {FOLDS} folds, {size}", lambda: lda_null(rows, labels ^ flips, folds), null, parts)
    parts = LAYERS * len(deleted) / LOOPED_GROUPS
    ratio(f"LDA jackknife, {len(jackknife)} fits, {size}", lambda: lda(rows, labels, jackknife), refits, parts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for each in WIDTHS:
        measure(each)
