"""One passage as written down, and the reader that refuses every malformed one with its file and line number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from probes.digest import AuditError

Domain: TypeAlias = Literal["story", "assistant", "plain"]
_DOMAINS = get_args(Domain)
_ROLES = ("system", "user", "assistant")
_REQUIRED = ("persona", "pair", "scenario", "domain", "label")
_OPTIONAL = ("text", "messages", "span", "control", "author")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
"""What a persona may be called: its name becomes a file name, on any system."""
NAMED = "letters, digits, '_', '-' and '.', not starting with a dot: it becomes a file name"


@dataclass(frozen=True)
class Line:
    """One passage as written down.

    Attributes:
        persona: the persona's name; None for plain text.
        pair: two lines that share it make a contrast pair; None for plain text.
        scenario: the group: its lines are resampled together.
        domain: "story" (characters, third person), "assistant" (the Assistant's own turns) or "plain".
        label: 1, 0, or None for plain text.
        text: the passage, or None where there are messages.
        messages: role and content of each turn, or None where there is text.
        span: scored characters of the text or of the last message, end exclusive; None is all of it.
        control: the kind of control text this is, such as "honest-mistake".
        author: "script" or "post", where the passage was not written by hand.
    """

    persona: str | None
    pair: str | None
    scenario: str
    domain: Domain
    label: int | None
    text: str | None
    messages: tuple[dict[str, str], ...] | None
    span: tuple[int, int] | None
    control: str | None
    author: str | None


class LineError(AuditError):
    """A malformed line of a persona file.

    Attributes:
        path: the file.
        number: the line, from 1.
    """

    def __init__(self, path: Path, number: int, wrong: str, expected: str) -> None:
        """Names the place first, the way compilers do."""
        super().__init__(f"{path}:{number}: {wrong}", expected, "Mend the line")
        self.path, self.number = path, number

    def __reduce__(self) -> tuple[Any, ...]:
        """Survives the trip between processes."""
        return AuditError, (self.found, self.expected, self.do)


@dataclass(frozen=True)
class Place:
    """Where a line stands: its file and its number from 1."""

    path: Path
    number: int

    def refuse(self, wrong: str, expected: str) -> LineError:
        """The error to raise about this line."""
        return LineError(self.path, self.number, wrong, expected)


def parse_lines(path: Path) -> Iterator[tuple[Place, Line]]:
    """The lines of a file with their places.

    Raises:
        LineError: at the first line that does not have the format.
        AuditError: if the file cannot be read.
    """
    for place, row in objects(path):
        plain = row.get("domain") == "plain"
        required = ("scenario", "domain") if plain else _REQUIRED
        if missing := [key for key in required if key not in row]:
            raise place.refuse(f"the key {missing[0]!r} is missing", f"the keys {', '.join(required)}")
        if extra := [key for key in row if key not in (*required, *_OPTIONAL)]:
            whose = " of a plain line" if plain else ""
            raise place.refuse(f"the key {extra[0]!r} is not known", f"only the keys{whose} the format has")
        _check_values(place, row, plain)
        messages = _messages(place, row)
        yield (
            place,
            Line(
                row.get("persona"),
                row.get("pair"),
                row["scenario"],
                row["domain"],
                row.get("label"),
                row.get("text"),
                messages,
                _span(place, row, messages[-1]["content"] if messages else row["text"]),
                row.get("control"),
                row.get("author"),
            ),
        )


def objects(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The JSON objects of a file with their places; blank lines are passed over."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AuditError(f"{path} cannot be read ({error.strerror})", "a readable file", "Check the path") from error
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw.strip():
            continue
        place = Place(path, number)
        try:
            row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise place.refuse(f"not JSON ({error})", "one JSON object a line, in UTF-8, each key once") from error
        if not isinstance(row, dict):
            raise place.refuse(f"a {type(row).__name__}", "a JSON object")
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            # JSON may escape half of a surrogate pair; no tokenizer reads it and no record can hold it.
            half = error.object[error.start]
            raise place.refuse(f"the lone surrogate {half!r}", "whole characters") from error
        yield place, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key is there twice")
    return row


def _check_values(place: Place, row: dict[str, Any], plain: bool) -> None:
    for key in ("scenario", *(() if plain else ("persona", "pair")), *(k for k in ("control", "author") if k in row)):
        if not isinstance(row[key], str) or not row[key].strip():
            raise place.refuse(f"{key} is {row[key]!r}", f"{key} as text that is not empty")
    if not plain and not NAME.fullmatch(row["persona"]):
        raise place.refuse(f"persona is {row['persona']!r}", NAMED)
    if row["domain"] not in _DOMAINS:
        raise place.refuse(f"domain is {row['domain']!r}", f"one of {', '.join(_DOMAINS)}")
    if not plain and (isinstance(row["label"], bool) or row["label"] not in (0, 1) or isinstance(row["label"], float)):
        raise place.refuse(f"label is {row['label']!r}", "0 or 1")
    if ("text" in row) == ("messages" in row):
        raise place.refuse("both text and messages" if "text" in row else "neither text nor messages", "one of the two")
    if "text" in row and (not isinstance(row["text"], str) or not row["text"].strip()):
        raise place.refuse("text is empty or no text", "a passage")
    if row.get("author", "script") not in ("script", "post"):
        raise place.refuse(f"author is {row['author']!r}", "script or post")


def _messages(place: Place, row: dict[str, Any]) -> tuple[dict[str, str], ...] | None:
    if "messages" not in row:
        return None
    turns = row["messages"]
    if not isinstance(turns, list) or not turns:
        raise place.refuse("messages is empty or no list", "a list of turns")
    for turn in turns:
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            raise place.refuse(f"a message is {str(turn)[:60]!r}", "role and content, nothing else")
        if turn["role"] not in _ROLES or not isinstance(turn["content"], str):
            raise place.refuse(f"a message has role {turn['role']!r}", f"a role of {', '.join(_ROLES)}, and text")
    if not turns[-1]["content"].strip():
        raise place.refuse("the last message is empty", "a turn to score")
    if row["domain"] == "assistant" and turns[-1]["role"] != "assistant":
        raise place.refuse(f"the last message is the {turns[-1]['role']}'s", "the Assistant's turn at the end")
    return tuple(turns)


def _span(place: Place, row: dict[str, Any], text: str) -> tuple[int, int] | None:
    if "span" not in row:
        return None
    span = row["span"]
    whole = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
    if not whole or not 0 <= span[0] <= span[1] <= len(text):
        raise place.refuse(f"span is {span!r}", f"[start, end] within the {len(text)} characters")
    if not text[span[0] : span[1]].strip():
        raise place.refuse(f"span {span!r} is empty", "at least one character that is not a space")
    return (span[0], span[1])
