"""What GitHub Actions reads of a check: a step summary under its size limit, and annotations with its escapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from audit.gate import Gate
from audit.report.summary import summary

STEP_LIMIT = 2**20
"""Bytes of one step's summary: a longer one is dropped whole, without failing the step."""
ANNOTATIONS = 10
"""Annotations of each kind that are shown for a step."""
LONGEST = 4_000
"""Characters of one annotation's message."""
BESIDE = ("inconclusive", "warning", "waived")


def workflow_commands(gate: Gate) -> Iterator[str]:
    """Workflow commands, worst first: an error for what counts against the check, a warning for what needs a look."""
    failing = [case for case in gate.cases if gate.fails(case)]
    beside = [case for case in gate.cases if not gate.fails(case) and case.outcome in BESIDE]
    for command, cases in (("error", failing), ("warning", beside)):
        shown = cases if len(cases) <= ANNOTATIONS else cases[: ANNOTATIONS - 1]
        for case in shown:
            title = _property(f"persona-audit: {case.outcome.replace('_', ' ')}: {case.id}")
            yield f"::{command} title={title}::{_message(case.sentence[:LONGEST])}"
        if len(cases) > len(shown):
            yield f"::{command} title=persona-audit::{len(cases) - len(shown)} more are in the step summary"


def append_summary(gate: Gate, environment: Mapping[str, str]) -> str | None:
    """Appends the summary to $GITHUB_STEP_SUMMARY, within what the step has left; why it could not be, or None.

    A summary that cannot be appended changes nothing in the answer of a check.
    """
    named = environment.get("GITHUB_STEP_SUMMARY")
    if not named:
        return None
    path = Path(named)
    try:
        used = path.stat().st_size if path.exists() else 0
        told = summary(gate, STEP_LIMIT - used)
        if used + len(told.encode()) > STEP_LIMIT:
            return f"{named} has no room left"
        with path.open("a", encoding="utf-8") as file:
            file.write(told)
    except OSError as error:
        return f"{named} cannot be written ({error.strerror})"
    return None


def _message(text: str) -> str:
    """A command's message: percent and line ends are escaped."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A command's property: colon and comma too."""
    return _message(text).replace(":", "%3A").replace(",", "%2C")
