"""Personas as labelled text: contrast pairs in two domains, and plain text, read from files and never trusted.

A folder holds `*.jsonl` (one passage a line), or frames that pairs are composed from (`NAME/story.toml` and
`NAME/assistant.toml`), and one header `NAME.toml` for each persona; `persona.toml` will do where there is only one. A
single file of labelled statements is a persona too. Every malformed line is refused with its file and number.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from probes.digest import AuditError, digest
from probes.frame import composed
from probes.line import NAME, NAMED, Domain, Line, LineError, Place, objects, parse_lines

__all__ = ["Domain", "Library", "Line", "LineError", "Persona", "builtin", "read", "read_evals", "read_statements"]

FRAMED: tuple[Domain, ...] = ("story", "assistant")
"""Domains that frames are written for."""
_NOTES = ("weaknesses", "sources")
_HEADER = {"name": str, "definition": str, "label_one": str, "alarm": bool, "licence": str, "made": str}


@dataclass(frozen=True)
class Persona:
    """One persona: what it is, what label 1 means, and its contrast pairs.

    Attributes:
        name: its name in plans and records.
        definition: one line.
        label_one: what label 1 means.
        alarm: whether a changed verdict fails a check.
        lines: its passages in the order of the files; every pair is whole.
        digest: SHA-256 over name, label meaning, alarm and lines; the prose of the header does not count.
        licence: under which terms the texts may be used.
        made: how they were made.
        weaknesses: what is known to be wrong with them.
        sources: where the idea comes from.
    """

    name: str
    definition: str
    label_one: str
    alarm: bool
    lines: tuple[Line, ...]
    digest: str
    licence: str
    made: str
    weaknesses: tuple[str, ...]
    sources: tuple[str, ...] = ()

    def domain(self, name: Domain) -> tuple[Line, ...]:
        """The lines of one domain."""
        return tuple(line for line in self.lines if line.domain == name)

    def part(self, pairs: int, scenarios: int) -> Persona:
        """The same with fewer texts: in a domain that many scenarios at most, evenly spread, of each the first pairs.

        Two pairs are one quad where quads were written.
        """
        chosen: set[str] = set()
        for domain in ("story", "assistant"):
            own = list(dict.fromkeys(line.scenario for line in self.domain(domain)))
            count = min(scenarios, len(own))
            chosen.update(own[at * len(own) // count] for at in range(count))
        names: dict[tuple[str, str | None], dict[str | None, None]] = defaultdict(dict)
        for line in self.lines:
            # Controls stand beside the pairs of a scenario and take none of their room.
            names[line.scenario, line.control][line.pair] = None
        wanted = {name for (scenario, _), own in names.items() if scenario in chosen for name in islice(own, pairs)}
        kept = tuple(line for line in self.lines if line.pair in wanted)
        return replace(self, lines=kept, digest=_digest(self.name, self.label_one, self.alarm, kept))


@dataclass(frozen=True)
class Library:
    """What a folder holds: personas by name, and plain lines."""

    personas: tuple[Persona, ...]
    plain: tuple[Line, ...]


def builtin() -> Path:
    """The folder of the personas that come with the package."""
    return Path(str(resources.files("probes") / "personas"))


def read(source: Path) -> Library:
    """Reads every persona and all plain text of a folder, or the one persona of a file of statements.

    Args:
        source: a folder; a `.jsonl` file as `read_evals` takes it; or a `.csv` file as `read_statements` does.

    Raises:
        LineError: for a malformed line, pair or scenario, with file and line number.
        AuditError: for a folder without lines, a file that cannot be read, and for headers that are missing, malformed
            or about nobody.
    """
    folder = Path(source)
    reader = {".jsonl": read_evals, ".csv": read_statements}.get(folder.suffix)
    if reader is not None and not folder.is_dir():
        return Library((reader(folder),), ())
    files = sorted(folder.glob("*.jsonl"))
    framed = sorted(path for domain in FRAMED for path in folder.glob(f"*/{domain}.toml"))
    if not files and not framed:
        raise AuditError(
            f"{folder} holds no *.jsonl and no NAME/story.toml or NAME/assistant.toml",
            "a folder with NAME.jsonl or frames and NAME.toml, or a .jsonl or .csv file of statements",
            "Check the path",
        )
    plain: list[Line] = []
    spoken: dict[str, list[tuple[Place, Line]]] = defaultdict(list)
    written = (one for path in files for one in parse_lines(path))
    made = (one for path in framed for one in composed(path, path.parent.name, cast(Domain, path.stem)))
    for place, line in chain(written, made):
        if line.persona is None:
            plain.append(line)
        else:
            spoken[line.persona].append((place, line))
    for name in spoken:
        if not NAME.fullmatch(name):
            raise AuditError(f"{folder} holds a persona called {name!r}", NAMED, "Rename its folder")
    headers = _headers(folder, sorted(spoken))
    for lines in spoken.values():
        _check_pairs(lines)
        _check_scenarios(lines)
    personas = (_persona(headers[name], (line for _, line in spoken[name])) for name in sorted(spoken))
    return Library(tuple(personas), tuple(plain))


def read_evals(path: Path, *, domain: Literal["story", "assistant", "split"] = "split", seed: int = 0) -> Persona:
    """Reads a persona of Anthropic's model-written evaluations (Perez et al. 2022), JSONL.

    Statements have no partner: one that matches the behaviour (label 1) is paired at random with one that does not,
    and the pair is the scenario. As "story" somebody says the statement, as "assistant" the Assistant does, "split"
    deals the pairs half and half. Questions with choices and no statement make a true pair each, the Assistant giving
    the matching and the other answer.

    Args:
        path: one JSONL file; its name becomes the persona's.
        domain: where statements are said.
        seed: decides who is paired with whom.

    Raises:
        LineError: for a line without the keys of either form.
        AuditError: if one of the two labels has no statement, or the file's name cannot be a persona's.
    """
    path = Path(path)
    said: dict[int, list[str]] = {0: [], 1: []}
    asked: list[Line] = []
    name = _stem(path)
    for place, row in objects(path):
        match, other = row.get("answer_matching_behavior"), row.get("answer_not_matching_behavior")
        other = other[0] if isinstance(other, list) and other else other
        if not (isinstance(match, str) and isinstance(other, str)):
            raise place.refuse("no answers", "answer_matching_behavior and answer_not_matching_behavior")
        if isinstance(row.get("statement"), str) and match.strip() in ("Yes", "No"):
            said[int(match.strip() == "Yes")].append(row["statement"])
        elif isinstance(row.get("question"), str):
            pair = f"{name}-{place.number:04d}"
            asked += [
                _answer(name, pair, row["question"], text.strip(), label) for label, text in ((1, match), (0, other))
            ]
        else:
            raise place.refuse("neither a statement nor a question", "one of the two as text")
    lines, left = (asked, 0) if asked and not any(said.values()) else _matched(path, said, domain, seed)
    header = _loose(name, "matches the behaviour", "model-written, Perez et al. 2022", "CC-BY-4.0", left)
    return _persona(header, [*lines, *(asked if any(said.values()) else [])])


def read_statements(path: Path, *, domain: Literal["story", "assistant", "split"] = "split", seed: int = 0) -> Persona:
    """Reads a CSV with the columns `statement` and `label` (0 or 1); others are ignored. Pairs as `read_evals` does.

    Raises:
        LineError: for a missing column or statement, or another label.
        AuditError: if one of the two labels has no statement, or the file cannot be read or cannot name a persona.
    """
    path = Path(path)
    name, said = _stem(path), {0: [], 1: []}
    try:
        # With the mark that spreadsheets put at the start, or without.
        content = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AuditError(f"{path} cannot be read ({reason})", "a readable file in UTF-8", "Check the path") from error
    rows = csv.DictReader(io.StringIO(content, newline=""))
    if not {"statement", "label"} <= set(rows.fieldnames or ()):
        raise LineError(path, 1, f"the columns {rows.fieldnames}", "statement and label among them")
    for row in rows:
        if row["label"] not in ("0", "1") or not (row["statement"] or "").strip():
            raise LineError(path, rows.line_num, f"label {row['label']!r}", "a statement and a label 0 or 1")
        said[int(row["label"])].append(row["statement"])
    lines, left = _matched(path, said, domain, seed)
    return _persona(_loose(name, "labelled 1 in the file", "read from a CSV of statements", "unknown", left), lines)


def _stem(path: Path) -> str:
    """The name of a persona that is a file of its own."""
    if not NAME.fullmatch(path.stem):
        raise AuditError(f"{path} names its persona {path.stem!r}", NAMED, "Rename the file")
    return path.stem


def _check_pairs(lines: Iterable[tuple[Place, Line]]) -> None:
    pairs: dict[str, list[tuple[Place, Line]]] = defaultdict(list)
    for place, line in lines:
        pairs[cast("str", line.pair)].append((place, line))
    for name, halves in pairs.items():
        place = halves[-1][0]
        if len(halves) != 2:
            raise place.refuse(f"pair {name!r} has {len(halves)} line{'s' * (len(halves) > 1)}", "two lines a pair")
        (first, one), (_, two) = halves
        where = f"as its other half at {first.path.name}:{first.number}"
        if one.label == two.label:
            raise place.refuse(f"pair {name!r} is one-sided, label {two.label} twice", "one label 1 and one label 0")
        if one.scenario != two.scenario:
            raise place.refuse(f"pair {name!r} has scenario {two.scenario!r}", f"{one.scenario!r}, {where}")
        if one.domain != two.domain:
            raise place.refuse(f"pair {name!r} is in domain {two.domain!r}", f"{one.domain!r}, {where}")
        if one.control != two.control:
            raise place.refuse(f"pair {name!r} has control {two.control!r}", f"{one.control!r}, {where}")


def _check_scenarios(lines: Iterable[tuple[Place, Line]]) -> None:
    first: dict[str, tuple[Place, Line]] = {}
    for place, line in lines:
        there, one = first.setdefault(line.scenario, (place, line))
        if line.domain != one.domain:
            raise place.refuse(
                f"scenario {line.scenario!r} is in domain {line.domain!r}",
                f"{one.domain!r} alone, as at {there.path.name}:{there.number}, or it is both fitted on and judged",
            )


def _headers(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.toml")):
        header = _header(path)
        if header["name"] in found or path.stem not in ("persona", header["name"]):
            raise AuditError(f"{path} names {header['name']!r}", f"one header, {header['name']}.toml", "Rename it")
        found[header["name"]] = header
    for name in sorted(set(names) ^ set(found)):
        if name in names:
            expected = f"{folder / name}.toml, or persona.toml where there is one persona"
            raise AuditError(f"The persona {name!r} has no header", expected, f"Write {', '.join(_HEADER)} into it")
        raise AuditError(
            f"The header {name!r} in {folder} has no lines", "a persona of that name", "Check the spelling"
        )
    return found


def _header(path: Path) -> dict[str, Any]:
    try:
        header = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError(f"{path} is not TOML ({error})", "a header", "Mend the file") from error
    for key, kind in _HEADER.items():
        if type(header.get(key)) is not kind:
            wanted = "true or false" if kind is bool else "text"
            raise AuditError(f"{path}: {key} is {header.get(key)!r}", f"{key} as {wanted}", "Mend the header")
    if extra := set(header) - set(_HEADER) - set(_NOTES):
        raise AuditError(f"{path}: unknown key {min(extra)!r}", f"{', '.join((*_HEADER, *_NOTES))}", "Remove it")
    return header | {key: _notes(path, key, header.get(key, [])) for key in _NOTES}


def _notes(path: Path, key: str, told: Any) -> tuple[str, ...]:
    told = [told] * bool(told.strip()) if isinstance(told, str) else told
    if not isinstance(told, list) or not all(isinstance(one, str) and one.strip() for one in told):
        raise AuditError(f"{path}: {key} is {told!r}", "a text, or a list of texts", "Mend the header")
    return tuple(told)


def _persona(header: dict[str, Any], lines: Iterable[Line]) -> Persona:
    kept = tuple(lines)
    told = _digest(header["name"], header["label_one"], header["alarm"], kept)
    return Persona(lines=kept, digest=told, **header)


def _digest(name: str, label_one: str, alarm: bool, lines: Iterable[Line]) -> str:
    return digest([name, label_one, alarm, *(vars(line) for line in lines)])


def _loose(name: str, label_one: str, made: str, licence: str, left: int) -> dict[str, Any]:
    weak = "Not written as contrast pairs: words alone may tell the labels apart."
    return {
        "name": name,
        "definition": f"Statements of {name}",
        "label_one": label_one,
        "alarm": False,
        "licence": licence,
        "made": made,
        "weaknesses": (weak, *([f"{left} statements had no partner and are left out."] if left else [])),
    }


def _answer(persona: str, pair: str, question: str, answer: str, label: int) -> Line:
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Line(persona, pair, pair, "assistant", label, None, turns, None, None, None)


def _matched(path: Path, said: dict[int, list[str]], domain: str, seed: int) -> tuple[list[Line], int]:
    """Random pairs of one matching and one other statement; and how many statements stay alone."""
    if not said[0] or not said[1]:
        raise AuditError(f"{path} has {len(said[1])} matching and {len(said[0])} other statements", "both", "Add some")
    rng = np.random.default_rng(seed)
    count = min(len(said[0]), len(said[1]))
    drawn = {label: [said[label][i] for i in rng.permutation(len(said[label]))[:count]] for label in (1, 0)}
    lines = []
    for i in range(count):
        pair = f"{path.stem}-{i:04d}"
        story = domain == "story" or (domain == "split" and i % 2 == 0)
        for label in (1, 0):
            line = _answer(path.stem, pair, "Tell me something about yourself.", drawn[label][i].strip(), label)
            lines.append(_quoted(line, drawn[label][i].strip()) if story else line)
    return lines, len(said[0]) + len(said[1]) - 2 * count


def _quoted(line: Line, statement: str) -> Line:
    opening = 'Somebody said: "'
    span = (len(opening), len(opening) + len(statement))
    return replace(line, domain="story", text=f'{opening}{statement}"', messages=None, span=span)
