"""The page of a series: the first checkpoint that leaves its margins, then every persona over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from audit.case import Outcome
from audit.gate import UNKNOWN
from audit.report.figure import banded
from audit.report.folder import text
from audit.report.page import document
from audit.report.room import TONES, VERDICTS
from audit.report.style import JSON, Figure, axis, layout, light, note, rule
from audit.scores import READINGS, signed
from audit.series import SERIES, Series, Trend
from audit.verdict import spoken

PAGE = "series.html"
LINES: dict[str, tuple[tuple[str, str, str], str]] = {
    "readability": (("base's frozen direction", "square", "solid"), "frozen"),
    "ceiling": (("post's own probe", "diamond", "solid"), "post"),
    "accuracy": (("frozen threshold (balanced accuracy)", "circle", "dash"), "base"),
}
"""Reading -> (its line, its colour)."""
OUTCOMES: dict[Outcome, tuple[str, str]] = {
    "error": ("bad", "?"), "not_measured": ("bad", "?"), "not_comparable": ("bad", "?"), "regression": ("bad", "▲"),
    "expired": ("bad", "▲"), "inconclusive": ("open", "…"), "warning": ("warn", "≈"), "waived": ("warn", "≈"),
    "ungated": ("open", "·"), "pass": ("good", "●"),
}  # fmt: skip
"""Outcome -> (tone, mark)."""
WORDS: dict[Outcome, str] = {
    "inconclusive": "undecided", "warning": "needs a look", "waived": "waived", "ungated": "not gated",
    "regression": "worse", "error": "no answer", "not_measured": "no answer", "not_comparable": "no answer",
}  # fmt: skip
"""What the first screen says of a persona that no checkpoint fails, by its worst outcome."""


class Row(NamedTuple):
    """One persona of the first screen, and its part of the page."""

    persona: str
    tone: str
    mark: str
    word: str
    says: str
    figure: Figure
    strip: tuple[tuple[int, str, str, str], ...]
    """Step, tone, mark and verdict of every checkpoint."""
    trends: tuple[Trend, ...]

    @property
    def name(self) -> str:
        """Of its plot on the page."""
        return f"series-{self.persona}"


def render(found: Series) -> str:
    """The page of a series as one offline HTML document, light and dark."""
    rows = [_row(found, persona) for persona in dict.fromkeys(one.persona for one in found.trends)]
    rows.sort(key=lambda row: TONES.index(row.tone))
    lost = [one for one in found.checkpoints if one.digest is None]
    return document(
        "series.html.j2",
        {
            "found": found, "rows": rows, "lost": lost, "signed": signed, "outcomes": OUTCOMES,
            "headline": _headline(found),
            "worst": {one.ref: found.gate.suite(one.ref).worst for one in found.checkpoints},
            "meanings": READINGS, "counted": "training step" if found.counted else "checkpoint",
            "size": signed_size, "spoken": spoken,
        },
    )  # fmt: skip


def write(found: Series, out: Path) -> Path:
    """Writes series.json and series.html into a folder, and returns the page.

    Raises:
        AuditError: the folder cannot be written.
    """
    text(out / SERIES, found.to_json())
    return text(out / PAGE, render(found))


def signed_size(value: float) -> str:
    """A change without an interval, e.g. `-0.31`."""
    return f"{value:+.2f}"


def _headline(found: Series) -> tuple[str, str]:
    """Tone and sentence."""
    if found.first is not None:
        bad = next(one for one in found.checkpoints if one.step == found.first)
        if bad.outcome in UNKNOWN:
            return "bad", f"No answer at {_unit(found)} {found.first:,}: the first checkpoint that fails"
        failing = [case for case in found.gate.suite(bad.ref).cases if found.gate.fails(case)]
        named = " and ".join(name.replace("_", " ") for name in dict.fromkeys(case.persona for case in failing))
        worse = any(case.outcome in ("regression", "expired") for case in failing)
        verb = "is worse" if worse else "fails" if len(failing) == 1 else "fail"
        return "bad", f"{named}: {verb} first at {_unit(found)} {found.first:,}"
    others = [case for case in found.gate.cases if found.gate.fails(case)]
    if others:
        return "bad", f"No checkpoint fails, and the series does: {others[0].sentence}"
    undecided = sum(one.outcome == "inconclusive" for one in found.checkpoints)
    tail = f"; {undecided} of them undecided" if undecided else ""
    return "open" if undecided else "good", f"No checkpoint of {len(found.checkpoints)} fails{tail}"


def _unit(found: Series) -> str:
    return "step" if found.counted else "place"


def _row(found: Series, persona: str) -> Row:
    trends = tuple(one for one in found.trends if one.persona == persona)
    order: tuple[Outcome, ...] = get_args(Outcome)
    cases = [
        (one.step, case) for one in found.checkpoints for case in found.gate.suite(one.ref).cases
        if case.persona == persona
    ]  # fmt: skip
    failed = [step for step, case in cases if found.gate.fails(case)]
    frozen = next(one for one in trends if one.reading == "readability")
    says = f"Base's frozen direction reads {frozen.values[0]} at the first and {frozen.values[-1]} at the last"
    says += f"; base itself {frozen.base}."
    if frozen.moved is not None:
        says += f" Trend over the series {signed(frozen.moved)}."
    first = min(failed) if failed else None
    worst: Outcome = min([case.outcome for _, case in cases] or ["not_measured"], key=order.index)
    tone, mark = OUTCOMES[worst] if first is None else ("bad", "▲")
    word = WORDS.get(worst, "passes") if first is None else f"{_unit(found)} {first:,}"
    given = [(one.step, one.verdicts.get(persona, "none")) for one in found.checkpoints]
    strip = tuple((step, *VERDICTS.get(name, ("open", "·", ""))[:2], name) for step, name in given)
    return Row(persona, tone, mark, word, says, _figure(found, trends, first), strip, trends)


def over_steps(found: Series, persona: str) -> Figure:
    """A persona's readings over the steps, for notebooks too: `over_steps(...).plotly()`."""
    trends = [one for one in found.trends if one.persona == persona]
    return _figure(found, trends, min((one.first for one in trends if one.first is not None), default=None))


def _figure(found: Series, trends: Sequence[Trend], first: int | None) -> Figure:
    """Every reading over the steps with its band, what the first may not fall below, and the first step that fails."""
    traces: list[JSON] = []
    for one in trends:
        line, colour = LINES[one.reading]
        traces += banded(line, colour, one.steps, [value.model_dump() for value in one.values])
        if one.reading == "readability" and any(limit is not None for limit in one.limits):
            traces.append({
                "type": "scatter", "mode": "lines", "name": "limit of the frozen direction", "x": list(one.steps),
                "y": list(one.limits), "line": {"color": light("muted"), "width": 1.4, "dash": "dot"},
                "hovertemplate": "limit %{y:.2f}",
            })  # fmt: skip
    low = [value.value if value.low is None else value.low for one in trends for value in one.values]
    shapes, notes = [rule("y", 0.5)], []
    if first is not None:
        shapes.append(rule("x", first, "dot"))
        steps = [one.step for one in found.checkpoints]
        late = first > (steps[0] + steps[-1]) / 2
        side: dict[str, Any] = {"xanchor": "right", "xshift": -5} if late else {"xanchor": "left", "xshift": 5}
        notes.append(note(first, 0, "first that fails", yref="paper", yanchor="bottom", **side))
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}}
    look = layout(
        400, axis("training steps" if found.counted else "checkpoint", showgrid=False, showline=True, ticks="outside"),
        axis("AUROC or accuracy (0.5 = chance)", range=[max(0.0, min([0.4, *low]) - 0.03), 1.02], dtick=0.1),
        shapes=shapes, annotations=notes, hovermode="x unified", showlegend=True, legend=legend,
    )  # fmt: skip
    look["margin"] |= {"t": 64, "r": 16}
    return Figure(traces, look, f"Readings of {trends[0].persona} over the checkpoints, with 95 % bands.",
                  {"layout.legend.font.size": 10, "layout.margin.t": 92})  # fmt: skip
