"""The mean explains nothing, the rows themselves everything, and a group left out is a group never seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from probes.fidelity import OUTLIER, Residues, ordinary


@given(some.integers(0, 10_000), some.floats(-30.0, 30.0), some.integers(1, 6))
def test_the_mean_explains_nothing_and_the_rows_explain_themselves(seed, offset, n_groups):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(60, 8, generator=rng) + offset
    group = torch.arange(60) % n_groups
    mean = rows.mean(0).expand_as(rows)
    assert float(Residues.of(rows, mean, group, n_groups).unexplained.full) == pytest.approx(1.0, abs=0.01)
    assert float(Residues.of(rows, rows, group, n_groups).unexplained.full) == 0.0


@given(some.integers(0, 10_000))
def test_a_deletion_is_what_the_other_groups_give(seed):
    rng = torch.Generator().manual_seed(seed)
    rows, noise = torch.randn(40, 5, generator=rng) + 2, 0.3 * torch.randn(40, 5, generator=rng)
    group = torch.randint(0, 4, (40,), generator=rng)
    group[:4] = torch.arange(4)
    found = Residues.of(rows, rows + noise, group, 4).unexplained
    for g in range(4):
        kept = group != g
        left = noise[kept].square().sum() / (rows[kept] - rows[kept].mean(0)).square().sum()
        assert float(found.deleted[g]) == pytest.approx(float(left), rel=1e-4)


def test_batches_add_up():
    rng = torch.Generator().manual_seed(0)
    rows, made = torch.randn(2, 50, 6, generator=rng)
    group = torch.arange(50) % 3
    whole = Residues.of(rows, made, group, 3)
    parts = Residues.of(rows[:20], made[:20], group[:20], 3) + Residues.of(rows[20:], made[20:], group[20:], 3)
    torch.testing.assert_close(parts.unexplained.deleted, whole.unexplained.deleted)


def test_rows_without_variance_have_no_fraction_of_it():
    rows = torch.ones(10, 4) * 3.7
    assert bool(Residues.of(rows, rows * 0.9, torch.zeros(10, dtype=torch.int64), 1).unexplained.full.isnan())


def test_outliers_are_those_many_times_longer_than_the_median():
    rows = torch.ones(11, 4)
    rows[3] *= OUTLIER * 1.01
    assert (~ordinary(rows)).nonzero().flatten().tolist() == [3]
