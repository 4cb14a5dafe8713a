"""What the page shows about each persona: a record's verdicts and findings laid out for reading, nothing computed anew.

A reading that a record lacks becomes the reason why it is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from audit.report.facts import Facts, beside, erasure, geometry, shift
from audit.report.figure import RUNGS, ladder, layers, matrix
from audit.report.meaning import COMPARISONS, Part, part
from audit.report.passages import Sheet, sheet
from audit.report.style import Figure, reading

JSON = Mapping[str, Any]

VERDICTS: dict[str, tuple[str, str, str]] = {
    "not_measured": ("bad", "?", "something failed and the reason is named: never a number, never a pass"),
    "novel": ("bad", "▲", "post carries it and nothing fitted on base reads it: it moved, or it is new"),
    "lost": ("bad", "▼", "base carries it, post does not"),
    "rotated": (
        "warn",
        "↻",
        "readable again after a map between the models that uses no labels, or with its sign turned",
    ),
    "extended": ("warn", "◐", "base still reads part of it; a share lives where base's direction does not look"),
    "reweighted": (
        "warn",
        "≈",
        "the same direction with a moved mean or gain: a deployed threshold breaks, the direction does not",
    ),
    "inconclusive": ("open", "…", "the intervals do not decide, or there are too few groups"),
    "absent": ("open", "○", "neither model carries it beyond what the words give away"),
    "reused": ("good", "●", "base's frozen direction, fitted on characters in stories, reads the Assistant in post"),
}
"""Verdict -> (tone, mark, meaning), worst first; the order of the page."""

TONES = ("bad", "warn", "open", "good")
"""Worst first."""
SEVERITIES = {"alarm": "bad", "not_measured": "bad", "warn": "warn", "inconclusive": "open", "pass": "good"}
RATIOS = {
    "base": "story → assistant: what crossing domains costs before any post-training",
    "any": "the best rung over base's story, assistant and pooled fits",
}


@dataclass(frozen=True)
class Plot:
    """A figure with its place on the page, or the reason why there is none."""

    name: str
    figure: Figure | None
    why: str


@dataclass(frozen=True)
class Rung:
    """One row of the ladder's table: its Estimates (None: the record has none), or why it was not measured."""

    name: str
    short: str
    note: str
    auroc: JSON | None
    rho: JSON | None
    shared: JSON | None
    reason: str = ""


@dataclass(frozen=True)
class Mark:
    """One estimate on a strip; places are percent of its width."""

    kind: str
    left: float
    width: float
    dot: float
    text: str


@dataclass(frozen=True)
class Strip:
    """The first screen's small plot: base's frozen probe and post's own on one AUROC axis."""

    marks: tuple[Mark, ...]
    chance: float
    margin: float | None
    low: float
    label: str


@dataclass(frozen=True)
class Room:
    """Everything the page shows about one persona; `tone` is good, open, warn or bad and colours it."""

    persona: str
    anchor: str
    verdict: str
    kind: str
    tone: str
    rule: int | None
    sentence: str
    numbers: str
    strip: Strip | None
    matrix: Plot
    layers: Plot
    rungs: Plot
    table: tuple[Rung, ...]
    carried: JSON
    words: tuple[JSON, ...]
    beside: Facts
    geometry: Facts
    erasure: Facts
    shift: Facts
    features: Part
    sheet: Sheet | None
    unread: str
    findings: tuple[JSON, ...]


def rooms(record: JSON) -> tuple[Room, ...]:
    """One room per verdict, worst first, in the record's order within a verdict."""
    order = list(VERDICTS)

    def badness(verdict: JSON) -> tuple[int, int]:
        name = verdict["verdict"]
        return TONES.index(_tone(verdict)), order.index(name) if name in order else -1

    ranked = sorted(record.get("verdicts") or [], key=badness)
    return tuple(_room(record, verdict, index) for index, verdict in enumerate(ranked))


def _tone(verdict: JSON) -> str:
    """The verdict's severity where the record has one: what is an alarm for one persona is a warning for another."""
    usual = VERDICTS.get(verdict["verdict"], ("open", "", ""))[0]
    return usual if usual == "open" else SEVERITIES.get(verdict.get("severity") or "", usual)


def _room(record: JSON, verdict: JSON, index: int) -> Room:
    persona = verdict["persona"]
    findings = tuple(f for f in record.get("findings") or [] if f.get("persona") == persona)
    transfer = _chosen(findings, "probe_transfer", verdict)
    space, erased, moved = (_chosen(findings, name, verdict) for name in ("geometry", "erasure", "shift"))
    held = _details(transfer)
    missing = held.get("not_measured") or {}

    def plot(key: str, draw: Callable[[Any], Figure]) -> Plot:
        content = held.get(key)
        usable = content.get("curve") if key == "layers" and content else content
        return Plot(f"{key}-{index}", draw(content) if usable else None, _why(record, "probe_transfer", transfer, key))

    sentence = verdict.get("sentence") or ""
    return Room(
        persona=persona,
        anchor=f"persona-{index}",
        verdict=verdict["verdict"],
        kind=verdict.get("kind") or "",
        tone=_tone(verdict),
        rule=verdict.get("rule"),
        sentence=sentence,
        numbers="" if re.search(r"\[\s*[-−]?\d", sentence) else _headline(transfer),
        strip=_strip(held.get("ladder") or {}, _lowest(record), margins(record).get("ratio")),
        matrix=plot("matrix", matrix),
        layers=plot("layers", layers),
        rungs=plot("ladder", lambda rungs: ladder(rungs, missing, margins(record))),
        table=tuple(_table(held, _details(space), missing)),
        carried=held.get("carried") or {},
        words=tuple(row for row in record.get("data") or [] if row.get("persona") == persona),
        beside=beside(held, _why(record, "probe_transfer", transfer, "such reading")),
        geometry=geometry(_details(space), _why(record, "geometry", space, "such reading")),
        erasure=erasure(_details(erased), _why(record, "erasure", erased, "such reading")),
        shift=shift(_details(moved), _why(record, "shift", moved, "such reading")),
        features=_features(record, findings, verdict),
        sheet=sheet(held["misread"]) if held.get("misread") else None,
        unread=_why(record, "probe_transfer", transfer, "misread"),
        findings=findings,
    )


def _features(record: JSON, findings: tuple[JSON, ...], verdict: JSON) -> Part:
    found = {name: _chosen(findings, name, verdict) for name in COMPARISONS}
    why = {name: _why(record, name, finding, "such reading") for name, finding in found.items()}
    return part(verdict["persona"], found, why)


def _chosen(findings: tuple[JSON, ...], comparison: str, verdict: JSON) -> JSON | None:
    """The finding the verdict rests on; else the first measured one; else the first."""
    because = verdict.get("because") or []
    own = [f for f in findings if f.get("comparison") == comparison]
    ranked = sorted(own, key=lambda f: (f.get("id") not in because, f.get("status") != "measured"))
    return ranked[0] if ranked else None


def _details(finding: JSON | None) -> JSON:
    return (finding or {}).get("details") or {}


def _why(record: JSON, comparison: str, finding: JSON | None, key: str) -> str:
    """Why a reading is not on the page."""
    if finding is None:
        asked = (record.get("plan") or {}).get("comparisons")
        return (
            f"the plan does not run {comparison}"
            if asked is not None and comparison not in asked
            else f"the record holds no {comparison}"
        )
    if finding.get("status") == "not_measured":
        return finding.get("reason") or "the finding names no reason"
    return f"this finding holds no {key}"


def _headline(finding: JSON | None) -> str:
    """The number a sentence without one is given."""
    if not finding or not finding.get("headline"):
        return ""
    unit = finding["headline"].get("unit", "")
    return f"{'AUROC' if unit == 'auroc' else unit} {reading(finding['headline'])}"


def _table(held: JSON, geometry: JSON, missing: JSON) -> Iterator[Rung]:
    """The rungs, then the ratios that belong to no rung."""
    rungs, shared = held.get("ladder") or {}, geometry.get("shared") or {}
    rho = {key.removeprefix("rho_"): value for key, value in (held.get("rho") or {}).items()}
    for name, (short, note) in RUNGS.items():
        auroc, ratio, share = (table.get(name) for table in (rungs, rho, shared))
        if auroc or ratio or share:
            yield Rung(name, short, note, auroc, ratio, share)
        elif name in missing:
            yield Rung(name, short, note, None, None, None, missing[name])
    for name, value in rho.items():
        if name not in RUNGS and value:
            yield Rung(
                "ρ°" if name == "base" else "ρ",
                "inside base" if name == "base" else name,
                RATIOS.get(name, ""),
                None,
                value,
                None,
            )


def margins(record: JSON) -> JSON:
    """The plan's margins, or nothing."""
    return (record.get("plan") or {}).get("margins") or {}


def _lowest(record: JSON) -> float:
    """Where every strip's axis starts: 0.4, or 0 where something on the first screen reads below that."""
    rungs = [_details(f).get("ladder") or {} for f in record.get("findings") or []]
    shown = [rung[name] for rung in rungs for name in ("T0", "T6") if rung.get(name)]
    return 0.4 if all(_bounds(e)[0] >= 0.4 for e in shown) else 0.0


def _bounds(estimate: JSON) -> tuple[float, float]:
    """The interval, or the value twice."""
    low, high, value = estimate.get("low"), estimate.get("high"), estimate["value"]
    return (value if low is None else low, value if high is None else high)


def _strip(rungs: JSON, start: float, ratio: float | None) -> Strip | None:
    """Frozen probe and ceiling; the margin stands at 0.5 + ratio · (T6 − 0.5)."""
    shown = {"frozen": rungs.get("T0"), "ceiling": rungs.get("T6")}
    if not any(shown.values()):
        return None

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - start) / (1.0 - start))), 2)

    marks = []
    for kind, estimate in shown.items():
        if estimate:
            low, high = _bounds(estimate)
            marks.append(Mark(kind, at(low), round(at(high) - at(low), 2), at(estimate["value"]), reading(estimate)))
    names = {"frozen": "base's frozen probe", "ceiling": "post's own probe"}
    label = "AUROC on post's assistant passages: " + "; ".join(f"{names[m.kind]} {m.text}" for m in marks)
    ceiling = shown["ceiling"]
    margin = at(0.5 + ratio * (ceiling["value"] - 0.5)) if ceiling and ratio is not None else None
    return Strip(tuple(marks), at(0.5), margin, start, label)
