"""Personas drawn anew: how often an organism whose every verdict is `reused` alarms on fresh texts of its world.

A draw is what an auditor would have written another day: fresh scenarios of every persona, with folds and a site of
their own, fitted and judged as one audit. Both models read all draws at once; the rows are dealt out afterwards. What
takes no label and no scenario of a draw is common to all: the plain text, the maps and the metric made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from audit.calibration.trial import decide
from audit.conduct import Setting, prepared
from audit.finding import Finding
from audit.organisms import card, twins
from audit.pair import DOMAINS, FOLDS, Judged, Model, Pair, choose, material
from audit.plan import Plan, override
from audit.resampling import seed_of
from audit.rulebook import VerdictName
from audit.transport import Maps, TokenRows
from audit.verdict import judge_all
from probes.activations import Activations
from probes.passage import Passage
from probes.persona import Library
from probes.site import Site
from probes.split import folds

BASE = "organism:base"
TEXTS = 1_000
"""Added to the seed of the plan: the bundled persona files come from a small one."""
SCENARIOS = 60
"""In a draw, a persona and domain, with two contrast pairs in each: the size of the planted trials."""


class Redrawn(NamedTuple):
    """Verdicts by persona, and whether any of them alarmed."""

    verdicts: dict[str, VerdictName]
    alarmed: bool


@dataclass(frozen=True, eq=False)
class Common:
    """The source of every draw's token rows: read once, of plain text and of all stories."""

    whole: Pair

    def tokens(self, story: Sequence[Passage], around: Sequence[Site]) -> Callable[[Site], TokenRows]:
        """The whole's token rows, whichever draw asks."""
        return self._rows

    @cached_property
    def _rows(self) -> Callable[[Site], TokenRows]:
        return cache(self.whole.recorder.tokens(self.whole.story.passages, self.whole.sites))

    def token_values(self, passages: Sequence[Passage], site: Site) -> dict[Model, Activations]:
        """As recorded."""
        return self.whole.recorder.token_values(passages, site)

    def remember(self, given: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """In the recorder's store: the texts of a draw are the same for every organism."""
        return self.whole.recorder.remember(given, make)


def judged(plan: Plan, post: str, setting: Setting) -> dict[str, VerdictName]:
    """An organism's verdicts against base on the bundled personas: what an audit of it says, by persona.

    Every pair is read at every effort: cards say what an audit of them all must find.
    """
    whole = override(plan, effort="standard")
    with ExitStack() as open_models:
        library, ready = prepared(whole, BASE, post, [card.personas()], setting, open_models)
        pairs = (material(one, ready.texts, ready.recorder, ready.sites, plan.seed) for one in library.personas)
        return _verdicts([finding for pair in pairs for finding in decide(pair, plan)], library, plan).verdicts


def redrawn(plan: Plan, post: str, draws: int, setting: Setting) -> list[Redrawn]:
    """Judges an organism against base on so many draws of the world's personas.

    Args:
        plan: its margins, permutations and seed; the texts follow from the seed.
        post: the organism, as a plan names it.
        draws: how many, of `SCENARIOS` scenarios a persona and domain.
        setting: its store keeps base's rows from one organism to the next.
    """
    files = twins.persona_files(scenarios=draws * SCENARIOS, quads=1, seed=TEXTS + plan.seed)
    with TemporaryDirectory() as folder, ExitStack() as open_models:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        library, ready = prepared(plan, BASE, post, [folder], setting, open_models)
        found: list[list[Finding]] = [[] for _ in range(draws)]
        for persona in library.personas:
            whole = material(persona, ready.texts, ready.recorder, ready.sites, plan.seed)
            for findings, pair in zip(found, _dealt(whole, draws), strict=True):
                findings.extend(decide(pair, plan))
    return [_verdicts(findings, library, plan) for findings in found]


def _verdicts(findings: Sequence[Finding], library: Library, plan: Plan) -> Redrawn:
    alarms = {persona.name: persona.alarm for persona in library.personas}
    found = judge_all(findings, alarms, plan.margins, plan.family).verdicts
    return Redrawn({one.persona: one.verdict for one in found}, any(one.severity == "alarm" for one in found))


def _dealt(whole: Pair, draws: int) -> Iterator[Pair]:
    """The whole's scenarios in so many parts, each a pair with its own folds and site; the maps are common."""
    source, maps = Common(whole), dict[int, Maps]()
    for draw in range(draws):
        story, assistant = (
            _part(whole.judged(domain), draw, seed_of(whole.seed, "folds", whole.persona.name, domain, str(draw)))
            for domain in DOMAINS
        )
        yield replace(whole, chosen=choose(story), story=story, assistant=assistant, recorder=source, remembered=maps)


def _part(judged: Judged, draw: int, rng: np.random.Generator) -> Judged:
    """One draw's rows, with folds of their own."""
    at = torch.nonzero(judged.group // SCENARIOS == draw)[:, 0]
    some = tuple(judged.passages[i] for i in at.tolist())
    return Judged(
        some, folds([passage.group for passage in some], FOLDS, rng),
        {model: rows[:, at] for model, rows in judged.rows.items()},
        {model: values[at] for model, values in judged.surprisal.items()},
    )  # fmt: skip
