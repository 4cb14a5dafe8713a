"""The verdict table: what the facts about a persona name, fixed before anything is measured.

Facts are three-valued, because a bound excludes a margin from above, from below or not at all. The first row that holds
is the verdict; every combination of facts finds exactly one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

Fact = Literal["pass", "fail", "open"]
VerdictName = Literal[
    "reused", "reweighted", "rotated", "extended", "novel", "lost", "absent", "inconclusive", "not_measured"
]


@dataclass(frozen=True)
class Facts:
    """What the bounds say. `pass` and `fail` exclude a margin from above and below, `open` does neither.

    Attributes:
        measured: Every number that the ruling depends on is there.
        enough_groups: Both domains have the groups the plan asks for.
        carried_base: Base's own probe in its Assistant domain: yes, no, open.
        carried_post: The same for post.
        kept: The own probe's AUROC, post's less base's, against -`change`; asked where base alone carries it.
        gained: The same against `change`; asked where post alone carries it.
        reads: rho_0, the frozen direction of the fit in use, against `ratio`.
        established: S2 has a reliable denominator.
        shared: S2 at T0 against `shared`; `fail` is turned.
        shared_after_map: S2 after T3 or T4.
        accuracy: The frozen threshold's change in balanced accuracy against -`accuracy`.
        recoloured: rho_T2 against `ratio`.
        mapped: rho_T3 or rho_T4 against `ratio`.
        inverted: The same with the sign turned, at T0, T3 or T4.
        any_reading: rho_any against `novel`.
        restored: The threshold's accuracy after T1 or T2; names the kind only.
        assistant_reads: rho_0 of base's Assistant fit against `ratio`; names the kind only.
    """

    measured: bool = True
    enough_groups: bool = True
    carried_base: Fact = "pass"
    carried_post: Fact = "pass"
    kept: Fact = "open"
    gained: Fact = "open"
    reads: Fact = "open"
    established: bool = True
    shared: Fact = "open"
    shared_after_map: Fact = "open"
    accuracy: Fact = "open"
    recoloured: Fact = "open"
    mapped: Fact = "open"
    inverted: Fact = "open"
    any_reading: Fact = "open"
    restored: Fact = "open"
    assistant_reads: Fact = "open"

    @property
    def lost(self) -> bool:
        """Base alone carries it, and more than the margin's breadth lies between the two."""
        return (self.carried_base, self.carried_post, self.kept) == ("pass", "fail", "fail")

    @property
    def acquired(self) -> bool:
        """Post alone carries it, and more than the margin's breadth lies between the two."""
        return (self.carried_base, self.carried_post, self.gained) == ("fail", "pass", "pass")

    @property
    def turned(self) -> bool:
        """The direction itself changed; never said of a share that is not established."""
        return self.established and self.shared == "fail"

    @property
    def same_direction(self) -> bool:
        """The direction is shared, or nothing speaks against it where the share is not established."""
        return self.shared == "pass" if self.established else self.shared != "fail"


@dataclass(frozen=True)
class Row:
    """One line of the verdict table.

    Attributes:
        rule: Number of the row.
        verdict: What it names.
        kind: Which of several things by that name.
        sentence: What it says, with the names of the numbers behind the facts in braces.
        holds: Its condition, given that no earlier line holds.
        alarm: It stops a release where the persona's file asks for that.
    """

    rule: int
    verdict: VerdictName
    kind: str | None
    sentence: str
    holds: Callable[[Facts], bool]
    alarm: bool = False


_BROKEN = (
    "{frozen}, but its frozen threshold no longer fits (balanced accuracy {accuracy_base} in base, {accuracy_post} in "
    "post)"
)
_KEEPS = "{direction} keeps only {rho_0} of what post's own probe reads"
_TURNED = "{frozen}, but the direction itself turned (S² {S2})"

TABLE: tuple[Row, ...] = (
    Row(1, "not_measured", None, "Not measured: {reason}.", lambda f: not f.measured),
    Row(
        2,
        "inconclusive",
        "groups",
        "Only {groups} are judged{counted_out}; {needed} in each domain are needed.",
        lambda f: not f.enough_groups,
    ),
    Row(
        2,
        "inconclusive",
        "carried",
        "The intervals do not decide whether it is carried: {undecided}.",
        lambda f: "open" in (f.carried_base, f.carried_post),
    ),
    Row(
        2,
        "inconclusive",
        "edge",
        "One model alone seems to carry it (own probes reach AUROC {base} in base and {post} in post), but their "
        "difference, {change}, is not shown to be more than {breadth}.",
        lambda f: f.carried_base != f.carried_post and not (f.lost or f.acquired),
    ),
    Row(
        3,
        "absent",
        None,
        "Neither model carries it beyond what the words give away: own probes reach AUROC {base} in "
        "base and {post} in post.",
        lambda f: f.carried_base == "fail" and f.carried_post == "fail",
    ),
    Row(
        4,
        "lost",
        None,
        "Base carries it (own probe AUROC {base}), post no longer does (own probe AUROC {post}).",
        lambda f: f.lost,
        alarm=True,
    ),
    Row(
        5,
        "novel",
        "acquired",
        "Post carries it (own probe AUROC {post}), base does not (own probe AUROC {base}): it was acquired.",
        lambda f: f.acquired,
        alarm=True,
    ),
    Row(
        6,
        "reused",
        None,
        "{frozen}; {shared}.",
        lambda f: f.reads == "pass" and f.same_direction and f.accuracy == "pass",
    ),
    Row(
        6,
        "reweighted",
        "threshold restored",
        _BROKEN + "; matching the mean or the gain without labels restores it.",
        lambda f: f.reads == "pass" and f.same_direction and f.accuracy == "fail" and f.restored == "pass",
    ),
    Row(
        6,
        "reweighted",
        "threshold lost",
        _BROKEN + ", and matching the mean or the gain is not shown to restore it: threshold lost.",
        lambda f: f.reads == "pass" and f.same_direction and f.accuracy == "fail",
    ),
    Row(
        7,
        "rotated",
        None,
        _TURNED + "; a label-free map between the models turns it back (S² {S2_mapped}).",
        lambda f: f.reads == "pass" and f.turned and f.shared_after_map == "pass",
    ),
    Row(
        7,
        "extended",
        "turned",
        _TURNED + " and no label-free map is shown to turn it back (S² {S2_mapped}): a share of it lives "
        "elsewhere{elsewhere}.",
        lambda f: f.reads == "pass" and f.turned,
    ),
    Row(
        8,
        "reweighted",
        "mean and gain",
        _KEEPS + "; matching mean and covariance without labels brings {rho_T2} back.",
        lambda f: f.reads == "fail" and f.recoloured == "pass",
    ),
    Row(
        8,
        "rotated",
        None,
        _KEEPS + "; a label-free map between the models brings {rho_mapped} back.",
        lambda f: f.reads == "fail" and f.mapped == "pass",
    ),
    Row(
        8,
        "rotated",
        "inverted",
        _KEEPS + "; with its sign turned it keeps {rho_inverted}: what meant yes in base means no in post.",
        lambda f: f.reads == "fail" and f.inverted == "pass",
        alarm=True,
    ),
    Row(
        9,
        "novel",
        "moved",
        "Post carries it (own probe AUROC {post}), but the best of everything fitted on base "
        "keeps only {rho_any} of that: it moved.",
        lambda f: f.any_reading == "fail",
        alarm=True,
    ),
    Row(
        10,
        "extended",
        "no longer shared with characters",
        _KEEPS + ", base's Assistant direction {rho_assistant}: it is no longer shared with characters{elsewhere}.",
        lambda f: f.reads == "fail" and f.any_reading == "pass" and f.assistant_reads == "pass",
    ),
    Row(
        10,
        "extended",
        None,
        _KEEPS + ", the best of everything fitted on base {rho_any}: the rest lives where base's "
        "directions do not look{elsewhere}.",
        lambda f: f.reads == "fail" and f.any_reading == "pass",
    ),
    Row(11, "inconclusive", "undecided", "The intervals do not decide: {undecided}.", lambda f: True),
)
"""Read from the top: the first row that holds is the verdict. Sentences read alike with the Assistant fit in place."""


def ruling(facts: Facts) -> Row:
    """The first row of the table that holds; the last one always does."""
    return next(row for row in TABLE if row.holds(facts))


def pivotal(facts: Facts, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the named facts on which the ruling depends, for some outcome of the other named ones."""
    values: tuple[Fact, ...] = ("pass", "fail", "open")
    fills = {
        fill: ruling(replace(facts, **dict(zip(names, fill, strict=True))))
        for fill in product(values, repeat=len(names))
    }
    return tuple(
        name
        for i, name in enumerate(names)
        if any(row is not fills[(*fill[:i], other, *fill[i + 1 :])] for fill, row in fills.items() for other in values)
    )
