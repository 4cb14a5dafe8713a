"""A label that foretells firing is told from one that does not; an explainer that fails takes nobody with it."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from words import Speller, rows_of

from audit.label_test import LEAST, Bench, labelled, rule_of
from audit.resampling import permutation_p
from probes.digest import AuditError
from probes.rule import Rule
from probes.tokens import Tokens


def bench(scenarios: int = 30, draws: int = 400, seed: int = 0) -> Bench:
    """Two pairs a scenario, the same words in both halves, all of them scored."""
    rng, spell, made = Random(seed), Speller(), []
    for at in range(scenarios):
        for half in "ab":
            words = [rng.choice(("coin", "rope", "lamp", "she", "walks")) for _ in range(6)]
            made += [spell.passage(" ".join(words), (1, 7), label, f"g{at:02d}", half) for label in (0, 1)]
    return Bench.of(Tokens.of(made, rows_of(made)), draws, np.random.default_rng(seed))


def test_a_label_that_foretells_firing_beats_every_exchange_of_labels() -> None:
    held = bench()
    rule = Rule(words=("coin",), label=1)
    fires = held.follow(rule).named
    found, chance = held.judged(fires, held.follow(rule)), held.exchanged(fires, held.follow(rule))
    assert found.full == 1 and chance.mean == pytest.approx(0.5) and chance.draws.max() < 1
    assert permutation_p(found.full, chance.draws) == pytest.approx(1 / 401)
    assert len(found.deleted) == len(held.groups) == 30
    # What the words alone foretell, no exchange of labels takes away: it is not about the persona.
    words = held.follow(Rule(words=("coin",)))
    assert torch.allclose(held.exchanged(fires, words).draws, held.judged(fires, words).full)


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_exchanged_labels_are_those_of_a_brute_force(seed: int) -> None:
    held = bench(scenarios=6, draws=8, seed=seed)
    fires = torch.rand(len(held.tokens), generator=torch.Generator().manual_seed(seed)) < 0.3
    told = held.follow(Rule(words=("coin", "she"), label=1))
    chance = held.exchanged(fires, told)
    pairs = sorted({str(passage.pair) for passage in held.tokens.passages})
    for draw, swaps in enumerate(held.swaps):
        swapped = torch.tensor([bool(swaps[pairs.index(str(p.pair))]) for p in held.tokens.passages])
        named = torch.where(swapped[held.tokens.passage], told.exchanged, told.named)
        assert torch.isclose(chance.draws[draw], held.judged(fires, told._replace(named=named)).full)


def test_the_p_of_a_latent_that_fires_by_chance_is_no_smaller_than_chance() -> None:
    held = bench(draws=199)
    told = held.follow(Rule(words=("coin", "rope"), label=1))
    small = 0
    for seed in range(200):
        fires = torch.rand(len(held.tokens), generator=torch.Generator().manual_seed(seed)) < 0.2
        small += float(permutation_p(held.judged(fires, told).full, held.exchanged(fires, told).draws)) <= 0.1
    # 20 are expected of 200; 33 or more have a chance of 1 in 500.
    assert small <= 32


def test_too_little_firing_is_said_and_not_scored() -> None:
    held = bench()
    fires = torch.zeros(len(held.tokens), dtype=torch.bool)
    fires[: 6 * 4 * (LEAST - 1)] = True
    assert f"fires in {LEAST - 1} of the 30 judged scenarios" in str(held.enough(fires))
    assert "fires in fewer than" in str(rule_of(fires, held.tokens))
    assert held.enough(torch.ones_like(fires)) == "it fires on every judged token"
    assert held.enough(labelled(held.tokens)) is None
    assert isinstance(rule_of(labelled(held.tokens), held.tokens), Rule)


def test_an_explainer_is_scored_like_a_rule() -> None:
    held = bench()
    rule = Rule(words=("coin",), label=1)

    def says(latent, text):
        return [latent == 7 and word == "coin" and text.label == 1 for word in text.tokens]

    told, same = held.ask(says, 7), held.follow(rule)
    assert torch.equal(told.named, same.named) and torch.equal(told.exchanged, same.exchanged)
    assert not held.ask(says, 8).named.any()


@pytest.mark.parametrize(
    ("explainer", "found"),
    [
        (lambda latent, text: 1 / 0, "ended with ZeroDivisionError"),
        (lambda latent, text: [True], "gave 1 answers for 7 tokens"),
        (lambda latent, text: [0.5] * len(text.tokens), "among them 0.5"),
        (lambda latent, text: None, "ended with TypeError"),
    ],
)
def test_an_explainer_that_raises_or_says_nonsense_is_refused(explainer, found) -> None:
    with pytest.raises(AuditError, match=found):
        bench(scenarios=6).ask(explainer, 0)
