"""The feature dashboard: an index of the features that carry a persona, and a page for each, base beside post.

Offline HTML in one folder. plotly.js is in the index alone; a feature's page runs no script at all. Whatever a corpus
or a record says is escaped by the templates. Where everything is more than the cap allows, examples are left out first
and whole pages then, and the index says how many.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.report.exhibit import HEIGHT, LEFT, WIDTH, counterparts, exhibit, vocabulary
from audit.report.facts import percent
from audit.report.folder import text
from audit.report.meaning import COMPARISONS, PLACES, STATES, Part, Row, part, rows
from audit.report.page import document, filled
from audit.report.style import Figure, axis, layout, light, reading
from probes.digest import AuditError

if TYPE_CHECKING:
    from audit.gallery import Gallery, Wing
    from probes.features import Feature

JSON = Mapping[str, Any]

INDEX, FOLDER = "index.html", "features"
CAP = 15_000_000
"""Bytes of all pages together."""
EXAMPLES: tuple[int | None, ...] = (None, 4, 2, 1)
"""Examples of a strip, at most, from what is wanted to what must be."""
MARKERS = {"keeps": ("base", "circle"), "loses": ("post", "diamond"), "open": ("muted", "circle"),
           "silent": ("post", "x"), "words alone": ("muted", "circle-open")}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """The index's figure, as the house's page draws it."""

    name: str
    figure: Figure


@dataclass(frozen=True)
class Left:
    """What the cap left out: examples of each feature beyond `examples` a strip, and the pages of some features."""

    cap: int
    examples: int | None
    pages: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """A feature with what the record says of it, a row a persona, and the dictionary that it is of."""

    wing: Wing
    feature: Feature
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """What its page is called, e.g. "L2.resid_post-17"."""
        return named(self.wing.site, self.feature.latent)


@dataclass(frozen=True, eq=False)
class Dashboard:
    """A gallery with its findings as plain values.

    Attributes:
        gallery: what there is to see.
        findings: as JSON.
        cases: every feature.
    """

    gallery: Gallery
    findings: tuple[JSON, ...]
    cases: tuple[Case, ...]

    @classmethod
    def of(cls, gallery: Gallery) -> Dashboard:
        """The dashboard of a gallery."""
        findings = tuple(finding.model_dump(mode="json") for finding in gallery.findings)
        told: dict[str, list[Row]] = {}
        for finding in findings:
            for row in rows(finding) if finding["comparison"] == "features" else ():
                told.setdefault(named(row.site, row.latent), []).append(row)
        cases = [
            Case(wing, feature, tuple(told.get(named(wing.site, feature.latent), ())))
            for wing in gallery.wings for feature in wing.features
        ]  # fmt: skip
        return cls(gallery, findings, tuple(cases))

    def index(self, left: Left) -> str:
        """The page of all features."""
        parts = sorted(self._parts(), key=lambda part: ("warn", "open", "good").index(part.headline.tone))
        table = [row for part in parts for row in part.rows]
        figure = _scatter(table)
        return document(
            "dashboard.html.j2",
            {
                "gallery": self.gallery, "parts": parts, "rows": table, "named": named, "left": left,
                "known": {case.name for case in self.cases} - set(left.pages), "states": STATES, "folder": FOLDER,
                "percent": percent, "places": PLACES, "plots": [Plot("accuracy", figure)] if figure else [],
            },
        )  # fmt: skip

    def page(self, case: Case, most: int | None, order: Sequence[str]) -> str:
        """The page of one feature, with so many examples of a strip at most; it knows which pages there are."""
        at = order.index(case.name)
        return filled(
            "feature.html.j2",
            {
                "gallery": self.gallery, "wing": case.wing, "shown": exhibit(case.feature, case.rows, most),
                "states": STATES, "places": PLACES, "index": f"../{INDEX}", "named": named, "known": set(order),
                "before": order[at - 1] if at else None, "after": next(iter(order[at + 1 :]), None),
                "drawing": (WIDTH, HEIGHT, LEFT),
                "others": tuple(dict.fromkeys(told for row in case.rows for told in counterparts(row.found))),
                "words": {name: (some.why, vocabulary(some)) for name, some in case.feature.words.items()},
            },
        )  # fmt: skip

    def pages(self, cases: Sequence[Case], most: int | None) -> dict[str, str]:
        """The pages of some features by their paths in the folder."""
        order = [case.name for case in cases]
        return {f"{FOLDER}/{case.name}.html": self.page(case, most, order) for case in cases}

    def _parts(self) -> Iterator[Part]:
        for persona in dict.fromkeys(finding["persona"] for finding in self.findings):
            own = {one["comparison"]: one for one in self.findings if one["persona"] == persona}
            why = {
                name: (own[name]["reason"] or "it found none") if name in own else f"{name} was not run"
                for name in COMPARISONS
            }
            yield part(persona, own, why)


def named(site: str, latent: int) -> str:
    """What a feature's page is called."""
    return f"{site}-{latent}"


def pages(gallery: Gallery, cap: int = CAP) -> dict[str, str]:
    """Every page by its path in the folder: the index first, then the features in their order.

    Args:
        gallery: what there is to see.
        cap: bytes of all pages together, at most.

    Raises:
        AuditError: the cap does not even hold the index.
    """
    made = Dashboard.of(gallery)
    for most in EXAMPLES:
        found = {INDEX: made.index(Left(cap, most, ())), **made.pages(made.cases, most)}
        if size(found) <= cap:
            return found
    return _fewer(made, cap)


def write(gallery: Gallery, out: Path, cap: int = CAP) -> Path:
    """Writes index.html and features/*.html into a folder, and returns the index.

    Raises:
        AuditError: the folder cannot be written, or the cap does not even hold the index.
    """
    for name, content in pages(gallery, cap).items():
        text(out / name, content)
    return out / INDEX


def refuse_unwritable(out: Path) -> None:
    """Refuses a folder that cannot be made or written; asked before the models are read, which takes minutes.

    Raises:
        AuditError: it cannot be written.
    """
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "is no folder" if not there.is_dir() else "may not be written"
        raise AuditError(f"{out} cannot be written: {there} {why}", "a writable folder", "Name another with --out")


def size(found: Mapping[str, str]) -> int:
    """Bytes of some pages."""
    return sum(len(content.encode()) for content in found.values())


def _fewer(made: Dashboard, cap: int) -> dict[str, str]:
    """As many pages as the cap holds with one example a strip; features whose rule holds keep theirs longest."""
    most, every = EXAMPLES[-1], [case.name for case in made.cases]
    # A feature without a page is named once more in the index, so the index is largest when none has one.
    room = cap - size({INDEX: made.index(Left(cap, most, tuple(every)))})
    if room < 0:
        raise AuditError(f"A cap of {cap:,} bytes", f"{cap - room:,}, the index alone, or more", "Raise it with --cap")
    kept: set[str] = set()
    for case in sorted(made.cases, key=_rank):
        room -= size({case.name: made.page(case, most, every)})
        if room < 0:
            break
        kept.add(case.name)
    left = Left(cap, most, tuple(name for name in every if name not in kept))
    return {INDEX: made.index(left), **made.pages([case for case in made.cases if case.name in kept], most)}


def _rank(case: Case) -> int:
    """Low where the page should stay: the best state that any persona gives the feature."""
    return min((list(STATES).index(row.state) for row in case.rows), default=len(STATES))


def _scatter(table: Sequence[Row]) -> Figure | None:
    """The rules' balanced accuracy in base and in post, a mark a feature; None where no rule was judged in both."""
    judged = [row for row in table if all((row.found.get("rule") or {}).get(model) for model in ("base", "post"))]
    if not judged:
        return None
    values = [row.found["rule"][model]["value"] for row in judged for model in ("base", "post")]
    low, high = min(0.5, *values) - 0.02, max(values) + 0.02
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "hoverinfo": "skip",
         "line": {"color": light("line"), "dash": "dot", "width": 1.4}, "name": "as well in post"}
    ]  # fmt: skip
    for state, (colour, symbol) in MARKERS.items():
        mine = [row for row in judged if row.state == state]
        if mine:
            rules = [row.found["rule"] for row in mine]
            traces.append({
                "type": "scatter", "mode": "markers", "name": state, "x": [rule["base"]["value"] for rule in rules],
                "y": [rule["post"]["value"] for rule in rules], "hoverinfo": "text",
                "hovertext": [_hover(row) for row in mine],
                "marker": {"color": light(colour), "symbol": symbol, "size": 10, "opacity": 0.85},
            })  # fmt: skip
    look = layout(
        420, axis("balanced accuracy of its rule in base", range=[low, high]),
        axis("balanced accuracy in post", range=[low, high]), showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": light("ink")}},
    )  # fmt: skip
    label = f"Scatter of {len(judged)} features: balanced accuracy of each rule in base and in post."
    return Figure(traces, look, label)


def _hover(row: Row) -> str:
    rule = row.found["rule"]
    told = [f"latent {row.latent}, {row.persona}: {row.state}", row.rule[:90]]
    told += [f"{model} {reading(rule[model])}" for model in ("base", "post")]
    return "<br>".join(escape(line) for line in told)
