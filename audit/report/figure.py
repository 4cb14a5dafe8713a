"""Figures of a record as plotly specifications: plain JSON, so a page needs no plotly in Python and no torch.

Text that comes from a record is escaped here, because plotly reads a subset of HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from audit.report.style import JSON, Figure, axis, layout, light, note, reading, rule

RUNGS: dict[str, tuple[str, str]] = {
    "T0": ("frozen", "base's story probe, unchanged"),
    "T1": ("recentred", "post's mean moved onto base's"),
    "T2": ("recoloured", "mean and covariance matched"),
    "T3": ("rotated", "best orthogonal map, no labels used"),
    "T4": ("affine", "best affine map, no labels used"),
    "T5": ("20 labels", "threshold set again with 20 labels: balanced accuracy"),
    "T6": ("own probe", "fitted and judged in post: the ceiling"),
}
"""Rung -> (short name, what it undoes before base's probe is read on post)."""

CURVES = {
    "base": ("base, own probe", "circle", "solid"),
    "post": ("post, own probe", "diamond", "solid"),
    "frozen": ("base's probe on post", "square", "dash"),
}
HEATMAP: JSON = {"type": "heatmap", "texttemplate": "%{text}", "textfont": {"size": 12}, "hoverinfo": "skip"}
HEATMAP |= {"zmin": 0, "zmax": 1, "xgap": 3, "ygap": 3}
NARROW_MATRIX = {"layout.yaxis.title.text": "", "data.0.textfont.size": 9.5}
NARROW_MATRIX |= {"layout.xaxis.tickfont.size": 11, "layout.yaxis.tickfont.size": 11}


def matrix(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """Fit × judge heatmap: rows are where the probe was fitted, columns where it was judged.

    Args:
        cells: `{"fit_model", "fit_domain", "judge_model", "judge_domain", "auroc": Estimate}` each; an absent pair of
            places stays empty.

    Returns:
        A heatmap of AUROC from 0 to 1, each cell with its value and interval; the frozen reading (base story → post
        assistant) is outlined when it is there.
    """
    fits = list(dict.fromkeys((str(c["fit_model"]), str(c["fit_domain"])) for c in cells))
    judges = list(dict.fromkeys((str(c["judge_model"]), str(c["judge_domain"])) for c in cells))
    grid: list[list[float | None]] = [[None] * len(judges) for _ in fits]
    text = [[""] * len(judges) for _ in fits]
    for cell in cells:
        row = fits.index((str(cell["fit_model"]), str(cell["fit_domain"])))
        column = judges.index((str(cell["judge_model"]), str(cell["judge_domain"])))
        grid[row][column] = cell["auroc"]["value"]
        text[row][column] = _cell(cell["auroc"])
    ticks = {"tickmode": "array", "showgrid": False, "ticks": "", "showline": False}
    columns = {"tickvals": list(range(len(judges))), "ticktext": _places(judges)}
    rows = {"tickvals": list(range(len(fits))), "ticktext": _places(fits), "autorange": "reversed"}
    look = layout(
        144 + 56 * len(fits),
        axis("judged on (model, domain)", **ticks, **columns),
        axis("fitted on (model, domain)", **ticks, **rows),
        shapes=_outline(fits, judges),
    )
    look["margin"]["t"] = 8
    trace = HEATMAP | {"x": columns["tickvals"], "y": rows["tickvals"], "z": grid, "text": text}
    trace |= {"colorscale": _diverging(), "colorbar": _colorbar()}
    label = f"Heatmap of AUROC, {len(fits)} places of fitting by {len(judges)} places of judging."
    return Figure([trace], look, label, NARROW_MATRIX)


def _cell(auroc: Mapping[str, Any]) -> str:
    """Value over interval."""
    text = f"<b>{auroc['value']:.2f}</b>"
    if auroc.get("low") is None or auroc.get("high") is None:
        return text
    return f"{text}<br>{auroc['low']:.2f}–{auroc['high']:.2f}"


def _colorbar() -> JSON:
    """A thin scale below the matrix."""
    quiet = {"size": 11, "color": light("muted")}
    place = {"orientation": "h", "y": -0.3, "yanchor": "top", "thickness": 8, "len": 0.9, "outlinewidth": 0}
    ticks = {"tickvals": [0, 0.5, 1], "ticktext": ["0 · inverted", "0.5 · chance", "1 · perfect"], "tickfont": quiet}
    return place | ticks | {"title": {"text": "AUROC", "side": "top", "font": quiet}}


def _places(places: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{escape(model)}<br>{escape(domain)}" for model, domain in places]


def _diverging() -> list[list[Any]]:
    """Orange below chance, neutral at 0.5, blue above."""
    names = ["below_2", "below_1", "middle", "above_1", "above_2"]
    return [[i / 4, light(name)] for i, name in enumerate(names)]


def _outline(fits: list[tuple[str, str]], judges: list[tuple[str, str]]) -> list[JSON]:
    """A frame around the frozen reading."""
    fit, judge = ("base", "story"), ("post", "assistant")
    if fit not in fits or judge not in judges:
        return []
    x, y = judges.index(judge), fits.index(fit)
    line = {"color": light("ink"), "width": 2}
    return [{"type": "rect", "x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5, "line": line}]


def layers(record: Mapping[str, Any]) -> Figure:
    """AUROC by layer with interval bands, the permutation null's band and the chosen layer.

    Args:
        record: `{"curve": [{"layer", "base", "post", "frozen"}], "null_low", "null_high", "chosen"}`; any curve and the
            null may be absent.

    Returns:
        A line plot; x counts blocks from 0.
    """
    curve = record["curve"]
    x = [point["layer"] for point in curve]
    traces: list[JSON] = []
    floor = [0.4, *(record.get("null_low") or [])]
    for name in CURVES:
        estimates = [point.get(name) for point in curve]
        if any(estimates):
            traces += banded(CURVES[name], name, x, estimates)
            floor += [value for e in estimates if e for value in (e["value"], e.get("low")) if value is not None]
    traces += _null(x, record.get("null_low"), record.get("null_high"))
    shapes, notes = _marks(x, record.get("chosen"))
    step = {"dtick": 1} if len(x) <= 13 else {"nticks": 13}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemclick": False, "itemdoubleclick": False}
    look = layout(
        380,
        axis("layer (block index, from 0)", showgrid=False, showline=True, ticks="outside", **step),
        axis("AUROC (0.5 = chance)", range=[max(0.0, min(floor) - 0.03), 1.02], tickformat=".1f", dtick=0.1),
        shapes=shapes,
        annotations=notes,
        hovermode="x unified",
        showlegend=True,
        legend=legend,
    )
    look["margin"] |= {"t": 30, "r": 16}
    return Figure(traces, look, "AUROC by layer for base, post and base's probe on post, with 95 % bands.")


def _marks(x: list[int], chosen: int | None) -> tuple[list[JSON], list[JSON]]:
    """Chance, and the chosen layer with its note on the roomier side."""
    if chosen is None or not x:
        return [rule("y", 0.5)], []
    late = chosen > (x[0] + x[-1]) / 2
    side = {"xanchor": "right", "xshift": -5} if late else {"xanchor": "left", "xshift": 5}
    return (
        [rule("y", 0.5), rule("x", chosen, "dot")],
        [note(chosen, 0, "chosen on base", yref="paper", yanchor="bottom", **side)],
    )


def banded(
    look: tuple[str, str, str], colour: str, x: Sequence[int], estimates: Sequence[Mapping[str, Any] | None]
) -> list[JSON]:
    """One line (title, symbol, dash) with its band; a missing estimate breaks the line."""
    title, symbol, dash = look
    bounds = [(i, e["low"], e["high"]) for i, e in zip(x, estimates, strict=True) if e and e.get("low") is not None]
    line = {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= 40 else "lines",
        "name": title,
        "x": list(x),
        "y": [e["value"] if e else None for e in estimates],
        "line": {"color": light(colour), "width": 2, "dash": dash},
        "marker": {"color": light(colour), "size": 7, "symbol": symbol},
        "text": [reading(e) if e else "not measured" for e in estimates],
        "hovertemplate": "%{text}",
    }
    if not bounds:
        return [line]
    at, low, high = ([bound[i] for bound in bounds] for i in range(3))
    return [band(at, low, high, light(f"{colour}_band")), line]


def _null(x: list[int], low: Sequence[float] | None, high: Sequence[float] | None) -> list[JSON]:
    if not low or not high:
        return []
    return [band(x, list(low), list(high), light("null_band")) | {"name": "null: labels permuted", "showlegend": True}]


def band(x: Sequence[int], low: Sequence[float], high: Sequence[float], colour: str) -> JSON:
    """A filled outline from low to high."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*low, *reversed(high)],
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0, "color": colour},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def ladder(rungs: Mapping[str, Any], not_measured: Mapping[str, str], margins: Mapping[str, float]) -> Figure:
    """Dot and interval per rung, with chance and the lines that the margins draw under post's own ceiling.

    Args:
        rungs: rung -> Estimate of AUROC in post's assistant domain.
        not_measured: rung -> reason; the rung keeps its row.
        margins: the plan's `ratio` and `novel`; a ratio r stands at 0.5 + r · (T6 − 0.5), and is drawn
            where the ceiling leaves it room (T6 ≥ 0.65).

    Returns:
        A horizontal dot plot, T0 on top, the ceiling T6 at the bottom.
    """
    names = [name for name in RUNGS if rungs.get(name) or name in not_measured]
    names += [name for name in rungs if name not in RUNGS]
    measured = {row: name for row, name in enumerate(names) if rungs.get(name)}
    shapes, notes = _lines((rungs.get("T6") or {}).get("value"), margins)
    empty = [row for row in range(len(names)) if row not in measured]
    notes += [note(0.5, row, "not measured", xshift=6, xanchor="left") for row in empty]
    lows = [rungs[n]["value"] if rungs[n].get("low") is None else rungs[n]["low"] for n in measured.values()]
    title = "AUROC on post's assistant passages (0.5 = chance)"
    if any(rungs[n].get("unit") == "balanced accuracy" for n in measured.values()):
        title = "AUROC on post's assistant passages; T5 balanced accuracy"
    ticks = [f"<b>{escape(n)}</b> {RUNGS[n][0]}" if n in RUNGS else escape(n) for n in names]
    rows = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": ticks, "showgrid": False, "ticks": ""}
    span = [min([0.44, *(low - 0.04 for low in lows)]), 1.02]
    look = layout(
        90 + 40 * max(1, len(names)),
        axis(title, range=span, tickformat=".1f", dtick=0.1),
        axis("", range=[len(names) - 0.5, -0.5], **rows),
        shapes=shapes,
        annotations=notes,
    )
    traces = [_dot(row, name, rungs[name]) for row, name in measured.items()]
    label = "Dot and interval plot of AUROC for each rung of the ladder from T0 to T6."
    return Figure(traces, look, label, {"layout.xaxis.title.text": title.replace(" on post's assistant passages", "")})


def _lines(ceiling: float | None, margins: Mapping[str, float]) -> tuple[list[JSON], list[JSON]]:
    """Chance and the margins' lines, each with its head above the plot."""
    head = {"yref": "paper", "yanchor": "bottom"}
    shapes, heads = [rule("x", 0.5)], [note(0.5, 1, "chance", **head)]
    if ceiling is None or ceiling < 0.65:
        return shapes, heads
    for key, side, dash, colour in (("novel", "right", "dot", "muted"), ("ratio", "left", "solid", "ink")):
        if margins.get(key) is not None:
            place = 0.5 + margins[key] * (ceiling - 0.5)
            shapes.append(rule("x", place, dash, colour))
            heads.append(note(place, 1, f"{100 * margins[key]:g} %", xanchor=side, **head))
    return shapes, heads


def _dot(row: int, name: str, estimate: Mapping[str, Any]) -> JSON:
    """One estimate on its row; without bounds it is an open dot."""
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    colour = light("post") if name == "T6" else light("frozen")
    shape, bar = {"T5": "square", "T6": "diamond"}.get(name, "circle"), {"visible": False}
    if low is not None and high is not None:
        bar = {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]}
        bar |= {"color": colour, "thickness": 2, "width": 5}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [value],
        "y": [row],
        "marker": {"color": colour, "size": 10, "symbol": shape if len(bar) > 1 else f"{shape}-open"},
        "error_x": bar,
        "hovertemplate": f"{escape(name)} {reading(estimate)}<extra></extra>",
    }
