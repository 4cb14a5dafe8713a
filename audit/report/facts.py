"""Tables of single readings on the page: what stands beside the probe, the geometry of the two spaces, erasure.

Keys are those of the findings' details. A key that is absent or empty has no row; an empty table says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

JSON = Mapping[str, Any]


@dataclass(frozen=True)
class Fact:
    """One row: what it is, and its Estimate or, for a plain number, its text."""

    label: str
    estimate: JSON | None
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """One table: its title, its rows, and why it has none when it has none."""

    title: str
    rows: tuple[Fact, ...]
    why: str


FROZEN = {
    "base": "Frozen threshold in base",
    "post": "Frozen threshold in post",
    "difference": "Frozen threshold, post minus base",
    "T1": "The same difference after T1",
    "T2": "The same difference after T2",
}
SURPRISAL = {
    "base": "Surprisal of the span alone reads, base",
    "post": "Surprisal of the span alone reads, post",
    "base_nats": "Mean surprisal of the span, base",
    "post_nats": "Mean surprisal of the span, post",
    "apart": "Frozen probe on post, apart from surprisal",
}
SPACES = {
    "cosine": "Cosine of the two directions, split halves",
    "cosine_control": "The same with labels of pairs turned at random",
    "base_strength": "Strength of the class difference, base",
    "post_strength": "Strength of the class difference, post",
    "cka": "CKA of plain tokens, debiased",
    "procrustes": "Procrustes, held out",
}
ERASED = {
    "leak": "Post, base's direction erased: a new probe reads",
    "ceiling": "Post, nothing erased",
    "random": "Post, a direction of random labels erased",
    "base_leak": "Base, its own direction erased",
    "base_ceiling": "Base, nothing erased",
}

NEW = {"post_only": "post's own latents", "turned": "latents that write something else"}
"""Kind of a crosscoder's latents -> what they are called."""
NAMED = 8
"""New latents that are named one by one."""
PARTS = {"whole": "the whole", "constant": "what is the same everywhere", "context": "what depends on the scenario"}


def beside(held: JSON, why: str) -> Facts:
    """What stands beside the probe, from the details of `probe_transfer`."""
    rows = [*_told(FROZEN, held.get("frozen_accuracy")), *_row("Monitor drift: T0 minus base's own", held.get("drift"))]
    rows += _row("Own probes: post minus base", (held.get("ceiling") or {}).get("difference"))
    for key, words in (("rho_assistant", "of base's Assistant fit"), ("inverted", "with the sign turned")):
        rows += [row for rung, value in (held.get(key) or {}).items() for row in _row(f"ρ {rung} {words}", value)]
    for place in held.get("neighbours") or []:
        rows += _row(f"Frozen probe at layer {place.get('layer')}", (place.get("ladder") or {}).get("T0"))
    for kind, models in (held.get("probes") or {}).items():
        rows += _row(f"Frozen {kind.replace('_', '-')} probe on post", (models or {}).get("post"))
        rows += _row("The same, fitted to labels of pairs turned at random", (models or {}).get("null"))
    rows += _told({model: f"Your direction on {model}" for model in ("base", "post")}, held.get("own_direction"))
    rows += [row for kind, value in (held.get("controls") or {}).items() for row in _row(f"Control: {kind}", value)]
    rows += _told(SURPRISAL, held.get("surprisal"))
    if held.get("specificity") is not None:
        share = f"{100 * held['specificity']:.1f} % of random directions with the activations' covariance read as well"
        rows.append(Fact("Specificity", None, share))
    return Facts("Beside the probe", tuple(rows), why)


def geometry(held: JSON, why: str) -> Facts:
    """The two directions and the two spaces, from the details of `geometry`."""
    rows = [*_told(SPACES, held)]
    for name, value in (held.get("reliability") or {}).items():
        rows += _row(f"Reliability of the direction, {name}", value)
    for name, value in (held.get("ladder_r2") or {}).items():
        rows += _row(f"Map from post to base: {name}", value)
    if held.get("established") is False:
        rows.insert(0, Fact("S²", None, "not established: post's own class difference is not told from zero"))
    if held.get("angles_degrees"):
        angles = ", ".join(f"{angle:.1f}°" for angle in held["angles_degrees"])
        rows.append(Fact("Principal angles of the two spaces", None, angles))
    return Facts("Geometry", tuple(rows), why)


def erasure(held: JSON, why: str) -> Facts:
    """What erasing base's direction leaves, from the details of `erasure`."""
    return Facts("Erasure, reported and never a gate", tuple(_told(ERASED, held)), why)


def shift(held: JSON, why: str) -> Facts:
    """Where post-training moved the Assistant, from the details of `shift`."""
    rows = [*_row("Size of the change, as a share of base's variance", held.get("size"))]
    missing = held.get("not_measured") or {}
    for part, words in PARTS.items():
        if part != "whole":
            rows += _row(f"Of the change, {words}", (held.get("parts") or {}).get(part))
        rows += _row(f"Along base's persona, of {words}", (held.get("share") or {}).get(part))
        rows += _row("The same, if the change were placed at random", (held.get("random") or {}).get(part))
        if part in missing:
            rows.append(Fact(f"Along base's persona, of {words}", None, str(missing[part])))
    rows += _row("Along the best axis there is, of the whole", held.get("best"))
    return Facts("Shift: where post-training moved it", tuple(rows), why)


def novelty(finding: JSON, why: str) -> Facts:
    """What a dictionary over both models has of post alone, from a finding of `novelty`."""
    held = finding.get("details") or {}
    rows: list[Fact] = []
    for kind, words in NEW.items():
        for text, shares in (held.get("shares") or {}).items():
            share = (shares or {}).get(kind)
            rows += _row(f"Of what fires, {words}, %: {text}", share and percent(share))
        rows += _row(f"How many are {words}", ((held.get("latents") or {}).get(kind) or {}).get("count"))
        closed = (held.get("kl") or {}).get(kind)
        rows += _row(f"KL from base to post that {words} close, %", closed and percent(closed))
    if finding.get("control"):
        rows += _row("Of what fires, post's own latents, %: a sham fine-tune", percent(finding["control"]))
    if held.get("beyond_null") is not None:
        rows.append(Fact("More than a sham fine-tune", None, "yes" if held["beyond_null"] else "no"))
    rows += [Fact("Not measured", None, str(reason)) for reason in (held.get("not_measured") or {}).values()]
    seeds = held.get("by_seed") or [{}]
    rows += [_latent(one) for one in (seeds[0].get("new") or [])[:NAMED]]
    return Facts("Novelty: what post alone has", tuple(rows), why)


def percent(estimate: JSON) -> JSON:
    """The same share in percent; no zero is negative in it."""
    numbers = {key: estimate.get(key) for key in ("value", "low", "high")}
    return {**estimate, **{key: None if n is None else round(100 * n, 2) + 0.0 for key, n in numbers.items()}}


def _latent(one: JSON) -> Fact:
    """One new latent of the first seed."""
    words = ", ".join(str(word.get("word", "")).strip() or "a space" for word in one.get("words") or [])
    told = [f"fires on {one['firing']:.2%} of the tokens"] if one.get("firing") is not None else []
    told += [f"most on: {words}"] if words else []
    told += [f"{one['template']:.0%} of it on template tokens"] if one.get("template") is not None else []
    told += [f"base's dictionary explains {one['base_r2']:.2f} of it"] if one.get("base_r2") is not None else []
    return Fact(f"Latent {one.get('latent')}: {NEW.get(str(one.get('kind')), one.get('kind'))}", None, "; ".join(told))


def _told(titles: Mapping[str, str], values: JSON | None) -> Iterator[Fact]:
    """The known keys that have a value, in the order of their titles."""
    for key, title in titles.items():
        yield from _row(title, (values or {}).get(key), " nats/token" if key.endswith("_nats") else "")


def _row(label: str, value: Any, unit: str = "") -> Iterator[Fact]:
    """One row for an Estimate or a number, none for anything else."""
    if isinstance(value, Mapping) and "value" in value:
        yield Fact(label, value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield Fact(label, None, f"{value:.2f}{unit}")
