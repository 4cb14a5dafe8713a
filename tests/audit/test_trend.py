"""Trends over checkpoints: a planted slope is found and its interval holds it, a planted change is placed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import theilslopes

from audit.trend import change_point, trend

STEPS = np.array([10.0, 20.0, 40.0, 80.0, 160.0, 320.0])
OTHER, ONE = np.triu_indices(len(STEPS), 1)


def drawn(rng, moved=0.0, groups=20, steps=STEPS):
    """A mean of groups that share a level of their own, at each checkpoint, and the same without each group."""
    truth = 0.9 + moved * (steps - steps[0]) / (steps[-1] - steps[0])
    rows = truth + 0.05 * rng.standard_normal((groups, 1)) + 0.03 * rng.standard_normal((groups, len(steps)))
    return rows.mean(0), (rows.sum(0) - rows) / (groups - 1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.integers(0, 9))
def test_the_slope_is_that_of_theil_and_sen(values, shift):
    steps = np.cumsum(1.0 + np.arange(len(values)) * shift)
    found = trend(values, np.tile(values, (5, 1)), steps, "auroc", 10, np.random.default_rng(0))
    assert found.value == pytest.approx(theilslopes(values, steps)[0] * (steps[-1] - steps[0]), abs=1e-9)


@pytest.mark.parametrize("moved", [0.0, -0.1])
def test_the_interval_holds_the_planted_trend_as_often_as_it_says(moved):
    rng, held, plain = np.random.default_rng(1), 0, 0
    for _ in range(400):
        values, deleted = drawn(rng, moved)
        found = trend(values, deleted, STEPS, "auroc", 40, rng)
        held += found.low <= moved <= found.high
        # The control: the jackknife of a median is no interval of 95 %, but one of nearly all.
        slopes = (deleted[:, ONE] - deleted[:, OTHER]) / (STEPS[ONE] - STEPS[OTHER])
        parts = np.median(slopes, axis=1) * (STEPS[-1] - STEPS[0])
        error = np.sqrt((len(parts) - 1) / len(parts) * np.square(parts - parts.mean()).sum())
        plain += abs(found.value - moved) <= student.ppf(0.975, len(parts) - 1) * error
    assert 0.92 <= held / 400 <= 0.98
    assert plain > held


def test_what_no_group_moves_has_no_width_and_too_few_groups_no_interval():
    values = np.linspace(1, 0.4, 6)
    still = trend(values, np.tile(values, (8, 1)), STEPS, "auroc", 16, np.random.default_rng(0))
    assert still.low == pytest.approx(still.high) and still.excludes(0.0)
    assert not trend(values, np.tile(values, (2, 1)), STEPS, "auroc", 4, np.random.default_rng(0)).known


def test_steps_must_increase():
    with pytest.raises(ValueError, match="Sort the checkpoints"):
        trend([1, 1], np.ones((4, 2)), [3, 3], "auroc", 8, np.random.default_rng(0))


def test_a_planted_change_is_placed_and_its_p_is_exact():
    found = change_point([0.9, 0.91, 0.9, 0.5, 0.51, 0.5], np.random.default_rng(0))
    assert found.at == 3 and found.size == pytest.approx(-0.4, abs=0.01)
    # Two of the twenty ways to deal six values into three and three are as extreme.
    assert found.p == pytest.approx(0.1)
    assert change_point([0.9, 0.5, 0.1], np.random.default_rng(0)) is None


def test_p_is_valid_where_the_order_says_nothing():
    """The control, by drawn orders: eight checkpoints have too many to try them all.

    No test of an order is finer than its splits, so p is valid and not uniform.
    """
    rng = np.random.default_rng(2)
    p = np.array([change_point(rng.standard_normal(8), rng).p for _ in range(300)])
    for level in (0.05, 0.1, 0.2, 0.5, 0.8):
        assert (p <= level).mean() <= level + 3 * (level * (1 - level) / len(p)) ** 0.5
    assert (p <= 0.5).mean() > 0.4
    assert change_point([0, 0, 0, 0, 1, 1, 1, 1], rng).p < 0.05
