"""A calibration counts what its trials gave, on any number of processes, and its page says it first."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from scipy.stats import binomtest

from audit.calibration import campaign
from audit.calibration.campaign import Campaign, calibrate
from audit.calibration.ledger import Ledger
from audit.calibration.plants import Planted
from audit.calibration.redrawn import SCENARIOS, _dealt, redrawn
from audit.calibration.synthetic import Sample
from audit.calibration.tally import Calibration, Cell, Condition, Coverage, Judged, Rate, Redraws
from audit.organisms import card
from audit.pair import DOMAINS, choose
from audit.plan import plan_of
from audit.report.calibration import render, tables, write
from probes.digest import AuditError

PLAN = plan_of({"effort": "glance"})
SMALL = Sample(width=12, groups=40)
TINY = Campaign(
    ((Planted("nothing", 0.0, 5.0, SMALL), 6), (Planted("turn", 10.0, 5.0, SMALL), 4),
     (Planted("turn", 90.0, 5.0, SMALL), 4)),
    12, (Planted("turn", 20.0, 2.0, Sample(width=12, groups=20)),),
)  # fmt: skip


def cell(kind, effect, expected, verdicts, alarms=0, strength=3.0):
    where = Condition(kind=kind, effect=effect, strength=strength, width=32, groups=60, pairs=2, spectrum=0.0)
    return Cell.of(where, expected, verdicts, alarms)


SEEN = ((10.0, 2), (45.0, 9))


def calibration(*cells, organisms=(), redrawn=(), coverage=()):
    return Calibration(
        version="0", effort="glance", seed=0, development=1, seconds=1.0, cells=cells, coverage=coverage,
        organisms=organisms, redrawn=redrawn,
    )  # fmt: skip


@given(some.integers(1, 2_000).flatmap(lambda trials: some.tuples(some.integers(0, trials), some.just(trials))))
def test_a_rate_has_the_exact_interval_of_a_binomial(given_counts):
    count, trials = given_counts
    reference = binomtest(count, trials).proportion_ci(0.95, method="exact")
    found = Rate.of(count, trials)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(("count", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_a_rate_of_nothing_is_refused(count, trials):
    with pytest.raises(ValueError, match=f"{count} of {trials}"):
        Rate.of(count, trials)


def test_only_trials_with_nothing_planted_make_false_alarms():
    found = calibration(
        cell("nothing", 0.0, "reused", ["reused"] * 8 + ["lost", "reweighted"], alarms=1),
        cell("lost", 0.0, "lost", ["lost"] * 10, alarms=10),
    )
    assert (found.false_alarms.count, found.false_alarms.trials) == (1, 10)
    assert (found.false_changes.count, found.false_changes.trials) == (2, 10)
    assert found.confusion == {"reused": {"lost": 1, "reused": 8, "reweighted": 1}, "lost": {"lost": 10}}


def test_the_smallest_detectable_effect_is_the_first_that_four_trials_in_five_saw():
    def turned(effect, seen, strength):
        return cell("turn", effect, None, ["extended"] * seen + ["reused"] * (10 - seen), strength=strength)

    found = calibration(
        turned(60.0, 10, 3.0), turned(30.0, 8, 3.0), turned(10.0, 7, 3.0), turned(10.0, 1, 2.0), turned(60.0, 7, 2.0)
    )
    sizes = [(one.strength, one.effect, one.largest, one.trials) for one in found.detectable]
    assert sizes == [(3.0, 30.0, 60.0, 10), (2.0, None, 60.0, 10)]
    # Of 10 trials 7 may be 0.8 of many, and not even 10 show it (0.69 and more).
    assert [str(one) for one in found.detectable] == [
        "30 [10, more than 60]", "more than 60 [60, more than 60]"
    ]  # fmt: skip
    assert found.confusion == {}


def test_undecided_trials_saw_nothing():
    assert cell("turn", 45.0, "extended", ["inconclusive", "not_measured", "reused", "extended"]).seen.count == 1


def test_what_is_faint_has_no_verdict_to_get_and_absent_is_no_change():
    assert Planted("nothing", 0.0, 1.0).expected is None
    faint = cell("nothing", 0.0, None, ["absent", "inconclusive", "reused", "lost"], alarms=1, strength=1.0)
    found = calibration(faint)
    assert (found.false_changes.count, found.false_alarms.count, found.confusion) == (1, 1, {})
    assert "| 1 | isotropic | absent 1, inconclusive 1, lost 1, reused 1 |" in tables(found)


def test_growth_seeds_are_counted_whole_and_need_no_trials():
    judged = [
        Judged(organism="faithful", seed=seed, persona=persona, expected="reused", given=given)
        for seed, persona, given in ((0, "a", "reused"), (0, "b", "reused"), (1, "a", "reused"), (1, "b", "lost"))
    ]
    found = calibration(organisms=judged)
    assert (found.by_organism["faithful"].count, found.by_organism["faithful"].trials) == (1, 2)
    assert "faithful 1 of 2." in tables(found) and "faithful 1 of 2." in render(found)
    assert "--seeds 2 --organism faithful`" in tables(found)


def test_an_unknown_organism_is_refused(setting):
    with pytest.raises(AuditError, match="'nobody'.*faithful"):
        calibrate(PLAN, setting=setting, organisms=["nobody"])


def simulated(workers, store):
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return campaign._simulated(TINY, PLAN, pool, False, Ledger.of(store))


def test_the_tally_is_the_same_on_any_number_of_processes(tmp_path):
    one, two = (simulated(workers, tmp_path / str(workers)) for workers in (1, 2))
    assert one == two
    nothing, small, whole = one[0]
    assert nothing.given.get("reused", 0) >= 4 and whole.given.get("novel", 0) >= 3 and small.seen.count <= 1
    assert {coverage.statistic for coverage in one[1]} >= {"fixed probe", "rho", "S²"}


@pytest.mark.slow
def test_a_calibration_judges_organisms_and_writes_its_page(tmp_path, setting, monkeypatch):
    monkeypatch.setitem(campaign.CAMPAIGNS, "glance", TINY)
    monkeypatch.setattr(card, "names", lambda: ["base", "erased"])
    found = calibrate(PLAN, setting=setting, workers=1)
    assert [(one.persona, one.given) for one in found.organisms] == [
        ("assistant_identity", "lost"), ("deception", "lost")
    ]  # fmt: skip
    assert found.wrong == ()
    page = write(found, tmp_path / "out").read_text()
    assert Calibration.model_validate_json((tmp_path / "out" / "calibration.json").read_text()) == found
    assert page.index("0 of 6") < page.index("Power") and "2 of 2" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page.split("<script")[0])


def test_draws_share_no_scenario_and_have_folds_and_a_site_of_their_own():
    _, _, whole = Planted("nothing", 0.0, 3.0, Sample(width=8, groups=3 * SCENARIOS)).parts(0, 0)
    dealt = list(_dealt(whole, 3))
    for domain in DOMAINS:
        parts = [pair.judged(domain) for pair in dealt]
        assert [part.n_groups for part in parts] == [SCENARIOS] * 3
        assert len({group for part in parts for group in part.groups}) == 3 * SCENARIOS
        assert len({part.fold.tobytes() for part in parts}) == 3
        for part in parts:
            assert len(set(zip(part.groups, part.fold.tolist(), strict=True))) == SCENARIOS
            held = [whole.judged(domain).passages.index(passage) for passage in part.passages[:4]]
            torch.testing.assert_close(part.rows["post"][:, :4], whole.judged(domain).rows["post"][:, held])
    assert all(pair.chosen == choose(pair.story) for pair in dealt)


@pytest.mark.slow
def test_personas_drawn_anew_are_judged_and_a_lost_persona_alarms(setting):
    one = redrawn(PLAN, "organism:null", 2, setting)
    assert [draw.alarmed for draw in one] == [False, False]
    assert all(draw.verdicts["assistant_identity"] == "reused" for draw in one)
    assert all(draw.verdicts["deception"] in ("reused", "inconclusive") for draw in one)
    assert redrawn(PLAN, "organism:null", 2, setting) == one
    # The control: where it is lost every draw says so.
    lost = redrawn(PLAN, "organism:erased", 2, setting)
    assert [draw.alarmed for draw in lost] == [True, True] and lost[0].verdicts["deception"] == "lost"


def test_draws_are_counted_by_model_and_stand_on_the_page():
    one = Redraws.of("null", 3, [{"a": "reused", "b": "lost"}, {"a": "reused", "b": "inconclusive"}], 1)
    assert (one.alarms.count, one.changed.count, one.changed.trials) == (1, 1, 2)
    assert one.given == {"a": {"reused": 2}, "b": {"inconclusive": 1, "lost": 1}}
    page = render(calibration(cell("nothing", 0.0, "reused", ["reused"] * 5), redrawn=(one,)))
    assert "b: inconclusive 1, lost 1" in page and "1 of 2" in page


@pytest.mark.parametrize("name", ["calibration", "seeds"])
def test_the_docs_show_the_bundled_record_and_nothing_else(name):
    docs = Path(__file__).parents[2] / "docs"
    found = Calibration.model_validate_json((docs / f"{name}.json").read_text(encoding="utf-8"))
    assert tables(found) == (docs / f"{name}.md").read_text(encoding="utf-8")
    assert found.effort == "thorough" and found.seed != found.development


def test_tables_tell_what_was_seen_and_what_is_not_covered():
    turned = [cell("turn", effect, None, ["extended"] * seen + ["reused"] * (10 - seen)) for effect, seen in SEEN]
    held = Coverage(statistic="rho", condition=turned[0].condition, truth=0.9, held=Rate.of(99, 100))
    told = tables(calibration(cell("nothing", 0.0, "reused", ["reused"] * 5), *turned, coverage=(held,)))
    assert "| direction turned | 10 angle in the metric of S² (degrees) | 0.20 [0.03, 0.56] |" in told
    assert "| **direction turned** | **smallest seen** | **45 [45, more than 45]** |" in told
    assert "| rho | direction turned 10 | 60 | 32 | 3 | 0.900 | 0.99 [0.95, 1.00] | outside |" in told


def test_a_wrong_organism_is_named_first():
    judged = Judged(organism="<faithful>", seed=3, persona="deception", expected="reused", given="novel")
    found = calibration(cell("nothing", 0.0, "reused", ["reused"] * 5), organisms=(judged,))
    assert found.wrong == (judged,)
    page = render(found)
    assert "0 of 1" in page and "&lt;faithful&gt; 3 deception: novel" in page and "<faithful>" not in page


def test_several_seeds_need_a_folder(setting):
    with pytest.raises(AuditError, match="a folder where there are several"):
        calibrate(PLAN, setting=setting, seeds=2)


def test_the_draws_that_chose_the_margins_are_not_reported(setting):
    with pytest.raises(AuditError, match="seed 1, on whose draws the margins were chosen"):
        calibrate(plan_of({"effort": "glance", "seed": 1}), setting=setting)


def test_other_samples_stand_apart():
    usual = [cell("turn", effect, None, ["reused"] * 4) for effect in (10.0, 45.0)]
    where = usual[1].condition.model_copy(update={"width": 768})
    # A strength that the usual sample was not tried at has a column of its own.
    where = where.model_copy(update={"strength": 5.0})
    wide = Cell.of(where, "extended", ["inconclusive"] * 3 + ["extended"], 0)
    nothing = cell("nothing", 0.0, "reused", ["reused"] * 4)
    found = calibration(nothing, *usual, wide)
    assert found.sized == (wide,) and found.alike == (nothing, *usual)
    assert [one.effect for one in found.detectable] == [None]
    page = render(found)
    assert "extended 1, inconclusive 3" in page.split("Other samples")[1].split("Expected and given")[0]


def test_an_unwritable_folder_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be written"):
        write(calibration(cell("nothing", 0.0, "reused", ["reused"])), tmp_path / "file")
