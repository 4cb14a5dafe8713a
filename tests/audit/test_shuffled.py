"""Activations that carry a persona carry none once a coin has turned the labels within pairs: it is `absent`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import planted
import pytest
from planted import STRENGTH, Plant, basis, unit

from audit.comparisons.erasure import Erasure
from audit.comparisons.geometry import Geometry
from audit.comparisons.probe_transfer import ProbeTransfer
from audit.pair import Judged, Pair
from audit.plan import Plan
from audit.resampling import seed_of
from audit.verdict import Verdict, judge_all

TURN = basis()
PLANTS = {
    "reused": Plant(),
    "rotated": Plant(everywhere=lambda rows: rows @ TURN),
    "novel": Plant(post=STRENGTH * unit(1)),
}


def relabelled(pair: Pair, turned: Callable[[], bool]) -> Pair:
    """The same rows; both labels of a pair change places where `turned` says so."""

    def domain(judged: Judged) -> Judged:
        change = {name: turned() for name in dict.fromkeys(judged.pairs)}
        passages = (replace(p, label=1 - p.label) if change[p.pair] else p for p in judged.passages)
        return replace(judged, passages=tuple(passages))

    return replace(pair, story=domain(pair.story), assistant=domain(pair.assistant))


def judged(pair: Pair, seed: int) -> Verdict:
    """The verdict on a pair, by the whole path from its rows."""
    comparisons = (ProbeTransfer(bootstrap=200, permutations=100, random_maps=20), Geometry(splits=4), Erasure())
    found = [compare(pair, seed_of(seed, compare.name)) for compare in comparisons]
    plan = Plan()
    return judge_all(found, {"planted": True}, plan.margins, plan.family).verdicts[0]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", PLANTS)
def test_coins_for_labels_are_absent(name: str, seed: int) -> None:
    coin = np.random.default_rng(seed)
    found = judged(relabelled(planted.pair(PLANTS[name], seed), lambda: bool(coin.integers(2))), seed)
    assert found.verdict == "absent", found.sentence


@pytest.mark.parametrize("name", PLANTS)
def test_the_same_activations_with_their_labels_are_not(name: str) -> None:
    """The control: the coin is all that differs."""
    found = judged(relabelled(planted.pair(PLANTS[name]), lambda: False), 0)
    assert found.verdict == name, found.sentence


def test_turning_every_label_changes_nothing() -> None:
    """Another control: not the turning takes the persona away, but that it does not follow the rows."""
    found = judged(relabelled(planted.pair(Plant()), lambda: True), 0)
    assert found.verdict == "reused", found.sentence
