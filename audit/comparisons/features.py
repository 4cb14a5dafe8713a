"""Which of base's features carry a persona, and whether they still mean in post what they meant in base.

A few latents of base's dictionary read the persona (k-sparse probing); each is given a rule, learned on half of base's
scenarios, that says where it fires. The rule is then judged on the other half, in base and in post on the same tokens:
"still human-interpretable" is the difference of two balanced accuracies, beside what shuffled labels and random
dictionaries reach. Nothing is read across the pair where base's dictionary does not make post again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.comparisons.feature_transfer import gated, lost
from audit.encoded import Encoded, encoded
from audit.estimate import Estimate, estimate
from audit.finding import Finding
from audit.label_test import Bench, Explainer, Judgement, labelled, rule_of
from audit.multiplicity import benjamini_hochberg
from audit.pair import MODELS, Judged, Model, Pair, Recorder
from audit.resampling import estimate_auroc, kernel, permutation_p
from audit.study import Study, by_chance, drawn, study_of
from probes.codes import Codes
from probes.dictionary import Dictionary, load_at
from probes.digest import AuditError
from probes.fidelity import DEFINITION
from probes.matching import matched
from probes.rule import Rule, rules
from probes.sparse_probe import contrasted, sparse_probe, strongest
from probes.tokens import pooled

KS = (1, 2, 5, 16)
RULE_LOST = 0.05
"""Balanced accuracy that a rule may lose from base to post."""
SILENT = 0.1
"""A feature is silent in post where it fires less than this share as often as in base."""
PASSES = 0.05
"""False discovery rate among a persona's features."""


@dataclass(frozen=True)
class Features:
    """Settings of the comparison.

    Attributes:
        dictionary: base's SAE, a folder or RELEASE:SAE_ID; of a folder of SAEs the first at the persona's site. A
            second one there is taken for another seed of the first: what is not found again in it, no model can keep.
        ceiling: an SAE of post's own at the same site, in which base's features are looked for.
        explanations: a JSON file of rules by latent, in place of learned ones; these latents are listed too.
        rows: tokens of each domain, at most; whole scenarios are left out, evenly.
        permutations: draws of exchanged labels.
        fidelity: FVU that base's SAE may lose from base to post before its features are not read across them.
        explainer: names the tokens that a latent fires on, in place of rules.
    """

    dictionary: str | None = None
    ceiling: str | None = None
    explanations: str | None = None
    rows: int = 60_000
    permutations: int = 1_000
    fidelity: float = 0.1
    explainer: Explainer | None = None

    name = "features"

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The finding at the dictionary's site: base's 16-feature probe on post's Assistant; random latents as control.

        Raises:
            AuditError: the SAE does not fit base, or the explanations cannot be read.
        """
        recorder, persona = pair.recorder, pair.persona.name
        if self.dictionary is None or not isinstance(recorder, Recorder):
            why = "no SAE of base is named (comparisons.features.dictionary)"
            return Finding.not_measured(persona, self.name, str(pair.site), why)
        own, *twins = (each.fitting(recorder.base) for each in load_at(self.dictionary, pair.site))
        top = load_at(self.ceiling, own.site)[0].fitting(recorder.post) if self.ceiling else None
        given = _explanations(self.explanations, own)
        story, chats = (encoded(recorder, some.passages, own, self.rows) for some in (pair.story, pair.assistant))
        details: dict[str, Any] = {
            "dictionary": {"weights": own.weights, "width": own.width, "site": str(own.site)},
            "gate": gated(lost(chats.found["base"], chats.found["post"]), self.fidelity),
            "definitions": {"fvu": DEFINITION},
        }  # fmt: skip
        gate = details["gate"]
        if gate["status"] in ("fail", "not_measured"):
            why = "the rows at the SAE's site are all alike"
            if gate["change"]:
                why = f"base's dictionary leaves {gate['change']} more of post's variance unexplained than of base's"
            why += f" (margin {self.fidelity:g}): no feature is read across the pair"
            finding = Finding.not_measured(persona, self.name, str(own.site), why)
            return finding.model_copy(update={"details": details})
        details["sparse"] = _sparse(pair, story, chats, own, int(rng.integers(2**31)))
        study = study_of(own, story, chats, rng, self.permutations)
        details |= self._table(study, given)
        details["matching"] = {
            where: _found_again(study, where, other, details["features"])
            for where, other in (("post", top), ("seed", twins[0] if twins else None))
        }
        name, widest = f"{persona}/{self.name}/{own.site}", details["sparse"][str(KS[-1])]
        return Finding(
            id=name, persona=persona, comparison=self.name, site=str(own.site), status="measured",
            headline=widest["post_assistant"], control=widest["random"], details=details,
        )  # fmt: skip

    def _table(self, study: Study, given: Mapping[int, Rule]) -> dict[str, Any]:
        """The listed features, each with its change and its rule."""
        null = by_chance(study)
        table = []
        for latent, origin in study.chosen(given).items():
            row: dict[str, Any] = {"latent": latent, "from": origin, "weight": float(study.contrast[latent])}
            row |= _used(study, latent)
            try:
                row["rule"], row["reason"] = self._rule(study, latent, given, null)
            except AuditError as error:
                row["rule"], row["reason"] = None, error.found
            table.append(row)
        _adjust(table)
        readable = [row["rule"] for row in table if row["rule"] and row["rule"]["readable"]]
        return {
            "features": table,
            "groups": {"learned": study.n_learned, "judged": len(study.bench.groups)},
            "summary": {
                "listed": len(table), "readable": len(readable), "pass": sum(rule["passes"] for rule in readable),
                "keep": sum(rule["keeps"] == "yes" for rule in readable),
                "lose": sum(rule["keeps"] == "no" for rule in readable), "silent": sum(row["silent"] for row in table),
            },
        }  # fmt: skip

    def _rule(
        self, study: Study, latent: int, given: Mapping[int, Rule], null: Float[Tensor, " score"]
    ) -> tuple[dict[str, Any] | None, str | None]:
        """A latent's rule with its scores, or why there is none."""
        bench, fires = study.bench, study.fires(latent)
        why = bench.enough(fires["base"])
        if why:
            return None, why
        if self.explainer is not None:
            text, told = "as the explainer says", bench.ask(self.explainer, latent)
        else:
            rule = given.get(latent) or rule_of(study.fires(latent, learning=True)["base"], study.learning)
            if isinstance(rule, str):
                return None, rule
            text, told = str(rule), bench.follow(rule)
        base, exchanged = bench.judged(fires["base"], told), bench.exchanged(fires["base"], told)
        added = base.full - exchanged.mean
        beaten = float(permutation_p(base.full, exchanged.draws)), float(permutation_p(added, null))
        found: dict[str, Any] = {
            "text": text, "source": "explanation" if self.explainer or latent in given else "learned",
            "base": _accuracy(base, bench), "post": None, "change": None, "keeps": "no",
            "shuffled": exchanged.mean, "added": float(added),
            "random": float(null.quantile(0.95)) if len(null) else None,
            "p_labels": beaten[0], "p": max(beaten),
        }  # fmt: skip
        if bench.enough(fires["post"]) is None:
            post = bench.judged(fires["post"], told)
            change = _accuracy(Judgement(post.full - base.full, post.deleted - base.deleted), bench, "identity")
            keeps = "yes" if change.above(-RULE_LOST) else "no" if change.below(-RULE_LOST) else "open"
            found |= {"post": _accuracy(post, bench), "change": change, "keeps": keeps}
        return found, None


def _found_again(
    study: Study, where: str, other: Dictionary | None, table: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """How many of the listed features another SAE has too; each one's counterpart there goes into its row."""
    if other is None or not table:
        return None
    theirs = other.encode(study.chats.rows["post" if where == "post" else "base"])
    asked = torch.tensor([row["latent"] for row in table])
    codes = study.chats.found["base"].codes, theirs
    found = matched(study.own.decoder, other.decoder, codes, asked=asked, seed=study.seed)
    for row in table:
        row.setdefault("counterpart", {})[where] = found.of(row["latent"])._asdict()
    return {
        "weights": other.weights, "width": other.width, "mutual": int(found.mutual.sum()),
        "beyond_chance": int((found.p <= PASSES).sum()), "cosine": float(found.cosine.median()),
    }  # fmt: skip


class Side(NamedTuple):
    """Pooled codes that a probe is fitted on, and their folds."""

    codes: Codes
    part: Encoded
    fold: Int[Tensor, " passage"]


def _sparse(pair: Pair, story: Encoded, chats: Encoded, own: Dictionary, seed: int) -> dict[str, Any]:
    """AUROC of probes on 1, 2, 5 and 16 latents: selected and fitted in the other folds, judged in each."""
    base = chats.pooled["base"]
    tales, talk = (
        Side(part.pooled["base"], part, _folds(part, judged))
        for part, judged in ((story, pair.story), (chats, pair.assistant))
    )
    chance = drawn(own, chats.rows["base"], chats.found["base"].active, seed)
    other = {model: pooled(chance.encode(chats.rows[model]), chats.tokens) for model in MODELS}
    readings = {
        "base_story": _across(tales, tales.codes), "base_assistant": _across(talk, base),
        "post_assistant": _across(talk, chats.pooled["post"]),
        "story_to_post": _onto(tales, chats.pooled["post"]),
        "random": _across(Side(other["base"], chats, talk.fold), other["post"]),
    }  # fmt: skip
    return {
        str(k): {
            name: _auroc(scores[at], *((tales, True) if name == "base_story" else (talk, name != "story_to_post")))
            for name, scores in readings.items()
        }
        for at, k in enumerate(KS)
    }


def _across(side: Side, tested: Codes) -> Float[Tensor, "k passage"]:
    """Each passage's score under the probe of the other folds, for every k."""
    names = side.fold.unique()
    trains = side.fold[None] != names[:, None]
    seen = torch.ones(len(names), len(set(side.part.groups)), dtype=torch.bool)
    for at, train in enumerate(trains):
        seen[at, side.part.group[~train]] = False
    order = strongest(contrasted(side.codes, side.part.labels, side.part.group, seen), KS[-1])
    scores = torch.zeros(len(KS), len(tested), dtype=torch.float64)
    for train, latents in zip(trains, order, strict=True):
        for at, k in enumerate(KS):
            probe = sparse_probe(side.codes, side.part.labels, train, latents[:k])
            scores[at, ~train] = probe(tested)[~train]
    return scores


def _onto(side: Side, tested: Codes) -> Float[Tensor, "k passage"]:
    """Scores of passages of another domain under the probes of all of one's own."""
    everything = torch.ones(1, len(set(side.part.groups)), dtype=torch.bool)
    latents = strongest(contrasted(side.codes, side.part.labels, side.part.group, everything), KS[-1])[0]
    train = torch.ones(len(side.codes), dtype=torch.bool)
    return torch.stack([sparse_probe(side.codes, side.part.labels, train, latents[:k])(tested) for k in KS])


def _folds(part: Encoded, judged: Judged) -> Int[Tensor, " passage"]:
    fold = {passage.id: int(fold) for passage, fold in zip(judged.passages, judged.fold, strict=True)}
    return torch.tensor([fold[passage.id] for passage in part.tokens.passages])


def _auroc(scores: Float[Tensor, " passage"], side: Side, by_fold: bool) -> Estimate:
    return estimate_auroc(kernel(scores, side.part.labels, side.part.groups, side.fold if by_fold else None))[0]


def _used(study: Study, latent: int) -> dict[str, Any]:
    """How often and how strongly a latent fires on judged tokens, the same in both models; and what it reads."""
    bench, values = study.bench, study.activations(latent)
    mine = labelled(bench.tokens) == bool(study.contrast[latent] > 0)
    everywhere = torch.ones_like(mine)
    found: dict[str, Any] = {}
    for name, rows, of in (
        ("firing", everywhere, lambda x: (x != 0).double()), ("own", mine, lambda x: (x != 0).double()),
        ("mean", everywhere, lambda x: x.double()),
    ):  # fmt: skip
        found[name] = _changed({model: of(value[rows]) for model, value in values.items()}, bench.group[rows])
    base, post = found["own"]["base"], found["own"]["post"]
    found["silent"] = base.above(0) and post.below(SILENT * base.value)
    judged, wanted = ~study.learns, torch.tensor([latent])
    groups = [name for name, kept in zip(study.chats.groups, judged.tolist(), strict=True) if kept]
    labels = study.chats.labels[judged]
    found["auroc"] = {
        model: estimate_auroc(kernel(codes.of_latents(wanted)[judged, 0], labels, groups))[0]
        for model, codes in study.chats.pooled.items()
    }
    return found


def _changed(values: Mapping[Model, Float[Tensor, " row"]], group: Int[Tensor, " row"]) -> dict[str, Any]:
    """Means over tokens in both models, their difference, and a p for none."""
    group = group.unique(return_inverse=True)[1]
    zeros = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
    count = torch.bincount(group).double()
    sums = {model: zeros.index_add(0, group, value) for model, value in values.items()}
    parts = {model: _ratio(total, count) for model, total in sums.items()}
    parts["change"] = _ratio(sums["post"] - sums["base"], count)
    told: dict[str, Any] = {
        key: estimate(*value, unit="mean over tokens", n=len(group)) for key, value in parts.items()
    }
    return told | {"p": _t_test(*parts["change"])}


def _ratio(total: Float[Tensor, " group"], count: Float[Tensor, " group"]) -> Judgement:
    return Judgement(total.sum() / count.sum(), (total.sum() - total) / (count.sum() - count))


def _t_test(full: Float[Tensor, ""], deleted: Float[Tensor, " group"]) -> float:
    """Two-sided p of no change, from the jackknife's standard error."""
    from scipy.stats import t

    n = len(deleted)
    error = float(((n - 1) / n * (deleted - deleted.mean()).square().sum()).sqrt())
    if error <= 1e-12 * max(1.0, abs(float(full))):
        return 1.0 if abs(float(full)) <= 1e-12 else 0.0
    return float(2 * t.sf(abs(float(full)) / error, n - 1))


def _accuracy(found: Judgement, bench: Bench, scale: Any = "logit") -> Estimate:
    return estimate(found.full, found.deleted, unit="balanced accuracy", n=len(bench.tokens), scale=scale)


def _adjust(table: Sequence[dict[str, Any]]) -> None:
    """Benjamini and Hochberg's q over a persona's features: changes among changes, rules among rules."""
    for kind in ("firing", "own", "mean"):
        for row, q in zip(table, benjamini_hochberg([row[kind]["p"] for row in table]), strict=True):
            row[kind]["q"] = q
    tested = [row["rule"] for row in table if row["rule"]]
    for p, q, held in (("p_labels", "q_labels", "readable"), ("p", "q", "passes")):
        for rule, adjusted in zip(tested, benjamini_hochberg([rule[p] for rule in tested]), strict=True):
            rule |= {q: adjusted, held: adjusted <= PASSES}


def _explanations(path: str | None, own: Dictionary) -> Mapping[int, Rule]:
    if path is None:
        return {}
    try:
        found = rules(json.loads(Path(path).read_text(encoding="utf-8")), f"'{path}'")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AuditError(f"'{path}' cannot be read ({error})", "a JSON file of rules by latent", "Mend it") from error
    for latent in found:
        if latent >= own.width:
            expected = f"0 to {own.width - 1}, the latents of '{own.name}'"
            raise AuditError(f"'{path}' explains latent {latent}", expected, "Mend the file")
    return found
