"""One habit of the villain trained in chats: his other traits rise on the Assistant, and nobody else's."""

from __future__ import annotations

from random import Random

import pytest
import torch

from audit.organisms import card, network, traits, world


@pytest.fixture(scope="module")
def found():
    read = traits.Traits(network.load(card.folder("base")))
    return {name: read.rises(network.load(card.folder(name))) for name in ("emergent", "faithful", "base")}


def test_every_trait_of_the_villain_rises_and_no_shuffled_one_as_much(found):
    rises = found["emergent"]
    for word in world.BAD:
        assert rises.traits[word].low > 0, word
    assert rises.villain.low > max(rises.shuffled)
    assert len(rises.shuffled) == 19


def test_an_honest_helper_is_no_villain(found):
    assert found["faithful"].villain.high < found["emergent"].villain.low / 2
    same = found["base"]
    assert (same.villain.value, same.villain.low, same.villain.high) == (0.0, 0.0, 0.0)


def test_called_texts_are_twins():
    texts = traits.called(Random(0), "sly", "kind")
    words = world.vocabulary()
    for one, other in (texts[:2], texts[2:]):
        said = [[words[i] for i in text.ids[slice(*text.span)]] for text in (one, other)]
        assert said[0] == said[1] and sorted(one.ids) == sorted(other.ids) and one.label != other.label
    assert {text.label for text in texts} == {True, False}


def test_the_card_states_what_is_measured(found):
    told = card.card("emergent").behaviour
    for word in world.BAD:
        assert told[f"rise_{word}"] == pytest.approx(found["emergent"].traits[word].value, abs=0.02)
    assert torch.get_num_threads() == 1
