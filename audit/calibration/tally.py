"""What a calibration found: counts with exact intervals, and the JSON that its page is made from.

Every interval is that of Clopper and Pearson (1934), 95 %: it needs no large numbers, and a rate of 0 in 500 has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict

from audit.rulebook import VerdictName

SCHEMA = 1
POWER = 0.8
"""An effect is detectable where this share of the trials saw it."""
QUIET = frozenset(["reused", "absent", "inconclusive", "not_measured"])
"""Verdicts that report no change between the two: a planted one went unseen."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Frozen):
    """How often something happened, with its 95 % interval."""

    count: int
    trials: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, trials: int) -> Self:
        """The share of `count` in `trials`, of which there is at least one.

        Raises:
            ValueError: no trials, or more counts than trials.
        """
        from scipy.stats import beta

        if not 0 <= count <= trials or trials == 0:
            raise ValueError(f"{count} of {trials}")
        low = float(beta.ppf(0.025, count, trials - count + 1)) if count else 0.0
        high = float(beta.ppf(0.975, count + 1, trials - count)) if count < trials else 1.0
        return cls(count=count, trials=trials, value=count / trials, low=low, high=high)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], {self.count} of {self.trials}"


class Condition(_Frozen):
    """What was planted, how large, and through how many rows of which noise it had to be seen."""

    kind: str
    effect: float
    strength: float
    width: int
    groups: int
    pairs: int
    spectrum: float

    @property
    def size(self) -> tuple[int, int, int]:
        """Width, scenarios, and pairs in each."""
        return self.width, self.groups, self.pairs


class Cell(_Frozen):
    """The trials of one condition.

    Attributes:
        condition: what was planted.
        expected: the verdict that it must get, or None between the margins.
        given: verdict to number of trials.
        alarms: trials that alarmed.
        seen: trials whose verdict reports a change: none of `QUIET`.
        right: trials with the expected verdict; None where none is expected.
    """

    condition: Condition
    expected: VerdictName | None
    given: dict[str, int]
    alarms: Rate
    seen: Rate
    right: Rate | None

    @classmethod
    def of(cls, condition: Condition, expected: VerdictName | None, verdicts: Sequence[str], alarms: int) -> Self:
        """Counts the verdicts of a condition."""
        given, trials = Counter(verdicts), len(verdicts)
        seen = sum(count for name, count in given.items() if name not in QUIET)
        right = None if expected is None else Rate.of(given[expected], trials)
        return cls(
            condition=condition, expected=expected, given=dict(sorted(given.items())), alarms=Rate.of(alarms, trials),
            seen=Rate.of(seen, trials), right=right,
        )  # fmt: skip


class Coverage(_Frozen):
    """How often the 95 % interval of one statistic held its known truth."""

    statistic: str
    condition: Condition
    truth: float
    held: Rate


class Judged(_Frozen):
    """An organism's verdict on one persona, beside the one on its card."""

    organism: str
    seed: int
    persona: str
    expected: str
    given: str


class Redraws(_Frozen):
    """An organism whose every verdict must be `reused`, judged on personas drawn anew.

    Attributes:
        alarms: draws that alarmed.
        changed: draws with a verdict on any persona that reports a change.
        given: persona to verdict to number of draws.
    """

    organism: str
    seed: int
    alarms: Rate
    changed: Rate
    given: dict[str, dict[str, int]]

    @classmethod
    def of(cls, organism: str, seed: int, verdicts: Sequence[Mapping[str, str]], alarms: int) -> Self:
        """Counts the verdicts by persona of every draw."""
        given: dict[str, Counter[str]] = {}
        for persona, verdict in (item for one in verdicts for item in one.items()):
            given.setdefault(persona, Counter())[verdict] += 1
        changed = sum(any(verdict not in QUIET for verdict in one.values()) for one in verdicts)
        return cls(
            organism=organism, seed=seed, alarms=Rate.of(alarms, len(verdicts)),
            changed=Rate.of(changed, len(verdicts)), given={name: dict(sorted(c.items())) for name, c in given.items()},
        )  # fmt: skip


class Detectable(_Frozen):
    """The smallest planted effect that at least `POWER` of the trials saw; None where no planted one was.

    Attributes:
        low: the smallest of which 95 % intervals do not exclude that it is seen so often.
        high: the smallest of which they show it; None where they show it of none.
        largest: what was planted at most.
        trials: of each planted size.
    """

    kind: str
    strength: float
    spectrum: float
    effect: float | None
    low: float | None
    high: float | None
    largest: float
    trials: int

    def __str__(self) -> str:
        low, effect, high = (
            f"more than {self.largest:g}" if end is None else f"{end:g}" for end in (self.low, self.effect, self.high)
        )
        return effect if low == high == effect else f"{effect} [{low}, {high}]"


class Calibration(_Frozen):
    """The audit's error rates, measured.

    Attributes:
        seed: of the draws that are counted here.
        development: seed of the draws that the margins were chosen on; none of them is counted.
    """

    schema_version: int = SCHEMA
    version: str
    effort: str
    seed: int
    development: int
    seconds: float
    cells: tuple[Cell, ...]
    coverage: tuple[Coverage, ...]
    organisms: tuple[Judged, ...]
    redrawn: tuple[Redraws, ...] = ()

    @property
    def false_alarms(self) -> Rate:
        """Alarms where nothing was planted, over all such conditions; there is one at least."""
        return _sum(cell.alarms for cell in self.nulls)

    @property
    def fresh_alarms(self) -> Rate:
        """Alarms over personas drawn anew, over all organisms so judged; there is one at least."""
        return _sum(one.alarms for one in self.redrawn)

    @property
    def false_changes(self) -> Rate:
        """Verdicts that report a change where nothing was planted."""
        return _sum(cell.seen for cell in self.nulls)

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        """Expected verdict to given verdict to trials, over every condition that has an expected one."""
        table: dict[str, Counter[str]] = {}
        for cell in self.cells:
            if cell.expected is not None:
                table.setdefault(cell.expected, Counter()).update(cell.given)
        return {expected: dict(sorted(given.items())) for expected, given in table.items()}

    @property
    def alike(self) -> tuple[Cell, ...]:
        """The cells of the sample that most cells have: what may stand in one plot."""
        return tuple(cell for cell in self.cells if cell.condition.size == self._usual)

    @property
    def sized(self) -> tuple[Cell, ...]:
        """The cells of other samples: how much the size changes."""
        return tuple(cell for cell in self.cells if cell.condition.size != self._usual)

    @property
    def detectable(self) -> tuple[Detectable, ...]:
        """The minimum detectable effect of every kind that was planted at several strengths of it, samples alike."""
        found: dict[tuple[str, float, float], list[Cell]] = {}
        for cell in self.alike:
            where = cell.condition
            found.setdefault((where.kind, where.strength, where.spectrum), []).append(cell)
        rows = []
        for (kind, strength, spectrum), cells in found.items():
            if len(cells) > 1:
                ordered = sorted(cells, key=lambda cell: cell.condition.effect)
                effect, low, high = (
                    next((c.condition.effect for c in ordered if getattr(c.seen, end) >= POWER), None)
                    for end in ("value", "high", "low")
                )
                rows.append(Detectable(
                    kind=kind, strength=strength, spectrum=spectrum, effect=effect, low=low, high=high,
                    largest=ordered[-1].condition.effect, trials=min(c.seen.trials for c in ordered),
                ))  # fmt: skip
        return tuple(rows)

    @property
    def nulls(self) -> tuple[Cell, ...]:
        """The cells where nothing was planted."""
        return tuple(cell for cell in self.cells if cell.condition.kind == "nothing")

    @property
    def wrong(self) -> tuple[Judged, ...]:
        """Organisms whose verdict is not that of their card."""
        return tuple(one for one in self.organisms if one.given != one.expected)

    @property
    def by_organism(self) -> dict[str, Rate]:
        """Growth seeds whose every verdict is that of the card, of all seeds of each organism."""
        right: dict[str, dict[int, bool]] = {}
        for one in self.organisms:
            seeds = right.setdefault(one.organism, {})
            seeds[one.seed] = seeds.get(one.seed, True) and one.given == one.expected
        return {name: Rate.of(sum(seeds.values()), len(seeds)) for name, seeds in right.items()}

    @property
    def _usual(self) -> tuple[int, int, int] | None:
        return next((size for size, _ in Counter(cell.condition.size for cell in self.cells).most_common(1)), None)



def _sum(rates: Iterable[Rate]) -> Rate:
    known = list(rates)
    return Rate.of(sum(rate.count for rate in known), sum(rate.trials for rate in known))
