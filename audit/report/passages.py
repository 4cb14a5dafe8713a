"""Passages coloured by projection: which class each token wears, on one scale for both models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

STEPS = 4
"""Shades on each side of zero."""


@dataclass(frozen=True)
class Token:
    """One token: the space before it, its text, the class that colours it (`n4` … `p4` or none), its value."""

    space: str
    text: str
    shade: str
    value: str
    scored: bool


@dataclass(frozen=True)
class Reading:
    """One passage under one model; `mean` is over the scored span."""

    model: str
    tokens: tuple[Token, ...]
    mean: float | None
    right: bool | None


@dataclass(frozen=True)
class Passage:
    """One passage under both models."""

    pair: str
    scenario: str
    label: int | None
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Sheet:
    """All passages of a persona; |projection| is uncoloured up to `neutral`, and darkest from about `scale` on."""

    passages: tuple[Passage, ...]
    scale: float
    neutral: float


def sheet(misread: Sequence[Mapping[str, Any]]) -> Sheet:
    """Lay out `details["misread"]`.

    Args:
        misread: `{"pair", "scenario", "label", "tokens", "span", "base", "post"}` each; `tokens` are slices of the
            text, `base` and `post` each token's projection minus the threshold, in standard deviations of base's
            Assistant passages.

    Returns:
        The passages, coloured on one scale: the 98th percentile of |projection| over both models.
    """
    values = sorted(abs(v) for row in misread for model in ("base", "post") for v in row.get(model) or [] if _finite(v))
    scale = values[min(len(values) - 1, math.ceil(0.98 * len(values)) - 1)] if values else 1.0
    scale = scale or 1.0
    return Sheet(tuple(_passage(row, scale) for row in misread), scale, 0.5 * scale / STEPS)


def _passage(row: Mapping[str, Any], scale: float) -> Passage:
    readings = [_reading(row, model, scale) for model in ("base", "post") if row.get(model)]
    return Passage(str(row.get("pair", "")), str(row.get("scenario", "")), row.get("label"), tuple(readings))


def _reading(row: Mapping[str, Any], model: str, scale: float) -> Reading:
    texts, values = _texts(row["tokens"]), list(row[model])
    values += [None] * (len(texts) - len(values))
    first, last = row.get("span") or (0, len(texts))
    scored = [v for v in values[first:last] if _finite(v)]
    label = row.get("label")
    mean = sum(scored) / len(scored) if scored else None
    tokens = tuple(
        Token(
            text[: len(text) - len(text.lstrip())],
            text.lstrip(),
            _shade(value, scale),
            f"{value:+.2f}" if _finite(value) else "no value",
            first <= i < last,
        )
        for i, (text, value) in enumerate(zip(texts, values, strict=False))
    )
    return Reading(model, tokens, mean, None if mean is None or label not in (0, 1) else (mean > 0) == (label == 1))


def _texts(tokens: Sequence[str]) -> list[str]:
    """Token texts as written; vocabulary spellings of a space or a line break are turned back."""
    if any(t.startswith(("Ġ", "▁")) for t in tokens):
        tokens = [t.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for t in tokens]
    return [t.replace("\n", "↵\n") for t in tokens]


def _shade(value: float | None, scale: float) -> str:
    if not _finite(value):
        return ""
    step = min(STEPS, round(abs(value) / scale * STEPS))
    return f"{'p' if value > 0 else 'n'}{step}" if step else ""


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
