"""Group bootstrap of AUROC over all layers, against scikit-learn looped over the same draws. Prints one ratio.

Run: python tests/benchmarks/bootstrap.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from audit.resampling import bootstrap_weights, kernel

PASSAGES, GROUPS, LAYERS, DRAWS, LOOPED, REPEATS = 240, 60, 12, 2000, 20, 7
QUICK = 24, 6, 2, 50, 2, 1
LIMITS = {"scikit-learn loop / our bootstrap, time": (">=", 200.0)}


def main() -> None:
    """Times both on the same draws, one thread, interleaved; the loop on a few of them, scaled up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rows: does the script run, not what is the ratio")
    quick = parser.parse_args().quick
    passages, n_groups, layers, draws, looped, repeats = (
        QUICK if quick else (PASSAGES, GROUPS, LAYERS, DRAWS, LOOPED, REPEATS)
    )
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    labels = np.arange(passages) % 2 == 1
    index = np.arange(passages) // (passages // n_groups)
    groups = [f"g{i:02d}" for i in index]
    scores = rng.standard_normal((layers, passages)) + labels
    weights = bootstrap_weights(n_groups, draws, rng)
    ours, theirs = [], []
    for _ in range(repeats):
        start = time.process_time()
        drawn = kernel(torch.from_numpy(scores), torch.from_numpy(labels), groups).auroc(weights)
        ours.append(time.process_time() - start)
        start = time.process_time()
        values = [
            [roc_auc_score(labels[rows], layer[rows]) for layer in scores]
            for rows in (np.repeat(np.arange(passages), draw[index]) for draw in weights[:looped].numpy().astype(int))
        ]
        theirs.append((time.process_time() - start) * draws / looped)
    np.testing.assert_allclose(drawn[:looped], values, atol=1e-12)
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"{draws} draws x {layers} layers, {passages} passages in {n_groups} groups, kernel included")
    print(f"ours {statistics.median(ours):.4f} s, scikit-learn loop {statistics.median(theirs):.1f} s (scaled)")
    for name, (sign, limit) in LIMITS.items():
        verdict = "quick" if quick else ("met" if ratio >= limit else "MISSED")
        print(f"{ratio:8.3f}  {sign} {limit:.2f}  {verdict:7s} {name}")


if __name__ == "__main__":
    main()
