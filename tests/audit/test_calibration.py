"""Planted pairs: each clear plant gets its verdict, angles are those of S², and known truths are held."""

from __future__ import annotations

import pytest
import torch

from audit.calibration.coverage import STATISTICS, covered, draw
from audit.calibration.plants import KINDS, Planted, elsewhere
from audit.calibration.synthetic import Sample, noise_root, words
from audit.calibration.trial import trial
from audit.plan import plan_of
from audit.resampling import seed_of
from audit.shared_share import metric_factor

PLAN = plan_of({"effort": "glance"})
CLEAR = {"turn": 90.0, "offset": 2.0, "gain": 6.0, "extra": 1.0, "hidden": 1.0}
"""An effect for each kind that has one, at which the table has one answer."""


@pytest.mark.parametrize("spectrum", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_clear_plant_gets_its_verdict(kind, spectrum):
    planted = Planted(kind, CLEAR.get(kind, 0.0), sample=Sample(spectrum=spectrum))
    found = [trial(planted, PLAN, number).verdict for number in range(3)]
    assert planted.expected is not None and found.count(planted.expected) >= 2, found


def test_no_effect_at_all_is_reused_under_every_kind():
    for kind, none in {"turn": 0.0, "offset": 0.0, "gain": 1.0, "extra": 0.0}.items():
        assert Planted(kind, none).expected == "reused"
    assert Planted("turn", 30.0).expected is None


def test_a_moved_threshold_is_clear_by_the_accuracy_that_it_loses():
    assert Planted("offset", 1.5, 2.0).loss == pytest.approx(0.1899, abs=1e-3)
    assert Planted("gain", 4.0, 3.0).loss == Planted("offset", 1.5, 3.0).loss
    assert [Planted("offset", 1.5, strength).expected for strength in (2.0, 5.0)] == ["reweighted", None]
    assert Planted("gain", 1.75).expected is None and Planted("hidden", 0.1).expected == "extended"


def test_a_trial_is_a_function_of_seed_plant_and_number():
    one, same, other = (Planted("turn", 20.0).pair(seed, 1).assistant.rows["post"] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("spectrum", [0.0, 1.5])
def test_elsewhere_is_as_long_and_out_of_sight(spectrum):
    rng = seed_of(0, "elsewhere")
    root = noise_root(Sample(width=20, spectrum=spectrum), rng)
    own = torch.from_numpy(rng.standard_normal(20)) @ root
    other, factor = elsewhere(own, root, rng), metric_factor(root.T @ root)
    ours, theirs = own @ factor, other @ factor
    assert float(ours @ theirs) == pytest.approx(0.0, abs=1e-9)
    assert float(ours.norm()) == pytest.approx(float(theirs.norm()))
    assert float(torch.linalg.solve(root.T @ root, own) @ other) == pytest.approx(0.0, abs=1e-9)


def test_the_words_of_a_planted_pair_say_nothing():
    found = words("story", 20, 2)
    assert float(found["tfidf.full"]) == 0.5 and float(found["length.full"]) == 0.5


def test_intervals_hold_known_truths_and_miss_wrong_ones():
    """A hundred draws: a coverage of 0.95 falls below 0.87 with chance 0.001; the whole claim is `calibrate`'s."""
    draws = [draw(Planted("turn", 20.0, 2.0, Sample(width=12, groups=20)), 3, number) for number in range(100)]
    for statistic in STATISTICS:
        hits, known, truth = covered(draws, statistic)
        assert known == 100 and hits >= 87, statistic
        if statistic == "S²":
            assert truth == pytest.approx(0.883, abs=0.02)
    wrong = [one._replace(truths={name: value + 0.3 for name, value in one.truths.items()}) for one in draws]
    assert all(covered(wrong, statistic)[0] < 50 for statistic in ("fixed probe", "paired difference", "S²"))
