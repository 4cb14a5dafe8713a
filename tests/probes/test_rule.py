"""A planted rule is recovered from where a latent fires; what a word gives away is worth nothing."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from words import Speller, rows_of

from probes.digest import AuditError
from probes.rule import END, SPAN, Rule, detection, hard, learned, rules
from probes.tokens import Tokens

ITEMS, BOXES, REST = ("coin", "rope", "lamp"), ("box", "bag", "chest"), ("she", "walks", "then", "opens")


def texts(count: int = 40, seed: int = 0):
    """Twins of equal words: "in box coin ..." under label 1 and under label 0, among words that say nothing."""
    rng, spell, made = Random(seed), Speller(), []
    for at in range(count):
        words = [rng.choice(REST) for _ in range(3)] + ["in", rng.choice(BOXES), rng.choice(ITEMS), "."]
        words += [rng.choice((*REST, *ITEMS)) for _ in range(5)]
        for label in (0, 1):
            made.append(spell.passage(" ".join(words), (4, len(words) + 1), label, f"g{at:02d}"))
    tokens = Tokens.of(made, rows_of(made))
    labels = torch.tensor([passage.label == 1 for passage in made])[tokens.passage]
    group = torch.tensor([int(passage.group[1:]) for passage in made])[tokens.passage]
    return tokens, labels, group


def accuracy(fires, named, tokens, group) -> float:
    return float(detection(fires, named, hard(fires, tokens.word), group, int(group.max()) + 1).balanced()[0])


def test_a_planted_rule_is_recovered_with_its_words_and_its_label() -> None:
    tokens, labels, group = texts()
    planted = Rule(words=ITEMS, after=BOXES, label=1)
    fires = planted.names(tokens, labels)
    train = group < 20
    found = learned(fires[train], tokens.rows(train), labels[train])
    rest = ~train
    held = tokens.rows(rest)
    assert found.label == 1
    # The rule may say it in other words ("after box"); it must name the very same tokens.
    assert accuracy(fires[rest], found.names(held, labels[rest]), held, group[rest]) == 1.0
    assert accuracy(fires[rest], found.names(held, ~labels[rest]), held, group[rest]) < 0.5


def test_a_place_is_recovered() -> None:
    tokens, labels, group = texts()
    for place in (SPAN, END):
        fires = Rule(place=place, label=0).names(tokens, labels)
        found = learned(fires, tokens, labels)
        assert found.label == 0 and accuracy(fires, found.names(tokens, labels), tokens, group) == 1.0


def test_a_word_that_is_silent_as_often_as_it_fires_is_worth_nothing() -> None:
    tokens, labels, group = texts()
    fires = Rule(words=ITEMS, label=1).names(tokens, labels)
    assert accuracy(fires, Rule(words=ITEMS, label=1).names(tokens, labels), tokens, group) == 1.0
    assert accuracy(fires, Rule(words=ITEMS).names(tokens, labels), tokens, group) == pytest.approx(0.5)


@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_silent_rows_weigh_as_much_as_firing_ones(share: float, seed: int) -> None:
    tokens, labels, group = texts(10)
    fires = torch.rand(len(tokens), generator=torch.Generator().manual_seed(seed)) < share
    weights = hard(fires, tokens.word)
    assert not weights[fires].any() and bool((weights >= 0).all())
    if 0 < int(fires.sum()) < len(fires):
        assert float(weights.sum()) == pytest.approx(int(fires.sum()))


@given(st.integers(0, 1000))
def test_a_rule_learned_where_a_latent_fires_by_chance_foretells_nothing_elsewhere(seed: int) -> None:
    tokens, labels, group = texts(60, seed)
    fires = torch.rand(len(tokens), generator=torch.Generator().manual_seed(seed)) < 0.2
    train = group < 30
    found = learned(fires[train], tokens.rows(train), labels[train])
    held = tokens.rows(~train)
    assert abs(accuracy(fires[~train], found.names(held, labels[~train]), held, group[~train]) - 0.5) < 0.25


def test_a_rule_says_itself() -> None:
    assert str(Rule(("lied", "no"), None, SPAN, 1)) == "in the scored span; label 1; a word of: lied, no"
    assert str(Rule(place="user", label=0)) == "in user's; label 0"
    assert str(Rule(tuple("abcdefgh"))) == "a word of: a, b, c, d, e, f and 2 more"
    assert str(Rule()) == "anywhere"


def test_rules_are_read_from_json() -> None:
    found = rules({"17": {"words": ["lied"], "after": ["she"], "place": "user", "label": 1}}, "'file'")
    assert found == {17: Rule(("lied",), ("she",), "user", 1)}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "no object of latents"), ({"x": {"label": 1}}, "no object of latents"), ({"1": {}}, "holds {}"),
        ({"1": {"label": 2}}, "label = 2"), ({"1": {"words": "lied"}}, 'words = "lied"'),
        ({"1": {"word": ["lied"]}}, "holds"), ({"1": {"words": [1]}}, "words"), ({"1": {"place": 3}}, "place = 3"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_what_was_found(content, named) -> None:
    with pytest.raises(AuditError, match=named.replace("{", r"\{")):
        rules(content, "'file'")
