"""A gate as Markdown, worst first."""

from __future__ import annotations

import re
from collections.abc import Iterator

from audit.case import Case
from audit.gate import Gate
from audit.scores import signed

SUMMARY = "summary.md"
SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$])")
SAYS = {
    "red": "red: something is worse",
    "no answer": "no answer: something was not measured or could not be compared",
    "yellow": "yellow: it passes, and something needs a look",
    "green": "green",
}


def summary(gate: Gate, limit: int | None = None) -> str:
    """The text of `summary.md`.

    Args:
        gate: what is told.
        limit: bytes it may have at most; rows and notes that do not fit are counted and left out, the worst stay.
    """
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in gate.counts.items()) or "no case"
    head = [f"# persona-audit: {SAYS[gate.colour]}", "", f"Exit {gate.exit}. {counts}.", ""]
    head += ["| outcome | checkpoint | finding | change | limit | why |", "|---|---|---|---|---|---|"]
    rows = [*_rows(gate), *_notes(gate)]
    whole = _text([*head, *rows])
    if limit is None or len(whole.encode()) <= limit:
        return whole
    room = limit - len(_text([*head, "", _left(len(rows))]).encode())
    kept = 0
    for row in rows:
        room -= len(row.encode()) + 1
        if room < 0:
            break
        kept += 1
    return _text([*head, *rows[:kept], "", _left(len(rows) - kept)])


def escaped(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace(r"\<", "&lt;").replace(r"\>", "&gt;")


def _rows(gate: Gate) -> Iterator[str]:
    """One row a case, worst first; of one outcome those that fell most."""
    cases, order = [(case, suite.name) for suite in gate.suites for case in suite.cases], list(gate.counts)
    for case, name in sorted(cases, key=lambda one: (order.index(one[0].outcome), _fall(one[0]))):
        mark = f"**{case.outcome.replace('_', ' ')}**" if gate.fails(case) else case.outcome.replace("_", " ")
        change = signed(case.change) if case.change else ""
        limit = "" if case.limit is None else f"{case.limit:+.3f}"
        cells = (mark, *map(escaped, (name, case.id, change, limit, case.sentence)))
        yield f"| {' | '.join(cells)} |"


def _fall(case: Case) -> float:
    return case.change.value if case.change else 0.0


def _notes(gate: Gate) -> Iterator[str]:
    """What is said beside the cases; equal notes of several checkpoints once."""
    notes = dict.fromkeys(note for suite in gate.suites for note in suite.notes)
    if notes:
        yield ""
    yield from (f"- {escaped(note)}" for note in notes)


def _left(count: int) -> str:
    return f"{count} further lines are in the file {SUMMARY} of this check."


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
