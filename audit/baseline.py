"""The baseline: a committed file of accepted findings, with what a later audit needs to be paired with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from audit.provenance import Origin, differences, origin
from audit.record import Entry, Record, Sha, content_digest, read
from audit.scores import READINGS, SCORES_NAME, Name, Scores, change, compact, read_scores, signed
from probes.digest import AuditError

SCHEMA = 1


class Accepted(Entry):
    """A verdict that was accepted."""

    persona: str
    verdict: str
    kind: str | None = None


class Baseline(Entry):
    """Accepted findings. Make one with `create`, read one with `read_baseline`.

    Attributes:
        digest: SHA-256 of everything below: a file that was edited by hand is refused.
        origin: Where its numbers came from.
        scores: Post's scores and gated readings, by persona.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    digest: str = Sha
    origin: Origin
    verdicts: tuple[Accepted, ...]
    scores: tuple[Scores, ...]

    def to_json(self) -> str:
        """The text of its file: one line for each key, one for each row of numbers."""
        return compact(self.model_dump(mode="json"))

    def of(self, persona: str) -> Scores | None:
        """What it holds of a persona."""
        return next((one for one in self.scores if one.persona == persona), None)

    def accepts(self, persona: str, verdict: str, kind: str | None) -> bool:
        """Whether this very verdict was accepted."""
        return Accepted(persona=persona, verdict=verdict, kind=kind) in self.verdicts


def create(path: Path | str) -> Baseline:
    """A baseline of the record in a folder, with the scores beside it.

    Raises:
        AuditError: the record or its scores cannot be read, they do not belong together, or a persona was not measured.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return accept(read(path), read_scores(folder / SCORES_NAME))


def accept(record: Record, scores: tuple[Scores, ...]) -> Baseline:
    """A baseline of an audit.

    Raises:
        AuditError: the scores are not the record's, or a persona was not measured.
    """
    belonging = {one.persona: one.scores for one in record.data if one.scores}
    if belonging != {one.persona: one.digest for one in scores}:
        found = f"the scores beside record {record.digest[:12]} are not those that it names"
        raise AuditError(found, f"the {SCORES_NAME} that was written with it", "run the audit again")
    for verdict in record.verdicts:
        if verdict.verdict == "not_measured" or verdict.persona not in belonging:
            found = f"{verdict.persona} is {verdict.verdict} in record {record.digest[:12]}: {verdict.sentence}"
            raise AuditError(found, "every persona measured", "mend the audit, or leave the persona out of the plan")
    verdicts = tuple(Accepted(persona=v.persona, verdict=v.verdict, kind=v.kind) for v in record.verdicts)
    made = Baseline(
        digest="0" * 64, origin=origin(record), verdicts=verdicts, scores=tuple(one.accepted for one in scores)
    )
    return made.model_copy(update={"digest": content_digest(made.model_dump(mode="json"))})


def read_baseline(path: Path | str) -> Baseline:
    """A baseline from its file.

    Raises:
        AuditError: no such file, not a baseline, a number that is not finite, or changed since it was written.
    """
    path = Path(path)
    do = "create it again with `persona-audit baseline create RECORD --out FILE`"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        found = f"baseline {path} cannot be read ({error.strerror})"
        raise AuditError(found, "a file of `persona-audit baseline create`", "give its path") from None
    except ValueError as error:
        raise AuditError(f"baseline {path} is not JSON: {error}", "a baseline as it was written", do) from None
    version = content.get("schema") if isinstance(content, Mapping) else None
    if version != SCHEMA:
        raise AuditError(f"baseline {path} has schema {version!r}", f"schema {SCHEMA}", do)
    try:
        made = Baseline.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        expected = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise AuditError(f"baseline {path} at {where}: {first['type']}", expected, do) from None
    found = content_digest(content)
    if found != made.digest:
        expected = f"the digest it states, {made.digest[:12]}"
        do = "restore it as it was committed, or accept a record with `persona-audit baseline update`"
        raise AuditError(f"baseline {path} has content {found[:12]}", expected, do)
    return made


def shown(baseline: Baseline) -> Iterator[str]:
    """What it holds, line by line."""
    origin, pair = baseline.origin, baseline.origin.pair
    yield f"record      {origin.record[:12]} of {origin.started}, plan {origin.plan.digest[:12]}"
    for name, side in (("base", pair.base), ("post", pair.post)):
        told = f"weights {side.weights[:12]}, tokenizer {side.tokenizer[:12]}, {side.dtype}"
        yield f"{name:<11} {side.ref}{f'@{side.revision}' if side.revision else ''}: {told}"
    yield f"template    {(pair.template or 'none')[:12]} of {pair.base.template or 'nobody'}"
    for data in origin.data:
        count = f"{data.n_pairs} pairs in {data.n_groups} groups"
        yield f"texts       {data.persona}, {data.domain}: {count}, {data.digest[:12]}"
    for verdict in baseline.verdicts:
        yield f"verdict     {verdict.persona}: {_verdict(verdict)}"
    for scores in baseline.scores:
        for reading in READINGS:
            yield f"reading     {scores.name(reading)}: {_number(scores, reading)}"


def changes(then: Baseline, now: Baseline) -> Iterator[str]:
    """What accepting `now` in place of `then` changes, line by line; nothing where it changes nothing.

    A reading that falls is marked `looser`: what a later checkpoint is held against is then less.
    """
    apart = differences(then.origin, now.origin)
    yield from (f"{'origin' if one.breaks else 'note':<8} {one}" for one in apart)
    verdicts = {one.persona: one for one in then.verdicts}
    for verdict in now.verdicts:
        before = verdicts.get(verdict.persona)
        if before != verdict:
            yield f"verdict  {verdict.persona}: {_verdict(before) if before else 'not held'} → {_verdict(verdict)}"
    for scores in then.scores:
        if now.of(scores.persona) is None:
            yield f"looser   {scores.persona} is no longer held, and no longer gated"
    for scores in now.scores:
        yield from _moved(then.of(scores.persona), scores)


def _moved(then: Scores | None, now: Scores) -> Iterator[str]:
    """One persona's readings, old and new."""
    if then is None:
        yield from (f"added    {now.name(reading)}: {_number(now, reading)}" for reading in READINGS)
        return
    for reading in READINGS:
        one, other = then.post.readings[reading], now.post.readings[reading]
        if one == other and then.name(reading) == now.name(reading):
            continue
        paired = (then.ids, then.groups) == (now.ids, now.groups)
        told = ", not on the same passages"
        if paired:
            told = f", change {signed(change(other, one, reading, 2 * len(now.pairs)))}"
        mark = "looser" if other.value < one.value else "tighter" if other.value > one.value else "same"
        name = now.name(reading) if then.site == now.site else f"{then.name(reading)} → {now.name(reading)}"
        yield f"{mark:<8} {name}: {_number(then, reading)} → {_number(now, reading)}{told}"


def _number(scores: Scores, reading: Name) -> str:
    return str(scores.estimate(reading))


def _verdict(verdict: Accepted) -> str:
    return verdict.verdict + (f" ({verdict.kind})" if verdict.kind else "")
