"""Scenarios as an author writes them, and the 2x2 quads of contrast pairs they are composed into.

A frame is one scenario. Two things in it can change places, and what is said in the scored span picks one of them: what
stands at `{one}` makes label 1, what stands at `{zero}` label 0. Each row of its cast fills it once, and gives a quad:
two ways round, times two picks. Both ways hold the same words, both labels hold the same two spans, and the facts are
told in two orders, turn about, so that neither words nor places give the label away.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.digest import AuditError
from probes.line import Domain, Line, Place

SLOT = re.compile(r"\{([A-Za-z]\w*(?:\.\w+)?)\}")
_SPAN = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)
_TURN = re.compile(r"^(system|user|assistant):[ \n]", re.MULTILINE)
_KEYS = {"scenario", "passage", "told", "cast"}
SWAPPED = "swap"
"""The two things that change places: `{one}`, `{zero}` and `{pick}` stand for them without a further name."""
_WAYS = ("one", "zero")


@dataclass(frozen=True)
class Frame:
    """One scenario as its author wrote it.

    Attributes:
        scenario: its name, and the group of all its passages.
        passage: the text with its slots, `{told}` once, and the scored span in `[[ ]]`.
        told: what `{told}` stands for, in two orders: `{one}` named first and `{zero}` last, then the reverse.
        cast: what fills the slots, a row a quad; a list of two changes places.
        control: the kind of control text this is.
    """

    scenario: str
    passage: str
    told: tuple[str, str]
    cast: tuple[Mapping[str, Any], ...]
    control: str | None


def frames(path: Path) -> Iterator[tuple[Place, Frame]]:
    """The frames of a TOML file (`[[frame]]` tables), with their places.

    Raises:
        LineError: for a frame that gives its labels away or cannot be filled, with the line of its `scenario`.
        AuditError: if the file cannot be read or is not TOML.
    """
    try:
        content = path.read_text("utf-8")
        whole = tomllib.loads(content)
    except (OSError, ValueError) as error:
        raise AuditError(f"{path} is not TOML ({error})", "a file of [[frame]] tables", "Mend the file") from error
    tables = whole.get("frame", [])
    if set(whole) - {"frame"} or not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        found = ", ".join(whole) or "nothing"
        raise AuditError(f"{path} holds {found}", "[[frame]] tables and nothing else", "Mend the file")
    named = [n for n, line in enumerate(content.splitlines(), 1) if re.match(r"\s*scenario\s*=", line)]
    for i, table in enumerate(tables):
        place = Place(path, named[i] if len(named) == len(tables) else 1)
        yield place, _frame(place, table)


def composed(path: Path, persona: str, domain: Domain) -> Iterator[tuple[Place, Line]]:
    """The lines that a file of frames stands for, with the places of their frames. Raises as `frames` does."""
    # Orders take turns among the judged texts, and among each kind of control text.
    before: Counter[str | None] = Counter()
    for place, frame in frames(path):
        for row in range(len(frame.cast)):
            order = (before[frame.control] + row) % 2
            yield from ((place, line) for line in _quad(place, frame, row, order, persona, domain))
        before[frame.control] += 1


def _frame(place: Place, table: dict[str, Any]) -> Frame:
    if missing := _KEYS - set(table):
        raise place.refuse(f"the key {min(missing)!r} is missing", f"the keys {', '.join(sorted(_KEYS))}")
    if extra := set(table) - _KEYS - {"control"}:
        raise place.refuse(f"the key {min(extra)!r} is not known", f"{', '.join(sorted(_KEYS))}, control")
    for key in ("scenario", "passage", *(("control",) if "control" in table else ())):
        if not isinstance(table[key], str) or not table[key].strip():
            raise place.refuse(f"{key} is {table[key]!r}", f"{key} as text that is not empty")
    told, cast = table["told"], table["cast"]
    if not (isinstance(told, list) and len(told) == 2 and all(isinstance(one, str) for one in told)):
        raise place.refuse(f"told is {str(told)[:60]!r}", "the same told in two orders: a list of two texts")
    if not (isinstance(cast, list) and cast and all(isinstance(row, dict) for row in cast)):
        raise place.refuse(f"cast is {str(cast)[:60]!r}", "a list of tables, one a quad")
    fills = [text for row in cast for fill in row.values() for text in (fill if isinstance(fill, list) else [fill])]
    if any("[[" in str(one) or "]]" in str(one) for one in (*told, *fills)):
        raise place.refuse("[[ or ]] stands in told or in the cast", "them in the passage alone, around the span")
    frame = Frame(
        table["scenario"].strip(), table["passage"].strip(), (told[0].strip(), told[1].strip()), tuple(cast),
        table.get("control"),
    )  # fmt: skip
    _check_text(place, frame)
    _check_cast(place, frame)
    return frame


def _check_text(place: Place, frame: Frame) -> None:
    spans = _SPAN.findall(frame.passage)
    if len(spans) != 1:
        raise place.refuse(f"{len(spans)} scored spans in [[ ]]", "one")
    before, _, after = _SPAN.split(frame.passage)
    if "{told}" not in before or frame.passage.count("{told}") != 1:
        raise place.refuse("{told} does not stand once before the span", "{told} once, before the span")
    inside = [_way(slot) for slot in SLOT.findall(spans[0])]
    if "pick" not in inside or set(inside) & set(_WAYS):
        raise place.refuse(f"the span is {spans[0]!r}", "a span with {pick}, and neither {one} nor {zero}")
    if "pick" in map(_way, SLOT.findall(before + after + "".join(frame.told))):
        raise place.refuse("{pick} stands outside the span", "{pick} in the span alone")
    for told, (first, last) in zip(frame.told, (_WAYS, _WAYS[::-1]), strict=True):
        named = [_way(slot) for slot in SLOT.findall(before.replace("{told}", told)) if _way(slot) in _WAYS]
        if not named or (named[0], named[-1]) != (first, last):
            raise place.refuse(
                f"the order {told[:40]!r} names {', '.join(named) or 'neither'}",
                f"{{{first}}} first and {{{last}}} last: the first order begins with {{one}}, the second with {{zero}}",
            )
        every = SLOT.findall((before + after).replace("{told}", told))
        for key in {_key(slot) for slot in every if _way(slot) in _WAYS}:
            count = {way: sum(_way(slot) == way and _key(slot) == key for slot in every) for way in _WAYS}
            if count["one"] != count["zero"]:
                raise place.refuse(
                    f"the order {told[:40]!r} uses {{one}} {count['one']} times and {{zero}} {count['zero']} times",
                    "both equally often, or words give the label away",
                )


def _check_cast(place: Place, frame: Frame) -> None:
    used = set(SLOT.findall(frame.passage.replace("{told}", " ".join(frame.told))))
    swapped = {_key(slot) for slot in used if _way(slot) in (*_WAYS, "pick")}
    plain = {slot.lower() for slot in used if _way(slot) not in (*_WAYS, "pick")}
    for row in frame.cast:
        if set(row) != swapped | plain:
            odd = min(set(row) ^ (swapped | plain))
            found = f"the cast has no {odd!r}" if odd not in row else f"nothing in the frame uses {odd!r} of the cast"
            raise place.refuse(found, f"a row with {', '.join(sorted(swapped | plain))}")
        for key, value in row.items():
            two = isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) and v.strip() for v in value)
            if key in swapped and not (two and value[0] != value[1]):
                raise place.refuse(f"{key} of the cast is {value!r}", "a list of two different texts")
            if key in plain and not (isinstance(value, str) and value.strip()):
                raise place.refuse(f"{key} of the cast is {value!r}", "a text")


def _way(slot: str) -> str:
    return slot.partition(".")[0].lower()


def _key(slot: str) -> str:
    return slot.partition(".")[2] or SWAPPED


def _quad(place: Place, frame: Frame, row: int, order: int, persona: str, domain: Domain) -> Iterator[Line]:
    text = frame.passage.replace("{told}", frame.told[order])
    for pick, half in enumerate("ab"):
        for one in (pick, 1 - pick):
            filled = SLOT.sub(lambda slot: _filling(frame.cast[row], slot[1], one, pick), text)  # noqa: B023
            pair = f"{persona}-{domain}-{frame.scenario}-{row}{half}"
            yield _line(place, filled, (persona, pair, frame.scenario, domain, int(one == pick)), frame.control)


def _filling(row: Mapping[str, Any], slot: str, one: int, pick: int) -> str:
    at = {"one": one, "zero": 1 - one, "pick": pick}.get(_way(slot))
    value = row[slot.lower()] if at is None else row[_key(slot)][at]
    return value[0].upper() + value[1:] if slot[0].isupper() else value


def _line(place: Place, filled: str, own: tuple[str, str, str, Domain, int], control: str | None) -> Line:
    if own[3] != "assistant":
        return Line(*own, *_marked(filled)[:1], None, _marked(filled)[1], control, "script")
    turns = _turns(place, filled)
    content, span = _marked(turns[-1]["content"])
    return Line(*own, None, (*turns[:-1], {"role": "assistant", "content": content}), span, control, "script")


def _marked(text: str) -> tuple[str, tuple[int, int]]:
    """The text without its marks, and what stood between them."""
    before, span, after = _SPAN.split(text)
    return before + span + after, (len(before), len(before) + len(span))


def _turns(place: Place, filled: str) -> Sequence[dict[str, str]]:
    head, *parts = _TURN.split(filled)
    turns = [{"role": r, "content": c.strip()} for r, c in zip(parts[::2], parts[1::2], strict=True)]
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise place.refuse("a system turn stands between others", "it first or not at all, as chat templates do")
    if head.strip() or not turns or turns[-1]["role"] != "assistant" or "[[" not in turns[-1]["content"]:
        raise place.refuse(
            "the turns do not end with the Assistant's scored one",
            "lines that begin with system:, user: or assistant:, the last one the Assistant's with the span",
        )
    return turns
