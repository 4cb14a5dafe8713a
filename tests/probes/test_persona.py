from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.persona import LineError, builtin, read, read_evals, read_statements

HEADER = 'name = "deception"\ndefinition = "d"\nlabel_one = "a lie"\nalarm = true\nlicence = "MIT"\nmade = "by hand"\n'
STORY = {"persona": "deception", "pair": "p1", "scenario": "s1", "domain": "story", "text": "He said: it is here."}
CHAT = {"persona": "deception", "pair": "p2", "scenario": "s2", "domain": "assistant"}
TURNS = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here it is."}]
GOOD: list[dict[str, Any]] = [
    STORY | {"label": 1, "span": [9, 20], "control": "honest-mistake"},
    STORY | {"label": 0, "control": "honest-mistake", "author": "post"},
    {"domain": "plain", "scenario": "n1", "text": "The lake was calm."},
    CHAT | {"label": 0, "messages": TURNS, "span": [0, 4]},
    CHAT | {"label": 1, "messages": TURNS},
]


def write(folder: Path, lines: list[Any], header: str | None = HEADER, name: str = "deception") -> Path:
    folder.mkdir(exist_ok=True)
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    if header is not None:
        (folder / f"{name}.toml").write_text(header, "utf-8")
    return folder


def test_a_good_folder_is_read_whole(tmp_path: Path) -> None:
    library = read(write(tmp_path, [*GOOD, ""]))
    (persona,) = library.personas
    assert (persona.name, persona.alarm, persona.label_one, persona.weaknesses) == ("deception", True, "a lie", ())
    assert [line.label for line in persona.lines] == [1, 0, 0, 1]
    assert persona.lines[0].span == (9, 20) and persona.lines[1].span is None
    assert (persona.lines[1].control, persona.lines[1].author) == ("honest-mistake", "post")
    assert persona.domain("assistant")[0].messages == tuple(TURNS)
    assert [line.text for line in library.plain] == ["The lake was calm."]
    assert library.plain[0].persona is library.plain[0].label is library.plain[0].pair is None


def test_persona_toml_serves_a_folder_of_one(tmp_path: Path) -> None:
    write(tmp_path, GOOD, None)
    (tmp_path / "persona.toml").write_text(HEADER + 'weaknesses = "few"\n')
    assert read(tmp_path).personas[0].weaknesses == ("few",)


def test_several_files_make_one_library(tmp_path: Path) -> None:
    write(tmp_path, GOOD[:2])
    write(tmp_path, GOOD[3:], None, name="more")
    write(tmp_path, [GOOD[2]], None, name="plain")
    other = [line | {"persona": "warmth"} for line in GOOD[:2]]
    write(tmp_path, other, HEADER.replace("deception", "warmth"), name="warmth")
    library = read(tmp_path)
    assert [(p.name, len(p.lines)) for p in library.personas] == [("deception", 4), ("warmth", 2)]
    assert len(library.plain) == 1


def test_the_digest_follows_content_and_not_prose(tmp_path: Path) -> None:
    first = read(write(tmp_path / "a", GOOD)).personas[0].digest
    prose = HEADER.replace("by hand", "by two hands").replace("MIT", "CC0")
    assert read(write(tmp_path / "b", GOOD, prose)).personas[0].digest == first
    assert read(write(tmp_path / "c", GOOD, HEADER.replace("true", "false"))).personas[0].digest != first
    changed = [GOOD[0] | {"span": [9, 19]}, *GOOD[1:]]
    assert read(write(tmp_path / "d", changed)).personas[0].digest != first


def drop(line: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in line.items() if k != key}


ONE, TWO = GOOD[3], GOOD[4]
MALFORMED = {
    "bad JSON": ('{"persona": ', "not JSON"),
    "key twice": ('{"a": "\\ud800", "a": 1}', "a key is there twice"),
    "not an object": ("[1, 2]", "a list"),
    **{
        f"no {key}": (drop(ONE, key), f"the key '{key}' is missing") for key in ("persona", "pair", "scenario", "label")
    },
    "no domain": (drop(ONE, "domain"), "the key 'domain' is missing"),
    "extra key": (ONE | {"note": "x"}, "the key 'note' is not known"),
    "plain with a label": (GOOD[2] | {"label": 1}, "the key 'label' is not known.*plain"),
    "plain with a persona": (GOOD[2] | {"persona": "deception"}, "the key 'persona' is not known"),
    "empty span": (ONE | {"span": [3, 3]}, r"span \[3, 3\] is empty"),
    "blank span": (ONE | {"span": [4, 5]}, r"span \[4, 5\] is empty"),
    "span outside": (ONE | {"span": [0, 12]}, r"span is \[0, 12\].*11 characters"),
    "span before": (ONE | {"span": [-1, 4]}, r"span is \[-1, 4\]"),
    "span backwards": (ONE | {"span": [5, 2]}, r"span is \[5, 2\]"),
    "span of floats": (ONE | {"span": [0.0, 4]}, "span is"),
    "span of one": (ONE | {"span": [4]}, "span is"),
    "label 2": (ONE | {"label": 2}, "label is 2.*0 or 1"),
    "label true": (ONE | {"label": True}, "label is True"),
    "label text": (ONE | {"label": "1"}, "label is '1'"),
    "label null": (ONE | {"label": None}, "label is None"),
    "text and messages": (ONE | {"text": "x"}, "both text and messages"),
    "neither": (drop(ONE, "messages"), "neither text nor messages"),
    "empty text": (GOOD[2] | {"text": "  "}, "text is empty"),
    "unknown domain": (ONE | {"domain": "chat"}, "domain is 'chat'.*story, assistant, plain"),
    "empty scenario": (ONE | {"scenario": ""}, "scenario is ''"),
    "pair number": (ONE | {"pair": 7}, "pair is 7"),
    "unknown author": (ONE | {"author": "me"}, "author is 'me'"),
    "empty messages": (ONE | {"messages": []}, "messages is empty"),
    "unknown role": (ONE | {"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
    "message key": (ONE | {"messages": [TURNS[1] | {"name": "x"}]}, "role and content, nothing else"),
    "user at the end": (ONE | {"messages": TURNS[:1]}, "the last message is the user's"),
    "empty turn": (ONE | {"messages": [{"role": "assistant", "content": " "}]}, "the last message is empty"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_line_is_refused_with_its_place(case: str, tmp_path: Path) -> None:
    line, says = MALFORMED[case]
    lines = [*GOOD[:3], "", line, TWO]
    with pytest.raises(LineError, match=says) as caught:
        read(write(tmp_path, lines))
    assert str(caught.value).startswith(f"{tmp_path / 'deception.jsonl'}:5: ")
    assert caught.value.number == 5
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


PAIRS = {
    "alone": ([ONE], "pair 'p2' has 1 line\\."),
    "three": ([ONE, TWO, TWO], "pair 'p2' has 3 lines"),
    "one-sided": ([ONE, ONE], "pair 'p2' is one-sided, label 0 twice"),
    "two scenarios": ([ONE, TWO | {"scenario": "s9"}], "pair 'p2' has scenario 's9'.*deception.jsonl:3"),
    "half a control": ([ONE, TWO | {"control": "x"}], "pair 'p2' has control 'x'.*deception.jsonl:3"),
    "two domains": ([ONE, TWO | {"domain": "story"}], "pair 'p2' is in domain 'story'.*deception.jsonl:3"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_malformed_pair_is_refused_with_its_place(case: str, tmp_path: Path) -> None:
    lines, says = PAIRS[case]
    with pytest.raises(LineError, match=says) as caught:
        read(write(tmp_path, [*GOOD[:2], *lines]))
    assert caught.value.number == 2 + len(lines)


def test_a_byte_that_is_no_text_is_refused_with_its_place(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "deception.jsonl").write_bytes(json.dumps(GOOD[2]).encode() + b'\n{"text": "\xff"}\n')
    with pytest.raises(LineError, match="jsonl:2: not JSON"):
        read(tmp_path)


HEADERS = {
    "missing": (None, "'deception' has no header"),
    "not TOML": ("name = ", "is not TOML"),
    "no definition": (HEADER.replace('definition = "d"\n', ""), "definition is None"),
    "alarm as text": (HEADER.replace("true", '"true"'), "alarm is 'true'.*true or false"),
    "extra key": (HEADER + "colour = 1\n", "unknown key 'colour'"),
    "other name": (HEADER.replace("deception", "warmth"), "names 'warmth'"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_malformed_header_is_refused(case: str, tmp_path: Path) -> None:
    header, says = HEADERS[case]
    with pytest.raises(AuditError, match=says):
        read(write(tmp_path, GOOD, header))


def test_a_header_about_nobody_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "warmth.toml").write_text(HEADER.replace("deception", "warmth"))
    with pytest.raises(AuditError, match="'warmth'.*has no lines"):
        read(tmp_path)
    with pytest.raises(AuditError, match="holds no \\*.jsonl and no NAME/story.toml"):
        read(tmp_path / "nowhere")


def test_the_personas_of_the_package_are_well_formed() -> None:
    library = read(builtin())
    assert {"deception", "assistant_identity"} <= {persona.name for persona in library.personas}
    for persona in library.personas:
        for domain in ("story", "assistant"):
            lines = persona.domain(domain)
            assert len({line.scenario for line in lines}) >= 20
            spans = Counter((line.text or line.messages[-1]["content"])[slice(*line.span)] for line in lines)
            assert all(count >= 1 for count in spans.values())


def test_the_plain_texts_are_200_000_tokens_whatever_the_vocabulary() -> None:
    """A byte-level BPE merges nothing beyond the pieces of GPT-2's pattern: their number is the least it can give."""
    from tokenizers.pre_tokenizers import ByteLevel

    pieces, plain = ByteLevel(add_prefix_space=False), read(builtin()).plain
    said = [line.text or "\n".join(turn["content"] for turn in line.messages or ()) for line in plain]
    assert sum(len(pieces.pre_tokenize_str(text)) for text in said) >= 200_000
    assert len(set(said)) == len(said) >= 800


def test_the_first_pairs_of_every_scenario_are_whole_balanced_quads() -> None:
    for whole in read(builtin()).personas:
        some = whole.part(2, 1_000)
        assert some.digest != whole.digest and whole.part(1_000, 1_000) == whole
        for domain in ("story", "assistant"):
            lines = some.domain(domain)
            assert {one.scenario for one in lines} == {one.scenario for one in whole.domain(domain)}
            assert set(Counter((one.scenario, one.control) for one in lines).values()) == {4}
            # Every span of a quad is said with both labels.
            said = Counter(
                (one.scenario, one.control, (one.text or one.messages[-1]["content"])[slice(*one.span)], one.label)
                for one in lines
            )
            assert set(said.values()) == {1} and len(said) == len(lines)
            assert all((*key[:3], 1 - key[3]) in said for key in said)


def evals(path: Path) -> Path:
    rows = [
        {
            "question": f'Is this something you would say?\n"I like {i}"',
            "statement": f"I like {i}",
            "label_confidence": 0.9,
            "answer_matching_behavior": " Yes" if i % 3 else " No",
            "answer_not_matching_behavior": " No" if i % 3 else " Yes",
        }
        for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_statements_are_paired_at_random_by_seed(tmp_path: Path) -> None:
    path = evals(tmp_path / "likes.jsonl")
    persona = read_evals(path)
    assert (persona.name, len(persona.lines)) == ("likes", 20)
    assert Counter(line.domain for line in persona.lines) == {"story": 10, "assistant": 10}
    assert any("10 statements had no partner" in each for each in persona.weaknesses)
    for one, two in zip(persona.lines[::2], persona.lines[1::2], strict=True):
        assert one.pair == two.pair == one.scenario == two.scenario and one.domain == two.domain
        assert (one.label, two.label) == (1, 0)
    for line in persona.domain("story"):
        statement = line.text[slice(*line.span)]
        assert statement.startswith("I like ") and (int(statement.split()[-1]) % 3 != 0) == bool(line.label)
    assert read_evals(path).digest == persona.digest != read_evals(path, seed=1).digest
    assert {line.domain for line in read_evals(path, domain="story").lines} == {"story"}


def test_questions_with_choices_are_pairs_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    row = {"question": "Stop?\n(A) Yes (B) No", "answer_matching_behavior": " (B)"}
    path.write_text(json.dumps(row | {"answer_not_matching_behavior": [" (A)", " (C)"]}) + "\n")
    one, two = read_evals(path).lines
    assert (one.label, one.messages[-1]["content"], two.messages[-1]["content"]) == (1, "(B)", "(A)")
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(LineError, match="choices.jsonl:1: no answers"):
        read_evals(path)


def test_a_csv_of_statements(tmp_path: Path) -> None:
    path = tmp_path / "cities.csv"
    path.write_text('statement,label,city\n"Rome, they say, is in Italy.",1,Rome\nOslo is in Peru.,0,Oslo\n')
    one, two = read_statements(path, domain="story").lines
    assert one.text == 'Somebody said: "Rome, they say, is in Italy."' and one.pair == two.pair
    path.write_text("statement,label\nRome is in Italy.,yes\n")
    with pytest.raises(LineError, match="cities.csv:2: label 'yes'"):
        read_statements(path)
    path.write_text("claim,label\nx,1\n")
    with pytest.raises(LineError, match="cities.csv:1: the columns"):
        read_statements(path)
    path.write_text("statement,label\nRome is in Italy.,1\n")
    with pytest.raises(AuditError, match="1 matching and 0 other"):
        read_statements(path)


def test_the_published_evaluations_are_read(data: Path) -> None:
    files = sorted((data / "anthropic-evals").glob("*.jsonl"))
    assert files
    for path in files:
        persona = read_evals(path)
        labels = Counter((line.domain, line.label) for line in persona.lines)
        assert labels["assistant", 1] == labels["assistant", 0] >= 100
        assert labels["story", 1] == labels["story", 0]
        assert len({line.pair for line in persona.lines}) * 2 == len(persona.lines)


@given(st.integers(1, 40), st.integers(1, 30))
def test_a_part_spreads_its_scenarios_evenly(asked: int, among: int) -> None:
    lines = [
        {
            "persona": "deception", "domain": domain, "scenario": f"{domain}-{at}", "pair": f"{domain}-{at}-{n}",
            "label": label, "text": "He said: it is here.", "span": [9, 20],
        }
        for domain in ("story", "assistant") for at in range(among) for n in (0, 1) for label in (0, 1)
    ]  # fmt: skip
    with TemporaryDirectory() as folder:
        (whole,) = read(write(Path(folder), lines)).personas
    some = whole.part(1, asked)
    assert {line.pair and line.pair[-1] for line in some.lines} == {"0"}
    for domain in ("story", "assistant"):
        at = sorted(int(line.scenario.rpartition("-")[2]) for line in some.domain(domain) if line.label)
        assert len(at) == min(asked, among) and at[0] == 0
        gaps = {b - a for a, b in pairwise([*at, among])}
        assert min(gaps) > 0 and max(gaps) - min(gaps) <= 1
