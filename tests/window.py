"""A real browser without its window, and what a page does in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK, HAND = (1280, 800), (390, 844)
COLOURS = """selector => {
  const part = document.querySelector(selector), layers = [];
  for (let node = part; node; node = node.parentElement) layers.push(getComputedStyle(node).backgroundColor);
  return {ink: getComputedStyle(part).color, layers};
}"""


@dataclass
class Seen:
    """A page as it was opened, and what it did on the way."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def program() -> str | None:
    """An installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


@contextmanager
def started() -> Iterator[Any]:
    """The installed browser, without a window. REQUIRE_BROWSER=1 makes its absence a failure."""
    path = program()
    if path is None:
        missing = "no Chromium or Chrome is installed"
        pytest.fail(missing) if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


def opened(browser: Any, path: Path, size: tuple[int, int], scheme: str = "light") -> Seen:
    """Opens a file in a fresh profile and waits until its plots are drawn."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    seen = Seen(context.new_page())
    seen.page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.goto(path.as_uri(), wait_until="load")
    return seen


def wider(page: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


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
