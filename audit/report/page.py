"""One offline HTML page from a record: verdicts first, evidence below, provenance last.

The page allows exactly two scripts, plotly.js and `page.js`, by their hashes; nothing in it can reach a
network, and every string of a record is escaped by the template. A record that lacks a reading loses that block and
gains one line with the reason.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Protocol

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from audit.report.room import VERDICTS, margins, rooms
from audit.report.style import reading, twins

JSON = Mapping[str, Any]

OUTCOMES = {0: "no alarm", 1: "an alarm or a loss", 2: "refused", 3: "something is not measured or not decided"}


class Dumped(Protocol):
    """A pydantic model; `audit.record.Record` is one."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """The model as JSON-ready values."""
        ...


def render(record: JSON | Dumped) -> str:
    """The report of a record as one HTML document.

    Args:
        record: a `Record`, or the dict it dumps (interfaces, section 8).

    Returns:
        The text of `report.html`: no reference outside itself, light and dark, same bytes for the same record.
    """
    view = plain(record)
    shown = rooms(view)
    return document(
        "page.html.j2",
        {
            "record": view, "rooms": shown, "margins": margins(view), "outcomes": OUTCOMES, "verdicts": VERDICTS,
            "plots": [plot for room in shown for plot in (room.matrix, room.layers, room.rungs) if plot.figure],
            "plan": json.dumps(view.get("plan") or {}, indent=2, ensure_ascii=False),
        },
    )  # fmt: skip


def document(template: str, shown: JSON) -> str:
    """A template of this folder filled with `shown`, with the house's style, its two scripts and their policy."""
    scripts = {"plotly": _plotly(), "page": _asset("page.js")}
    return _template(template).render(
        {
            **shown,
            "policy": " ".join(f"'sha256-{_hash(text)}'" for text in scripts.values()),
            "scripts": {name: Markup(text) for name, text in scripts.items()},
            "style": Markup(_asset("page.css")),
            "twins": Markup(json.dumps(twins())),
        }
    )


def filled(template: str, shown: JSON) -> str:
    """A template of this folder filled with `shown` and nothing else: text for a Markdown reader."""
    return _template(template).render(shown)


def plain(record: JSON | Dumped) -> JSON:
    """The record as a dict, whichever of the two it came as."""
    return record if isinstance(record, Mapping) else record.model_dump(mode="json")


@cache
def _asset(name: str) -> str:
    return files("audit.report").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _plotly() -> str:
    """plotly.js as the plotly package ships it (it ships one bundle, 4.8 MB)."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n").replace("</script", "<\\/script")


def _brief(ref: str) -> str:
    """A reference with its commit cut to eight digits; the whole stands in the provenance."""
    return re.sub(r"@([0-9a-f]{8})[0-9a-f]{32}$", r"@\1", ref)


def _tied(sentence: str) -> str:
    """No line break between a number and its interval, nor inside the interval."""
    return re.sub(r"\s?\[[^\]]{1,40}\]", lambda match: match[0].replace(" ", "\u00a0"), sentence)


@cache
def _hash(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()


@cache
def _template(name: str) -> Any:
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=not name.endswith(".md.j2"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["reading"] = reading
    environment.filters["brief"] = _brief
    environment.filters["tied"] = _tied
    environment.filters["spec"] = lambda figure: Markup(figure.json())
    return environment.get_template(name)
