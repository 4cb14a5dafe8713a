"""Does base's direction still read the persona in post's Assistant?

The matrix fit x judge over models and domains, the ladder of label-free maps T0-T6, rho (the share of what can be read
that base's frozen direction reads), the frozen threshold's accuracy, and the controls of each: labels permuted within
pairs, what the words alone give away, what surprise alone gives away, and random directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.controls import control_texts, misread, other_probes, own_direction, specificity, surprise, turned
from audit.finding import Finding
from audit.landscape import curves, matrix, neighbours, relabelled
from audit.pair import DOMAINS, MODELS, Judged, Model, Pair
from audit.readability import (
    Origin,
    Pieces,
    Reading,
    balanced_accuracy,
    best,
    difference,
    inverted,
    kept_ceiling,
    permutation_null,
    plainly,
    ratio,
    reading,
    recentred,
    rungs,
    share,
)
from audit.resampling import permutation_p
from audit.text_baseline import KEY, TextBaseline, text_readings
from probes.alignment import Alignment

Null = Float[Tensor, "draw site"]
"""Cross-validated AUROC under labels permuted within pairs."""
ORIGINS: tuple[Origin, ...] = ("story", "assistant", "pooled")
FITS: tuple[tuple[str, Origin], ...] = (("", "story"), ("_assistant", "assistant"))
"""How the details of a reading are named, by what base's direction was fitted on."""
THIRD = 1 - 0.05 / 3
"""Level of an interval when three maps get to try."""


@dataclass(frozen=True)
class ProbeTransfer:
    """Settings of the comparison.

    Attributes:
        bootstrap: draws behind the bands of the layer curves.
        permutations: draws of the label null, the direction refitted in each.
        logistic_null: draws of the logistic probe's label null; 0 leaves it out.
        random_maps: draws of random directions and of relabelled thresholds.
        direction: a `.safetensors` direction of one's own, read as one more frozen probe.
        margin: AUROC at which a model's own probe carries the persona, and the bound below which it does not.
    """

    bootstrap: int = 2_000
    permutations: int = 1_000
    logistic_null: int = 0
    random_maps: int = 200
    direction: str | None = None
    margin: tuple[float, float] = (0.70, 0.75)

    name = "probe_transfer"

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The finding at the pair's chosen site."""
        finding, null = self.decide(pair)
        if finding.status == "not_measured":
            return finding
        details: dict[str, Any] = dict(finding.details)
        for suffix, origin in FITS:
            again = relabelled(pair, reading(pair, pair.chosen, origin), self.random_maps, rng)
            details[f"ladder{suffix}"] = {**details[f"ladder{suffix}"], "T5": again}
        details["matrix"] = matrix(pair)
        details["layers"] = curves(pair, null["base"], self.bootstrap, rng)
        details["neighbours"] = neighbours(pair)
        details["probes"] = other_probes(pair, self.permutations, self.logistic_null, rng)
        details["surprisal"] = surprise(pair)
        details["specificity"] = specificity(pair, details["ladder"]["T0"].value, self.random_maps, rng)
        details["controls"] = control_texts(pair)
        details["misread"] = misread(pair)
        if self.direction:
            details["own_direction"] = own_direction(pair, self.direction)
        return finding.model_copy(update={"details": details})

    def decide(self, pair: Pair) -> tuple[Finding, dict[Model, Null]]:
        """What the verdict table reads, and the label nulls behind it; none where nothing can be fitted."""
        persona, site = pair.persona.name, str(pair.site)
        groups = {domain: pair.judged(domain).n_groups for domain in DOMAINS}
        blank = Finding.not_measured(persona, self.name, site, "too few groups to fit a direction and judge it")
        if min(groups.values()) < 4:
            return blank.model_copy(update={"details": {"n_groups": groups}}), {}
        words = {domain: _words(pair, pair.judged(domain)) for domain in DOMAINS}
        ceilings = {model: kept_ceiling(pair, model) for model in MODELS}
        maps, absent = recentred(pair, pair.chosen), dict(pair.maps(pair.chosen).absent)
        readings: dict[Origin, dict[str, Pieces]] = {
            origin: rungs(pair, pair.chosen, origin, maps) for origin in ORIGINS
        }
        base_reads: dict[Origin, Pieces] = {origin: read.pop("base") for origin, read in readings.items()}
        null: dict[Model, Null] = {model: self._null(pair, model) for model in MODELS}
        carried = {m: self._carried(pair, m, ceilings[m], null[m], words["assistant"]) for m in MODELS}
        details: dict[str, Any] = {"n_groups": groups, "not_measured": absent, "carried": carried}
        apart = difference(ceilings["post"], ceilings["base"])
        details["ceiling"] = {"difference": plainly(apart, pair.assistant, "auroc")}
        inside = dict(readings)
        inside["story"] = rungs(pair, pair.chosen, "story", maps, folded=True)
        details |= _ratios(pair, inside, {**base_reads, "story": inside["story"].pop("base")}, ceilings)
        for suffix, origin in FITS:
            details[f"frozen_accuracy{suffix}"] = _accuracy(pair, reading(pair, pair.chosen, origin), maps)
            ladder = {**readings[origin], "T6": ceilings["post"]}
            details[f"ladder{suffix}"] = {rung: share(pieces, pair.assistant) for rung, pieces in ladder.items()}
        details["drift"] = plainly(difference(readings["story"]["T0"], base_reads["story"]), pair.assistant, "auroc")
        details["text"] = {domain: _told(found) for domain, found in words.items()}
        finding = Finding(
            id=blank.id, persona=persona, comparison=self.name, site=site, status="measured",
            headline=details["ladder"]["T0"], control=turned(null["post"][:, pair.chosen], pair.assistant),
            p=float(carried["post"]["p"]), tried=len(pair.sites), details=details,
        )  # fmt: skip
        return finding, null

    def _null(self, pair: Pair, model: Model) -> Null:
        name, judged = f"{self.name}/{pair.persona.name}/{model}", pair.assistant
        rows, draws = judged.rows[model], self.permutations
        given = ("label null, 1", rows, judged.labels, judged.pairs, judged.fold, draws, pair.seed, name)
        made = pair.recorder.remember(given, lambda: {"auroc": permutation_null(rows, judged, draws, pair.seed, name)})
        return made["auroc"]

    def _carried(self, pair: Pair, model: Model, own: Pieces, null: Null, words: TextBaseline) -> dict[str, Any]:
        """Whether the model's own probe reads the persona in its Assistant, beyond the words (interfaces 4)."""
        judged = pair.assistant
        auroc_ = share(own, judged)
        beyond = plainly(difference(own, Pieces(words.full, words.deleted)), judged, "auroc")
        p = float(permutation_p(own.full, null.amax(1)))
        carried, absent = self.margin
        yes = own.full >= carried and auroc_.above(0.5) and beyond.above(0.0) and p <= 0.05
        status = "yes" if yes else "no" if auroc_.below(absent) else "open"
        return {"status": status, "auroc": auroc_, "beyond_text": beyond, "p": p}


def _ratios(
    pair: Pair,
    readings: Mapping[Origin, Mapping[str, Pieces]],
    base_reads: Mapping[Origin, Pieces],
    own: Mapping[str, Pieces],
) -> dict[str, Any]:
    """rho of every rung and origin, rho within base, rho of the best, and rho with the sign turned."""
    judged, out = pair.assistant, {}
    every = [pieces for rungs in readings.values() for pieces in rungs.values()]
    for suffix, origin in FITS:
        rungs = readings[origin]
        ratios = {rung: ratio(pieces, own["post"]) for rung, pieces in rungs.items()}
        out[f"rho{suffix}"] = {rung: plainly(pieces, judged, "rho") for rung, pieces in ratios.items()}
        out[f"rho{suffix}"]["base"] = plainly(ratio(base_reads[origin], own["base"]), judged, "rho")
        mapped = [rung for rung in ("T2", "T3", "T4") if rung in ratios]
        out[f"rho_third{suffix}"] = {rung: plainly(ratios[rung], judged, "rho", THIRD) for rung in mapped}
        turned = [rung for rung in ("T0", "T3", "T4") if rung in rungs]
        out[f"inverted{suffix}"] = {
            rung: plainly(ratio(inverted(rungs[rung]), own["post"]), judged, "rho", THIRD) for rung in turned
        }
    out["rho"]["any"] = plainly(ratio(best(every), own["post"]), judged, "rho")
    return out


def _accuracy(pair: Pair, frozen_: Reading, maps: Mapping[str, Alignment]) -> dict[str, Any]:
    """Balanced accuracy of base's frozen threshold in both models, and what recentring or recolouring restores."""
    judged, fold = pair.assistant, torch.as_tensor(pair.assistant.fold)
    rows = {model: judged.rows[model][pair.chosen] for model in MODELS}
    base = balanced_accuracy(judged, frozen_.scores(rows["base"], fold))
    post = balanced_accuracy(judged, frozen_.scores(rows["post"], fold))
    out = {"base": share(base, judged, "balanced accuracy"), "post": share(post, judged, "balanced accuracy")}
    out["difference"] = plainly(difference(post, base), judged, "balanced accuracy")
    for rung in ("T1", "T2"):
        if rung in maps:
            moved = balanced_accuracy(judged, frozen_.scores(maps[rung](rows["post"]), fold))
            out[rung] = plainly(difference(moved, base), judged, "balanced accuracy")
    return out


def _words(pair: Pair, judged: Judged) -> TextBaseline:
    texts = [passage.text for passage in judged.passages]
    parts = (texts, judged.labels, judged.groups, judged.fold)
    found = pair.recorder.remember((KEY, *parts), lambda: text_readings(*parts))
    return TextBaseline.of(found, *parts[1:])


def _told(words: TextBaseline) -> dict[str, Any]:
    return {"better": words.better, "auroc": words.estimate}
