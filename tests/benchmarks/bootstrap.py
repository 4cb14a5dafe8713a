"""Group bootstrap of AUROC over all layers, against scikit-learn looped over the same draws. Prints one ratio.

Run: python tests/benchmarks/bootstrap.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from audit.resampling import bootstrap_weights, kernel

PASSAGES, GROUPS, LAYERS, DRAWS, LOOPED, REPEATS = 240, 60, 12, 2000, 20, 7


def main() -> None:
    """Times both on the same draws, one thread, interleaved; the loop on `LOOPED` of them, scaled up."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    labels = np.arange(PASSAGES) % 2 == 1
    index = np.arange(PASSAGES) // (PASSAGES // GROUPS)
    groups = [f"g{i:02d}" for i in index]
    scores = rng.standard_normal((LAYERS, PASSAGES)) + labels
    weights = bootstrap_weights(GROUPS, DRAWS, rng)
    ours, theirs = [], []
    for _ in range(REPEATS):
        start = time.process_time()
        drawn = kernel(torch.from_numpy(scores), torch.from_numpy(labels), groups).auroc(weights)
        ours.append(time.process_time() - start)
        start = time.process_time()
        looped = [
            [roc_auc_score(labels[rows], layer[rows]) for layer in scores]
            for rows in (np.repeat(np.arange(PASSAGES), draw[index]) for draw in weights[:LOOPED].numpy().astype(int))
        ]
        theirs.append((time.process_time() - start) * DRAWS / LOOPED)
    np.testing.assert_allclose(drawn[:LOOPED], looped, atol=1e-12)
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"{DRAWS} draws x {LAYERS} layers, {PASSAGES} passages in {GROUPS} groups, kernel included")
    print(f"ours {statistics.median(ours):.4f} s, scikit-learn loop {statistics.median(theirs):.1f} s (scaled)")
    print(f"ratio {ratio:.0f}x")


if __name__ == "__main__":
    main()
