"""From findings to facts: each fact is an estimate's bounds held against one margin of the plan.

What the details of a finding must hold is `TESTS`, `carried.{base,post}.{status,auroc,beyond_text}` and `n_groups` of
`probe_transfer` (and `counted_out`, where pairs were), and `established` of `geometry`. What was not measured is
absent, its reason in `not_measured`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from audit.estimate import Estimate
from audit.finding import Finding
from audit.plan import Margins
from audit.rulebook import Fact, Facts, pivotal


@dataclass(frozen=True)
class Test:
    """Where a fact comes from.

    Attributes:
        fact: Field of `Facts`.
        number: Name of the number behind it in `Readings.numbers`.
        margin: Field of `Margins`.
        comparison: Whose details are read.
        key: Entry of the details.
        rungs: Entries below it; the fact passes if one of them does and fails if all do.
        label: How a sentence calls the number.
        by_fit: The Assistant fit reads `key` with `_assistant` appended.
    """

    fact: str
    number: str
    margin: str
    comparison: str
    key: str
    rungs: tuple[str, ...]
    label: str
    by_fit: bool = True


PROBE, GEOMETRY = "probe_transfer", "geometry"
DOMAINS = Test("domains", "rho_base", "ratio", PROBE, "rho", ("base",), "rho within base,", by_fit=False)
TESTS: tuple[Test, ...] = (
    Test("kept", "change", "change", PROBE, "ceiling", ("difference",), "their difference", by_fit=False),
    Test("gained", "change", "change", PROBE, "ceiling", ("difference",), "their difference", by_fit=False),
    Test("reads", "rho_0", "ratio", PROBE, "rho", ("T0",), "the share that the frozen direction keeps, rho_0"),
    Test("recoloured", "rho_T2", "ratio", PROBE, "rho_third", ("T2",), "rho_T2"),
    Test("mapped", "rho_mapped", "ratio", PROBE, "rho_third", ("T3", "T4"), "rho after a map"),
    Test("inverted", "rho_inverted", "ratio", PROBE, "inverted", ("T0", "T3", "T4"), "rho with the sign turned"),
    Test(
        "accuracy",
        "accuracy_change",
        "accuracy",
        PROBE,
        "frozen_accuracy",
        ("difference",),
        "the frozen threshold's change in balanced accuracy",
    ),
    Test("restored", "restored", "accuracy", PROBE, "frozen_accuracy", ("T1", "T2"), "that change after T1 or T2"),
    Test("shared", "S2", "shared", GEOMETRY, "shared", ("T0",), "the direction's shared share, S²"),
    Test("shared_after_map", "S2_mapped", "shared", GEOMETRY, "shared", ("T3", "T4"), "S² after a map"),
    Test(
        "any_reading",
        "rho_any",
        "novel",
        PROBE,
        "rho",
        ("any",),
        "the best of everything fitted on base, rho_any",
        by_fit=False,
    ),
    Test(
        "assistant_reads",
        "rho_assistant",
        "ratio",
        PROBE,
        "rho_assistant",
        ("T0",),
        "rho_0 of base's Assistant fit",
        by_fit=False,
    ),
)
LOSSES = ("kept", "accuracy", "restored")
"""Facts that hold as long as no more than the margin is lost."""
KINDS_ONLY = ("restored", "assistant_reads")
"""Facts that name the kind of a verdict and never change it: nothing is missing without them."""


@dataclass(frozen=True)
class Readings:
    """Everything a verdict is made of.

    Attributes:
        persona: Name.
        facts: What the bounds say.
        margins: What they were held against.
        fit: Which of base's directions the facts are about; `assistant` where base itself does not share the persona
            between characters and the Assistant.
        numbers: The estimates behind the facts, by short name.
        groups: Judged groups by domain.
        counted_out: Pairs that are not among them because the two tokenizers split them differently.
        reason: Why a needed number is missing.
        because: Identifiers of the findings that were read.
    """

    persona: str
    facts: Facts
    margins: Margins = Margins()
    fit: Literal["story", "assistant"] = "story"
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    counted_out: int = 0
    reason: str | None = None
    because: tuple[str, ...] = ()


def readings(findings: Sequence[Finding], margins: Margins) -> Readings:
    """What the findings about one persona say, held against the margins.

    Reads the first `probe_transfer` and the first `geometry`. A number that is absent makes the persona not measured
    exactly when the ruling depends on it. A `probe_transfer` that was not measured means too few groups when its
    details give `n_groups` and one of them is short; any other reason is passed on.

    Raises:
        ValueError: No finding, or findings of several personas.
    """
    personas = {finding.persona for finding in findings}
    if len(personas) != 1:
        raise ValueError(f"Findings of {sorted(personas)}. Expected those of one persona. Group them first.")
    evidence = _Evidence({finding.comparison: finding for finding in reversed(findings)})
    because = tuple(evidence.first[name].id for name in (PROBE, GEOMETRY) if name in evidence.first)
    groups = {name: int(count) for name, count in evidence.at(PROBE, "n_groups", default={}).items()}
    out = int(evidence.at(PROBE, "counted_out", default=0))
    blank = Readings(personas.pop(), Facts(measured=False), margins, groups=groups, counted_out=out, because=because)
    if groups and min(groups.values()) < margins.groups:
        return replace(blank, facts=Facts(enough_groups=False))
    if not groups or evidence.first[PROBE].status == "not_measured":
        return replace(blank, reason=evidence.why(PROBE, "n_groups"))
    facts = evidence.facts(margins)
    needed = pivotal(facts, tuple(name for name in evidence.absent if name not in KINDS_ONLY))
    reason = "; ".join(dict.fromkeys(evidence.absent[name] for name in needed)) or None
    return replace(
        blank, facts=replace(facts, measured=reason is None), fit=evidence.fit, numbers=evidence.numbers, reason=reason
    )


def margin_of(test: Test, margins: Margins) -> float:
    """The margin in the unit and sign of the number: a loss is a negative change."""
    value = float(getattr(margins, test.margin))
    return -value if test.fact in LOSSES else value


class _Evidence:
    """Looks numbers up in the first finding of each comparison; keeps those it found and why others are absent."""

    def __init__(self, first: Mapping[str, Finding]) -> None:
        self.first = first
        self.fit: Literal["story", "assistant"] = "story"
        self.numbers: dict[str, Estimate] = {}
        self.absent: dict[str, str] = {}

    def facts(self, margins: Margins) -> Facts:
        """All facts but `measured` and `enough_groups`."""
        carried = {f"carried_{model}": self.carried(model) for model in ("base", "post")}
        self.fit = "story" if self.hold(DOMAINS, margins) == "pass" else "assistant"
        held = {test.fact: self.hold(test, margins) for test in TESTS}
        after = self.number(GEOMETRY, self.fitted("shared"), "T2")
        if held["recoloured"] == "pass" and after is not None and after.below(margins.shared):
            # Where a persona is read at d' of 15 and more, even a stranger's direction reads it: recolouring must bring
            # the direction itself back, not an AUROC that any direction would reach.
            held["recoloured"] = "fail"
        if "domains" in self.absent:
            self.absent["reads"] = self.absent.pop("domains")
        for model in ("base", "post"):
            self.keep(f"accuracy_{model}", PROBE, self.fitted("frozen_accuracy"), model)
        self.keep("auroc_0", PROBE, self.fitted("ladder"), "T0")
        for name, key in (("moved", "share"), ("moved_random", "random")):
            self.keep(name, "shift", key, "whole")
        either = self.at(GEOMETRY, "established", default=True)
        established = self.at(GEOMETRY, self.fitted("established"), default=either)
        if not established:
            self.absent.pop("shared", None)
        facts: dict[str, Any] = carried | held
        return Facts(established=bool(established), **facts)

    def fitted(self, key: str) -> str:
        """The entry that holds the same for the fit in use."""
        return key if self.fit == "story" else f"{key}_assistant"

    def carried(self, model: str) -> Fact:
        """Whether a model carries the persona, as its comparison judged it."""
        self.keep(model, PROBE, "carried", model, "auroc")
        self.keep(f"{model}_beyond_text", PROBE, "carried", model, "beyond_text")
        status = self.at(PROBE, "carried", model, "status")
        if status is None:
            self.absent[f"carried_{model}"] = self.why(PROBE, f"carried.{model}")
        return cast(Fact, {"yes": "pass", "no": "fail"}.get(str(status), "open"))

    def hold(self, test: Test, margins: Margins) -> Fact:
        """One fact; the number with the best lower bound is kept."""
        key = self.fitted(test.key) if test.by_fit else test.key
        found = {rung: self.number(test.comparison, key, rung) for rung in test.rungs}
        given = [number for number in found.values() if number is not None]
        if given:
            self.numbers[test.number] = max(given, key=lambda one: one.value if one.low is None else one.low)
        margin = margin_of(test, margins)
        if any(number.above(margin) for number in given):
            return "pass"
        missing = [rung for rung, number in found.items() if number is None]
        if missing:
            reasons = (self.why(test.comparison, f"{key}.{rung}") for rung in missing)
            self.absent[test.fact] = "; ".join(dict.fromkeys(reasons))
            return "open"
        return "fail" if all(number.below(margin) for number in given) else "open"

    def keep(self, name: str, comparison: str, *path: str) -> None:
        """Remembers a number if it is there."""
        number = self.number(comparison, *path)
        if number is not None:
            self.numbers[name] = number

    def number(self, comparison: str, *path: str) -> Estimate | None:
        """The estimate at a path of a comparison's details."""
        value = self.at(comparison, *path)
        return value if value is None or isinstance(value, Estimate) else Estimate.model_validate(value)

    def at(self, comparison: str, *path: str, default: Any = None) -> Any:
        """The value at a path of a comparison's details."""
        value: Any = self.first[comparison].details if comparison in self.first else None
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return default if value is None else value

    def why(self, comparison: str, path: str) -> str:
        """Why a comparison does not give what stands at a dotted path."""
        if comparison not in self.first:
            return f"{comparison} was not run"
        finding, rung = self.first[comparison], path.rpartition(".")[2]
        if finding.status == "not_measured":
            return str(finding.reason).rstrip(".")
        reason = self.at(comparison, "not_measured", rung)
        return f"{rung}: {str(reason).rstrip('.')}" if reason else f"{comparison} gives no {path}"
