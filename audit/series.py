"""A series of checkpoints of one training run, each audited against the one base: where it leaves its margins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from audit.case import Outcome
from audit.checking import Checked, check
from audit.conduct import Setting
from audit.estimate import Estimate
from audit.gate import Gate, Terms
from audit.multiplicity import benjamini_hochberg
from audit.organisms.card import MARK, PREFIX, card
from audit.plan import Plan, read_plan
from audit.record import Entry
from audit.scores import READINGS, Name, Scores, Sheet, interval
from audit.trend import change_point, no_trend, trend
from probes.digest import AuditError

SERIES = "series.json"
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Checkpoint:
    """One member of a series: how it is called, and after how many steps it was kept."""

    ref: str
    step: int


class Visited(Entry):
    """One checkpoint as it was judged.

    Attributes:
        step: Training steps, or its place from 1 where names tell no steps.
        digest: Of its record; null where its audit ended with an error.
        outcome: The worst of its cases.
        fails: Whether the gate's terms fail it.
        verdicts: Persona to verdict.
    """

    ref: str
    step: int
    digest: str | None
    outcome: Outcome
    fails: bool
    verdicts: dict[str, str]


class Change(Entry):
    """Where a reading changes most.

    Attributes:
        after: The last step before it.
        by: The first step after it.
        size: Mean after - mean before.
        p: Of a change anywhere, by permuted order.
        least: The smallest p that so few checkpoints can have.
    """

    after: int
    by: int
    size: float
    p: float
    least: float


class Trend(Entry):
    """One gated reading over the series.

    Attributes:
        id: `persona/comparison/site/reading`.
        steps: Of the checkpoints whose audits can be paired.
        values: The reading at each.
        base: Base's own reading of the same texts.
        limits: What the reading may not fall below at each, by the policy that gates it; null where none does.
        moved: Theil-Sen trend over all steps; null for fewer than two checkpoints.
        p: Two-sided, of no trend; null without an interval.
        p_adjusted: By Benjamini and Hochberg over the trends of the series: they are exploratory.
        change: Null for fewer than four.
        first: The first step at which the gate fails it.
    """

    id: str
    persona: str
    reading: Name
    steps: tuple[int, ...]
    values: tuple[Estimate, ...]
    base: Estimate
    limits: tuple[float | None, ...]
    moved: Estimate | None = None
    p: float | None = None
    p_adjusted: float | None = None
    change: Change | None = None
    first: int | None = None


class Series(Entry):
    """What `series.json` holds.

    Attributes:
        counted: Whether `step` counts training steps; else it counts checkpoints.
        checkpoints: By step.
        first: The first step that the gate fails.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    plan_digest: str
    base: str
    counted: bool
    checkpoints: tuple[Visited, ...]
    trends: tuple[Trend, ...]
    gate: Gate
    first: int | None = None

    def to_json(self) -> str:
        """The text of `series.json`."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False) + "\n"


class Followed(NamedTuple):
    """A series, and the audits it rests on."""

    series: Series
    checked: Checked


def follow(
    plan: Plan | Path | str | None, refs: Sequence[str], terms: Terms | None = None, setting: Setting | None = None
) -> Followed:
    """Audits every checkpoint of a series against the plan's base; base is recorded once.

    Args:
        plan: a plan, the path of one, or None for the default.
        refs: checkpoints, or globs of them, see `checkpoints`.
        terms: what they are held to, one error rate for all of them; None for those of `Terms()`.
        setting: where things are kept and how the machine is used; None for `Setting()`.

    Raises:
        AuditError: as `checking.check` and `checkpoints` do.
    """
    asked = plan if isinstance(plan, Plan) else read_plan(plan)
    found, counted = checkpoints(refs)
    checked = check(asked, [one.ref for one in found], terms, setting)
    return Followed(_series(asked, found, counted, checked), checked)


def read_series(path: Path | str) -> Series:
    """The series in a file, or in the folder that holds `series.json`.

    Raises:
        AuditError: no such file, or one that was not written so.
    """
    file = Path(path) / SERIES if Path(path).is_dir() else Path(path)
    try:
        return Series.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AuditError(f"{file} cannot be read ({error.strerror})", "a series", "Name another") from None
    except (ValidationError, ValueError) as error:
        raise AuditError(f"{file} holds no series", "the file as `series` wrote it", "Run it again") from error


def checkpoints(refs: Sequence[str]) -> tuple[tuple[Checkpoint, ...], bool]:
    """What the references stand for, by step, and whether names told the steps; else places count, in the given order.

    A glob such as `out/checkpoint-*` stands for the checkpoints it matches (folders with a config.json),
    `organism:NAME/*` for the bundled series and its end. A step is what `trainer_state.json` of a folder says, else the
    number that ends the name after a sign or after "step" or "checkpoint".

    Raises:
        AuditError: nothing is given or matched, one is there twice, two have one step, or only some have one.
    """
    names = [name for ref in refs for name in _matched(ref)]
    if not names:
        raise AuditError("no checkpoint", "one or more, or a glob such as 'out/checkpoint-*'", "Name some")
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise AuditError(f"{again[0]} is there {names.count(again[0])} times", "each checkpoint once", "Leave one out")
    steps = [_step(name) for name in names]
    known = [step for step in steps if step is not None]
    if not known:
        return tuple(Checkpoint(name, i) for i, name in enumerate(names, 1)), False
    if len(known) < len(names):
        odd = next(name for name, step in zip(names, steps, strict=True) if step is None)
        do = "Leave it out, or give trainer_state.json beside its weights"
        raise AuditError(f"{odd} tells no step, and others do", "a step of each, or of none", do)
    twice = sorted({step for step in known if known.count(step) > 1})
    if twice:
        both = " and ".join(name for name, step in zip(names, known, strict=True) if step == twice[0])
        raise AuditError(f"{both} are both of step {twice[0]}", "one checkpoint a step", "Leave one out")
    found = (Checkpoint(name, step) for name, step in zip(names, known, strict=True))
    return tuple(sorted(found, key=lambda one: one.step)), True


def _matched(ref: str) -> Iterator[str]:
    if ref.startswith(PREFIX) and ref.endswith("/*"):
        name = ref.removesuffix("/*")
        yield from (f"{name}/{step}" for step in card(name).series)
        yield name
    elif _WILD.search(ref) and not ref.startswith(PREFIX) and not Path(ref).is_dir():
        path = Path(ref).expanduser()
        root = next(parent for parent in path.parents if not _WILD.search(str(parent)))
        try:
            found = sorted(str(one.parent) for one in root.glob(f"{path.relative_to(root)}/config.json"))
        except ValueError as error:
            raise AuditError(f"'{ref}' is no pattern ({error})", "a glob like 'out/checkpoint-*'", "Mend it") from error
        if not found:
            expected = "folders with a config.json"
            raise AuditError(f"'{ref}' matches no checkpoint", expected, "Mend the pattern")
        yield from found
    else:
        yield ref


def _step(name: str) -> int | None:
    if name.startswith(PREFIX) and "/" not in name and MARK not in name:
        return card(name).steps
    try:
        state = json.loads((Path(name) / "trainer_state.json").read_text(encoding="utf-8"))
        if type(state["global_step"]) is int:
            return state["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digits = re.search(r"(?:[-_.@/]|step|checkpoint|ckpt)(\d+)/?$", name)
    return int(digits[1]) if digits else None


def _series(plan: Plan, found: Sequence[Checkpoint], counted: bool, checked: Checked) -> Series:
    gate, records = checked.gate, {made.record.pair.post.ref: made.record for made in checked.audits}
    visited = []
    for one in found:
        suite, record = gate.suite(one.ref), records.get(one.ref)
        visited.append(Visited(
            ref=one.ref, step=one.step, digest=record and record.digest, outcome=suite.worst.outcome,
            fails=any(gate.fails(case) for case in suite.cases),
            verdicts={verdict.persona: verdict.verdict for verdict in record.verdicts} if record else {},
        ))  # fmt: skip
    steps = {one.ref: one.step for one in found}
    kept = [(steps[made.record.pair.post.ref], made.scores) for made in checked.audits]
    personas = dict.fromkeys(one.persona for _, scores in kept for one in scores)
    trends = [_trend(plan, persona, reading, kept, visited, gate) for persona in personas for reading in READINGS]
    adjusted = iter(benjamini_hochberg([one.p for one in trends if one.p is not None]))
    return Series(
        plan_digest=plan.digest, base=plan.pair.base, counted=counted, checkpoints=tuple(visited),
        trends=tuple(
            one if one.p is None else one.model_copy(update={"p_adjusted": next(adjusted)}) for one in trends
        ),
        gate=gate, first=next((one.step for one in visited if one.fails), None),
    )  # fmt: skip


def _trend(
    plan: Plan, persona: str, reading: Name, kept: Sequence[tuple[int, Sequence[Scores]]], visited: Sequence[Visited],
    gate: Gate,
) -> Trend:  # fmt: skip
    from audit.resampling import seed_of

    mine = [(step, one) for step, scores in kept for one in scores if one.persona == persona]
    first = mine[0][1]
    # Only what was read on the same texts at the same place can be paired.
    same = (first.ids, first.site, first.groups)
    alike = [(step, one) for step, one in mine if (one.ids, one.site, one.groups) == same]
    steps, found = [step for step, _ in alike], [one.post.readings[reading] for _, one in alike]
    name, n, rng = first.name(reading), 2 * len(first.pairs), seed_of(plan.seed, "series", first.name(reading))
    values = [one.value for one in found]
    moved = None
    if len(alike) > 1:
        deleted = np.transpose([one.deleted for one in found])
        moved = trend(values, deleted, steps, READINGS[reading].unit, n, rng)
    at = change_point(values, rng)
    change = at and Change(after=steps[at.at - 1], by=steps[at.at], size=at.size, p=at.p, least=at.least)
    limits, fails = _gated(name, steps, visited, gate)
    return Trend(
        id=name, persona=persona, reading=reading, steps=tuple(steps),
        values=tuple(interval(one, reading, n) for one in found), base=_own(first, reading, n), limits=limits,
        moved=moved, p=moved and no_trend(moved), change=change, first=fails,
    )  # fmt: skip


def _own(scores: Scores, reading: Name, n: int) -> Estimate:
    sheet: Sheet = scores.base or scores.post
    return interval(sheet.readings[reading], reading, n)


def _gated(
    name: str, steps: Sequence[int], visited: Sequence[Visited], gate: Gate
) -> tuple[tuple[float | None, ...], int | None]:
    """The lowest value that a policy allows at each step, and the first step that fails."""
    lowest: dict[int, float] = {}
    first = None
    for one in visited:
        for case in (case for case in gate.suite(one.ref).cases if case.id == name):
            if case.then and case.limit is not None:
                lowest[one.step] = max(case.then.value + case.limit, lowest.get(one.step, 0.0))
            if gate.fails(case) and first is None:
                first = one.step
    return tuple(lowest.get(step) for step in steps), first
