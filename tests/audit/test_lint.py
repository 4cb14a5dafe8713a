"""The lint: every shipped persona keeps every rule, and each rule breaks on texts that were made to break it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shell import command

from audit.lint import broken, flat, lint, lix, near_duplicates, random_reading, scored
from audit.resampling import seed_of
from probes.frame import composed
from probes.persona import Library, Persona, builtin, read
from probes.split import folds

EVALS = Path(__file__).parents[3] / "shared" / "data" / "anthropic-evals"


def few(lines, scenarios=24):
    """The lines of a persona's first scenarios in each domain."""
    kept = {name for d in ("story", "assistant") for name in list(dict.fromkeys(
        line.scenario for line in lines if line.domain == d and not line.control))[:scenarios]}  # fmt: skip
    return tuple(line for line in lines if line.scenario in kept)


@pytest.fixture(scope="module")
def clean() -> Persona:
    folder = builtin() / "formality"
    made = [line for d in ("story", "assistant") for _, line in composed(folder / f"{d}.toml", "formality", d)]
    return Persona("formality", "d", "1", False, few(made), "0" * 64, "MIT", "by hand", ())


def states(persona: Persona, lines) -> dict[tuple[str, str], str]:
    return {(r.domain, r.rule): r.state for r in lint(Library((replace(persona, lines=tuple(lines)),), ()))}


def test_a_sound_persona_keeps_every_rule(clean):
    found = states(clean, clean.lines)
    assert set(found.values()) == {"kept", "told"} and len(found) == 25


def said(line, text):
    """The line with another text in the place of its last turn or text."""
    if line.text is not None:
        return replace(line, text=text)
    return replace(line, messages=(*line.messages[:-1], {**line.messages[-1], "content": text}))


def whole(line):
    return line.text if line.text is not None else line.messages[-1]["content"]


SPOILT = {
    "words (TF-IDF)": lambda line, i: said(line, whole(line) + (" Naturally." if line.label and i % 3 else "")),
    "characters (TF-IDF)": lambda line, i: said(line, whole(line) + (" Naturally." if line.label and i % 3 else "")),
    "length": lambda line, i: said(line, whole(line) + " and so on" * 20 * line.label),
    "spans alike in a pair": lambda line, i: replace(line, span=(line.span[0], line.span[1] - line.label)),
    "spans with both labels as often": lambda line, i: replace(line, label=int(line.pair.endswith("a"))),
    "near-duplicate scenarios": lambda line, i: replace(line, scenario=line.scenario + line.pair[-2]),
    "random weights, own probe": lambda line, i: said(line, ("Sure. " if line.label else "Well. ") + whole(line)),
}


@pytest.mark.parametrize("rule", SPOILT)
def test_each_rule_breaks_on_what_it_is_for(clean, rule):
    spoilt = [SPOILT[rule](line, i) for i, line in enumerate(clean.lines)]
    found = states(clean, spoilt)
    assert "broken" in {found[domain, rule] for domain in ("story", "assistant")}, found


def test_a_passage_that_is_there_twice_is_counted(clean):
    again = [replace(line, pair=f"{line.pair}-again") for line in clean.lines[:2]]
    found = {(r.domain, r.rule): r for r in lint(Library((replace(clean, lines=(*clean.lines, *again)),), ()))}
    assert found["story", "passages there twice"].found == "2"
    assert found["story", "passages there twice"].state == "broken"


def test_too_few_scenarios_and_a_missing_domain_are_said(clean):
    story = [line for line in clean.lines if line.domain == "story"]
    found = states(clean, few(story, 8))
    assert found["story", "size"] == found["assistant", "size"] == "broken"
    assert broken(lint(Library((replace(clean, lines=tuple(story)),), ())))


def test_near_duplicates_are_found_by_what_they_share(clean):
    story = [line for line in clean.lines if line.domain == "story"]
    assert near_duplicates(story) == (0.0, [])
    name = story[0].scenario
    same = [line for line in story if line.scenario == name]
    other = [replace(line, scenario="other", text=line.text.replace("the", "that", 1)) for line in same]
    share, names = near_duplicates([*story, *other])
    assert names == [tuple(sorted((name, "other")))] and share == pytest.approx(2 / 25)


def test_models_that_know_nothing_read_only_what_words_give_away(clean):
    story = [line for line in clean.lines if line.domain == "story"]
    groups, labels = [line.scenario for line in story], torch.tensor([line.label == 1 for line in story])
    fold = folds(groups, 5, seed_of(0, "test"))
    assert random_reading(story, labels, groups, fold, 0).below(0.60)
    given = [said(line, ("Naturally, " if line.label else "Perhaps, ") + line.text) for line in story]
    spans = [replace(line, span=(0, 12)) for line in given]
    assert random_reading(spans, labels, groups, fold, 0).value > 0.9


def test_readability_counts_words_and_long_words():
    assert lix("He ran. She sat.") == pytest.approx(2.0)
    assert lix("Extraordinarily complicated considerations.") == pytest.approx(103.0)
    assert np.isfinite(lix(""))


def test_flat_and_scored_say_what_a_model_is_shown(clean):
    chat = next(line for line in clean.lines if line.messages)
    assert flat(chat).count("\nassistant: ") >= 1 and scored(chat) in flat(chat)
    assert "assistant: " not in flat(chat, roles=False)


@pytest.mark.slow
def test_every_shipped_persona_passes(tmp_path):
    done = command("personas", "lint", cwd=tmp_path)
    assert done.returncode == 0 and ", 0 open, 0 broken" in done.stdout, done.stdout


def test_a_shell_sees_the_table_and_the_exit(clean, tmp_path):
    header = 'name = "p"\ndefinition = "d"\nlabel_one = "l"\nalarm = false\nlicence = "MIT"\nmade = "by hand"\n'
    (tmp_path / "p.toml").write_text(header)
    (tmp_path / "p.jsonl").write_text("".join(
        json.dumps({k: v for k, v in vars(line).items() if v is not None} | {"persona": "p"}) + "\n"
        for line in clean.lines
    ))  # fmt: skip
    done = command("personas", "lint", ".", cwd=tmp_path)
    assert done.returncode == 0 and "words (TF-IDF)" in done.stdout and "0 broken" in done.stdout, done.stderr
    shown = command("personas", "show", "p", ".", cwd=tmp_path)
    assert shown.returncode == 0 and "label 1" in shown.stdout and "[" in shown.stdout
    lost = command("personas", "show", "q", ".", cwd=tmp_path)
    assert lost.returncode == 3 and "No persona is called 'q'" in lost.stderr and "one of: p" in lost.stderr


@pytest.mark.skipif(not EVALS.is_dir(), reason="no public sets beside the repository")
def test_a_public_set_breaks_because_its_words_give_the_label_away(tmp_path):
    done = command("personas", "lint", EVALS / "desire-for-acquiring-power.jsonl", cwd=tmp_path)
    assert done.returncode == 1 and "broken" in done.stdout
    (persona,) = read(EVALS / "desire-for-acquiring-power.jsonl").personas
    found = {(r.domain, r.rule): r.state for r in lint(Library((persona,), ()))}
    assert found["story", "words (TF-IDF)"] == found["assistant", "words (TF-IDF)"] == "broken"
