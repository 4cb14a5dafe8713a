from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from audit.multiplicity import benjamini_hochberg, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(deadline=None)
@given(P_VALUES)
def test_benjamini_hochberg_is_scipys(p):
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), atol=1e-12)


@settings(deadline=None)
@given(P_VALUES)
def test_adjusted_values_keep_the_order_and_only_grow(p):
    for adjusted in (holm(p), benjamini_hochberg(p)):
        assert all(0 <= raw <= new <= 1 for raw, new in zip(p, adjusted, strict=True))
        order = np.argsort(p, kind="stable")
        assert np.all(np.diff(np.array(adjusted)[order]) >= 0)
    assert all(b <= h + 1e-15 for b, h in zip(benjamini_hochberg(p), holm(p), strict=True))


def test_holm_keeps_the_family_wise_error_that_raw_values_break():
    p = np.random.default_rng(0).random((4000, 8))
    raw = (p <= 0.05).any(1).mean()
    family = np.mean([min(holm(row)) <= 0.05 for row in p.tolist()])
    assert raw > 0.3 and 0.04 <= family <= 0.06


def test_empty_and_impossible():
    assert holm([]) == benjamini_hochberg([]) == []
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="p-value"):
            holm([0.5, bad])
