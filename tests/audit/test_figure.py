"""Figures are valid plotly, carry the record's numbers, name their units, and have a dark twin for every colour."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from audit.report.figure import ladder, layers, matrix
from audit.report.style import PALETTE, Figure, reading, twins

SAMPLE = runpy.run_path(str(Path(__file__).with_name("sample.py")))
DETAILS = SAMPLE["record"]()["findings"][0]["details"]
MARGINS = {"ratio": 0.8, "novel": 0.6}
FIGURES = {
    "matrix": matrix(DETAILS["matrix"]),
    "layers": layers(DETAILS["layers"]),
    "ladder": ladder(DETAILS["ladder"], DETAILS["not_measured"], MARGINS),
}


def colours(value: object) -> set[str]:
    """Every colour written in a specification."""
    return set(re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\([^)]*\)", json.dumps(value)))


@pytest.mark.parametrize("name", FIGURES)
def test_plotly_accepts_it(name: str) -> None:
    assert len(FIGURES[name].plotly().data) == len(FIGURES[name].data)


def test_plotly_would_have_refused_a_wrong_one() -> None:
    with pytest.raises(ValueError, match="colour"):
        Figure([{"type": "scatter", "colour": "red"}], {}, "").plotly()


@pytest.mark.parametrize("name", FIGURES)
def test_every_colour_has_a_dark_twin(name: str) -> None:
    used = colours([FIGURES[name].data, FIGURES[name].layout])
    assert used - {"rgba(0,0,0,0)"} <= set(twins())


def test_light_colours_are_distinct() -> None:
    assert len(twins()) == len(PALETTE)


@pytest.mark.parametrize("name", ["layers", "ladder"])
def test_value_axes_name_their_unit(name: str) -> None:
    layout = FIGURES[name].layout
    assert any("AUROC" in layout[axis]["title"]["text"] for axis in ("xaxis", "yaxis"))


def test_matrix_puts_each_cell_in_its_place() -> None:
    trace = FIGURES["matrix"].data[0]
    for cell in DETAILS["matrix"]:
        row = trace["y"][[c[:2] for c in places("fit")].index((cell["fit_model"], cell["fit_domain"]))]
        column = trace["x"][[c[:2] for c in places("judge")].index((cell["judge_model"], cell["judge_domain"]))]
        assert trace["z"][row][column] == cell["auroc"]["value"]
        assert f"{cell['auroc']['low']:.2f}" in trace["text"][row][column]


def places(side: str) -> list[tuple[str, str]]:
    """Places in the order of first appearance."""
    return list(dict.fromkeys((c[f"{side}_model"], c[f"{side}_domain"]) for c in DETAILS["matrix"]))


def test_matrix_leaves_an_absent_cell_empty() -> None:
    trace = matrix(DETAILS["matrix"][:-1]).data[0]
    assert trace["z"][-1][-1] is None
    assert trace["text"][-1][-1] == ""


def test_margin_lines_stand_at_their_share_of_the_ceiling() -> None:
    ceiling = DETAILS["ladder"]["T6"]["value"]
    at = [shape["x0"] for shape in FIGURES["ladder"].layout["shapes"]]
    assert at == pytest.approx([0.5, 0.5 + 0.6 * (ceiling - 0.5), 0.5 + 0.8 * (ceiling - 0.5)])


def test_a_low_ceiling_draws_no_margin() -> None:
    low = ladder({"T6": SAMPLE["estimate"](0.52)}, {}, MARGINS)
    assert [shape["x0"] for shape in low.layout["shapes"]] == [0.5]


def test_an_unmeasured_rung_keeps_its_row() -> None:
    figure = FIGURES["ladder"]
    row = [text.startswith("<b>T4") for text in figure.layout["yaxis"]["ticktext"]].index(True)
    assert all(row not in trace["y"] for trace in figure.data)
    assert [note["y"] for note in figure.layout["annotations"] if note["text"] == "not measured"] == [row]


def test_layers_draw_band_null_and_chosen_layer() -> None:
    figure = FIGURES["layers"]
    assert sum(trace.get("fill") == "toself" for trace in figure.data) == 4
    assert figure.data[-1]["name"].startswith("null")
    assert 5 in [shape["x0"] for shape in figure.layout["shapes"]]


def test_layers_without_null_or_bounds() -> None:
    bare = SAMPLE["estimate"](0.7) | {"low": None, "high": None}
    figure = layers({"curve": [{"layer": 0, "base": bare}, {"layer": 1}]})
    assert [trace["y"] for trace in figure.data] == [[0.7, None]]


def test_markup_in_a_name_stays_text() -> None:
    cell = {
        "fit_model": SAMPLE["HOSTILE"],
        "fit_domain": "story",
        "judge_model": "post",
        "judge_domain": "<a href=x>",
        "auroc": SAMPLE["estimate"](0.9),
    }
    figure = matrix([cell])
    assert "&lt;img" in figure.layout["yaxis"]["ticktext"][0]
    assert not set("<>&") & set(figure.json())
    assert json.loads(figure.json())["layout"] == figure.layout


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.95, 0.984, "0.97 [0.95, 0.98]"),
        (-0.02, 1.0, "0.97 [−0.02, 1.00]"),
        (None, None, "0.97 (no interval: too few groups)"),
    ],
)
def test_reading(low: float | None, high: float | None, text: str) -> None:
    assert reading({"value": 0.97, "low": low, "high": high}) == text
