"""Audits of planted pairs, as the gate takes them: a sealed record and the scores beside it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import planted
import torch

from audit.baseline import Baseline, accept
from audit.calibration.trial import decide
from audit.case import Audited
from audit.finding import Finding
from audit.gate import Gate, Terms, judge
from audit.plan import Plan, plan_of
from audit.record import Data, Pair, Run, Side, seal
from audit.scores import Scores
from audit.scoring import scores_of
from audit.verdict import judge_all

PERSONA = "planted"
PLAN = plan_of({"effort": "glance"})
NOTHING = planted.Plant()
ZERO = torch.zeros(planted.WIDTH, dtype=torch.float64)
TURNED = planted.Plant(post=planted.turn(75))
LOST = planted.Plant(post=ZERO)
OFFSET = planted.Plant(chats=lambda rows: rows + 3.0 * planted.unit(0))
FEW = planted.Plant(post=ZERO, groups=12)
SITE = f"{PERSONA}/probe_transfer/L0.resid_post"
TODAY = date(2030, 6, 1)
SIDE = {"weights": "3f" * 32, "tokenizer": "77" * 32, "dtype": "float32"}


@cache
def measured(plant: planted.Plant, seed: int, persona: str):
    """Findings and scores of one planted pair, made once."""
    pair = planted.pair(plant, seed)
    pair = replace(pair, persona=replace(pair.persona, name=persona))
    findings = decide(pair, PLAN, permutations=50)
    return findings, scores_of(pair, findings[0])


def audited(
    plant: planted.Plant = NOTHING,
    *,
    seed: int = 0,
    personas: tuple[str, ...] = (PERSONA,),
    alarm: bool = True,
    plan: Plan = PLAN,
    post: str = "post",
) -> Audited:
    """One audit. Equal seeds are equal base models, texts and noise: only what was planted in post differs."""
    made = [measured(plant, seed, persona) for persona in personas]
    findings = [finding for found, _ in made for finding in found]
    scores = [one for _, one in made]
    judgement = judge_all(findings, dict.fromkeys(personas, alarm), plan.margins, plan.family)
    run = Run(id="a", started="2030-01-01T00:00:00+00:00", seconds=41.2, packages={"torch": "2.13.0"}, threads=1)
    pair = Pair(base=Side(ref="base", **SIDE), post=Side(ref=post, **SIDE), ids="ab" * 32, template="cd" * 32)
    data = [
        Data(persona=one.persona, domain=domain, digest="9e" * 32, n_pairs=120, n_groups=60,
             scores=one.digest if domain == "assistant" else None)
        for one in scores for domain in ("story", "assistant")
    ]  # fmt: skip
    return Audited(seal(run, plan, pair, data, findings, judgement), tuple(scores))


def accepted(audit: Audited) -> Baseline:
    """The baseline of an audit."""
    return accept(audit.record, tuple(audit.scores))


def only(scores: tuple[Scores, ...]) -> Scores:
    """The one persona's."""
    (one,) = scores
    return one


def outcomes(gate: Gate) -> dict[str, str]:
    """Outcome by reading."""
    return {case.reading: case.outcome for case in gate.cases}


def held(audit: Audited, baseline: Baseline | None = None, **terms: Any) -> Gate:
    """One audit, held to a baseline or to base itself."""
    return judge([audit], Terms(baseline=baseline, today=TODAY, **terms))


def changed(audit: Audited, **update: Any) -> Audited:
    """An audit whose record says something else."""
    return audit._replace(record=audit.record.model_copy(update=update))


def other_base(audit: Audited) -> Audited:
    """The audit as if its base had other weights."""
    side = audit.record.pair.base.model_copy(update={"weights": "00" * 32, "ref": "elsewhere"})
    return changed(audit, pair=audit.record.pair.model_copy(update={"base": side}))


def crashed(audit: Audited) -> Audited:
    """The audit with its comparison ended by an exception, as the conductor writes it down."""
    lost = Finding.not_measured("planted", "probe_transfer", "L0.resid_post", "it ended with RuntimeError (oops)")
    record, findings = audit.record, [lost, *audit.record.findings[1:]]
    judgement = judge_all(findings, {"planted": True}, record.plan.margins, record.plan.family)
    return Audited(seal(record.run, record.plan, record.pair, record.data, findings, judgement), ())
