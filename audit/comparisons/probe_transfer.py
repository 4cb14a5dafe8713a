"""Does base's direction still read the persona in post's Assistant?

The matrix fit x judge over models and domains, the ladder of label-free maps T0-T6, rho (the share of what can be read
that base's frozen direction reads), the frozen threshold's accuracy, and the controls of each: labels permuted within
pairs, what the words alone give away, what surprise alone gives away, and random directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.controls import control_texts, misread, other_probes, own_direction, specificity, surprise, turned
from audit.estimate import Estimate, drawn
from audit.finding import Finding
from audit.pair import MODELS, Judged, Judging, Model, Pair, cross_validated
from audit.readability import (
    Origin,
    Pieces,
    Reading,
    balanced_accuracy,
    best,
    ceiling,
    difference,
    inverted,
    permutation_null,
    plainly,
    ratio,
    read,
    reading,
    share,
)
from audit.resampling import Kernel, bands, bootstrap_weights, estimate_auroc, kernel, permutation_p
from audit.text_baseline import TextBaseline, text_readings
from probes.alignment import Alignment, frozen, recentre
from probes.direction import lda

DOMAINS: tuple[Judging, Judging] = ("story", "assistant")
ORIGINS: tuple[Origin, ...] = ("story", "assistant", "pooled")
FITS: tuple[tuple[str, Origin], ...] = (("", "story"), ("_assistant", "assistant"))
"""How the details of a reading are named, by what base's direction was fitted on."""
RELABELLED = 20
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
        persona, site = pair.persona.name, str(pair.site)
        groups = {domain: pair.judged(domain).n_groups for domain in DOMAINS}
        blank = Finding.not_measured(persona, self.name, site, "too few groups to fit a direction and judge it")
        if min(groups.values()) < 4:
            return blank.model_copy(update={"details": {"n_groups": groups}})
        words = {domain: _words(pair, pair.judged(domain)) for domain in DOMAINS}
        ceilings = {model: _ceiling(pair, model) for model in MODELS}
        maps, absent = _recentred(pair, pair.chosen), dict(pair.maps(pair.chosen).absent)
        readings: dict[Origin, dict[str, Pieces]] = {
            origin: _rungs(pair, pair.chosen, origin, maps) for origin in ORIGINS
        }
        base_reads: dict[Origin, Pieces] = {origin: rungs.pop("base") for origin, rungs in readings.items()}
        null = {model: self._null(pair, model) for model in MODELS}
        carried = {m: self._carried(pair, m, ceilings[m], null[m], words["assistant"]) for m in MODELS}
        details: dict[str, Any] = {"n_groups": groups, "not_measured": absent, "carried": carried}
        details |= _ratios(pair, readings, base_reads, ceilings)
        for suffix, origin in FITS:
            details[f"frozen_accuracy{suffix}"] = _accuracy(pair, reading(pair, pair.chosen, origin), maps)
            details[f"ladder{suffix}"] = self._ladder(pair, readings[origin], ceilings["post"], origin, rng)
        details["drift"] = plainly(difference(readings["story"]["T0"], base_reads["story"]), pair.assistant, "auroc")
        details["matrix"] = _matrix(pair)
        details["layers"] = self._curves(pair, null["base"], rng)
        details["neighbours"] = _neighbours(pair)
        details["probes"] = other_probes(pair, self.permutations, self.logistic_null, rng)
        details["text"] = {domain: _told(found) for domain, found in words.items()}
        details["surprisal"] = surprise(pair)
        details["specificity"] = specificity(pair, readings["story"]["T0"], self.random_maps, rng)
        details["controls"] = control_texts(pair)
        details["misread"] = misread(pair)
        if self.direction:
            details["own_direction"] = own_direction(pair, self.direction)
        return Finding(
            id=blank.id, persona=persona, comparison=self.name, site=site, status="measured",
            headline=share(readings["story"]["T0"], pair.assistant),
            control=turned(null["post"][:, pair.chosen], pair.assistant),
            p=float(carried["post"]["p"]), tried=len(pair.sites), details=details,
        )  # fmt: skip

    def _null(self, pair: Pair, model: Model) -> Float[Tensor, "draw site"]:
        name, judged = f"{self.name}/{pair.persona.name}/{model}", pair.assistant
        rows, draws = judged.rows[model], self.permutations
        given = ("label null, 1", rows, judged.labels, judged.pairs, judged.fold, draws, pair.seed, name)
        made = pair.recorder.remember(given, lambda: {"auroc": permutation_null(rows, judged, draws, pair.seed, name)})
        return made["auroc"]

    def _carried(
        self, pair: Pair, model: Model, own: Pieces, null: Float[Tensor, "draw site"], words: TextBaseline
    ) -> dict[str, Any]:
        """Whether the model's own probe reads the persona in its Assistant, beyond the words (interfaces 4)."""
        judged = pair.assistant
        auroc_ = share(own, judged)
        beyond = plainly(difference(own, Pieces(words.full, words.deleted)), judged, "auroc")
        p = float(permutation_p(own.full, null.amax(1)))
        carried, absent = self.margin
        yes = own.full >= carried and auroc_.above(0.5) and beyond.above(0.0) and p <= 0.05
        status = "yes" if yes else "no" if auroc_.below(absent) else "open"
        return {"status": status, "auroc": auroc_, "beyond_text": beyond, "p": p}

    def _ladder(
        self, pair: Pair, rungs: Mapping[str, Pieces], own: Pieces, origin: Origin, rng: np.random.Generator
    ) -> dict[str, Estimate]:
        ladder = {rung: share(pieces, pair.assistant) for rung, pieces in rungs.items()}
        ladder["T5"] = _relabelled(pair, reading(pair, pair.chosen, origin), self.random_maps, rng)
        ladder["T6"] = share(own, pair.assistant)
        return ladder

    def _curves(self, pair: Pair, null: Float[Tensor, "draw site"], rng: np.random.Generator) -> dict[str, Any]:
        """AUROC at every recorded site with bootstrap bands, and the null's band."""
        judged = pair.assistant
        fit = lda(pair.story.rows["base"], pair.story.labels, torch.ones(1, len(pair.story.passages)))
        weights = bootstrap_weights(judged.n_groups, self.bootstrap, rng)
        kernels = {
            "base": kernel(cross_validated(judged.rows["base"], judged), judged.labels, judged.groups, judged.fold),
            "post": kernel(cross_validated(judged.rows["post"], judged), judged.labels, judged.groups, judged.fold),
            "frozen": kernel((judged.rows["post"] @ fit.mT)[..., 0], judged.labels, judged.groups),
        }
        lines = {name: _banded(won, weights, len(judged.passages)) for name, won in kernels.items()}
        points = zip(pair.sites, *lines.values(), strict=True)
        curve = [{"layer": site.layer, **dict(zip(lines, values, strict=True))} for site, *values in points]
        low, high = torch.quantile(null, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).tolist()
        return {"curve": curve, "null_low": low, "null_high": high, "chosen": pair.site.layer}


def _ceiling(pair: Pair, model: Model) -> Pieces:
    """T6 at the chosen site, kept in the store: base's is the same whatever it is compared with."""
    judged, rows = pair.assistant, pair.assistant.rows[model][pair.chosen]
    given = ("ceiling, 1", rows, judged.labels, judged.groups, judged.fold)
    return Pieces(**pair.recorder.remember(given, lambda: ceiling(judged, rows)._asdict()))


def _recentred(pair: Pair, site: int) -> dict[str, Alignment]:
    """T0 to T4 at a site. Their matrices come from plain tokens; the mean is the judged domain's, without a label."""
    judged = pair.assistant
    own = recentre(judged.rows["post"][site], judged.rows["base"][site])
    maps = {"T0": frozen(len(own.source_mean)), "T1": own}
    for rung, fitted in pair.maps(site).fitted.items():
        maps[rung] = replace(fitted, source_mean=own.source_mean, target_mean=own.target_mean)
    return maps


def _rungs(pair: Pair, site: int, origin: Origin, maps: Mapping[str, Alignment]) -> dict[str, Pieces]:
    """Base's direction on post's Assistant rows at every rung, and on base's own under the name "base".

    T1 moves every row alike, so it has T0's AUROC.
    """
    rows = {model: pair.assistant.rows[model][site] for model in MODELS}
    tested = {rung: to_base(rows["post"]) for rung, to_base in maps.items() if rung not in ("T0", "T1")}
    found = read(pair, site, origin, {"T0": rows["post"], **tested, "base": rows["base"]})
    return {"T0": found["T0"], "T1": found["T0"], **found}


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


def _relabelled(pair: Pair, frozen_: Reading, draws: int, rng: np.random.Generator) -> Estimate:
    """T5: balanced accuracy of the frozen direction when its threshold is set anew on 20 labelled passages of post."""
    judged, fold = pair.assistant, torch.as_tensor(pair.assistant.fold)
    scores, labels = frozen_.scores(judged.rows["post"][pair.chosen], fold), judged.labels
    names: dict[str, list[int]] = {}
    for row, name in enumerate(judged.pairs):
        names.setdefault(name, []).append(row)
    accuracies = []
    members = list(names.values())
    for _ in range(draws):
        picked = rng.choice(len(members), min(RELABELLED // 2, len(members) - 1), replace=False)
        some = [row for member in picked for row in members[member]]
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[some] = False
        cut = (scores[some][labels[some]].mean() + scores[some][~labels[some]].mean()) / 2
        right = (scores > cut) == labels
        accuracies.append(((right[rest & labels].double().mean() + right[rest & ~labels].double().mean()) / 2).item())
    return drawn(
        accuracies, method="draws of 20 labels", unit="balanced accuracy", n=len(labels), n_groups=judged.n_groups
    )


def _matrix(pair: Pair) -> list[dict[str, Any]]:
    """Fit on (model, domain) x judged on (model, domain), LDA at the chosen site; same-domain cells by group folds."""
    cells = []
    for fit_model in MODELS:
        for fit_domain in DOMAINS:
            source = pair.judged(fit_domain)
            rows = source.rows[fit_model][pair.chosen]
            whole = lda(rows, source.labels, torch.ones(1, len(source.passages)))[0]
            for model in MODELS:
                for domain in DOMAINS:
                    target = pair.judged(domain)
                    tested = target.rows[model][pair.chosen]
                    if domain == fit_domain:
                        scores = cross_validated(rows[None], source, tested[None])[0]
                        won = kernel(scores, target.labels, target.groups, target.fold)
                    else:
                        won = kernel(tested @ whole, target.labels, target.groups)
                    cell = {
                        "fit_model": fit_model,
                        "fit_domain": fit_domain,
                        "judge_model": model,
                        "judge_domain": domain,
                    }
                    cells.append({**cell, "auroc": estimate_auroc(won)[0]})
    return cells


def _banded(won: Kernel, weights: Float[Tensor, "draw group"], n: int) -> list[Estimate]:
    """AUROC of every site with its bootstrap band."""
    band, values = bands(won, weights), won.auroc().tolist()
    return [
        Estimate(value=value, low=min(float(low), value), high=max(float(high), value), method="group-bootstrap",
                 unit="auroc", n=n, n_groups=len(won.names))
        for value, low, high in zip(values, band.low, band.high, strict=True)
    ]  # fmt: skip


def _neighbours(pair: Pair) -> list[dict[str, Any]]:
    """The frozen direction and its maps at the sites beside the chosen one: how much the choice of layer matters."""
    out = []
    for site in pair.neighbours:
        if site != pair.chosen:
            rungs = _rungs(pair, site, "story", _recentred(pair, site))
            del rungs["base"]
            ladder = {rung: share(pieces, pair.assistant) for rung, pieces in rungs.items()}
            out.append({"layer": pair.sites[site].layer, "ladder": ladder})
    return out


def _words(pair: Pair, judged: Judged) -> TextBaseline:
    texts = [passage.text for passage in judged.passages]
    parts = (texts, judged.labels, judged.groups, judged.fold)
    found = pair.recorder.remember(("text baseline, 1", *parts), lambda: text_readings(*parts))
    return TextBaseline.of(found, *parts[1:])


def _told(words: TextBaseline) -> dict[str, Any]:
    return {"better": words.better, "auroc": words.estimate}
