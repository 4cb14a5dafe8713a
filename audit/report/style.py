"""The look of every figure: colours with their dark twins, axes, lines, notes, and the form a figure is handed over in.

Every colour is written as its light value and has a dark twin in `PALETTE`; the page swaps one for the other, so one
specification serves both themes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]

PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1d2126", "#e7eaee"),
    "muted": ("#5d6671", "#9da7b3"),
    "grid": ("#e4e7eb", "#2d343c"),
    "line": ("#9aa3ae", "#6c7682"),
    "surface": ("#fefefe", "#14181d"),
    "base": ("#2166ac", "#74b3f2"),
    "base_band": ("rgba(33,102,172,0.16)", "rgba(116,179,242,0.20)"),
    "post": ("#b8500f", "#f3a066"),
    "post_band": ("rgba(184,80,15,0.15)", "rgba(243,160,102,0.18)"),
    "frozen": ("#6a3d9a", "#c3a2f5"),
    "frozen_band": ("rgba(106,61,154,0.15)", "rgba(195,162,245,0.18)"),
    "null_band": ("rgba(93,102,113,0.20)", "rgba(157,167,179,0.22)"),
    "below_2": ("#a8490c", "#b8651f"),
    "below_1": ("#efbf92", "#6b4322"),
    "middle": ("#f4f5f7", "#22282f"),
    "above_1": ("#9cc3e6", "#27486b"),
    "above_2": ("#1d5fa5", "#2f78c4"),
}
"""Name -> (light, dark). The light values are distinct, so that a page can find the dark twin of each."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Figure:
    """One plot: what plotly draws, what changes on a narrow screen, and the sentence a screen reader says.

    Attributes:
        data: plotly traces.
        layout: plotly layout in the light theme; no width, so that it follows its container.
        narrow: dotted paths (`"layout.margin.l"`, `"data.0.textfont.size"`) set below 430 px.
        label: one sentence that says what is plotted.
    """

    data: list[JSON]
    layout: JSON
    label: str
    narrow: JSON = field(default_factory=dict)

    def json(self) -> str:
        """The specification as JSON that is safe inside a `<script>` element (no `<`, `>`, `&`, U+2028, U+2029)."""
        text = json.dumps({"data": self.data, "layout": self.layout, "narrow": self.narrow}, allow_nan=False)
        return "".join(f"\\u{ord(c):04x}" if c in "<>&" else c for c in text)

    def plotly(self) -> Any:
        """The same plot as a `plotly.graph_objects.Figure`, for notebooks (validated by plotly, light theme)."""
        from plotly import graph_objects

        return graph_objects.Figure(data=self.data, layout=self.layout)


def light(name: str) -> str:
    """The light value of a palette colour."""
    return PALETTE[name][0]


def twins() -> dict[str, str]:
    """Light colour -> dark colour, for the page's script."""
    return dict(PALETTE.values())


def axis(title: str, **settings: Any) -> JSON:
    """An axis in the house style; `title` carries the unit."""
    style = {
        "title": {"text": title, "font": {"size": 12, "color": light("muted")}, "standoff": 10},
        "tickfont": {"size": 12, "color": light("ink")},
        "gridcolor": light("grid"),
        "linecolor": light("line"),
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
    }
    return style | settings


def layout(height: int, xaxis: JSON, yaxis: JSON, **settings: Any) -> JSON:
    """A transparent layout, so that the page's own background shows in either theme."""
    style = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 34, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": light("ink")},
        "hoverlabel": {"bgcolor": light("surface"), "bordercolor": light("line"), "font": {"color": light("ink")}},
        "showlegend": False,
        "xaxis": xaxis,
        "yaxis": yaxis,
    }
    return style | settings


def rule(axis: str, at: float, dash: str = "dash", colour: str = "muted") -> JSON:
    """A line across the whole plot at one value of `axis`."""
    other = "y" if axis == "x" else "x"
    line = {"color": light(colour), "width": 1.4, "dash": dash}
    return {
        "type": "line",
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": "paper",
        "line": line,
        "layer": "above" if dash == "dash" else "below",
    }


def note(x: float, y: float, text: str, **settings: Any) -> JSON:
    """A short muted annotation without arrow."""
    font = {"size": 11, "color": light("muted")}
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": font} | settings


def rounded(number: float, digits: int) -> str:
    """The number with so many digits; what rounds to nothing has no sign."""
    return f"{round(number, digits) + 0.0:.{digits}f}"


def reading(estimate: Mapping[str, Any]) -> str:
    """An Estimate as text: `0.97 [0.95, 0.98]`; without bounds, `0.97 (no interval: too few groups)`."""
    numbers = [estimate["value"], estimate.get("low"), estimate.get("high")]
    value, low, high = (None if n is None else rounded(n, 2 if abs(n) < 100 else 0).replace("-", "−") for n in numbers)
    if low is None or high is None:
        return f"{value} (no interval: too few groups)"
    return f"{value} [{low}, {high}]"
