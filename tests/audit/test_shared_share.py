from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audit.shared_share import metric_factor, shared_share, u_statistic


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_u_statistic_is_the_double_sum(rng):
    x, y, root = (torch.from_numpy(rng.standard_normal(s)) for s in ((7, 4), (7, 4), (4, 3)))
    metric = root @ root.T

    def summed(keep):
        return sum((x[i] @ metric @ y[j]).item() for i in keep for j in keep if i != j) / len(keep) / (len(keep) - 1)

    made = u_statistic(x, y, root)
    assert made.full.item() == pytest.approx(summed(range(7)))
    for g in range(7):
        assert made.deleted[g].item() == pytest.approx(summed([i for i in range(7) if i != g]))
        for h in set(range(7)) - {g}:
            assert made.both[g, h].item() == pytest.approx(summed([i for i in range(7) if i not in (g, h)]))
    covariance = metric + torch.eye(4)
    factor = metric_factor(covariance)
    ridged = covariance + covariance.trace() / 4 * torch.eye(4)
    torch.testing.assert_close(factor @ factor.T @ ridged, torch.eye(4, dtype=torch.float64))


def turned_pair(rng, degrees, n_groups=20, pairs=3, d=128):
    """Class differences of a trait of strength 6 noise units; post's is turned, its noise half shared with base's."""
    angle = math.radians(degrees)
    common, own, other = (rng.standard_normal((n_groups, d)) * math.sqrt(2 / pairs) for _ in range(3))
    base, post = common + own, common + other
    base[:, 0] += 6
    post[:, 0] += 6 * math.cos(angle)
    post[:, 1] += 6 * math.sin(angle)
    return torch.from_numpy(base), torch.from_numpy(post)


@pytest.mark.parametrize(("degrees", "truth"), [(10, 0.97), (45, 0.50), (90, 0.00)])
def test_shared_share_reads_the_turn(degrees, truth):
    rng, factor = np.random.default_rng(degrees), metric_factor(torch.eye(128))
    found = [shared_share(*turned_pair(rng, degrees), factor, n=60).share for _ in range(150)]
    assert np.mean([x.value for x in found]) == pytest.approx(truth, abs=0.02)
    exact = math.cos(math.radians(degrees)) ** 2
    assert np.mean([x.low <= exact <= x.high for x in found]) >= 0.93


def test_shared_share_of_an_unchanged_model_is_exactly_one_and_the_plain_cosine_is_not(rng):
    base, post = turned_pair(rng, 0)
    factor = metric_factor(torch.eye(128))
    same = shared_share(base, base.clone(), factor)
    assert (same.share.value, same.share.low, same.share.high) == (1, 1, 1)
    plain = torch.cosine_similarity(base.mean(0), post.mean(0), dim=0) ** 2
    assert plain < 0.95 < shared_share(base, post, factor).share.high


def test_shared_share_is_withheld_where_post_holds_nothing(rng):
    base, post = turned_pair(rng, 0)
    post[:, 0] -= 6
    found = shared_share(base, post, metric_factor(torch.eye(128)))
    assert found.share is None and not found.post.above(0) and found.base.above(0)
    inverted = shared_share(base, -base, metric_factor(torch.eye(128))).share
    assert inverted.value == pytest.approx(-1)
