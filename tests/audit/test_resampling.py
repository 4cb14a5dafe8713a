from __future__ import annotations

import numpy as np
import pytest
import torch
from grouped import NOMINAL, PAIRS, REPLICATES, coverage, design, gap, mass_mean, noise, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import audit.resampling as resampling
from audit.estimate import estimate, jackknife
from audit.refitting import ceiling
from audit.resampling import (
    auroc,
    bands,
    bootstrap_weights,
    estimate_auroc,
    flips,
    kernel,
    permutation_p,
    seed_of,
)
from probes.digest import AuditError
from probes.split import folds as deal


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_sklearns_with_ties(rows):
    scores, labels = zip(*rows, strict=True)
    if len(set(labels)) == 2:
        found = auroc(torch.tensor(scores), torch.tensor(labels)).item()
        assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_kernel_deletes_and_draws_as_recomputing_does(seed, folded):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 9, size=70)
    names = [f"g{i}" for i in group]
    labels, scores = rng.random(70) < 0.5, rng.integers(0, 6, size=(2, 70)).astype(float)
    fold = group % 3 if folded else np.zeros(70, int)
    made = kernel(torch.from_numpy(scores), torch.from_numpy(labels), names, fold if folded else None)

    def recomputed(weight):
        parts = [(fold == f) & (weight > 0) for f in range(3)]
        parts = [p for p in parts if len(set(labels[p])) == 2]
        return [
            np.mean([roc_auc_score(labels[p], s[p], sample_weight=weight[p].astype(float)) for p in parts])
            for s in scores
        ]

    np.testing.assert_allclose(made.auroc(), recomputed(np.ones(70)), atol=1e-12)
    for index, name in enumerate(made.names):
        np.testing.assert_allclose(made.deleted()[index], recomputed((np.array(names) != name) * 1), atol=1e-12)
    draws = bootstrap_weights(len(made.names), 3, rng)
    order = np.searchsorted(made.names, names)
    for weight, drawn in zip(draws.numpy(), made.auroc(draws), strict=True):
        np.testing.assert_allclose(drawn, recomputed(weight[order]), atol=1e-12)


def test_blocks_change_nothing(rng, monkeypatch):
    labels, groups = design(20, PAIRS)
    scores, fold = noise(rng, (4,), 20), deal(groups, 4, rng)
    rows = torch.from_numpy(rng.standard_normal((3, len(groups), 5)))
    whole, top = kernel(scores, labels, groups, fold), ceiling(rows, labels, groups, fold, mass_mean)
    monkeypatch.setattr(resampling, "BUDGET", 900)
    torch.testing.assert_close(kernel(scores, labels, groups, fold).wins, whole.wins, rtol=0, atol=0)
    torch.testing.assert_close(ceiling(rows, labels, groups, fold, mass_mean).deleted, top.deleted)


@pytest.mark.parametrize("n_groups", [20, 40])
@pytest.mark.parametrize("area", [0.6, 0.8, 0.95])
def test_fixed_probe_interval_covers(n_groups, area):
    rng = np.random.default_rng(n_groups)
    labels, groups = design(n_groups, PAIRS)
    made = kernel(noise(rng, (REPLICATES,), n_groups) + gap(area) * labels, labels, groups)
    logit = coverage(jackknife(made.auroc(), made.deleted()), area)
    assert NOMINAL[0] <= logit <= NOMINAL[1]
    draws = bootstrap_weights(n_groups, 200, rng)
    if area == 0.95:
        # The control: what the interval is preferred to.
        assert coverage(bands(made, draws), area) < min(logit, 0.925)


@pytest.mark.parametrize("n_groups", [20, 40])
@pytest.mark.parametrize("area", [0.98, 0.995, 0.999])
def test_interval_covers_where_deletions_reach_one(n_groups, area):
    rng = np.random.default_rng(n_groups)
    labels, groups = design(n_groups, PAIRS)
    made = kernel(noise(rng, (REPLICATES,), n_groups) + gap(area) * labels, labels, groups)
    assert coverage(jackknife(made.auroc(), made.deleted()), area) >= NOMINAL[0]
    assert coverage(symmetric(made.auroc(), made.deleted()), area) < 0.9


@pytest.mark.parametrize("n_groups", [20, 40])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_interval_covers_where_whole_groups_fail(n_groups, share):
    rng = np.random.default_rng(n_groups)
    labels, groups = design(n_groups, PAIRS)
    failing = np.repeat(rng.random((REPLICATES, n_groups)) < share, 2 * PAIRS, axis=1)
    scores = torch.from_numpy(rng.standard_normal(failing.shape) + np.where(failing, -50, 50) * labels.numpy())
    made = kernel(scores, labels, groups)
    assert coverage(jackknife(made.auroc(), made.deleted()), 1 - share) >= NOMINAL[0]
    assert bool((made.auroc() == 1).any())


@pytest.mark.parametrize("n_groups", [20, 40])
def test_paired_difference_and_ratio_cover(n_groups):
    rng = np.random.default_rng(n_groups)
    labels, groups = design(n_groups, PAIRS)
    shared = noise(rng, (REPLICATES,), n_groups)
    frozen, best = (0.8 * shared + 0.6 * noise(rng, (REPLICATES,), n_groups) + gap(a) * labels for a in (0.8, 0.93))
    reading, top = kernel(frozen, labels, groups), kernel(best, labels, groups)
    drift = jackknife(top.auroc() - reading.auroc(), top.deleted() - reading.deleted(), scale="identity")
    assert NOMINAL[0] <= coverage(drift, 0.13) <= NOMINAL[1]
    rho = jackknife(
        (reading.auroc() - 0.5) / (top.auroc() - 0.5),
        (reading.deleted() - 0.5) / (top.deleted() - 0.5),
        scale="identity",
    )
    assert NOMINAL[0] <= coverage(rho, 0.3 / 0.43) <= NOMINAL[1]
    # The control: intervals that forget the pairing are too wide to be called 95 %.
    alone = [jackknife(x.auroc(), x.deleted(), scale="identity") for x in (reading, top)]
    width = sum((x.high - x.low) ** 2 for x in alone) ** 0.5
    assert np.median((drift.high - drift.low) / width) < 0.9


@pytest.mark.parametrize("n_groups", [20, 40])
def test_difference_of_readings_near_one_covers_and_a_symmetric_interval_does_not(n_groups):
    rng = np.random.default_rng(n_groups)
    labels, groups = design(n_groups, PAIRS)

    def difference(areas):
        shared = noise(rng, (REPLICATES,), n_groups)
        own = (0.95 * shared + 0.31 * noise(rng, (REPLICATES,), n_groups) + gap(area) * labels for area in areas)
        lower, upper = (kernel(scores, labels, groups) for scores in own)
        return upper.auroc() - lower.auroc(), upper.deleted() - lower.deleted()

    apart = difference((0.96, 0.985))
    told = coverage(jackknife(*apart, scale="identity"), 0.025)
    assert NOMINAL[0] <= told <= NOMINAL[1]
    assert coverage(symmetric(*apart), 0.025) < min(told, 0.94)
    # Where nothing differs the few groups that do, by chance of one sign, must not show a difference.
    assert coverage(jackknife(*difference((0.985, 0.985)), scale="identity"), 0.0) >= NOMINAL[0]


def test_two_groups_of_sixty_show_no_difference():
    groups = np.zeros(60)
    groups[:2] = 1.0
    low, high = jackknife(groups.mean(), (groups.sum() - groups) / 59, scale="identity")
    assert low < 0 < high


def test_a_model_against_itself_differs_by_exactly_nothing(rng):
    labels, groups = design(20, PAIRS)
    scores, fold = noise(rng, (), 20) + labels, deal(groups, 5, rng)
    for f in (None, fold):
        one, two = kernel(scores, labels, groups, f), kernel(scores.clone(), labels, groups, f)
        drift = estimate(one.auroc() - two.auroc(), one.deleted() - two.deleted(), unit="auroc", n=120)
        assert (drift.value, drift.low, drift.high) == (0, 0, 0)
        rho = estimate(
            (one.auroc() - 0.5) / (two.auroc() - 0.5), (one.deleted() - 0.5) / (two.deleted() - 0.5), unit="rho", n=120
        )
        assert (rho.value, rho.low, rho.high) == (1, 1, 1)


def test_edges_of_auroc():
    labels, groups = design(20, PAIRS)
    (perfect,) = estimate_auroc(kernel(labels.double(), labels, groups))
    assert perfect.value == perfect.high == 1
    assert perfect.low == pytest.approx(0.025 ** (1 / 20))
    (inverted,) = estimate_auroc(kernel(-labels.double(), labels, groups))
    assert (inverted.low, inverted.high) == (0, pytest.approx(1 - 0.025 ** (1 / 20)))
    (silent,) = estimate_auroc(kernel(torch.zeros(120), labels, groups))
    assert (silent.value, silent.low, silent.high) == (0.5, 0.5, 0.5)


def test_groups_without_one_of_the_labels(rng):
    groups = [f"g{i // 4}" for i in range(40)]
    labels = torch.tensor([i // 4 % 2 == 0 for i in range(40)])
    (found,) = estimate_auroc(kernel(torch.from_numpy(rng.standard_normal(40)), labels, groups))
    assert found.low is not None and found.low < found.value < found.high
    only_one = torch.tensor([i < 4 for i in range(40)])
    made = kernel(torch.from_numpy(rng.standard_normal(40)), only_one, groups)
    (bare,) = estimate_auroc(made)
    assert (bare.low, bare.high, bare.n_groups) == (None, None, 10)
    with pytest.raises(AuditError, match="every row of a label"):
        made.deleted()
    # Draws that miss the only positive group keep the value instead of becoming NaN.
    assert made.auroc(bootstrap_weights(10, 200, rng)).isfinite().all()


def test_bad_rows_are_refused():
    labels, groups = design(4, PAIRS)
    with pytest.raises(AuditError, match="not finite"):
        kernel(torch.full((24,), float("nan")), labels, groups)
    with pytest.raises(AuditError, match="one label"):
        kernel(torch.zeros(24), torch.zeros(24, dtype=torch.bool), groups)
    with pytest.raises(AuditError, match="two folds"):
        kernel(torch.zeros(24), labels, groups, np.arange(24) % 2)


def test_generators_depend_on_the_analysis_alone():
    first = seed_of(0, "probe_transfer", "deception", "L3").random(3)
    np.testing.assert_array_equal(first, seed_of(0, "probe_transfer", "deception", "L3").random(3))
    others = [seed_of(1, "probe_transfer", "deception", "L3"), seed_of(0, "probe_transferdeception", "L3")]
    assert all(other.random() != first[0] for other in others)


def test_flips_keep_twins_together(rng):
    names = ["b", "a", "b", "a", "c"]
    coins = flips(names, 4000, rng)
    assert torch.equal(coins[:, 0], coins[:, 2]) and torch.equal(coins[:, 1], coins[:, 3])
    assert coins.double().mean(0).sub(0.5).abs().max() < 0.05
    again = flips(names[::-1], 50, np.random.default_rng(1))
    assert torch.equal(again.flip(1), flips(names, 50, np.random.default_rng(1)))


def test_permutation_p_is_uniform_under_the_null_and_small_for_a_planted_trait(rng):
    labels, groups = design(20, PAIRS)
    pairs = [str(i // 2) for i in range(len(labels))]
    null = labels ^ flips(pairs, 199, rng)
    scores = noise(rng, (300,), 20)
    observed, drawn = auroc(scores, labels), auroc(scores, null[:, None])
    p = permutation_p(observed, drawn)
    assert 0.02 <= (p <= 0.05).double().mean() <= 0.085
    planted = scores + labels
    assert (permutation_p(auroc(planted, labels), auroc(planted, null[:, None])) <= 0.05).double().mean() > 0.99
    assert permutation_p(torch.tensor(0.5), torch.full((9,), 0.5)) == 1
