"""What a later audit is paired with: a persona's scores by contrast pair, and its gated readings without each group.

Both models' readings of one audit are kept, so that post can be held against base; a baseline keeps post's alone.
Statistics over the same groups are paired by their deletions, so a refitted reading needs no refit here, and no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from audit.estimate import Estimate, estimate
from probes.digest import AuditError, digest

COMPARISON = "probe_transfer"
"""The comparison that gated readings belong to."""
SCORES_NAME = "scores.json"
Name = Literal["readability", "ceiling", "accuracy"]


@dataclass(frozen=True)
class Meaning:
    """What a gated reading is; of all of them less is worse.

    Attributes:
        unit: what it counts.
        words: how a sentence calls it.
        scored_by: the scores it compares.
    """

    unit: str
    words: str
    scored_by: Literal["frozen", "own"]


READINGS: Mapping[Name, Meaning] = {
    "readability": Meaning("auroc", "what base's frozen story direction reads", "frozen"),
    "ceiling": Meaning("auroc", "what the model's own probe reads", "own"),
    "accuracy": Meaning("balanced accuracy", "the balanced accuracy of base's frozen threshold", "frozen"),
}


class Kept(BaseModel):
    """A frozen part of what is kept: no key beyond those named, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Statistic(Kept):
    """A value on all groups, and with each group left out, in float64; groups in the order of their sorted names."""

    value: float
    deleted: tuple[float, ...]


class Halves(Kept):
    """Scores of the two halves of each contrast pair, in float32: higher means label 1."""

    one: tuple[float, ...]
    """The half with label 1."""
    zero: tuple[float, ...]


class Sheet(Kept):
    """One model on one persona's Assistant passages.

    Attributes:
        frozen: Distance from the threshold of base's story direction, above zero = label 1.
        own: The model's own probe, each pair under the fit on the other folds.
        readings: The gated readings of these scores.
    """

    frozen: Halves
    own: Halves
    readings: dict[Name, Statistic]


class Scores(Kept):
    """One persona's scores and gated readings, at the site where it was read.

    Attributes:
        definition: Version of the comparison's definition.
        ids: Digest of every token id and scored span of its passages, stories included.
        groups: Sorted names of the judged scenarios.
        folds: Each group's fold; scores of `own` compare inside a fold alone.
        pairs: Names of the contrast pairs, sorted.
        scenario: Each pair's index into `groups`.
        base: Absent in a baseline.
    """

    persona: str
    site: str
    definition: int = Field(ge=1)
    ids: str
    groups: tuple[str, ...]
    folds: tuple[int, ...]
    pairs: tuple[str, ...]
    scenario: tuple[int, ...]
    post: Sheet
    base: Sheet | None = None

    @model_validator(mode="after")
    def _whole(self) -> Scores:
        for sheet in filter(None, (self.post, self.base)):
            halves = [half for scores in (sheet.frozen, sheet.own) for half in (scores.one, scores.zero)]
            if {len(self.pairs)} != {len(self.scenario), *map(len, halves)}:
                raise ValueError(f"{len(self.pairs)} pairs. Expected as many scores of each kind. Write it again.")
            deleted = [len(one.deleted) for one in sheet.readings.values()]
            if {len(self.groups)} != {len(self.folds), *deleted} or set(sheet.readings) != set(READINGS):
                raise ValueError(f"{len(self.groups)} groups. Expected every reading without each. Write it again.")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return digest(self.model_dump(mode="json"))

    @property
    def accepted(self) -> Scores:
        """What a baseline keeps: post's sheet."""
        return self.model_copy(update={"base": None})

    def name(self, reading: Name) -> str:
        """`persona/comparison/site/reading`."""
        return f"{self.persona}/{COMPARISON}/{self.site}/{reading}"

    def estimate(self, reading: Name) -> Estimate:
        """Post's reading with its interval."""
        return interval(self.post.readings[reading], reading, 2 * len(self.pairs))


def interval(statistic: Statistic, reading: Name, n: int) -> Estimate:
    """A reading with its jackknife interval, on the logit scale; `n` passages stand behind it."""
    return estimate(statistic.value, statistic.deleted, unit=READINGS[reading].unit, n=n, scale="logit")


def change(now: Statistic, then: Statistic, reading: Name, n: int) -> Estimate:
    """Paired difference now - then of one reading over the same groups, identity scale; below zero is worse.

    Raises:
        ValueError: the numbers of groups differ.
    """
    if len(now.deleted) != len(then.deleted):
        raise ValueError(f"{len(now.deleted)} and {len(then.deleted)} groups. Expected the same. Judge the same texts.")
    deleted = np.subtract(now.deleted, then.deleted)
    return estimate(now.value - then.value, deleted, unit=READINGS[reading].unit, n=n)


def signed(change: Estimate) -> str:
    """A change in words, e.g. "-0.031 [-0.044, -0.018]"."""
    # What rounds to nothing has no sign of its own.
    value, low, high = (f"{round(end, 3) + 0.0:+.3f}" for end in (change.value, change.low or 0.0, change.high or 0.0))
    return f"{value} [{low}, {high}]" if change.known else f"{value} [too few groups]"


def no_longer_told(now: Sheet, then: Sheet, pairs: Sequence[str], reading: Name) -> tuple[str, ...]:
    """Pairs whose halves stood on the right sides then and do not now, those that moved most first.

    The sides are those of the threshold for `accuracy`, else of the median of all scores, which no shift moves.
    """
    scored_by = READINGS[reading].scored_by
    sides = [cast(Halves, getattr(sheet, scored_by)) for sheet in (now, then)]
    one, zero = (np.array([getattr(side, half) for side in sides]) for half in ("one", "zero"))
    middle = 0.0 if reading == "accuracy" else np.median(np.hstack([one, zero]), axis=1, keepdims=True)
    right = (one > middle) & (zero <= middle)
    lost = np.flatnonzero(right[1] & ~right[0])
    gap = one - zero
    order = np.argsort((gap[0] - gap[1])[lost], kind="stable")
    return tuple(pairs[int(at)] for at in lost[order])


def dumped(scores: Sequence[Scores]) -> str:
    """`scores.json` as text."""
    return compact({"schema": 1, "scores": [one.model_dump(mode="json") for one in scores]})


def read_scores(path: Path) -> tuple[Scores, ...]:
    """The scores in a file, or in the folder that holds `scores.json`.

    Raises:
        AuditError: no such file, or one that was not written so.
    """
    file = path / SCORES_NAME if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema"] != 1:
            raise ValueError(f"schema {content['schema']!r}")
        return tuple(Scores.model_validate_json(json.dumps(one)) for one in content["scores"])
    except OSError as error:
        do = "Run the audit again: records made before scores were kept have none"
        raise AuditError(f"{file} cannot be read ({error.strerror})", "the scores beside the record", do) from None
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise AuditError(f"{file} holds no scores ({why})", "the file as a run wrote it", "Run again") from None


def compact(content: Any) -> str:
    """JSON with one line for each key or entry, and lists of plain values on one line: readable, and short in a diff.

    Raises:
        ValueError: a number is not finite.
    """
    return "".join(_lines(content, "")) + "\n"


def _lines(value: Any, margin: str) -> Iterator[str]:
    """The pieces of a value's text; `margin` is where its own line starts."""
    nested = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    if not any(isinstance(item, Mapping | list | tuple) for item in nested) and not isinstance(value, Mapping):
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)
        return
    ends = "{}" if isinstance(value, Mapping) else "[]"
    inner = margin + " "
    keys = [f"{json.dumps(key, ensure_ascii=False)}: " for key in value] if isinstance(value, Mapping) else None
    yield ends[0]
    for at, item in enumerate(nested):
        yield ("," if at else "") + f"\n{inner}" + (keys[at] if keys else "")
        yield from _lines(item, inner)
    yield f"\n{margin}{ends[1]}" if nested else ends[1]
