"""Does base's dictionary still make post's activations again? Asked before any of its features is read across the pair.

Base's SAE is held against base and post on the same tokens of plain text, stories and Assistant turns: unexplained
variance, the cross-entropy and KL that its reconstruction recovers, and how its latents are used. Beside it stand an
SAE of post's own (ceiling; which of its latents base leaves silent is told) and one of random directions (floor). The
sharper question is the *difference* post - base: a dictionary may make both again and not what post-training changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.encoded import encoded
from audit.estimate import Estimate, estimate
from audit.finding import Finding
from audit.fresh import fresh
from audit.pair import MODELS, Model, Pair, Recorder
from audit.resampling import grouped
from probes.dictionary import Dictionary, load_at, randomised
from probes.fidelity import DEFINITION, Fidelity, Residues, Unexplained, fidelity, ordinary
from probes.passage import Passage

Kind = Literal["plain", "story", "assistant"]
RECOVERED = "share of what replacing the site by its mean costs that the reconstruction gives back"


@dataclass(frozen=True)
class FeatureTransfer:
    """Settings of the comparison.

    Attributes:
        dictionary: base's SAE, a folder or RELEASE:SAE_ID; of a folder of SAEs the one at the persona's site.
        ceiling: an SAE of post's own at the same site.
        rows: tokens of each kind of text, at most; whole scenarios are left out, evenly.
        texts: of each kind, whose predictions are compared, at most.
        fidelity: FVU that base's SAE may lose from base to post before its features are not interpreted across them.
    """

    dictionary: str | None = None
    ceiling: str | None = None
    rows: int = 60_000
    texts: int = 200
    fidelity: float = 0.1

    name = "feature_transfer"

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The finding at the dictionary's site: FVU of base's SAE on post's Assistant; random directions as control."""
        recorder, persona = pair.recorder, pair.persona.name
        if self.dictionary is None or not isinstance(recorder, Recorder):
            why = "no SAE of base is named (comparisons.feature_transfer.dictionary)"
            return Finding.not_measured(persona, self.name, str(pair.site), why)
        own = load_at(self.dictionary, pair.site)[0].fitting(recorder.base)
        top = load_at(self.ceiling, own.site)[0].fitting(recorder.post) if self.ceiling else None
        texts: dict[Kind, Sequence[Passage]] = {
            "plain": recorder.plain, "story": pair.story.passages, "assistant": pair.assistant.passages,
        }  # fmt: skip
        seed = int(rng.integers(2**31))
        kinds = {kind: self._kind(recorder, passages, own, top, seed) for kind, passages in texts.items()}
        headline = kinds["assistant"]["post"]["base_dictionary"]["fvu"]
        if headline is None:
            return Finding.not_measured(persona, self.name, str(own.site), "the rows at the SAE's site are all alike")
        details: dict[str, Any] = {
            "dictionary": {"weights": own.weights, "width": own.width, "site": str(own.site)},
            "ceiling": top and {"weights": top.weights, "width": top.width},
            "definitions": {"fvu": DEFINITION, "recovered": RECOVERED}, "kinds": kinds,
            "gate": gated(kinds["assistant"]["change"], self.fidelity),
        }  # fmt: skip
        control = kinds["assistant"]["post"]["random"]["fvu"]
        name = f"{persona}/{self.name}/{own.site}"
        return Finding(
            id=name, persona=persona, comparison=self.name, site=str(own.site), status="measured", headline=headline,
            control=control, details=details,
        )  # fmt: skip

    def _kind(
        self, recorder: Recorder, passages: Sequence[Passage], own: Dictionary, top: Dictionary | None, seed: int
    ) -> dict[str, Any]:
        """Everything about one kind of text."""
        read = encoded(recorder, passages, own, self.rows)
        rows, found, passages = read.rows, read.found, read.tokens.passages
        group = read.group[read.tokens.passage]
        chance = randomised(own, rows["base"], max(1, round(found["base"].active)), seed)
        out: dict[str, Any] = {"outliers": read.outliers, "tokens": len(read.tokens)}
        for model in MODELS:
            floor = fidelity(chance, rows[model], group)
            out[model] = {"base_dictionary": _used(found[model]), "random": _used(floor)}
        if top is not None:
            most = fidelity(top, rows["post"], group)
            out["post"]["post_dictionary"] = _used(most)
            out["new"] = fresh({"base": top.encode(rows["base"]), "post": most.codes}, read)
        out["change"] = lost(found["base"], found["post"])
        moved, made = rows["post"] - rows["base"], found["post"].made - found["base"].made
        apart = Residues.of(moved, made, group, int(group.max()) + 1).unexplained
        out["difference"] = None if bool(apart.full.isnan()) else _told(apart, len(group))
        for model, value in self._recovered(recorder, predicted(passages, self.texts), own, rows).items():
            out[model]["base_dictionary"] |= value
        return out

    def _recovered(
        self, recorder: Recorder, passages: Sequence[Passage], own: Dictionary, rows: Mapping[Model, Tensor]
    ) -> dict[Model, dict[str, Any]]:
        """Shares of cross-entropy and KL that the reconstruction gives back, beside the mean of the site's rows."""
        group = grouped([passage.group for passage in passages])[1]
        found: dict[Model, dict[str, Any]] = {}
        for model in MODELS:
            mean = rows[model].mean(0)
            edits = {"made": _keeping_outliers(own), "mean": mean.expand_as}
            ran = recorder.spliced(model, passages, own.site, edits)
            found[model] = {
                "ce_recovered": _share(ran.cross_entropy, ran.cross_entropy["clean"], group),
                "kl_recovered": _share(ran.divergence, torch.zeros(len(group), dtype=torch.float64), group),
                "nats": float(ran.cross_entropy["clean"].sum() / ran.tokens.sum()),
            }
        return found


def lost(base: Fidelity, post: Fidelity) -> Estimate | None:
    """FVU that a dictionary loses from base's rows to post's, positive = post is made worse; None without variance."""
    ours, theirs = base.residues.unexplained, post.residues.unexplained
    apart = Unexplained(theirs.full - ours.full, theirs.deleted - ours.deleted)
    return None if bool(apart.full.isnan()) else _told(apart, len(base.codes))


def gated(change: Estimate | None, margin: float) -> dict[str, Any]:
    """Whether features may be read across the pair: the loss is below the margin by its bound, or above it."""
    if change is None:
        return {"status": "not_measured", "margin": margin, "change": None}
    status = "pass" if change.below(margin) else "fail" if change.above(margin) else "open"
    return {"status": status, "margin": margin, "change": change}


def predicted(passages: Sequence[Passage], count: int) -> list[Passage]:
    """As many passages, evenly spaced, in which some token is predicted; each once."""
    at = np.linspace(0, len(passages) - 1, min(count, len(passages))).astype(int)
    return [passage for passage in dict.fromkeys(passages[i] for i in at) if len(passage.token_ids) > 1]


def _keeping_outliers(own: Dictionary) -> Any:
    def edit(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        return torch.where(ordinary(rows)[:, None], own.reconstructed(rows), rows)

    return edit


def _used(found: Fidelity) -> dict[str, Any]:
    """Unexplained variance, and how the latents are used."""
    n = len(found.codes)
    fvu = found.residues.unexplained
    return {
        "fvu": None if bool(fvu.full.isnan()) else _told(fvu, n), "active": found.active, "dead": found.dead,
        "dense": found.dense,
    }  # fmt: skip


def _told(value: Unexplained, n: int) -> Estimate:
    return estimate(value.full, value.deleted, unit="FVU", n=n)


def _share(
    sums: Mapping[str, Float[Tensor, " passage"]], clean: Float[Tensor, " passage"], group: Int[Tensor, " passage"]
) -> Estimate | None:
    """(mean - made) / (mean - clean), by group; None where the mean costs nothing."""
    zeros = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
    given, cost = (zeros.index_add(0, group, sums["mean"] - other) for other in (sums["made"], clean))
    if bool((cost.sum() - torch.cat([cost, zeros[:1]]) <= 0).any()):
        return None
    full, deleted = given.sum() / cost.sum(), (given.sum() - given) / (cost.sum() - cost)
    return estimate(full, deleted, unit="share recovered", n=len(group))
