"""Readings refitted on the rows they are judged on: whose deletion is whose, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grouped import NOMINAL, PAIRS, coverage, design, mass_mean, noise

from audit import refitting
from audit.estimate import jackknife
from audit.refitting import ceiling, fixed, once, ratio_once, refit_deletions
from audit.resampling import auroc
from probes.split import folds as deal


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def by_hand(rows, labels, fold, keep, taught):
    """Mean within-fold AUROC of the kept rows, each fold judged by a fit on the taught rows of the others."""
    areas = []
    for f in range(4):
        train, test = torch.from_numpy(taught & (fold != f)), torch.from_numpy(keep & (fold == f))
        vector = mass_mean(rows, labels, train[None].double())[:, 0]
        areas.append(auroc(torch.einsum("ld,lrd->lr", vector, rows[:, test]), labels[test]))
    return torch.stack(areas).mean(0)


def test_a_deletion_is_no_longer_judged_and_no_longer_learnt_from_each_by_its_share(rng):
    labels, groups = design(12, PAIRS)
    fold = deal(groups, 4, rng)
    rows = torch.from_numpy(rng.standard_normal((2, len(groups), 6)))
    rows[:, labels] += 0.4
    made, every = ceiling(rows, labels, groups, fold, mass_mean), np.ones(len(groups), bool)
    torch.testing.assert_close(made.full, by_hand(rows, labels, fold, every, every))
    judged, learnt, found = [], [], []
    for index, name in enumerate(sorted(set(groups))):
        keep = np.array(groups) != name
        kept = by_hand(rows, labels, fold, keep, every)
        judged.append(kept - made.full)
        learnt.append(by_hand(rows, labels, fold, keep, keep) - kept)
        found.append(made.deleted[index] - made.full)
    for layer in range(2):
        parts = torch.stack([torch.stack(judged)[:, layer], torch.stack(learnt)[:, layer]], 1)
        shares, left, *_ = np.linalg.lstsq(parts.numpy(), torch.stack(found)[:, layer].numpy())
        assert left.sum() < 1e-20
        stratum = ((1 - 1 / 3) / (1 - 1 / 12)) ** 0.5
        assert 0.5**0.5 - 1e-9 <= shares[0] / stratum <= 1 + 1e-9 and -1e-9 <= shares[1] <= 1 + 1e-9
    plan = refit_deletions(groups, fold)
    assert len(plan.fold) == 4 + 12 * 3
    assert not (plan.train & (torch.from_numpy(fold) == plan.fold[:, None])).any()


def test_what_halves_agree_on_stays_and_what_they_do_not_goes(rng):
    labels, groups = design(12, PAIRS)
    own = fixed(noise(rng, (), 12) + labels, labels, groups, deal(groups, 4, rng))
    learnt, left = torch.from_numpy(0.01 * rng.standard_normal(12)), torch.arange(12)
    effects = own.effects._replace(learnt=learnt)
    alike = once(own.full, effects, [(left, torch.stack([learnt, learnt]))])
    apart = once(own.full, effects, [(left, torch.stack([learnt, -learnt.flip(0)]))])
    lacking = once(own.full, effects, [(left, None)])
    torch.testing.assert_close(alike, lacking)
    torch.testing.assert_close(alike - own.deleted, learnt)
    assert float((apart - alike + learnt).square().sum()) < float(learnt.square().sum())


@pytest.mark.parametrize("n_groups", [20, 40])
def test_refitted_ceiling_and_its_ratio_cover(n_groups, monkeypatch):
    replicates, d = 600, 6
    rng = np.random.default_rng(3)
    labels, groups = design(n_groups, PAIRS)
    fold = deal(groups, 5, rng)
    rows = noise(rng, (replicates, d), n_groups).mT.contiguous()
    rows[..., 0] += 1.6 * labels
    top = ceiling(rows, labels, groups, fold, mass_mean)
    frozen = torch.tensor([0.8, 0.6, 0, 0, 0, 0], dtype=torch.float64)
    reading = fixed(rows @ frozen, labels, groups, fold)
    slope = 1 / (top.full - 0.5)
    rho = (reading.full - 0.5) * slope
    deleted, _ = ratio_once(rho, reading.effects, top.effects, slope)
    assert NOMINAL[0] <= coverage(jackknife(top.full, top.deleted), top.full.mean().item()) <= NOMINAL[1]
    held = coverage(jackknife(rho, deleted, scale="identity"), rho.mean().item())
    assert NOMINAL[0] <= held <= NOMINAL[1]
    apart = (reading.full - 0.5 + reading.effects.judged) / (top.full - 0.5 + top.effects.judged + top.effects.learnt)
    # The controls: the plain jackknife, which counts interactions twice.
    assert coverage(jackknife(rho, apart, scale="identity"), rho.mean().item()) > held
    stratum = ((1 - 5 / n_groups) / (1 - 1 / n_groups)) ** 0.5
    monkeypatch.setattr(
        refitting, "once", lambda full, effects, taught: full + effects.judged / stratum + effects.learnt
    )
    plain = ceiling(rows, labels, groups, fold, mass_mean)
    assert coverage(jackknife(plain.full, plain.deleted), plain.full.mean().item()) > NOMINAL[1]
