"""Each verdict of the table is reached from activations in which exactly that was planted."""

from __future__ import annotations

import planted
import pytest
import torch
from planted import STRENGTH, WIDTH, Plant, basis, turn, unit

from audit.comparisons.erasure import Erasure
from audit.comparisons.geometry import Geometry, debiased_cka
from audit.comparisons.probe_transfer import ProbeTransfer
from audit.plan import Plan
from audit.resampling import seed_of
from audit.verdict import judge_all

ZERO = torch.zeros(WIDTH, dtype=torch.float64)
TURN = basis()
PLANTS = {
    "nothing": (Plant(), "reused", None),
    "ten degrees": (Plant(post=turn(10)), "reused", None),
    "an offset in chats": (Plant(chats=lambda rows: rows + 3.0 * unit(0)), "reweighted", None),
    "another basis": (Plant(everywhere=lambda rows: rows @ TURN), "rotated", None),
    "the sign turned": (Plant(post=-STRENGTH * unit(0)), "rotated", "inverted"),
    "forty-five degrees": (Plant(post=turn(45)), "extended", None),
    "another direction in chats": (Plant(post=STRENGTH * unit(1)), "novel", "moved"),
    "only post has it": (Plant(base=ZERO), "novel", "acquired"),
    "only base has it": (Plant(post=ZERO), "lost", None),
    "nobody has it": (Plant(base=ZERO, post=ZERO), "absent", None),
    "too few groups": (Plant(groups=12), "inconclusive", None),
}


def findings(plant: Plant, seed: int = 0):
    made = planted.pair(plant, seed)
    comparisons = (ProbeTransfer(bootstrap=200, permutations=100, random_maps=20), Geometry(splits=4), Erasure())
    return [compare(made, seed_of(seed, compare.name)) for compare in comparisons]


def judged(plant: Plant, seed: int = 0):
    plan = Plan()
    return judge_all(findings(plant, seed), {"planted": True}, plan.margins, plan.family).verdicts[0]


@pytest.mark.parametrize("name", PLANTS)
def test_the_planted_verdict_is_given(name):
    plant, verdict, kind = PLANTS[name]
    found = judged(plant)
    assert (found.verdict, found.kind if kind else None) == (verdict, kind), found.sentence


def test_recolouring_counts_only_where_it_brings_the_direction_back():
    """At a large d' any direction reads: what T2 reads is no `reweighted` while S2 after it is turned."""
    probe, geometry, erasure = findings(PLANTS["another basis"][0])
    plan = Plan()

    def verdict(like):
        third, shared = probe.details["rho_third"], geometry.details["shared"]
        reads = probe.details | {"rho_third": third | {"T2": third["T3"]}}
        turned = geometry.details | {"shared": shared | {"T2": shared[like]}}
        changed = (probe.model_copy(update={"details": reads}), geometry.model_copy(update={"details": turned}))
        return judge_all([*changed, erasure], {"planted": True}, plan.margins, plan.family).verdicts[0].verdict

    assert verdict("T0") == "rotated" and verdict("T3") == "reweighted"


def test_a_missing_number_is_not_a_pass():
    plan = Plan()
    only_transfer = findings(Plant())[:1]
    found = judge_all(only_transfer, {"planted": True}, plan.margins, plan.family).verdicts[0]
    assert found.verdict == "not_measured" and "geometry" in found.sentence


def test_shuffled_labels_are_absent():
    """The same activations with coins for labels: nothing to carry."""
    found = judged(Plant(base=ZERO, post=ZERO), seed=3)
    assert found.verdict == "absent"


@pytest.mark.parametrize("logistic_null", [0, 20])
def test_every_kind_of_probe_stands_beside_a_null_of_its_own(logistic_null):
    compare = ProbeTransfer(bootstrap=50, permutations=50, logistic_null=logistic_null, random_maps=5)
    probes = compare(planted.pair(Plant(), 0), seed_of(0, compare.name)).details["probes"]
    kinds = ["lda", "mass_mean"] + (["logistic"] if logistic_null else [])
    assert [kind for kind in probes if "null" in probes[kind]] == [kind for kind in probes if kind in kinds]
    for kind in kinds:
        assert probes[kind]["null"].low < 0.5 < probes[kind]["null"].high < probes[kind]["post"].value


def test_a_model_against_itself_differs_by_exactly_nothing():
    transfer, geometry, _ = (finding.details for finding in findings(Plant()))
    assert transfer["rho"]["T0"] == transfer["rho"]["base"]
    assert (transfer["drift"].value, transfer["drift"].low, transfer["drift"].high) == (0, 0, 0)
    assert (geometry["shared"]["T0"].value, geometry["shared"]["T0"].low) == (1, 1)


def test_shared_share_sees_the_turn_that_auroc_does_not():
    transfer, geometry, _ = (finding.details for finding in findings(Plant(post=turn(45))))
    # d' = 4 / sqrt(1 + 1), scenario and noise; Phi(d' cos 45 / sqrt 2) = 0.921, Phi(d' / sqrt 2) = 0.977.
    assert transfer["ladder"]["T0"].value == pytest.approx(0.921, abs=0.04)
    assert geometry["shared"]["T0"].high < 0.75
    assert geometry["shared"]["T0"].value == pytest.approx(0.5, abs=0.12)


def test_maps_undo_a_global_turn_and_nothing_else():
    turned = findings(Plant(everywhere=lambda rows: rows @ TURN))[0].details
    assert turned["ladder"]["T3"].value > 0.98 and turned["ladder"]["T0"].value < 0.85
    moved = findings(Plant(post=STRENGTH * unit(1)))[0].details
    assert max(moved["ladder"][rung].value for rung in ("T2", "T3", "T4")) < 0.7


def test_an_offset_breaks_the_threshold_and_recentring_restores_it():
    found = findings(Plant(chats=lambda rows: rows + 3.0 * unit(0)))[0].details["frozen_accuracy"]
    assert found["difference"].high < -0.05
    assert found["T1"].low > -0.05


def test_erasing_base_leaves_what_moved_and_takes_what_stayed():
    same, moved = (findings(plant)[2].details for plant in (Plant(), Plant(post=STRENGTH * unit(1))))
    assert same["leak"].value < 0.75 < same["random"].value
    assert moved["leak"].value > 0.9


def test_random_directions_do_not_read_a_planted_one():
    assert findings(Plant())[0].details["specificity"] == 0.0


def test_the_null_stays_at_chance_and_the_planted_persona_does_not():
    carried = findings(Plant(post=ZERO))[0].details["carried"]
    assert carried["base"]["p"] < 0.02 < carried["post"]["p"]


def test_cka_is_one_for_itself_and_none_for_strangers():
    one, other = torch.randn(2, 300, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert debiased_cka(one, one) == pytest.approx(1.0)
    assert abs(debiased_cka(one, other)) < 0.05
