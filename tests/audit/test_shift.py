"""Shift: energy against a plain loop, planted changes found where they were planted, and the trap of rank one."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import torch
from planted import STRENGTH, Plant, unit

from audit.comparisons.shift import Shift, energy, persona_axis
from audit.resampling import seed_of

TRAPS = 600


def finding(plant: Plant, seed: int = 0, draws: int = 100):
    return Shift(draws)(planted.pair(plant, seed), seed_of(seed, "shift"))


def test_energy_equals_a_plain_loop():
    judged = planted.pair(Plant(groups=7)).assistant
    change = torch.randn(len(judged.passages), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loop(names):
        of = {name: change[[i for i, group in enumerate(judged.groups) if group == name]] for name in names}
        means = {name: rows.mean(0) for name, rows in of.items()}
        whole = sum(rows.square().sum(1).mean() for rows in of.values()) / len(of)
        pairs = [means[g] @ means[h] for g in names for h in names if g != h]
        return whole, sum(pairs) / len(pairs)

    found, names = energy(judged, change), sorted(set(judged.groups))
    whole, constant = loop(names)
    assert torch.isclose(found.whole.full, whole) and torch.isclose(found.constant.full, constant)
    assert torch.isclose(found.context.full, whole - constant)
    for at, left in enumerate(names):
        whole, constant = loop([name for name in names if name != left])
        assert torch.isclose(found.whole.deleted[at], whole) and torch.isclose(found.constant.deleted[at], constant)


def test_the_constant_part_is_unbiased():
    judged = planted.pair(Plant(groups=6)).assistant
    draws = torch.Generator().manual_seed(1)
    noise = [torch.randn(len(judged.passages), 4, dtype=torch.float64, generator=draws) + 0.5 for _ in range(400)]
    found = torch.stack([energy(judged, change).constant.full for change in noise])
    assert abs(float(found.mean()) - 1.0) < 3 * float(found.std()) / 20
    plain = torch.stack([change.mean(0).square().sum() for change in noise])
    assert float(plain.mean()) - 1.0 > 3 * float(plain.std()) / 20


@pytest.mark.parametrize(("axis", "share"), [(0, 1.0), (1, 0.0)])
def test_an_offset_is_found_where_it_was_planted(axis, share):
    found = finding(Plant(chats=lambda rows: rows + 2.0 * unit(axis))).details
    assert found["share"]["constant"].value == pytest.approx(share, abs=0.02)
    assert found["parts"]["constant"].value == pytest.approx(1.0) and "context" in found["not_measured"]
    assert (found["p"]["constant"] <= 0.02) == (axis == 0)
    assert found["best"].value == pytest.approx(1.0)


def test_a_change_that_depends_on_context_is_told_from_a_constant_one():
    louder = finding(Plant(post=2 * STRENGTH * unit(0))).details
    assert louder["parts"]["context"].value == pytest.approx(1.0, abs=0.02) and "constant" in louder["not_measured"]
    assert louder["share"]["context"].value == pytest.approx(1.0, abs=0.02) and louder["p"]["context"] <= 0.02
    elsewhere = finding(Plant(post=STRENGTH * unit(0) + STRENGTH * unit(5))).details
    assert elsewhere["share"]["whole"].value < 0.02 and elsewhere["p"]["whole"] > 0.02


def trap(seed):
    """A change of rank one along a random axis of the activations, as large as a passage's own persona reading."""
    made = planted.pair(Plant(), seed)
    rows, rng = made.assistant.rows["base"][0], np.random.default_rng(1_000 + seed)
    axis, amount = torch.from_numpy(rng.standard_normal(len(rows))) @ (rows - rows.mean(0)), rows @ persona_axis(made)
    axis = axis / axis.norm()
    made.assistant.rows["post"] = (rows + amount[:, None] * axis)[None]
    return made, amount


def test_a_change_of_rank_one_along_a_random_axis_is_no_evidence():
    """Any direction predicts it: correlations are near one, and yet a share says nothing more often than it may."""
    correlations, ps = [], []
    for seed in range(TRAPS):
        made, amount = trap(seed)
        change = made.assistant.rows["post"][0] - made.assistant.rows["base"][0]
        noisy = change + 0.05 * change.std() * torch.randn(change.shape, dtype=torch.float64,
                                                           generator=torch.Generator().manual_seed(seed))  # fmt: skip
        along = noisy @ persona_axis(made)
        correlations.append(abs(float(torch.corrcoef(torch.stack([along, amount]))[0, 1])))
        ps.append(Shift(100)(made, seed_of(seed, "shift")).p)
    assert np.median(correlations) > 0.9
    # 600 draws of a p that may be below 0.05 in one of twenty: 44 or more have chance 0.01.
    assert sum(p <= 0.05 for p in ps) < 44


def test_the_same_change_along_the_persona_is_evidence():
    made, amount = trap(0)
    rows = made.assistant.rows["base"][0]
    made.assistant.rows["post"] = (rows + amount[:, None] * persona_axis(made))[None]
    assert Shift(100)(made, seed_of(0, "shift")).p == pytest.approx(1 / 101)


def test_nothing_moved_where_post_is_base():
    found = finding(Plant())
    assert found.status == "not_measured" and "nothing moved" in str(found.reason)
