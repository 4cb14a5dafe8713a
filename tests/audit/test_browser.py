"""In a real browser the report answers on its first screen, on a desk and in a hand, by day and by night."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from window import DESK, HAND, Seen, channels, contrast, light, opened, undrawn, wider

from audit.report.page import render

SAMPLE = runpy.run_path(str(Path(__file__).with_name("sample.py")))["record"]
NUMBER = re.compile(r"\d\.\d\d\s\[[−-]?\d\.\d\d,\s\d\.\d\d\]")
BOXES = """() => [...document.querySelectorAll('.verdict')].map(item => Object.fromEntries(
  ['persona', 'word', 'says'].map(name => {
    const part = item.querySelector('.' + name), box = part.getBoundingClientRect();
    return [name, {text: part.innerText, x: box.x, y: box.y, width: box.width, height: box.height}];
  })))"""


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
