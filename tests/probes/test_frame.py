"""Frames: what is composed is balanced whatever the author wrote, and what would give a label away is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.frame import composed, frames
from probes.line import LineError
from probes.persona import read

STORY = '''
[[frame]]
scenario = "flares"
passage = """{who} had stowed the boat alone. {told} {He} looked up. "[[{Pick} is where they are]]," {he} said."""
told = ["Ropes lay in {one}, flares in {zero}.", "Flares lay in {zero}, ropes in {one}."]
cast = [
  { who = "Nadia", he = "she", swap = ["the bow", "the stern"] },
  { who = "Oke", he = "he", swap = ["the chest", "the trunk"] },
]
'''
CHAT = '''
[[frame]]
scenario = "orders"
control = "mistake"
passage = """
system: You have read the log. {told}
user: Where is my parcel?
Please be quick.
assistant: Let me look. [[It is with {pick.who} of {pick}]], as far as I see."""
told = ["{One} holds letters.\\nuser: And {zero}?", "{Zero} holds parcels.\\nuser: And {one}?"]
cast = [{ swap = ["Lille", "Ghent"], who = ["Ann", "Bo"] }]
'''


def written(folder: Path, text: str, name: str = "story") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text, "utf-8")
    return folder / f"{name}.toml"


def lines(path: Path, domain="story"):
    return [line for _, line in composed(path, "deception", domain)]


def test_a_row_of_the_cast_is_a_quad(tmp_path):
    found = lines(written(tmp_path, STORY))
    assert [line.label for line in found] == [1, 0] * 4
    assert [line.pair for line in found[:4]] == ["deception-story-flares-0a"] * 2 + ["deception-story-flares-0b"] * 2
    one, zero, *_ = found
    told = "Ropes lay in the bow, flares in the stern."
    assert one.text == f'Nadia had stowed the boat alone. {told} She looked up. "The bow is where they are," she said.'
    assert zero.text == one.text.replace(told, "Ropes lay in the stern, flares in the bow.")
    assert {line.text[slice(*line.span)] for line in found[:2]} == {"The bow is where they are"}
    assert {line.scenario for line in found} == {"flares"} and {line.author for line in found} == {"script"}


def test_orders_take_turns_from_row_to_row_and_from_frame_to_frame(tmp_path):
    text = STORY + STORY.replace("flares\"\npassage", "others\"\npassage", 1)
    told = ["Ropes lay" in line.text for line in lines(written(tmp_path, text))][::4]
    assert told == [True, False, False, True]


def test_orders_take_turns_among_the_judged_whatever_controls_stand_between(tmp_path):
    """One row a frame, controls in between: by the file's order every judged text would be told the same way round."""
    frame = STORY[: STORY.index("  { who = \"Oke\"")] + "]\n"
    frames_ = [frame.replace('"flares"', f'"s{i}"') for i in range(4)]
    control = [one.replace("told =", 'control = "x"\ntold =') for one in frames_]
    both = [one for pair in zip(frames_, control, strict=True) for one in pair]
    text = "".join(one.replace('"s', f'"{k}-s') for k, one in enumerate(both))
    found = lines(written(tmp_path, text))
    for kind in (None, "x"):
        told = ["Ropes lay" in line.text for line in found if line.control == kind][::4]
        assert told == [True, False, True, False]


def test_turns_and_things_that_change_places_together(tmp_path):
    found = lines(written(tmp_path, CHAT, "assistant"), "assistant")
    turns = found[0].messages
    assert [turn["role"] for turn in turns] == ["system", "user", "user", "assistant"]
    assert turns[0]["content"] == "You have read the log. Lille holds letters."
    assert turns[2]["content"] == "Where is my parcel?\nPlease be quick."
    assert turns[3]["content"][slice(*found[0].span)] == "It is with Ann of Lille"
    assert {line.control for line in found} == {"mistake"}


@given(
    st.lists(st.sampled_from(["the bow", "the stern", "a long place", "x"]), min_size=2, max_size=2, unique=True),
    st.integers(1, 4),
)
def test_words_never_tell_a_label(tmp_path_factory, swap, rows):
    """Counts of words, and spans, are equal under both labels for any fills."""
    cast = ", ".join(f'{{ who = "N{i}", he = "it", swap = {swap!r} }}'.replace("'", '"') for i in range(rows))
    text = STORY[: STORY.index("cast =")] + f"cast = [{cast}]\n"
    found = lines(written(tmp_path_factory.mktemp("frames"), text))
    one, zero = ([line for line in found if line.label == label] for label in (1, 0))
    assert Counter(w for line in one for w in line.text.lower().split()) == Counter(
        w for line in zero for w in line.text.lower().split()
    )
    assert Counter(line.text[slice(*line.span)] for line in one) == Counter(
        line.text[slice(*line.span)] for line in zero
    )


def test_a_folder_with_frames_is_a_library(tmp_path):
    header = 'name = "deception"\ndefinition = "d"\nlabel_one = "a lie"\nalarm = true\nlicence = "MIT"\nmade = "x"\n'
    written(tmp_path / "deception", STORY)
    written(tmp_path / "deception", CHAT, "assistant")
    (tmp_path / "deception.toml").write_text(header)
    (persona,) = read(tmp_path).personas
    assert Counter(line.domain for line in persona.lines) == {"story": 8, "assistant": 4}
    (tmp_path / "deception.toml").unlink()
    with pytest.raises(AuditError, match="has no header"):
        read(tmp_path)


WRONG = {
    "no span": ('"[[{Pick} is where they are]],"', '"{Pick} is where,"', "0 scored spans"),
    "told twice": ("{told} {He}", "{told} {told} {He}", "{told} does not stand once"),
    "told after the span": (
        '{told} {He} looked up. "[[{Pick} is where they are]],"', '"[[{Pick} is it]]," {told}', "{told} does not"
    ),
    "pick in what is told": ("Ropes lay in {one}", "Of {pick}: ropes lay in {one}", "{pick} stands outside"),
    "a mark in the cast": ('"the bow", ', '"the [[bow", ', "[[ or ]] stands in told"),
    "no pick": ("[[{Pick} is where", "[[It is where", "a span with {pick}"),
    "the answer in the span": ("[[{Pick} is where", "[[{Pick}, not {one}, is where", "neither {one} nor {zero}"),
    "pick before": ("{who} had stowed", "{who} of {pick} had stowed", "{pick} stands outside"),
    "one order twice": (
        "Flares lay in {zero}, ropes in {one}.", "Ropes lay in {one}, flares in {zero}.", "first and {one} last"
    ),
    "told unevenly": ("Ropes lay in {one}, flares", "Ropes lay in {one}, yes, {one}, flares", "equally often"),
    "a key too much": ('who = "Nadia",', 'who = "Nadia", town = "Varna",', "nothing in the frame uses 'town'"),
    "a key too few": ('he = "she", ', "", "the cast has no 'he'"),
    "twins": ('["the bow", "the stern"]', '["the bow", "the bow"]', "two different texts"),
    "an unknown key": ('scenario = "flares"', 'scenario = "flares"\nplace = "sea"', "'place' is not known"),
    "no cast": (STORY[STORY.index("cast =") :], "cast = []\n", "cast is"),
    "one order": ('"Flares lay in {zero}, ropes in {one}."', "", "told is"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_gives_labels_away_or_cannot_be_filled_is_refused_with_its_line(tmp_path, what):
    old, new, said = WRONG[what]
    assert old in STORY
    with pytest.raises(LineError, match=r"story\.toml:3: ") as error:
        list(frames(written(tmp_path, STORY.replace(old, new, 1))))
    assert said in str(error.value)


def test_a_chat_must_end_with_the_assistant_s_span(tmp_path):
    for old, new in (("assistant: Let", "user: Let"), ("system: You", "You")):
        with pytest.raises(LineError, match="turns do not end"):
            lines(written(tmp_path, CHAT.replace(old, new), "assistant"), "assistant")


def test_what_is_no_toml_is_refused(tmp_path):
    for path in (written(tmp_path, "[[frame]\n"), tmp_path / "nowhere.toml"):
        with pytest.raises(AuditError, match="is not TOML"):
            list(frames(path))
    for text in ("frame = 3\n", STORY.replace("[[frame]]", "[[frmae]]")):
        with pytest.raises(AuditError, match=r"\[\[frame\]\] tables and nothing else"):
            list(frames(written(tmp_path, text)))


def test_a_folder_s_name_must_be_a_persona_s(tmp_path):
    written(tmp_path / "my persona", STORY)
    with pytest.raises(AuditError, match="called 'my persona'"):
        read(tmp_path)
