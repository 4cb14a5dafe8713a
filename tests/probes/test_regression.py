"""Batched logistic regression: the optimum of scikit-learn, in primal and dual alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from probes import regression
from probes.digest import AuditError
from probes.regression import _Dual, _newton, _Primal, choose_strength, logistic, logistic_scores

N = 70
LABELS = torch.arange(N) % 5 < 2
STRENGTHS = torch.tensor([10.0, 1e-3, 0.1], dtype=torch.float64)
WEIGHT = torch.stack([torch.arange(N) % 7 != k for k in range(3)] + [torch.arange(N) < 50]).double()


def rows(d: int, layers: int = 2, pull: float = 0.5) -> torch.Tensor:
    source = torch.Generator().manual_seed(d)
    found = torch.randn(layers, N, d, generator=source, dtype=torch.float64)
    found[:, LABELS, 0] += pull * 4
    return found * torch.logspace(1, -2, d, dtype=torch.float64) + 5


@pytest.mark.parametrize("d", [10, 49, 200])
def test_equals_scikit_learn(d: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = rows(d)
    x[..., 4] = 2.5
    found = logistic(x, LABELS, WEIGHT, STRENGTHS)
    assert found.vector.shape == (2, 4, 3, d) and found.bias.shape == (2, 4, 3)
    for layer in range(2):
        for fit, weight in enumerate(WEIGHT.bool().numpy()):
            y = LABELS.numpy()[weight]
            scaler = StandardScaler().fit(x[layer].numpy()[weight])
            z = scaler.transform(x[layer].numpy())
            for at, strength in enumerate(STRENGTHS.tolist()):
                model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(z[weight], y)
                expected = model.decision_function(z)
                logits = x[layer] @ found.vector[layer, fit, at] + found.bias[layer, fit, at]
                np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [20, 140])
def test_primal_and_dual_agree(d: int) -> None:
    x = rows(d)
    x = x - x.mean(1, keepdim=True)
    present = torch.ones(2, N, dtype=torch.bool)
    present[1, 60:] = False
    x = x * present[..., None]
    labels = LABELS.expand(2, N)
    for strength in (1e-3, 1.0, 100.0):
        primal, dual = _Primal(x, labels, present), _Dual(x @ x.mT, labels, present)
        w, b = _newton(primal, *primal.start(), strength)
        alpha, c = _newton(dual, *dual.start(), strength)
        torch.testing.assert_close((alpha[:, None] @ x)[:, 0], w, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(c, b, rtol=1e-5, atol=1e-5)


def test_recovers_a_planted_slope_and_finds_none_in_noise() -> None:
    source = torch.Generator().manual_seed(3)
    x = torch.randn(20_000, 3, generator=source, dtype=torch.float64)
    chance = torch.sigmoid(x @ torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64) + 0.5)
    labels = torch.rand(len(x), generator=source, dtype=torch.float64) < chance
    everyone, strength = torch.ones(1, len(x)), torch.tensor([1e3])
    found = logistic(x, labels, everyone, strength)
    torch.testing.assert_close(found.vector[0, 0], torch.tensor([2.0, -1.0, 0.0]).double(), atol=0.1, rtol=0)
    assert float(found.bias) == pytest.approx(0.5, abs=0.1)
    shuffled = labels[torch.randperm(len(x), generator=source)]
    assert float(logistic(x, shuffled, everyone, strength).vector.norm()) < 0.1


def test_settles_where_the_classes_part_completely() -> None:
    x = rows(200, pull=50)
    found = logistic(x, LABELS, torch.ones(1, N), torch.tensor([1e4, 1e-6]))
    logits = torch.einsum("lrd,lfsd->lfsr", x, found.vector) + found.bias[..., None]
    assert bool(torch.isfinite(logits).all())
    assert bool(((logits[:, :, 0] > 0) == LABELS).all())


def test_strength_is_chosen_on_training_rows_alone() -> None:
    strengths = torch.tensor([1e-5, 1e-2, 1e2])
    groups = [str(i // 5) for i in range(N)]
    x = rows(60, layers=3)
    x[1] = x[1, :, 1:].mean()  # nothing to learn: the strongest regularisation is as good as any
    weight = WEIGHT[3:]
    chosen = choose_strength(x, LABELS, weight, groups, strengths, np.random.default_rng(0))
    assert chosen.shape == (3, 1) and int(chosen[0]) > 0 and int(chosen[1]) == 0
    spoiled, labels = x.clone(), LABELS.clone()
    spoiled[:, 50:] = 1e3
    labels[50:] = ~labels[50:]
    again = choose_strength(spoiled, labels, weight, groups, strengths, np.random.default_rng(0))
    assert torch.equal(chosen, again)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(AuditError, match="positive"):
        logistic(rows(5), LABELS, WEIGHT, torch.tensor([0.0]))
    with pytest.raises(AuditError, match="both labels"):
        logistic(rows(5), torch.ones(N, dtype=torch.bool), WEIGHT, STRENGTHS)


def lacking(count: int) -> torch.Tensor:
    """Fits on all rows but one run of so many, and one on half of them."""
    runs = [(torch.arange(N) < at) | (torch.arange(N) >= at + count) for at in range(0, N - count, 9)]
    return torch.stack([*runs, torch.arange(N) % 2 == 0]).double()


@pytest.mark.parametrize("d", [10, 200])
@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_scores_from_inner_products_equal_scikit_learn_however_few_rows_a_fit_lacks(d: int, strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    x = rows(d)[0]
    x = x / x.norm(dim=1, keepdim=True)
    weight = torch.cat([lacking(count) for count in (1, 4, 20)])
    found = logistic_scores(x @ x.T, LABELS, weight, strength)
    for score, mask in zip(found, weight.bool().numpy(), strict=True):
        model = LogisticRegression(C=strength, tol=1e-12, max_iter=10_000).fit(x.numpy()[mask], LABELS.numpy()[mask])
        np.testing.assert_allclose(score, model.decision_function(x.numpy()), atol=2e-5)


def test_fits_that_lack_few_rows_take_no_newton_iteration_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []

    def counted(problem: _Dual, *rest: Any) -> Any:
        fits.append(len(problem.labels))
        return _newton(problem, *rest)

    monkeypatch.setattr(regression, "_newton", counted)
    x = rows(200)[0]
    x, weight = x / x.norm(dim=1, keepdim=True), lacking(3)
    found = logistic_scores(x @ x.T, LABELS, weight, 1.0)
    assert fits == [1, 1]  # the one on all rows, and the one on half of them
    monkeypatch.setattr(regression, "FEW", N + 1)
    torch.testing.assert_close(logistic_scores(x @ x.T, LABELS, weight, 1.0), found, atol=1e-7, rtol=0)
    assert fits == [1, 1, len(weight)]


def test_a_fit_that_goes_astray_is_left_to_newton() -> None:
    """Rows far apart, hardly a penalty: probabilities are 0 or 1, and no curvature is left to step by."""
    x = rows(200)[0] * 1e3
    weight = lacking(3)
    found = logistic_scores(x @ x.T, LABELS, weight, 1e3)
    assert torch.isfinite(found).all()
    for score, mask in zip(found, weight.bool(), strict=True):
        assert torch.equal(score[mask] > 0, LABELS[mask])
