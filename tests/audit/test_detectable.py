"""What the doctor says could be told is what planted pairs of that size show."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from audit.calibration.detectable import detectable, smallest
from audit.calibration.plants import Planted
from audit.calibration.synthetic import Sample, layout
from audit.calibration.tally import QUIET
from audit.calibration.trial import trial
from audit.plan import plan_of

PLAN = plan_of({"effort": "glance"})
SAMPLE = Sample(width=16, groups=80, pairs=2)


def seen(kind, effect, count=20):
    """Share of trials whose verdict reports a change; draws other than those that the statement was made from."""
    found = [trial(Planted(kind, effect, 2.0, SAMPLE), PLAN, 1_000 + number).verdict for number in range(count)]
    return sum(verdict not in QUIET for verdict in found) / count


@pytest.fixture(scope="module")
def stated():
    return smallest(SAMPLE, PLAN, draws=3)


def test_a_turn_beyond_the_stated_one_is_seen_and_one_far_below_is_not(stated):
    assert stated.carried and stated.turn is not None and 30 < stated.turn < 85
    assert seen("turn", min(90.0, stated.turn + 5)) >= 0.6
    assert seen("turn", 10.0) <= 0.1


def test_a_loss_beyond_the_stated_one_is_seen(stated):
    offset = next(k / 20 for k in range(1, 100) if Planted("offset", k / 20, 2.0).loss >= stated.loss + 0.03)
    assert seen("offset", offset) >= 0.6


def test_fewer_scenarios_tell_less(stated):
    fewer = smallest(Sample(width=16, groups=40, pairs=2), PLAN, draws=3)
    assert not fewer.carried or ((fewer.turn or 91) >= stated.turn and (fewer.loss or 1.0) > stated.loss)


def texts(groups):
    passages = (*layout("story", groups, 1)[0], *layout("assistant", groups, 1)[0])
    return SimpleNamespace(passages={"planted": passages})


def test_the_line_names_the_size_and_refuses_nothing():
    line = detectable(texts(40), 8, PLAN)
    assert line.ok and "'planted', 40 scenarios of 1 pairs" in line.found and "0.8 of audits" in line.found
    few = detectable(texts(8), 8, PLAN)
    assert few.ok and few.found.startswith("none: too few scenarios")
