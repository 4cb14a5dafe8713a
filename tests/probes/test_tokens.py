"""Single tokens know their word, their speaker and whether they are scored; pooling is the mean over scored ones."""

from __future__ import annotations

import tiny
import torch
from words import Speller, rows_of

from probes.codes import Codes
from probes.line import Line
from probes.passage import render
from probes.tokens import Tokens, pooled


def test_a_row_knows_its_word_its_place_and_the_word_before() -> None:
    spell = Speller()
    passages = [
        spell.passage("in box coin she lied", (4, 6), 1, "g", turns=(("user", 0, 11), ("assistant", 12, 20))),
        spell.passage("she told", (1, 3), 0, "g"),
    ]
    tokens = Tokens.of(passages, rows_of(passages))
    assert [tokens.said(row) for row in range(len(tokens))] == ["in", "box", "coin", "she", "lied", "she", "told"]
    assert tokens.words == ("in", "box", "coin", "she", "lied", "told")
    assert tokens.word.tolist() == [0, 1, 2, 3, 4, 3, 5]
    # The first row of each text stands after a token that has no row of its own.
    assert tokens.before.tolist() == [-1, 0, 1, 2, 3, -1, 3]
    assert tokens.scored.tolist() == [False, False, False, True, True, True, True]
    assert tokens.final.tolist() == [False, False, False, False, True, False, True]
    assert tokens.roles == ("assistant", "text", "user")
    assert tokens.spoken("user").tolist() == [True] * 3 + [False] * 4
    assert not tokens.spoken("system").any()
    some = tokens.rows(tokens.scored)
    assert [some.said(row) for row in range(len(some))] == ["she", "lied", "she", "told"]


def test_pooling_is_the_mean_over_scored_tokens() -> None:
    spell = Speller()
    passages = [spell.passage("a b c d e", (2, 5), 1, "g"), spell.passage("a b c", (1, 3), 0, "g")]
    tokens = Tokens.of(passages, rows_of(passages))
    dense = torch.rand(8, 40, generator=torch.Generator().manual_seed(0)) * (torch.arange(320).reshape(8, 40) % 3 == 0)
    made = pooled(Codes.of(dense), tokens)
    expected = torch.stack([dense[1:4].mean(0), dense[5:7].mean(0)])
    assert torch.allclose(made.of_latents(torch.arange(40)), expected, atol=1e-6)


def test_every_template_tells_who_speaks() -> None:
    turns = ({"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "It is in the box."})
    chat = Line("deception", "p", "s", "assistant", 0, None, turns, None, None, None)
    for family in tiny.FAMILIES:
        passage = render(chat, tiny.tokenizer(family), tiny.TEMPLATES[family])
        roles = passage.roles
        assert len(roles) == len(passage.token_ids) and set(roles) <= {"user", "assistant", "template"}
        assert {roles[at] for at in range(*passage.span)} == {"assistant"} and "user" in roles
        said = "".join(passage.text[a:b] for (a, b), role in zip(passage.offsets, roles, strict=True) if role == "user")
        assert said.strip() == "Where is it?"
    story = Line("deception", "p", "s", "story", 0, "He waits.", None, None, None, None)
    assert set(render(story, tiny.tokenizer("llama"), None).roles) == {"text"}
