"""The page of a calibration: error rates first, then power, coverage and every trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audit.report.folder import text
from audit.report.page import document, filled
from audit.report.style import JSON, Figure, axis, layout, light, rule

if TYPE_CHECKING:
    from audit.calibration.tally import Calibration, Cell, Coverage, Rate

PAGE = "calibration.html"
FILE = "calibration.json"
TABLES = "calibration.md"
KINDS: dict[str, tuple[str, str]] = {
    "nothing": ("nothing", ""), "turn": ("direction turned", "angle in the metric of S² (degrees)"),
    "offset": ("Assistant moved along it", "offset (standard deviations)"),
    "gain": ("Assistant scaled", "gain (factor)"),
    "extra": ("a share added elsewhere", "length of what is added (share of base's)"),
    "hidden": ("hidden in one domain", "share taken from base's direction"),
    "basis": ("another basis", ""), "inverted": ("sign turned", ""), "lost": ("lost", ""), "acquired": ("acquired", ""),
    "absent": ("in neither model", ""),
}  # fmt: skip
"""Kind -> (what was planted, the unit of its effect)."""
LINES = (("base", "circle"), ("post", "diamond"), ("frozen", "square"))
DASHES = ("solid", "dash")
NOMINAL = (0.93, 0.975)
"""Where the coverage of a nominal 95 % interval may lie (docs/statistics.md)."""


class Headline(NamedTuple):
    """One number of the first screen."""

    tone: str
    mark: str
    word: str
    what: str
    says: str


class Curve(NamedTuple):
    """A plot with its title and its place on the page."""

    name: str
    title: str
    figure: Figure


def render(found: Calibration) -> str:
    """The page of a calibration as one offline HTML document, light and dark."""
    curves = [
        Curve(f"power-{kind}", title, _power(cells, unit, title))
        for kind, (title, unit) in KINDS.items()
        for cells in [[cell for cell in found.alike if cell.condition.kind == kind]]
        if len({cell.condition.effect for cell in cells}) > 1
    ]
    return document("calibration.html.j2", {**_view(found), "plots": curves})


def tables(found: Calibration) -> str:
    """The numbers of a calibration as Markdown: what docs/calibration.md is."""
    return filled("calibration.md.j2", {**_view(found), "power": _seen(found), "within": _within})


def _view(found: Calibration) -> dict[str, Any]:
    return {
        "found": found, "headlines": _headlines(found), "kinds": KINDS, "nominal": NOMINAL,
        "columns": sorted({given for row in found.confusion.values() for given in row}), "rate": _rate,
        "counts": _counts, "through": sorted({(one.strength, one.spectrum) for one in found.detectable}),
        "smallest": _smallest(found), "sizes": _sizes(found),
        "strengths": sorted({cell.condition.strength for cell in found.sized}),
        "seeds": 1 + max((one.seed for one in found.organisms), default=0),
    }  # fmt: skip


def write(found: Calibration, out: Path) -> Path:
    """Writes calibration.json, .md and .html into a folder, and returns the page.

    Raises:
        AuditError: the folder cannot be written.
    """
    text(out / FILE, found.model_dump_json(indent=1) + "\n")
    text(out / TABLES, tables(found))
    return text(out / PAGE, render(found))


def _counts(given: Mapping[str, int]) -> str:
    """`extended 9, inconclusive 51`."""
    return ", ".join(f"{name} {count}" for name, count in given.items())


def _rate(rate: Rate) -> str:
    """`0.95 [0.93, 0.97]`; to three digits where a hundredth is too coarse."""
    digits = 3 if rate.trials >= 500 else 2
    return f"{rate.value:.{digits}f} [{rate.low:.{digits}f}, {rate.high:.{digits}f}]"


def _headlines(found: Calibration) -> list[Headline]:
    lines: list[Headline] = []
    if found.nulls:
        alarms, changes = found.false_alarms, found.false_changes
        lines.append(
            Headline(
                *(("good", "●") if alarms.value <= 0.03 else ("bad", "▲")), f"{alarms.count} of {alarms.trials}",
                "false alarms", f"Nothing was planted, and the audit alarmed in a share of {_rate(alarms)}; "
                f"it reported some change in {_rate(changes)}.",
            )
        )  # fmt: skip
    clear = [cell for cell in found.cells if cell.right is not None and cell.expected != "reused"]
    if clear:
        trials = sum(cell.seen.trials for cell in clear)
        right = sum(cell.given.get(cell.expected or "", 0) for cell in clear)
        passed = sum(cell.given.get("reused", 0) for cell in clear)
        conditions = "1 condition" if len(clear) == 1 else f"{len(clear)} conditions"
        says = f"Trials of a change that must get one verdict, and got it ({conditions}); {passed} of {trials} passed."
        lines.append(Headline("open", "·", f"{100 * right / trials:.0f} %", "planted verdicts", says))
    if found.organisms:
        wrong = found.wrong
        total = len(found.organisms)
        named = ", ".join(f"{one.organism} {one.seed} {one.persona}: {one.given}" for one in wrong)
        lines.append(
            Headline(
                *(("bad", "▲") if wrong else ("good", "●")), f"{total - len(wrong)} of {total}", "organisms",
                "Verdicts that are those of the organisms' cards" + (f"; not so: {named}." if wrong else "."),
            )
        )  # fmt: skip
    if found.redrawn:
        fresh = found.fresh_alarms
        lines.append(
            Headline(
                *(("good", "●") if fresh.value <= 0.03 else ("bad", "▲")), f"{fresh.count} of {fresh.trials}",
                "false alarms on fresh texts", "Organisms whose every verdict must be reused, judged on personas drawn "
                f"anew ({len(found.redrawn)} models on the same {found.redrawn[0].alarms.trials} draws).",
            )
        )  # fmt: skip
    if found.coverage:
        values = [one.held.value for one in found.coverage]
        good = all(_within(one) for one in found.coverage)
        lines.append(
            Headline(
                "good" if good else "warn", "●" if good else "◆", f"{min(values):.2f} to {max(values):.2f}", "coverage",
                f"Share of nominal 95 % intervals that held the truth, over {len(values)} statistics and settings; "
                f"asked: {NOMINAL[0]} to {NOMINAL[1]}.",
            )
        )  # fmt: skip
    return lines


def _smallest(found: Calibration) -> dict[str, dict[tuple[float, float], str]]:
    """Kind to (strength, spectrum) to the smallest effect that was seen, in words."""
    table: dict[str, dict[tuple[float, float], str]] = {}
    for one in found.detectable:
        table.setdefault(one.kind, {})[one.strength, one.spectrum] = str(one)
    return table


def _sizes(found: Calibration) -> dict[tuple[tuple[int, int, int], str, float], dict[float, Cell]]:
    """(Size, kind, effect) to strength to the cell, for the samples that are not the usual one."""
    table: dict[tuple[tuple[int, int, int], str, float], dict[float, Cell]] = {}
    for cell in found.sized:
        where = cell.condition
        table.setdefault((where.size, where.kind, where.effect), {})[where.strength] = cell
    return table


def _seen(found: Calibration) -> dict[tuple[str, float], dict[tuple[float, float], Rate]]:
    """(Kind, effect) to (strength, spectrum) to the share of trials that saw it, samples alike."""
    table: dict[tuple[str, float], dict[tuple[float, float], Rate]] = {}
    for cell in found.alike:
        where = cell.condition
        table.setdefault((where.kind, where.effect), {})[where.strength, where.spectrum] = cell.seen
    return table


def _within(one: Coverage) -> bool:
    return NOMINAL[0] <= one.held.value <= NOMINAL[1]


def _power(cells: Sequence[Cell], unit: str, title: str) -> Figure:
    """Share of trials that saw the plant, by its effect: one line a strength, dashed under an anisotropic spectrum."""
    strengths = sorted({cell.condition.strength for cell in cells})
    spectra = sorted({cell.condition.spectrum for cell in cells})
    traces: list[JSON] = []
    for s, (strength, (colour, symbol)) in enumerate(zip(strengths, LINES, strict=False)):
        for spectrum, dash in zip(spectra, DASHES, strict=False):
            chosen = sorted(
                (c for c in cells if (c.condition.strength, c.condition.spectrum) == (strength, spectrum)),
                key=lambda cell: cell.condition.effect,
            )
            seen = [cell.seen for cell in chosen]
            bars: dict[str, Any] = {
                "type": "data", "symmetric": False, "array": [one.high - one.value for one in seen],
                "arrayminus": [one.value - one.low for one in seen], "thickness": 1, "width": 3,
            }  # fmt: skip
            traces.append(
                {
                    "type": "scatter", "mode": "lines+markers", "x": [cell.condition.effect for cell in chosen],
                    "y": [one.value for one in seen], "error_y": bars | {"color": light(colour)},
                    "name": f"d' {strength:g}" + (f", i<sup>−{spectrum:g}</sup>" if spectrum else ""),
                    "line": {"color": light(colour), "dash": dash, "width": 2},
                    "marker": {"symbol": symbol, "size": 7, "color": light(colour)}, "legendgroup": str(s),
                }
            )  # fmt: skip
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 10}}
    look = layout(
        360, axis(unit, showgrid=False, showline=True, ticks="outside"),
        axis("share of trials that saw it", range=[-0.03, 1.03], dtick=0.2),
        shapes=[rule("y", 0.8, "dot")], showlegend=True, legend=legend,
    )  # fmt: skip
    look["margin"] |= {"t": 60, "r": 16}
    return Figure(traces, look, f"Power against effect size: {title}.")
