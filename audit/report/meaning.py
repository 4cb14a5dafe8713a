"""What the features' part of a record says: a word and a sentence for each persona, a row for each feature.

Nothing is computed anew. What a record lacks becomes the reason why it is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from audit.report.facts import Facts, novelty, percent
from audit.report.style import reading

JSON = Mapping[str, Any]

COMPARISONS = ("feature_transfer", "features", "novelty")
BEST = 6
"""Features of a persona that a report names before it points to the dashboard."""
KINDS = ("plain", "story", "assistant")
USED = {
    "active": ("latents that fire at a time (L0)", "{:.1f}"), "dead": ("latents that never fire", "{:.1%}"),
    "dense": ("latents that fire on more than a tenth", "{:.1%}"),
}  # fmt: skip
SPARSE = {
    "base_story": "base's stories, fitted there",
    "base_assistant": "base's Assistant, fitted there",
    "post_assistant": "post's Assistant, fitted on base's",
    "story_to_post": "post's Assistant, fitted on base's stories",
    "random": "the same on random directions",
}
OTHERS = {"post": "an SAE of post's own", "seed": "another of base's"}
MATCHED = {
    "mutual": ("each other's nearest", "{:d}"), "beyond_chance": ("nearer than chance", "{:d}"),
    "cosine": ("median cosine of the nearest", "{:.2f}"),
}  # fmt: skip
STATES: dict[str, tuple[str, str]] = {
    "keeps": ("good", "its rule foretells where it fires in base, and in post as well"),
    "open": ("open", "its rule holds in base; the interval does not say whether it does in post"),
    "loses": ("warn", "its rule holds in base and worse in post"),
    "silent": ("warn", "in texts of its own label it fires in base and hardly ever in post"),
    "words alone": ("open", "words and places foretell where it fires: with labels exchanged its rule does as well"),
    "no rule": ("open", "there is nothing to judge, and the reason is named"),
}
"""State of a feature -> (tone, meaning), the best first."""
PLACES = {"assistant": "Assistant turns", "story": "stories", "both": "both domains", "explained": "explained"}
"""Where a feature was found to carry the persona in base."""


@dataclass(frozen=True)
class Headline:
    """The features' part for one persona: a tone and its mark, a word, a sentence."""

    persona: str
    tone: str
    mark: str
    word: str
    says: str


@dataclass(frozen=True)
class Row:
    """One feature of one persona; `found` is what the record has of it."""

    persona: str
    site: str
    latent: int
    state: str
    tone: str
    rule: str
    found: JSON


@dataclass(frozen=True)
class Grid:
    """A table of Estimates or texts: names of columns, and rows of a label with a cell a column; or why it is empty."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Any, ...]], ...]
    why: str = ""


@dataclass(frozen=True)
class Part:
    """The features' part of one persona.

    Attributes:
        headline: a word and a sentence.
        gate: whether features may be read across the pair, with the numbers; empty where nothing says so.
        fidelity: how well base's dictionary makes base and post again.
        sparse: how few of its latents carry the persona.
        matching: how many of its features other dictionaries have too.
        rows: every feature, in the order of the finding.
        novelty: what a dictionary over both models has of post alone.
    """

    headline: Headline
    gate: str
    fidelity: Grid
    sparse: Grid
    matching: Grid
    rows: tuple[Row, ...]
    novelty: Facts

    @property
    def best(self) -> tuple[Row, ...]:
        """A few features, the best states first."""
        return tuple(sorted(self.rows, key=lambda row: list(STATES).index(row.state))[:BEST])


def part(persona: str, found: Mapping[str, JSON | None], why: Mapping[str, str]) -> Part:
    """The features' part of one persona.

    Args:
        persona: its name.
        found: its findings by comparison, of `COMPARISONS`.
        why: why a reading of each is not there, where it is not.
    """
    transfer, own, new = (found.get(name) for name in COMPARISONS)
    gate = ((own or transfer or {}).get("details") or {}).get("gate") or {}
    return Part(
        headline(persona, own, why["features"]), _gate(gate), fidelity(transfer, why["feature_transfer"]),
        sparse(own, why["features"]), matching(own, why["features"]), rows(own), novelty(new or {}, why["novelty"]),
    )  # fmt: skip


def _gate(gate: JSON) -> str:
    if not gate.get("status"):
        return ""
    told = f"The gate: {gate['status'].replace('_', ' ')}"
    if gate.get("change"):
        told += f". FVU on the Assistant's tokens changes by {_share(gate['change'])}"
    return told + (f", margin {100 * gate['margin']:g} %." if gate.get("margin") is not None else ".")


def rows(finding: JSON | None) -> tuple[Row, ...]:
    """The features of a finding of `features`, in its order."""
    told = finding or {}
    held = (told.get("details") or {}).get("features") or []
    return tuple(_row(str(told.get("persona", "")), str(told.get("site", "")), found) for found in held)


def _row(persona: str, site: str, found: JSON) -> Row:
    rule = found.get("rule") or {}
    keeps = {"yes": "keeps", "no": "loses"}.get(str(rule.get("keeps")), "open")
    state = keeps if rule.get("readable") else "words alone"
    if found.get("silent"):
        state = "silent"
    elif not rule:
        state = "no rule"
    return Row(persona, site, int(found["latent"]), state, STATES[state][0], str(rule.get("text") or ""), found)


def headline(persona: str, finding: JSON | None, why: str) -> Headline:
    """The features' part for one persona, in a word and a sentence; `why` says why there is none."""
    held = (finding or {}).get("details") or {}
    table, gate = rows(finding), held.get("gate") or {}
    if gate.get("status") == "fail":
        return Headline(persona, "warn", "✕", "not read across", _sentence(why))
    if not table:
        return Headline(persona, "open", "?", "not measured", _sentence(why))
    rules = [row.found["rule"] for row in table if (row.found.get("rule") or {}).get("readable")]
    keep, lose = (sum(rule.get("keeps") == told for rule in rules) for told in ("yes", "no"))
    silent = [str(row.latent) for row in table if row.state == "silent"]
    told = f"{len(rules)} of the {len(table)} features found for it have a rule that holds in base"
    special = sum(bool(rule.get("passes")) for rule in rules)
    told += f" ({special} beyond what random directions reach)" if rules else ""
    parts = ((keep, "keep it"), (lose, "lose it"), (len(rules) - keep - lose, "are open"))
    if rules:
        told += ": in post " + ", ".join(f"{number} {word}" for number, word in parts if number)
    if silent:
        told += f". Silent in post: {', '.join(silent[:12])}{' and others' if len(silent) > 12 else ''}"
    if gate.get("change"):
        told += f". Base's dictionary leaves {_share(gate['change'])} more of post's variance unexplained"
    return Headline(persona, *_word(len(rules), keep, lose, len(silent)), told + ".")


def _word(rules: int, kept: int, lost: int, silent: int) -> tuple[str, str, str]:
    """Tone, mark and word."""
    if silent:
        return "warn", "▼", "fell silent"
    if lost:
        return "warn", "≈", "changed"
    if not rules:
        return "open", "○", "no rule holds"
    return ("good", "●", "kept") if kept == rules else ("open", "…", "open")


def fidelity(finding: JSON | None, why: str) -> Grid:
    """How well base's dictionary makes base and post again, by kind of text: the table of `feature_transfer`."""
    kinds = ((finding or {}).get("details") or {}).get("kinds") or {}
    columns = tuple(kind for kind in KINDS if kinds.get(kind))
    lines: dict[str, list[Any]] = {}
    for kind in columns:
        for label, value in _made(kinds[kind]):
            lines.setdefault(label, []).append(value)
    whole = tuple((label, tuple(cells)) for label, cells in lines.items() if any(cell is not None for cell in cells))
    return Grid(columns, whole, why)


def _made(held: JSON) -> Iterator[tuple[str, Any]]:
    """The rows of one kind of text; every kind has the same ones."""
    ours = {model: (held.get(model) or {}).get("base_dictionary") or {} for model in ("base", "post")}
    post = held.get("post") or {}
    shares = [(f"FVU, {model}, %", ours[model].get("fvu")) for model in ours]
    shares += [("FVU, change from base to post, %", held.get("change"))]
    shares += [("FVU of the difference post − base, %", held.get("difference"))]
    shares += [("FVU, post, an SAE of its own (ceiling), %", (post.get("post_dictionary") or {}).get("fvu"))]
    shares += [("FVU, post, random directions (floor), %", (post.get("random") or {}).get("fvu"))]
    for key, name in (("ce_recovered", "cross-entropy"), ("kl_recovered", "KL")):
        shares += [(f"{name} recovered, {model}, %", ours[model].get(key)) for model in ours]
    yield from ((label, value and percent(value)) for label, value in shares)
    for key, (name, form) in USED.items():
        yield from ((f"{name}, {model}", _text(ours[model].get(key), form)) for model in ours)
    yield "latents of post's own SAE with a new use", _new(held.get("new") or {})
    yield "tokens; outliers left out", _outliers(held)


def _new(held: JSON) -> str | None:
    """How many there are, and the words on which the first of them fire."""
    count = _text(held.get("count"), "{:d}")
    if count and held.get("tokens"):
        count += f" on {held['tokens']:.1%} of the tokens"
    words = [one["uses"][0]["words"] for one in (held.get("latents") or [])[:3] if one.get("uses")]
    return f"{count} ({', '.join(words)})" if count and words else count


def sparse(finding: JSON | None, why: str) -> Grid:
    """AUROC of probes on a few latents, by their number: from the details of `features`."""
    found = ((finding or {}).get("details") or {}).get("sparse") or {}
    lines = [(SPARSE[name], tuple((found[k] or {}).get(name) for k in found)) for name in SPARSE]
    whole = tuple((label, cells) for label, cells in lines if any(cell is not None for cell in cells))
    return Grid(tuple(f"{k} latent{'s' if k != '1' else ''}" for k in found), whole, why)


def matching(finding: JSON | None, why: str) -> Grid:
    """How many of the listed features are found again in other dictionaries: from the details of `features`."""
    held = ((finding or {}).get("details") or {}).get("matching") or {}
    found = {name: held[where] for where, name in OTHERS.items() if held.get(where)}
    lines = [
        (label, tuple(_text(one.get(key), form) for one in found.values())) for key, (label, form) in MATCHED.items()
    ]
    return Grid(tuple(found), tuple(line for line in lines if any(line[1])), why)


def _text(value: Any, form: str) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return form.format(value) if number else None


def _outliers(held: JSON) -> str | None:
    return None if held.get("tokens") is None else f"{held['tokens']:,}; {held.get('outliers') or 0:.1%}"


def _share(estimate: JSON) -> str:
    """In percent, without a line break before the sign."""
    return reading(percent(estimate)).replace(" ", "\u00a0%\u00a0", 1)


def _sentence(why: str) -> str:
    return why[:1].upper() + why[1:].removesuffix(".") + "."
