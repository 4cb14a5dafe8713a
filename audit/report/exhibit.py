"""A feature laid out for its page: bars, shaded tokens, and the tables of what the record says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.report.facts import percent
from audit.report.meaning import OTHERS, Row
from audit.report.passages import STEPS

if TYPE_CHECKING:
    from probes.examples import Example, Strip
    from probes.features import Feature, Firing
    from probes.unembedding import Words

JSON = Mapping[str, Any]

MODELS = ("base", "post")
WIDTH, HEIGHT = 380, 150
LEFT, BOTTOM, TOP = 46, 34, 10
"""Of a histogram's drawing, in its own units: the whole, and the room for what stands beside the axes."""
QUARTERS = {"1": "strongest quarter", "2": "second quarter", "3": "third quarter", "4": "weakest quarter"}
USED = {
    "firing": "Scored tokens on which it fires, %",
    "own": "The same, in texts of its own label, %",
    "mean": "Mean activation on the scored tokens",
}
CONTROLS = {
    "shuffled": "The same, labels exchanged within pairs",
    "added": "What the labels add to the rule",
    "random": "What they add to rules of random directions, 95th percentile",
}


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: its place in the drawing, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, and where it stands."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A histogram as a drawing. Both models' have the same axes."""

    model: str
    bars: tuple[Bar, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    label: str


@dataclass(frozen=True)
class Piece:
    """A run of tokens that look alike: the space before it, its text, its shade ("p1" to "p4" or none), its value."""

    space: str
    text: str
    shade: str
    value: str
    scored: bool
    peak: bool


@dataclass(frozen=True)
class Shown:
    """An example: where it is from, and its tokens under every model, with the activation of the chosen one."""

    source: str
    sides: tuple[tuple[str, tuple[Piece, ...], float], ...]


@dataclass(frozen=True)
class Film:
    """A strip of examples, its heading and what it stands for; `first` are seen at once."""

    title: str
    note: str
    first: tuple[Shown, ...]
    more: tuple[Shown, ...]


@dataclass(frozen=True)
class Measure:
    """One line of a persona's table: base, post, their difference, and its q."""

    label: str
    base: Any
    post: Any
    change: Any
    q: str


@dataclass(frozen=True)
class Exhibit:
    """Everything on the page of one feature.

    Attributes:
        latent: its number.
        scale: activation of the darkest shade, the largest of both models.
        charts: one for each model.
        films: examples.
        left: examples that were left out to keep the dashboard small.
        rows: what the record says, persona by persona, each with its table.
        feature: as the laboratory made it.
    """

    latent: int
    scale: float
    charts: tuple[Chart, ...]
    films: tuple[Film, ...]
    left: int
    rows: tuple[tuple[Row, tuple[Measure, ...]], ...]
    feature: Feature


def exhibit(feature: Feature, rows: Sequence[Row], most: int | None) -> Exhibit:
    """Lays a feature out.

    Args:
        feature: what there is to see of it.
        rows: what the record says of it, a row a persona.
        most: examples of a strip, at most; None is all.
    """
    scale = max(firing.largest for firing in feature.firing.values())
    films = tuple(_film(strip, scale, most) for strip in feature.strips)
    left = sum(len(strip.examples) for strip in feature.strips) - sum(len(one.first) + len(one.more) for one in films)
    told = tuple((row, tuple(_measures(row.found))) for row in rows)
    return Exhibit(feature.latent, scale, _charts(feature), films, left, told, feature)


def vocabulary(words: Words) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Output tokens with the sign and size of their logits; spaces and line breaks made visible."""
    return tuple(
        (title, tuple((_visible(word.text), f"{word.logit:+.2f}".replace("-", "−")) for word in some))
        for title, some in (("promotes", words.promoted), ("suppresses", words.suppressed))
    )


def _charts(feature: Feature) -> tuple[Chart, ...]:
    tallest = max((max(firing.counts, default=0) for firing in feature.firing.values()), default=0)
    return tuple(_chart(model, feature.edges, firing, tallest) for model, firing in feature.firing.items())


def _chart(model: str, edges: Sequence[float], firing: Firing, tallest: int) -> Chart:
    told = f"{model}: fires on {firing.share:.2%} of the tokens, {firing.tokens:,} of them"
    if not firing.tokens:
        return Chart(model, (), (), (), f"{model}: silent on every token shown")
    wide, high = (WIDTH - LEFT - 6) / len(firing.counts), HEIGHT - BOTTOM - TOP
    bars = tuple(
        Bar(
            round(LEFT + at * wide + 0.5, 1), round(TOP + high * (1 - count / tallest), 1), round(wide - 1, 1),
            round(high * count / tallest, 1), f"{edges[at]:.3g} to {edges[at + 1]:.3g}: {count:,} tokens",
        )
        for at, count in enumerate(firing.counts) if count
    )  # fmt: skip
    across = tuple(Tick(round(LEFT + (WIDTH - LEFT - 6) * part, 1), f"{edges[-1] * part:.3g}") for part in (0, 0.5, 1))
    most = tallest * firing.share / firing.tokens
    up = tuple(Tick(round(TOP + high * (1 - part), 1), f"{100 * most * part:.2g} %") for part in (0, 1))
    return Chart(model, bars, across, up, f"{told}, at most {firing.largest:.3g}")


def _film(strip: Strip, scale: float, most: int | None) -> Film:
    shown = [_shown(example, scale) for example in strip.examples][:most]
    if strip.kind == "top":
        title, first = f"Strongest in {strip.model}", 4
        note = f"Activation {strip.low:.3g} to {strip.high:.3g} in {strip.model}, one example a scenario."
        if strip.shown:
            note += f" {strip.shown} of the {strip.tokens} strongest are shown above."
    else:
        title, first = f"{QUARTERS[strip.kind].capitalize()} in {strip.model}", 1
        note = f"{strip.tokens:,} tokens with an activation of {strip.low:.3g} to {strip.high:.3g} in {strip.model}."
    return Film(title, note, tuple(shown[:first]), tuple(shown[first:]))


def _shown(example: Example, scale: float) -> Shown:
    about = [example.persona.replace("_", " ")] if example.persona else []
    about += [example.domain, f"scenario {example.group}"]
    about += [] if example.label is None else [f"label {example.label}"]
    sides = tuple(
        (model, tuple(_pieces(example, values, scale)), values[example.peak])
        for model, values in example.values.items()
    )
    return Shown(" · ".join(about), sides)


def _pieces(example: Example, values: Sequence[float], scale: float) -> Iterator[Piece]:
    """Tokens without a colour that stand side by side are one piece: most tokens have none."""
    first, last = example.scored
    plain = "…" if example.beyond[0] else ""
    for at, (token, value) in enumerate(zip(example.tokens, values, strict=True)):
        text, scored, peak = token.replace("\n", "↵\n"), first <= at < last, at == example.peak
        if value <= 0 and not scored and not peak:
            plain += text
            continue
        if plain:
            yield Piece("", plain, "", "", False, False)
            plain = ""
        bare = text.lstrip(" ")
        shade = f"p{min(STEPS, max(1, math.ceil(STEPS * value / scale)))}" if value > 0 else ""
        yield Piece(text[: len(text) - len(bare)], bare, shade, f"{value:.3g}" if value > 0 else "", scored, peak)
    plain += " …" if example.beyond[1] else ""
    if plain:
        yield Piece("", plain, "", "", False, False)


def _measures(found: JSON) -> Iterator[Measure]:
    """A persona's table; a line that the record lacks is not there."""
    for key, label in USED.items():
        held = found.get(key)
        if held:
            base, post, change = (held.get(part) for part in (*MODELS, "change"))
            if key != "mean":
                base, post, change = (one and percent(one) for one in (base, post, change))
            yield Measure(label, base, post, change, _small(held.get("q")))
    read = found.get("auroc") or {}
    if any(read.get(model) for model in MODELS):
        yield Measure("AUROC of its mean activation over the span", read.get("base"), read.get("post"), None, "")
    rule = found.get("rule")
    if rule:
        base, post, change = (rule.get(part) for part in (*MODELS, "change"))
        yield Measure("Its rule, balanced accuracy", base, post, change, _small(rule.get("q_labels")))
        for key, label in CONTROLS.items():
            if rule.get(key) is not None:
                value = rule[key] if isinstance(rule[key], Mapping) else f"{rule[key]:.2f}".replace("-", "−")
                yield Measure(label, value, None, None, _small(rule.get("q")) if key == "random" else "")


def counterparts(found: JSON) -> Iterator[str]:
    """Where other dictionaries have the feature, a sentence each."""
    for where, name in OTHERS.items():
        one = (found.get("counterpart") or {}).get(where)
        if one:
            told = [f"cosine {one['cosine']:.2f}"]
            told += [f"correlation {one['correlation']:.2f}"] if one.get("correlation") is not None else []
            told += ["each the other's nearest"] if one.get("mutual") else []
            told += [f"p {one['p']:.2g}"] if one.get("p") is not None else []
            yield f"In {name}: latent {one['latent']} ({', '.join(told)})."


def _small(value: Any) -> str:
    return "" if value is None else f"{value:.2g}"


def _visible(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
