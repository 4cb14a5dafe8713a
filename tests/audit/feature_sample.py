"""A gallery that no model made: two personas at two sites, features of every state, text that tries to break out."""

from __future__ import annotations

from typing import Any

import numpy as np

from audit.finding import Finding
from audit.gallery import Gallery, Wing
from probes.examples import Example, Strip
from probes.features import Feature, Firing, Leaning, Neighbour
from probes.unembedding import Word, Words

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=\"alert(1)\">"
SITES = {"deception": "L2.resid_post", "assistant_identity": "L1.resid_post"}
DICTIONARY = "5ae0" * 16


def estimate(value: float, half: float = 0.02, unit: str = "balanced accuracy") -> dict[str, Any]:
    return {
        "value": value, "low": value - half, "high": value + half, "level": 0.95, "method": "jackknife-t",
        "unit": unit, "n": 900, "n_groups": 30,
    }  # fmt: skip


def used(base: float, post: float, q: float) -> dict[str, Any]:
    told = {"base": base, "post": post, "change": post - base}
    return {name: estimate(value, 0.001) for name, value in told.items()} | {"p": q / 2, "q": q}


def rule(text: str, base: float, post: float, keeps: str, readable: bool = True) -> dict[str, Any]:
    return {
        "text": text, "source": "learned", "base": estimate(base), "post": estimate(post),
        "change": estimate(post - base), "shuffled": 0.51, "added": base - 0.51, "random": 0.24, "p_labels": 0.001,
        "q_labels": 0.004 if readable else 0.4, "readable": readable, "p": 0.02, "q": 0.03,
        "passes": base > 0.8, "keeps": keeps,
    }  # fmt: skip


def row(latent: int, weight: float, told: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    return {
        "latent": latent, "from": "both", "weight": weight, "auroc": {"base": estimate(0.8), "post": None},
        "firing": used(0.05 * (latent % 7 + 1), 0.05, 0.03), "own": used(0.1, 0.09, 0.3),
        "mean": used(1.5, 1.4, 0.2), "rule": told, "silent": False,
        "reason": None if told else "it fires in 2 of the 30 judged scenarios, 5 are needed",
    } | more  # fmt: skip


def table() -> list[dict[str, Any]]:
    """One feature of each state, and one whose rule holds hostile words."""
    return [
        row(17, 1.9, rule("in the scored span; label 1", 0.81, 0.80, "yes"),
            counterpart={"post": {"latent": 40, "cosine": 0.93, "correlation": 0.9, "mutual": True, "p": 0.005}}),
        row(3, -2.4, rule(f"label 0; a word of: {HOSTILE}", 0.77, 0.76, "open")),
        row(120, 1.1, rule("in user's; label 1", 0.74, 0.58, "no")),
        row(45, 0.8, rule("label 1; a word of: lied", 0.79, 0.5, "no"), silent=True),
        row(9, 0.4, rule("anywhere", 0.52, 0.51, "yes", readable=False)),
        row(511, -0.2, None),
    ]  # fmt: skip


def finding(persona: str, comparison: str, details: dict[str, Any], reason: str | None = None) -> Finding:
    site = SITES[persona]
    measured = {"status": "measured", "headline": estimate(0.9, unit="auroc"), "control": estimate(0.5, unit="auroc")}
    status = {"status": "not_measured", "reason": reason} if reason else measured
    return Finding.model_validate({
        "id": f"{persona}/{comparison}/{site}", "persona": persona, "comparison": comparison, "site": site,
        "details": details, **status,
    })  # fmt: skip


def novel() -> dict[str, Any]:
    """What a crosscoder has of post alone: one latent, on a hostile word."""
    share = {"post_only": estimate(0.0123, 0.001), "turned": None}
    latent = {"latent": 88, "kind": "post_only", "firing": 0.004, "template": 0.9, "base_r2": 0.12,
              "words": [{"word": HOSTILE, "share": 0.9}, {"word": " ", "share": 0.1}]}  # fmt: skip
    return {
        "shares": {"plain": share, "assistant": share},
        "latents": {"post_only": {"count": estimate(3, 1), "share": None}},
        "kl": {"post_only": estimate(0.4), "turned": None}, "beyond_null": True, "by_seed": [{"new": [latent]}],
        "not_measured": {"base_r2": "no SAE of base is named"},
    }  # fmt: skip


def findings() -> tuple[Finding, ...]:
    """deception has all three; assistant_identity has features of its own site and no fidelity."""
    share = estimate(0.03, 0.001, "FVU")
    made = {
        "outliers": 0.0, "tokens": 20_000, "change": share, "difference": share,
        "base": {"base_dictionary": {"fvu": share, "active": 15.2, "dead": 0.2, "dense": 0.05, "ce_recovered": share}},
        "post": {"base_dictionary": {"fvu": share, "active": 15.1, "dead": 0.2, "dense": 0.05, "kl_recovered": share},
                 "random": {"fvu": estimate(0.8, unit="FVU")}},
    }  # fmt: skip
    sparse = {k: {name: estimate(0.9) for name in ("base_story", "post_assistant", "random")} for k in ("1", "16")}
    gate = {"status": "pass", "margin": 0.1, "change": estimate(0.0002, 0.0001, "FVU")}
    dictionary = {"weights": DICTIONARY, "width": 512}
    again = {"weights": "1b2d" * 16, "width": 512, "mutual": 4, "beyond_chance": 5, "cosine": 0.88}
    common = {"dictionary": dictionary, "gate": gate, "sparse": sparse, "matching": {"post": again, "seed": None}}
    return (
        finding("deception", "feature_transfer", {"kinds": {"plain": made, "story": made, "assistant": made}}),
        finding("deception", "features", common | {"features": table()}),
        finding("deception", "novelty", novel()),
        finding("assistant_identity", "features", common | {"features": table()[:1]}),
    )


def example(rng: np.random.Generator, peak: int, words: tuple[str, ...]) -> Example:
    values = {model: tuple(float(v) for v in rng.choice([0.0, 0.0, 3.0], len(words))) for model in ("base", "post")}
    values["base"] = (*values["base"][:peak], 8.0, *values["base"][peak + 1 :])
    return Example("deception", "story", 1, "harbour-1", words, (4, 2), peak, (2, 5), values)


def feature(latent: int, most: int = 8) -> Feature:
    """A feature with so many examples a strip; the last latent is silent in both models."""
    rng = np.random.default_rng(latent)
    words = ("the", " clerk", " said", f" {HOSTILE}", " and\n", " 'lied'")
    silent = latent == 511
    strips = () if silent else (
        Strip("base", "top", 5.0, 8.0, 8, tuple(example(rng, n % 6, words) for n in range(most))),
        Strip("post", "top", 2.0, 3.0, 8, (), 8),
        *(Strip("base", str(n), 4.0 - n, 5.0 - n, 20, (example(rng, 3, words),)) for n in (1, 2, 3, 4)),
    )  # fmt: skip
    counts = tuple(int(n) for n in rng.integers(0, 90, 24))
    firing = Firing(sum(counts), sum(counts) / 50_000, 2.5, 8.0, counts)
    still = Firing(0, 0.0, None, 0.0, () if silent else (0,) * 24)
    known = Words(tuple(Word(word, 0.9) for word in (" under", HOSTILE, "\n")), (Word("▁no", -0.4),))
    return Feature(
        latent, () if silent else tuple(np.linspace(0, 8, 25).tolist()),
        {"base": still if silent else firing, "post": still if silent or latent == 45 else firing}, strips,
        {"base": known, "post": Words(why="the final norm of a llama is not known")},
        (Neighbour(3, 0.91), Neighbour(300, -0.2)),
        (Leaning("deception", "story", {"base": 1.2, "post": None}),),
    )  # fmt: skip


def gallery(most: int = 8) -> Gallery:
    """Everything, with so many examples a strip."""
    side = {"ref": "organism:base", "weights": "3f9a" * 16, "revision": None, "dtype": "bfloat16", "bos": True}
    texts = {"deception, story": (230, 15_000), "plain": (250, 14_900)}
    wings = tuple(
        Wing(site, int(site[1]), "sae-0", DICTIONARY, 512, "jumprelu", texts, tuple(feature(n, most) for n in some))
        for site, some in (("L2.resid_post", [one["latent"] for one in table()]), ("L1.resid_post", [17]))
    )
    source = ("record", "c0ffee42" * 8)
    return Gallery(side, side | {"ref": f"post {HOSTILE}"}, source, findings(), wings, {})
