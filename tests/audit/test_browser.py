"""In a real browser the report answers on its first screen, on a desk and in a hand, by day and by night."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from window import DESK, HAND, Seen, opened, wider

from audit.report.page import render

SAMPLE = runpy.run_path(str(Path(__file__).with_name("sample.py")))["record"]
NUMBER = re.compile(r"\d\.\d\d\s\[[−-]?\d\.\d\d,\s\d\.\d\d\]")
BOXES = """() => [...document.querySelectorAll('.verdict')].map(item => Object.fromEntries(
  ['persona', 'word', 'says'].map(name => {
    const part = item.querySelector('.' + name), box = part.getBoundingClientRect();
    return [name, {text: part.innerText, x: box.x, y: box.y, width: box.width, height: box.height}];
  })))"""
COLOURS = """selector => {
  const part = document.querySelector(selector), layers = [];
  for (let node = part; node; node = node.parentElement) layers.push(getComputedStyle(node).backgroundColor);
  return {ink: getComputedStyle(part).color, layers};
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's page as a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(SAMPLE()), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[(DESK, "light"), (DESK, "dark"), (HAND, "light"), (HAND, "dark")],
                ids=["desk-light", "desk-dark", "hand-light", "hand-dark"])  # fmt: skip
def seen(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Seen]:
    """The report at one size in one scheme."""
    found = opened(browser, report, *request.param)
    yield found
    found.page.context.close()


def outside(page: Any) -> list[str]:
    """Names, verdicts and sentences that are not whole on the first screen."""
    assert page.evaluate("scrollY") == 0
    size, out = page.viewport_size, []
    for item in page.evaluate(BOXES):
        for box in item.values():
            inside = (
                box["width"] > 0 and box["height"] > 0 and box["x"] >= 0 and box["y"] >= 0
                and box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"]
            )  # fmt: skip
            out += [] if inside else [box["text"]]
    return out


def channels(colour: str) -> tuple[float, ...]:
    """Red, green, blue from 0 to 255, and opacity, of a computed colour."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour)]
    return (*numbers[:3], numbers[3] if len(numbers) > 3 else 1.0)


def light(colour: tuple[float, ...]) -> float:
    """Relative luminance (WCAG 2)."""
    parts = [part / 255 for part in colour[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(page: Any, selector: str) -> float:
    """Contrast of the first such text with the first opaque background behind it."""
    found = page.evaluate(COLOURS, selector)
    behind = next(colour for colour in map(channels, found["layers"]) if colour[3] == 1.0)
    low, high = sorted((light(channels(found["ink"])), light(behind)))
    return (high + 0.05) / (low + 0.05)


def undrawn(page: Any) -> list[str]:
    """Plots without a drawing, and titles of axes that their specification has and the drawing has not.

    What a narrow plot says instead stands in the specification too.
    """
    return page.evaluate("""() => [...document.querySelectorAll('[data-plot]')].flatMap(plot => {
      const {layout, narrow} = JSON.parse(document.getElementById(plot.dataset.plot).textContent);
      const other = plot.dataset.narrow === 'true' ? narrow : {};
      const want = ['xaxis', 'yaxis'].map(axis => other[`layout.${axis}.title.text`] ?? layout[axis]?.title?.text)
        .filter(Boolean).map(title => title.replaceAll('<br>', ''));
      const have = [...plot.querySelectorAll('svg .xtitle, svg .ytitle')].map(title => title.textContent);
      const box = plot.querySelector('svg.main-svg')?.getBoundingClientRect();
      if (!box || !box.width || !box.height) return [plot.dataset.plot + ': no drawing'];
      if (!want.length) return [plot.dataset.plot + ': no axis title asked for'];
      return want.filter(title => !have.includes(title)).map(title => plot.dataset.plot + ': ' + title);
    })""")


def test_nothing_goes_wrong_and_nothing_is_asked_for(seen: Seen, report: Path) -> None:
    assert seen.errors == []
    assert seen.requests == [report.as_uri()]


def test_every_verdict_is_on_the_first_screen(seen: Seen) -> None:
    assert outside(seen.page) == []
    items, verdicts = seen.page.evaluate(BOXES), SAMPLE()["verdicts"]
    assert len(items) == len(verdicts)
    for item, verdict in zip(items, verdicts, strict=True):
        assert item["persona"]["text"] == verdict["persona"].replace("_", " ")
        assert verdict["verdict"] in item["word"]["text"]
        assert verdict["sentence"] in item["says"]["text"].replace("\u00a0", " ")
        assert NUMBER.search(item["says"]["text"])


def test_nothing_has_to_be_scrolled_sideways(seen: Seen) -> None:
    assert wider(seen.page) == 0


def test_every_plot_is_drawn_with_its_axes_named(seen: Seen) -> None:
    assert len(seen.page.query_selector_all("[data-plot]")) == 6
    assert undrawn(seen.page) == []


def test_text_stands_out_from_its_ground(seen: Seen) -> None:
    for selector in (".verdict .says", ".verdict .word", ".verdict .persona", "h1", ".why", "figcaption"):
        assert contrast(seen.page, selector) >= 4.5, selector


def test_night_is_dark_and_day_is_light(browser: Any, report: Path) -> None:
    for scheme in ("light", "dark"):
        page = opened(browser, report, DESK, scheme).page
        ground = light(channels(page.evaluate("getComputedStyle(document.body).backgroundColor")))
        drawn = light(channels(page.evaluate("getComputedStyle(document.querySelector('svg .xtitle')).fill")))
        assert (ground < 0.05 < 0.2 < drawn) if scheme == "dark" else (drawn < 0.2 < 0.8 < ground)
        page.context.close()


def test_a_page_that_calls_home_is_caught(browser: Any, tmp_path: Path) -> None:
    """The control: the same eyes on a page with an error and a request."""
    path = tmp_path / "bad.html"
    path.write_text("<script>fetch('http://127.0.0.1:9/'); console.error('oh'); nobody()</script>")
    seen = opened(browser, path, DESK)
    seen.page.wait_for_timeout(200)
    assert "http://127.0.0.1:9/" in seen.requests
    assert "oh" in seen.errors and any("nobody" in error for error in seen.errors)
    seen.page.context.close()


def test_a_broken_page_is_caught(browser: Any, report: Path) -> None:
    """The control: what is spoilt in the open page is seen by the check that is for it."""
    page = opened(browser, report, HAND, "dark").page
    page.evaluate("document.querySelector('main').style.width = '900px'")
    assert wider(page) > 400
    page.evaluate("document.querySelector('.verdict .says').style.color = '#5d6671'")
    assert contrast(page, ".verdict .says") < 4.5
    page.evaluate("document.querySelector('header h1').style.height = '700px'")
    assert any("novel" in text for text in outside(page))
    page.evaluate("document.querySelector('svg .xtitle').remove()")
    assert len(undrawn(page)) == 1
    page.context.close()
