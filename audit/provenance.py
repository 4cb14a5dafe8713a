"""Whether two audits may be held against each other: what of models, texts and plan changes their numbers.

What breaks a comparison is named, one by one. Where a file lies, which packages and which machine ran only warn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import Field

from audit.plan import Plan
from audit.record import Data, Entry, Pair, Record

ELSEWHERE = {"schema_version", "policies", "pair", "personas"}
"""Tables of the plan that are compared by what they led to: weights, dtype, template and texts; policies only warn."""
RUNNING = ("device", "machine", "system")


class Origin(Entry):
    """Where the numbers of an audit came from.

    Attributes:
        record: Digest of the audit's record.
        started: When it was run.
        plan: Its effective plan.
        pair: Its models, without the doctor's checks.
        data: Its texts, by their digests.
        packages: Name to version.
        host: Machine, operating system, device.
    """

    record: str
    started: str
    plan: Plan
    pair: Pair
    data: tuple[Data, ...]
    packages: dict[str, str] = Field(default_factory=dict)
    host: dict[str, str | int | float | None] = Field(default_factory=dict)


class Difference(NamedTuple):
    """One thing that is not the same.

    Attributes:
        what: in the user's words.
        then: there, in the baseline.
        now: here.
        breaks: whether numbers cannot be compared for it.
        persona: whose numbers alone; None means everybody's.
    """

    what: str
    then: str
    now: str
    breaks: bool = True
    persona: str | None = None

    def __str__(self) -> str:
        """E.g. "dtype of base: float32 in the baseline, bfloat16 here"."""
        return f"{self.what}: {self.then} in the baseline, {self.now} here"


def origin(record: Record) -> Origin:
    """Where a record's numbers came from."""
    bare = {"text_baseline": None, "scores": None}
    return Origin(
        record=record.digest, started=record.run.started, plan=record.plan,
        data=tuple(one.model_copy(update=bare) for one in record.data),
        pair=record.pair.model_copy(update={"doctor": ()}), packages=record.run.packages, host=record.run.host,
    )  # fmt: skip


def differences(then: Origin, now: Origin) -> tuple[Difference, ...]:
    """Everything that differs between a baseline's audit and this one, what breaks the comparison first."""
    parts = (_models(then.pair, now.pair), _texts(then, now), _science(then.plan, now.plan), _surroundings(then, now))
    return tuple(sorted((one for part in parts for one in part), key=lambda one: not one.breaks))


def _models(then: Pair, now: Pair) -> Iterator[Difference]:
    """Base's weights, both tokenizers and dtypes, the template, and what was counted out."""
    pairs = [("weights of base", then.base.weights, now.base.weights, True)]
    for side in ("base", "post"):
        one, other = getattr(then, side), getattr(now, side)
        pairs += [
            (f"tokenizer of {side}", one.tokenizer, other.tokenizer, True),
            (f"dtype of {side}", one.dtype, other.dtype, True),
        ]
    out = [", ".join(sorted({one.pair for one in pair.excluded})) or "none" for pair in (then, now)]
    pairs += [
        ("chat template", then.template or "none", now.template or "none", True),
        ("pairs counted out", *out, True),
        ("reference of base", then.base.ref, now.base.ref, False),
        ("source of the template", then.base.template or "none", now.base.template or "none", False),
    ]
    yield from (Difference(what, _short(a), _short(b), breaks) for what, a, b, breaks in pairs if a != b)


def _texts(then: Origin, now: Origin) -> Iterator[Difference]:
    """The personas' lines; a persona that only one side has is the gate's to tell."""
    before = {(one.persona, one.domain): one.digest for one in then.data}
    after = {(one.persona, one.domain): one.digest for one in now.data}
    for key in sorted(before.keys() & after.keys()):
        if before[key] != after[key]:
            what = f"texts of {key[0]} in domain {key[1]}"
            yield Difference(what, _short(before[key]), _short(after[key]), persona=key[0])
    if before == after and then.pair.ids != now.pair.ids:
        what = "token ids of all texts, plain ones included"
        yield Difference(what, _short(then.pair.ids), _short(now.pair.ids), False)


def _science(then: Plan, now: Plan) -> Iterator[Difference]:
    """Keys of the plan that change a number. A comparison that only one side runs moves no number of another."""
    before, after = (dict(_leaves(plan.model_dump(mode="json", exclude=ELSEWHERE))) for plan in (then, now))
    both = set(then.comparisons) & set(now.comparisons)
    for key in sorted(before.keys() | after.keys()):
        name = key.split(".")
        if before.get(key) == after.get(key) or (name[0] == "comparisons" and name[1] not in both):
            continue
        # A name or path stands for content that no gated reading rests on; where a file lies changes nothing.
        named = name[0] == "comparisons" and isinstance(before.get(key, after.get(key)), str | list)
        yield Difference(f"plan, {key}", _told(before.get(key)), _told(after.get(key)), not named)
    if then.policies != now.policies:
        yield Difference("plan, policies", f"{len(then.policies)} of its own", f"{len(now.policies)} of its own", False)


def _surroundings(then: Origin, now: Origin) -> Iterator[Difference]:
    """Package versions and the machine."""
    for name in sorted(then.packages.keys() | now.packages.keys()):
        one, other = then.packages.get(name, "absent"), now.packages.get(name, "absent")
        if one != other:
            yield Difference(f"package {name}", one, other, False)
    for name in RUNNING:
        if then.host.get(name) != now.host.get(name):
            yield Difference(name, str(then.host.get(name)), str(now.host.get(name)), False)


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that is no table, dotted."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{path}{key}.")
        else:
            yield path + key, item


def _told(value: Any) -> str:
    return "its default" if value is None else str(value)


def _short(value: str) -> str:
    """A digest by its first twelve digits; anything else as it is, not too long."""
    digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
    return value[:12] if digest else value if len(value) <= 120 else value[:117] + "..."
