"""Moments: any way of cutting the rows gives the moments of all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.moments import Moments


def rows_of(n: int, d: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=generator, dtype=torch.float64) @ torch.diag(torch.arange(1.0, d + 1).double())
        + offset
    )


@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_batches_and_merges_equal_all_at_once(cuts: list[int], seed: int) -> None:
    rows = rows_of(40, 5, seed)
    edges = [0, *sorted(cuts), 40]
    parts = [rows[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    streamed, merged = Moments.empty(5), Moments.empty(5)
    for part in parts:
        streamed.update(part)
        merged.merge(Moments.empty(5).update(part))
    for moments in (streamed, merged):
        assert moments.count == 40
        torch.testing.assert_close(moments.mean, rows.mean(0), rtol=0, atol=1e-12)
        torch.testing.assert_close(moments.covariance, rows.T.cov(), rtol=1e-12, atol=1e-12)


def test_a_large_mean_does_not_drown_the_covariance() -> None:
    rows = rows_of(2000, 3, offset=1e6)
    moments = Moments.empty(3)
    for part in rows.split(64):
        moments.update(part)
    torch.testing.assert_close(moments.covariance, rows_of(2000, 3).T.cov(), rtol=1e-6, atol=1e-6)
    # Control: the textbook difference of squares, in the float32 a model gives, is lost altogether.
    single = rows.float()
    naive = (single.T @ single) / 2000 - torch.outer(single.mean(0), single.mean(0))
    assert (naive.double() - moments.covariance).abs().max() > 100


def test_low_precision_rows_are_summed_in_float64() -> None:
    rows = rows_of(300, 4).bfloat16()
    moments = Moments.empty(4).update(rows)
    assert moments.mean.dtype == moments.scatter.dtype == torch.float64
    torch.testing.assert_close(moments.mean, rows.double().mean(0), rtol=0, atol=1e-12)


def test_merging_leaves_the_other_as_it_was() -> None:
    other = Moments.empty(2).update(rows_of(5, 2))
    before = other.mean.clone(), other.scatter.clone(), other.count
    Moments.empty(2).merge(other).update(rows_of(7, 2))
    assert torch.equal(other.mean, before[0]) and torch.equal(other.scatter, before[1]) and other.count == before[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_rows_are_refused_and_change_nothing(bad: float) -> None:
    moments = Moments.empty(2).update(rows_of(5, 2))
    mean = moments.mean.clone()
    rows = rows_of(4, 2)
    rows[2, 1] = bad
    with pytest.raises(AuditError, match="Row 2 of 4"):
        moments.update(rows)
    assert moments.count == 5 and torch.equal(moments.mean, mean)


def test_refusals() -> None:
    with pytest.raises(AuditError, match="1 rows"):
        _ = Moments.empty(2).update(rows_of(1, 2)).covariance
    with pytest.raises(ValueError, match=r"expected \[row, 2\]"):
        Moments.empty(2).update(rows_of(3, 4))
    with pytest.raises(ValueError, match="width"):
        Moments.empty(2).merge(Moments.empty(3))
    assert Moments.empty(2).update(rows_of(0, 2)).count == 0
