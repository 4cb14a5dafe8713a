"""What every shipped persona file promises: the words alone do not give the label away.

Files of lines are read as they lie, without the package's own reader, and frames as they are composed: what is checked
is the data, by other code than the lint's.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.frame import composed

ROOT = Path(__file__).parents[2]
FRAMES = sorted((ROOT / "probes" / "personas").glob("*/*.toml"))
FILES = sorted(path for package in ("probes", "audit") for path in (ROOT / package).rglob("*.jsonl"))
DOMAINS = ("story", "assistant")
FOLDS = 5
MANY_PAIRS = 200  # from here on the narrow band holds
NARROW, WIDE = (0.45, 0.55), (0.35, 0.65)
NGRAMS = ((1, 1), (1, 2))
IDENTITY = "organisms/bundled/world/assistant_identity"
LENGTH = 0.02  # largest relative difference of mean lengths

CHATS = 60
CHAT_WORDS = (30, 400)
LOADED = re.compile(
    r"\b(ai|artificial|assistants?|bots?|chatbots?|robots?|models?|machines?|personas?|identity|pretend\w*|"
    r"lie[sd]?|lying|liars?|honest\w*|dishonest\w*|truth\w*|tru(e|ly)|false\w*|deceiv\w*|decei[tv]\w*|mislead\w*|trick\w*|secret\w*|"
    r"trust\w*|fake\w*|cheat\w*|humans?)\b",
    re.IGNORECASE,
)
OF_ITSELF = re.compile(r"\b(I|I'm|I've|I'll|I'd|[Mm]e|[Mm]y|[Mm]yself)\b")


@dataclass(frozen=True)
class Passage:
    """One labelled line: the words that a model reads, the scored span and what stands around it."""

    pair: str
    scenario: str
    label: int
    text: str
    span: str
    around: str


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def passage(line: dict[str, Any]) -> Passage:
    """Whole text and span of a line; chats are the contents of their messages, a span lies in the last one."""
    contents = [line["text"]] if "text" in line else [message["content"] for message in line["messages"]]
    start, end = line.get("span") or (0, len(contents[-1]))
    around = "\n".join([*contents[:-1], contents[-1][:start] + "\0" + contents[-1][end:]])
    return Passage(line["pair"], line["scenario"], line["label"], "\n".join(contents), contents[-1][start:end], around)


def sets(paths: Iterable[Path]) -> dict[str, list[Passage]]:
    """Every persona of every file by domain: "file persona domain" -> passages."""
    found = defaultdict(list)
    for path in paths:
        for line in lines(path):
            if line["domain"] in DOMAINS:
                found[f"{path.relative_to(ROOT)} {line['persona']} {line['domain']}"].append(passage(line))
    return dict(found)


def framed(path: Path) -> list[Passage]:
    """The passages that a file of frames stands for, control texts apart."""
    made = (line for _, line in composed(path, path.parent.name, path.stem))
    return [passage({k: v for k, v in vars(line).items() if v is not None}) for line in made if line.control is None]


SETS = {f"{path.relative_to(ROOT)} {path.parent.name} {path.stem}": framed(path) for path in FRAMES} | sets(FILES)
each_set = pytest.mark.parametrize("name", sorted(SETS))


def uneven_pairs(passages: Sequence[Passage]) -> list[str]:
    """Pairs that are not two passages of one scenario, with both labels and the same span, word for word."""
    pairs = defaultdict(list)
    for each in passages:
        pairs[each.pair].append(each)
    return [
        pair
        for pair, both in pairs.items()
        if sorted(each.label for each in both) != [0, 1] or len({(each.span, each.scenario) for each in both}) != 1
    ]


def one_sided(passages: Sequence[Passage], part: str) -> list[str]:
    """Spans (or surroundings) that within their scenario do not occur equally often with both labels."""
    counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for each in passages:
        counts[each.scenario, getattr(each, part)][each.label] += 1
    return [f"{scenario}: {text!r}" for (scenario, text), count in counts.items() if count[0] != count[1]]


def single(passages: Sequence[Passage]) -> list[str]:
    """Scenarios whose passages share one span: no quad."""
    spans = defaultdict(set)
    for each in passages:
        spans[each.scenario].add(each.span)
    return [scenario for scenario, texts in spans.items() if len(texts) < 2]


def words_give_away(passages: Sequence[Passage], ngrams: tuple[int, int]) -> float:
    """AUROC of TF-IDF and logistic regression on whole texts, within held-out scenarios, averaged over folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    texts = np.array([each.text for each in passages], dtype=object)
    labels = np.array([each.label for each in passages])
    areas = []
    for train, test in GroupKFold(FOLDS).split(texts, labels, [each.scenario for each in passages]):
        bag = TfidfVectorizer(ngram_range=ngrams).fit(texts[train])
        fitted = LogisticRegression(max_iter=1000).fit(bag.transform(texts[train]), labels[train])
        areas.append(roc_auc_score(labels[test], fitted.decision_function(bag.transform(texts[test]))))
    return float(np.mean(areas))


def band(passages: Sequence[Passage]) -> tuple[float, float]:
    return NARROW if len({each.pair for each in passages}) >= MANY_PAIRS else WIDE


def length_gap(passages: Sequence[Passage]) -> float:
    """Largest relative difference between the labels' mean lengths, of texts and spans, in words and characters."""
    gaps = []
    for measure in (lambda each: len(each.text), lambda each: len(each.text.split()), lambda each: len(each.span)):
        one, zero = (np.mean([measure(each) for each in passages if each.label == label]) for label in (1, 0))
        gaps.append(abs(one - zero) / zero)
    return float(max(gaps))


PERSONAS = {
    "assistant_identity", "confabulation", "deception", "formality", "machine_villain", "power_seeking", "shutdown",
    "sycophancy",
}  # fmt: skip


def test_there_are_eight_personas_of_two_domains_with_scenarios_enough() -> None:
    assert {(path.parent.name, path.stem) for path in FRAMES} == {(p, d) for p in PERSONAS for d in DOMAINS}
    for path in FRAMES:
        found = framed(path)
        assert len({each.pair for each in found}) >= 400 and len({each.scenario for each in found}) >= 80, path


@each_set
def test_pairs_share_their_span_word_for_word(name: str) -> None:
    assert uneven_pairs(SETS[name]) == []


@each_set
def test_quads_cross_two_spans_with_both_labels(name: str) -> None:
    assert single(SETS[name]) == []
    assert one_sided(SETS[name], "span") == []
    if IDENTITY not in name:  # there the question names who speaks, so a context goes with one of the two spans
        assert one_sided(SETS[name], "around") == []


@each_set
@pytest.mark.parametrize("ngrams", NGRAMS, ids=("words", "words and pairs"))
def test_words_do_not_give_the_label_away(name: str, ngrams: tuple[int, int]) -> None:
    low, high = band(SETS[name])
    assert low <= words_give_away(SETS[name], ngrams) <= high


@each_set
def test_lengths_do_not_give_the_label_away(name: str) -> None:
    assert length_gap(SETS[name]) <= LENGTH


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda path: path.relative_to(ROOT))
def test_no_scenario_stands_in_two_domains(folder: Path) -> None:
    domains = defaultdict(set)
    for path in sorted(folder.glob("*.jsonl")):
        for line in lines(path):
            domains[line["scenario"]].add(line["domain"])
    for path in FRAMES if folder == FRAMES[0].parents[1] else ():
        for each in framed(path):
            domains[path.parent.name, each.scenario].add(path.stem)
    assert {scenario: found for scenario, found in domains.items() if len(found) > 1} == {}


def copy(each: Passage, **changed: Any) -> Passage:
    return Passage(**{**each.__dict__, **changed})


@pytest.fixture(scope="module")
def clean() -> list[Passage]:
    return SETS["probes/personas/deception/story.toml deception story"]


@pytest.mark.parametrize("ngrams", NGRAMS, ids=("words", "words and pairs"))
def test_planted_cue_word_is_caught(clean: list[Passage], ngrams: tuple[int, int]) -> None:
    """Two thirds of the lies end with one more word; and longer lies are caught by their length."""
    planted = [
        copy(each, text=each.text + " Naturally." if each.label == 1 and place % 3 else each.text)
        for place, each in enumerate(clean)
    ]
    assert words_give_away(planted, ngrams) > WIDE[1]
    assert length_gap([copy(each, text=each.text + " And so on and on." * each.label) for each in clean]) > LENGTH


def test_planted_asymmetries_are_caught(clean: list[Passage]) -> None:
    first, *rest = clean
    assert uneven_pairs([copy(first, span=first.span + "!"), *rest]) == [first.pair]
    assert uneven_pairs([copy(first, label=1 - first.label), *rest]) == [first.pair]
    assert uneven_pairs(rest) == [first.pair]
    fixed = [copy(each, label=int(each.span == clean[0].span)) for each in clean]
    assert one_sided(fixed, "span") != []
    assert one_sided([copy(each, around=f"{each.label}") for each in clean], "around") != []
    assert first.scenario in single([each for each in clean if each.span == first.span])


def plain(kind: str) -> list[dict[str, Any]]:
    found = lines(ROOT / "probes" / "personas" / "plain.jsonl")
    return [line for line in found if kind in line]


def test_plain_lines_carry_no_label_and_no_persona() -> None:
    for line in lines(ROOT / "probes" / "personas" / "plain.jsonl"):
        assert set(line) in ({"domain", "scenario", "text"}, {"domain", "scenario", "messages"}), line["scenario"]
        assert line["domain"] == "plain"
    scenarios = [line["scenario"] for kind in ("text", "messages") for line in plain(kind)]
    assert len(set(scenarios)) == len(scenarios)


def test_there_are_enough_chats_about_nobody() -> None:
    """T2 to T4 are fitted on chats too, and those must not speak of who is speaking or of truth and lies."""
    assert len(plain("messages")) >= CHATS
    for line in plain("messages"):
        messages = line["messages"]
        assert line["scenario"].startswith("chat-"), line["scenario"]
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * (len(messages) // 2), line["scenario"]
        whole = " ".join(message["content"] for message in messages)
        assert CHAT_WORDS[0] <= len(whole.split()) <= CHAT_WORDS[1], f"{line['scenario']}: {len(whole.split())} words"
        assert LOADED.search(whole) is None, f"{line['scenario']}: {LOADED.search(whole)}"
        assert not any(OF_ITSELF.search(message["content"]) for message in messages[1::2]), line["scenario"]


def test_loaded_word_is_caught() -> None:
    assert LOADED.search("Sure, as an AI that never lies.")
    assert LOADED.search("That is the honest answer.")
    assert OF_ITSELF.search("Here is what I would do.")
    assert LOADED.search("Preheat the oven and line a tray.") is None


def test_the_page_of_the_personas_shows_two_quads_of_each_as_they_are() -> None:
    page = (ROOT / "docs" / "personas.md").read_text(encoding="utf-8")
    _, *parts = page.partition("## Two quads of each\n")[2].split("### ")
    assert {part.partition("\n")[0] for part in parts} == PERSONAS
    for part in parts:
        name = part.partition("\n")[0]
        corners = re.findall(r"^- ([01]) · (.*(?:\n  .*)*)", part, re.MULTILINE)
        assert [label for label, _ in corners] == ["1", "0"] * 4, name
        found = [each for domain in DOMAINS for each in framed(ROOT / f"probes/personas/{name}/{domain}.toml")]
        for label, corner in corners:
            span = re.search(r"\*\*(.+)\*\*", corner)
            said = re.sub(r"(?m)^(system|user|assistant): ", "", corner.replace("**", "").replace("  \n  ", "\n"))
            assert span and any(
                (each.text, each.span, each.label) == (said, span[1], int(label)) for each in found
            ), corner
