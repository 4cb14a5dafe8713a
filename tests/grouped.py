"""Rows in groups of contrast pairs, and how often intervals hold a truth."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import t

from audit.estimate import Interval

PAIRS = 3
REPLICATES = 1500
NOMINAL = (0.93, 0.975)


def design(n_groups, pairs):
    """Labels and groups of `pairs` contrast pairs a group."""
    labels = torch.arange(2 * n_groups * pairs) % 2 == 1
    return labels, [f"g{i // (2 * pairs):03d}" for i in range(len(labels))]


def noise(rng, shape, n_groups, share=0.4):
    """Rows of unit variance of which `share` belongs to the group: scenarios differ, twins are alike."""
    own = rng.standard_normal((*shape, 2 * n_groups * PAIRS))
    shared = np.repeat(rng.standard_normal((*shape, n_groups)), 2 * PAIRS, axis=-1)
    return torch.from_numpy(math.sqrt(share) * shared + math.sqrt(1 - share) * own)


def gap(area):
    """Distance between class means at which unit-variance rows have this AUROC."""
    return math.sqrt(2) * torch.special.ndtri(torch.tensor(area, dtype=torch.float64)).item()


def coverage(interval, truth):
    return float(((interval.low <= truth) & (truth <= interval.high)).mean())


def mass_mean(rows, labels, weight):
    plus, minus = weight * labels, weight * ~labels
    return (plus / plus.sum(1, True) - minus / minus.sum(1, True)) @ rows


def symmetric(full: torch.Tensor, deleted: torch.Tensor) -> Interval:
    """The control: the plain jackknife t interval, no scale and no skewness."""
    reach = t.ppf(0.975, len(deleted) - 1) * np.sqrt((len(deleted) - 1) * deleted.numpy().var(0))
    return Interval(full.numpy() - reach, full.numpy() + reach)
