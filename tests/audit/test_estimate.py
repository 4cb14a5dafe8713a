from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest, skew, t

from audit.estimate import Estimate, estimate, estimates, jackknife
from probes.digest import AuditError


def made(value=0.97, low=0.95, high=0.98, **change):
    fields = {"value": value, "low": low, "high": high, "method": "m", "unit": "auroc", "n": 480, "n_groups": 80}
    return Estimate(**(fields | change))


def test_shows_itself_and_judges_bounds():
    assert str(made()) == "0.97 [0.95, 0.98]"
    assert made().above(0.9) and not made().above(0.95) and made().below(0.99) and not made().below(0.98)
    assert made().excludes(0.5) and not made().excludes(0.96)


def test_without_an_interval_nothing_is_decided():
    bare = made(low=None, high=None)
    assert str(bare) == "0.97 [too few groups]"
    assert not (bare.known or bare.above(0) or bare.below(2) or bare.excludes(0))


@pytest.mark.parametrize(
    "change",
    [{"value": float("nan")}, {"high": float("inf")}, {"low": None}, {"low": 0.99}, {"level": 1.0}, {"n_groups": -1}],
)
def test_refuses_what_is_no_estimate(change):
    with pytest.raises(ValidationError):
        made(**change)


def test_survives_json():
    assert Estimate.model_validate_json(made().model_dump_json()) == made()


def test_needs_no_torch():
    code = "import sys, audit.estimate, audit.finding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=30))
def test_jackknife_of_a_mean_is_the_t_interval_with_the_arm_of_its_skewness_longer(values):
    sample = np.array(values)
    full, deleted = sample.mean(), (sample.sum() - sample) / (len(sample) - 1)
    low, high = jackknife(full, deleted, scale="identity")
    error, point = sample.std(ddof=1) / np.sqrt(len(sample)), t.ppf(0.975, len(sample) - 1)
    if error < 1e-6:
        np.testing.assert_allclose([low, high], full, atol=1e-4)
        return
    k, arms = skew(sample) / np.sqrt(len(sample)), np.array([full - low, high - full]) / error
    short, long = arms if k > 0 else arms[::-1]
    assert short == pytest.approx(point, abs=1e-6)
    # Hall's cubic at the end of the long arm is the quantile, up to where it rises at half the slope of t.
    x, k = -long, min(abs(k), 3 * ((point**2 + 4 * (1 - 0.5**1.5) / 6) ** 0.5 - point))
    reached = x + k / 3 * x**2 + k**2 / 27 * x**3 + k / 6
    assert reached == pytest.approx(-point, abs=1e-6) or (long == pytest.approx(point) and reached < -point)


def test_a_symmetric_sample_has_the_plain_t_interval():
    sample = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    reach = t.ppf(0.975, 6) * sample.std(ddof=1) / np.sqrt(7)
    deleted = (sample.sum() - sample) / 6
    np.testing.assert_allclose(jackknife(sample.mean(), deleted, scale="identity"), [-reach, reach], atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0, 1))
def test_logit_interval_stays_inside_and_holds_its_value(deleted, full):
    low, high = jackknife(full, deleted)
    assert 0 <= low <= full <= high <= 1


def test_more_loss_never_narrows_towards_certainty():
    full = np.ones(3) - [0, 1 / 3600, 0.05]
    deleted = np.ones((20, 3))
    deleted[2:, 1] -= 1 / 3240
    deleted[1:, 2] -= 1 / 19
    low = jackknife(full, deleted).low
    assert low[0] == pytest.approx(0.025 ** (1 / 20))
    assert low[2] < low[1] < 1


def test_equal_values_have_no_width():
    for scale in ("logit", "identity"):
        low, high = jackknife([0.5, 0.7], np.tile([0.5, 0.7], (9, 1)), scale=scale)
        np.testing.assert_array_equal([low, high], [[0.5, 0.7]] * 2)


def test_few_groups_have_no_interval():
    few = estimate(0.6, [0.5, 0.7], unit="auroc", n=8)
    assert (few.low, few.n_groups) == (None, 2)
    curve = estimates([0.6, 0.7], [[0.5, 0.6], [0.7, 0.7], [0.6, 0.8]], unit="auroc", n=8, scale="logit")
    assert [x.value for x in curve] == [0.6, 0.7] and curve[0].method == "jackknife-logit-t" and curve[1].known


def test_bad_values_are_refused():
    with pytest.raises(AuditError, match="not finite"):
        jackknife(float("nan"), [1.0, 1.0])
    with pytest.raises(AuditError, match="1 group"):
        jackknife(0.5, [0.5])
    with pytest.raises(ValueError, match="groups first"):
        jackknife([0.5, 0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="identity"):
        jackknife(1.2, [0.5, 0.5])


def test_one_passage_on_the_wrong_side_does_not_make_a_perfect_probe_doubtful():
    """A refit near 1 puts none, one or two of 14,400 pairs of passages on the wrong side: no spread of any size."""
    step, groups = 1 / 14_400, 60
    deleted = 1 - step * (np.arange(groups) % 3)
    found = jackknife(1 - step, deleted)
    assert 0.90 < float(found.low) < 1 - step < float(found.high)
    # Each end is that of whole groups failing, or nearer: with one group in twenty wrong, the bound is the binomial's.
    whole_groups = binomtest(19, 20).proportion_ci(0.95, method="exact")
    assert float(jackknife(0.95, np.r_[1.0, np.full(19, 18 / 19)]).low) == pytest.approx(whole_groups.low)


@given(st.integers(3, 60), st.floats(0.001, 0.999), st.integers(0, 10_000))
def test_an_end_is_mirrored_where_labels_are(groups, centre, seed):
    deleted = np.clip(centre + np.random.default_rng(seed).normal(0, 0.05, groups), 0, 1)
    one, other = jackknife(centre, deleted), jackknife(1 - centre, 1 - deleted)
    assert float(one.low) == pytest.approx(1 - float(other.high), abs=1e-9)
    assert float(one.low) <= centre <= float(one.high)
