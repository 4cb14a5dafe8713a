"""LDA from one eigendecomposition: equal to fits from scratch, to scikit-learn, and blind to no label."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.discriminant import lda, lda_null, lda_scores, ledoit_wolf

N = 60
GROUP = torch.arange(N) // 2
FOLD = GROUP % 5
LABELS = torch.arange(N) % 2 == 0


def rows(d: int, layers: int = 2, n: int = N) -> torch.Tensor:
    source = torch.Generator().manual_seed(d)
    scale = torch.logspace(1, -1, d, dtype=torch.float64)
    found = torch.randn(layers, n, d, generator=source, dtype=torch.float64) * scale + 30
    found[:, torch.arange(n) % 2 == 0] += 0.5 * scale.flip(0)
    return found


def deletions() -> torch.Tensor:
    """Every fold's training rows, then the same less each group."""
    deleted = torch.arange(-1, N // 2)
    keep = (FOLD[None] != torch.arange(5)[:, None])[None] & (GROUP[None] != deleted[:, None])[:, None]
    return keep.reshape(-1, N).double()


def from_scratch(x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, shrinkage: float | str) -> torch.Tensor:
    from sklearn.covariance import ledoit_wolf as reference

    x, labels = x[weight.bool()], labels[weight.bool()]
    g = reference(x.numpy())[1] if shrinkage == "auto" else shrinkage
    total = torch.cov(x.T)
    ridged = (1 - g) * total + g * total.trace() / len(total) * torch.eye(len(total), dtype=x.dtype)
    vector = torch.linalg.solve(ridged, x[labels].mean(0) - x[~labels].mean(0))
    return vector / vector.norm()


@pytest.mark.parametrize("d", [8, 47, 48, 49, 120])
@pytest.mark.parametrize("shrinkage", ["auto", 0.1, 1.0])
def test_downdated_fits_equal_fits_from_scratch(d: int, shrinkage: float | str) -> None:
    x, weight = rows(d), deletions()
    expected = torch.stack([torch.stack([from_scratch(layer, LABELS, w, shrinkage) for w in weight]) for layer in x])
    for some in (slice(None), slice(0, 5), slice(5, None), slice(7, 8)):
        torch.testing.assert_close(lda(x, LABELS, weight[some], shrinkage), expected[:, some], rtol=0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 9))
def test_any_masks_in_any_order(seed: int, d: int, fits: int) -> None:
    source = torch.Generator().manual_seed(seed)
    weight = (torch.rand(fits, N, generator=source) < torch.rand(fits, 1, generator=source)).double()
    weight[:, :8] = 1
    expected = torch.stack([from_scratch(rows(d)[0], LABELS, w, "auto") for w in weight])
    torch.testing.assert_close(lda(rows(d)[0], LABELS, weight), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("d", [8, 120])
def test_shrinkage_equals_scikit_learn(d: int) -> None:
    from sklearn.covariance import ledoit_wolf as reference

    found = ledoit_wolf(rows(d), deletions())[1]
    expected = [reference(rows(d)[1][w.bool()].numpy())[1] for w in deletions()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("d", [10, 100])
def test_total_covariance_gives_the_direction_of_within_class_covariance(d: int) -> None:
    """Sherman-Morrison: with the same absolute ridge, scikit-learn's within-class LDA has the same direction."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, g = rows(d)[0], 0.2
    centred = x - torch.where(LABELS[:, None], x[LABELS].mean(0), x[~LABELS].mean(0))
    within, total = centred.square().sum(), (x - x.mean(0)).square().sum()
    ridge = float(g / (1 - g) * total / within)
    matched = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=ridge / (1 + ridge)).fit(x.numpy(), LABELS.numpy())
    expected = torch.as_tensor(matched.coef_[0])
    found = lda(x, LABELS, torch.ones(1, N), g)[0]
    torch.testing.assert_close(found, expected / expected.norm(), rtol=0, atol=1e-9)
    # The control: the same shrinkage *share* is another ridge, and another direction.
    naive = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=g).fit(x.numpy(), LABELS.numpy())
    other = torch.as_tensor(naive.coef_[0])
    assert (found - other / other.norm()).abs().max() > 1e-4


def test_the_null_refits_every_draw_on_the_other_folds() -> None:
    x = rows(100)
    source = torch.Generator().manual_seed(0)
    draws = torch.stack([LABELS, ~LABELS, LABELS[torch.randperm(N, generator=source)]])
    scores = lda_null(x, draws, FOLD)
    assert scores.shape == (2, 3, N)
    for layer in range(2):
        for draw in range(3):
            for fold in range(5):
                vector = from_scratch(x[layer], draws[draw], fold != FOLD, "auto")
                expected, found = x[layer][fold == FOLD] @ vector, scores[layer, draw, fold == FOLD]
                # Up to origin and a positive scale.
                assert float(torch.corrcoef(torch.stack([expected, found]))[0, 1]) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(scores[:, 1], -scores[:, 0])


def test_observed_labels_stand_out_of_the_null_and_a_random_labelling_does_not() -> None:
    x = rows(30, n=400)[0]
    fold, labels = torch.arange(400) // 2 % 5, torch.arange(400) % 2 == 0
    source = torch.Generator().manual_seed(2)
    flip = (torch.rand(100, 200, generator=source) < 0.5).repeat_interleave(2, 1)
    scores = lda_null(x, torch.cat([labels[None], labels ^ flip]), fold)

    def gap(draw: torch.Tensor, of: torch.Tensor) -> float:
        return float(of[draw].mean() - of[~draw].mean()) / float(of.std())

    null = [gap(labels ^ f, s) for f, s in zip(flip, scores[1:], strict=True)]
    assert gap(labels, scores[0]) > max(null)
    assert sum(value >= null[0] for value in null) > 1


def test_scores_of_other_rows_follow_the_fitted_direction() -> None:
    x, other = rows(100), rows(100).flip(0) * 2
    weight = deletions()[[0, 7]]
    scores = lda_scores(x, LABELS[None], weight, other)
    assert scores.shape == (2, 2, 1, N)
    direct = torch.einsum("lrd,lfd->lfr", other, lda(x, LABELS, weight))
    for layer in range(2):
        for fit in range(2):
            pair = torch.stack([direct[layer, fit], scores[layer, fit, 0]])
            assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(1, abs=1e-9)


def test_a_draw_with_one_class_scores_zero() -> None:
    scores = lda_null(rows(10), torch.stack([LABELS, torch.ones(N, dtype=torch.bool)]), FOLD)
    assert bool(torch.isfinite(scores).all()) and not bool(scores[:, 1].any())


def test_shrinkage_that_cannot_be_is_refused() -> None:
    for shrinkage, complaint in ((1.5, "shrinkage 1.5"), (-0.1, "shrinkage -0.1"), (0.0, "more rows than dimensions")):
        with pytest.raises(AuditError, match=complaint):
            lda(rows(100), LABELS, torch.ones(1, N), shrinkage)
    assert lda(rows(10), LABELS, torch.ones(1, N), 0.0).shape == (2, 1, 10)
