from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.split import folds, halves

GROUPS = st.lists(st.sampled_from([f"g{i}" for i in range(12)]), min_size=12, max_size=80)
SEEDS = st.integers(0, 2**32 - 1)


@given(GROUPS, st.integers(2, 5), SEEDS)
def test_groups_stay_whole_and_folds_are_filled(groups: list[str], k: int, seed: int) -> None:
    if len(set(groups)) < k:
        return
    fold = folds(groups, k, np.random.default_rng(seed))
    assert set(fold) == set(range(k))
    assert len(set(zip(groups, fold, strict=True))) == len(set(groups))
    rows = np.bincount(fold, minlength=k)
    assert rows.max() - rows.min() <= max(groups.count(group) for group in groups)


@given(GROUPS, SEEDS)
def test_a_seed_gives_one_answer_in_any_order_of_rows(groups: list[str], seed: int) -> None:
    if len(set(groups)) < 3:
        return
    one = dict(zip(groups, folds(groups, 3, np.random.default_rng(seed)), strict=True))
    backwards = groups[::-1]
    assert dict(zip(backwards, folds(backwards, 3, np.random.default_rng(seed)), strict=True)) == one


def test_other_seeds_give_other_folds() -> None:
    groups = [f"g{i // 4}" for i in range(80)]
    drawn = {tuple(folds(groups, 5, np.random.default_rng(seed))) for seed in range(20)}
    assert len(drawn) > 15
    assert all((np.bincount(fold) == 16).all() for fold in drawn)


def test_halves_are_balanced_and_each_group_visits_both() -> None:
    groups = [f"g{i // 2}" for i in range(40)]
    drawn = np.array([halves(groups, np.random.default_rng(seed)) for seed in range(200)])
    assert (drawn.sum(1) == 20).all()
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.15
    assert (drawn[:, ::2] == drawn[:, 1::2]).all()


@pytest.mark.parametrize(("groups", "k"), [(["a", "b"], 3), (["a", "b"], 1), ([], 2)])
def test_too_few_groups_are_refused(groups: list[str], k: int) -> None:
    with pytest.raises(AuditError, match="groups for"):
        folds(groups, k, np.random.default_rng(0))
