"""The record of an audit: versioned JSON, the single source of every view, read anywhere without torch.

`digest` is the identity of everything but `run`: two runs of one plan on the same machine and thread count have equal
digests though their clocks differ. A record is written whole or not at all, and one that was changed since is refused.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from audit.estimate import Estimate
from audit.finding import Finding
from audit.plan import Plan
from audit.verdict import Judgement, Outcome, Verdict
from probes.digest import AuditError, digest

SCHEMA = 1
RECORD_NAME = "record.json"
Sha = Field(pattern=r"^[0-9a-f]{64}$")


class Entry(BaseModel):
    """A part of a record: frozen, no key beyond those named, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


class Run(Entry):
    """What differs between two runs that find the same: outside the digest.

    Attributes:
        started: ISO 8601 in UTC.
        seconds: Wall clock of the whole run.
        host: Machine, operating system, device.
        packages: Name to version.
        threads: Torch's intra-operation threads.
        kept_from: The run that found all this, where nothing had changed since and nothing was measured again.
    """

    id: str
    started: str
    seconds: float = Field(ge=0.0)
    host: dict[str, str | int | float | None] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
    threads: int = Field(ge=1)
    kept_from: str | None = None


class Side(Entry):
    """One model of the pair.

    Attributes:
        ref: As the plan spells it.
        weights: SHA-256 of the weights.
        revision: Commit, where the model has one.
        tokenizer: Digest of the tokenizer.
        template: Where the chat template came from, or null when there is none.
        dtype: In which it was run.
    """

    ref: str
    weights: str
    revision: str | None = None
    tokenizer: str
    template: str | None = None
    dtype: str


class Excluded(Entry):
    """A contrast pair that was not judged, and why."""

    pair: str
    reason: str


class Check(Entry):
    """One thing the doctor looked at."""

    check: str
    found: str
    expected: str
    do: str
    ok: bool


class Pair(Entry):
    """The two models, and what makes them comparable.

    Attributes:
        template: SHA-256 of the chat template both were read under, null where there is none.
        ids: SHA-256 of the matrix of token ids both models read.
        excluded: Pairs counted out.
        doctor: Checks made before a number was computed.
    """

    base: Side
    post: Side
    template: str | None = None
    ids: str
    excluded: tuple[Excluded, ...] = ()
    doctor: tuple[Check, ...] = ()


class Data(Entry):
    """One persona's passages in one domain.

    Attributes:
        digest: SHA-256 of the lines as written, whether they were judged or counted out.
        text_baseline: What the words alone give away (AUROC), null where there was nothing to judge.
        scores: SHA-256 of the persona's part of `scores.json`, with the Assistant's entry; null where there is none.
    """

    persona: str
    domain: Literal["story", "assistant", "plain"]
    digest: str
    n_pairs: NonNegativeInt
    n_groups: NonNegativeInt
    text_baseline: Estimate | None = None
    scores: str | None = None


class Record(Entry):
    """Everything an audit found. Make one with `seal`, read one with `read`."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run: Run
    digest: str = Sha
    plan: Plan
    plan_digest: str = Sha
    pair: Pair
    data: tuple[Data, ...] = ()
    findings: tuple[Finding, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    outcome: Outcome

    def verdict(self, persona: str) -> Verdict:
        """The verdict on one persona.

        Raises:
            AuditError: No persona of that name.
        """
        for verdict in self.verdicts:
            if verdict.persona == persona:
                return verdict
        known = ", ".join(verdict.persona for verdict in self.verdicts) or "none"
        raise AuditError(f"no verdict on {persona!r}", f"one of: {known}", "name one of those")

    def to_json(self) -> str:
        """The record as it stands in `record.json`: the same text for the same record."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: Path | str) -> Path:
        """Writes `record.json` whole or not at all.

        Args:
            path: The file, or a folder to hold `record.json`; folders are made.

        Raises:
            AuditError: It cannot be written there.
        """
        return _write(_file(path), lambda file: file.write_text(self.to_json(), encoding="utf-8"))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(v.persona)}</td><td><b>{escape(v.verdict)}</b>"
            f"{escape(f' ({v.kind})') if v.kind else ''}</td><td style='text-align:left'>{escape(v.sentence)}</td></tr>"
            for v in self.verdicts
        )
        pair = f"{escape(self.pair.base.ref)} → {escape(self.pair.post.ref)}"
        return (
            f"<table><caption>{pair}: {escape(self.outcome.worst)}, exit {self.outcome.exit}; record {self.digest[:8]}"
            f"</caption><tr><th>persona</th><th>verdict</th><th>because</th></tr>{rows}</table>"
        )


def run_id(plan: Plan, started: datetime) -> str:
    """`<utc>-<plan digest 8>`: names a run, and the folder that it is written to where nobody names one."""
    return f"{started:%Y%m%dT%H%M%S}-{plan.digest[:8]}"


def seal(
    run: Run, plan: Plan, pair: Pair, data: Sequence[Data], findings: Sequence[Finding], judgement: Judgement
) -> Record:
    """A finished record with its digests.

    Raises:
        AuditError: A number in a finding's details is NaN or infinite.
    """
    record = Record(
        run=run,
        digest="0" * 64,
        plan=plan,
        plan_digest=plan.digest,
        pair=pair,
        data=tuple(data),
        findings=tuple(findings),
        verdicts=judgement.verdicts,
        outcome=judgement.outcome,
    )
    return record.model_copy(update={"digest": content_digest(record.model_dump(mode="json"))})


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of what a record found: everything in its JSON but `schema`, `run` and the digest itself.

    Taken from the JSON and not from the model, so that a later version still recognises what this one wrote.

    Raises:
        AuditError: A number is NaN or infinite.
    """
    found = {key: value for key, value in content.items() if key not in ("schema", "run", "digest")}
    for path, value in _leaves(found):
        if isinstance(value, float) and not math.isfinite(value):
            raise AuditError(f"{path} is {value}", "a finite number", "mark the finding not_measured with its reason")
    return digest(found)


def read(path: Path | str) -> Record:
    """A record from `record.json`, or from the folder that holds it.

    Raises:
        AuditError: No such file, not JSON, another schema, a key or value out of place, or changed since written.
    """
    file = _file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        do = "give the path of a record.json, or of the folder that holds one"
        raise AuditError(f"record {file} cannot be read ({error.strerror})", "a readable record.json", do) from None
    except ValueError as error:
        raise AuditError(f"record {file} is not JSON: {error}", "a record as `run` writes it", "run again") from None
    version = content.get("schema") if isinstance(content, Mapping) else None
    if version != SCHEMA:
        newer = isinstance(version, int) and version > SCHEMA
        do = "update persona-audit" if newer else "give a record.json written by persona-audit"
        raise AuditError(f"record {file} has schema {version!r}", f"schema {SCHEMA}", do)
    try:
        record = Record.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        raise AuditError(f"record {file} at {where}: {first['type']}", expected.rstrip("."), "run again") from None
    found = content_digest(content)
    if found != record.digest or digest(content["plan"]) != record.plan_digest:
        do = "restore the file as it was written, or run again"
        raise AuditError(f"record {file} has content {found[:12]}", f"the digest it states, {record.digest[:12]}", do)
    return record


def write_findings(findings: Sequence[Finding], path: Path | str) -> Path:
    """One row per finding as Parquet; `details` stays JSON text.

    Args:
        findings: Of a record.
        path: The file; folders are made.

    Raises:
        AuditError: It cannot be written there.
    """
    import pyarrow as pa
    from pyarrow import parquet

    real, count, text = pa.float64(), pa.int64(), pa.string()
    numbers = {
        "value": real,
        "low": real,
        "high": real,
        "level": real,
        "method": text,
        "unit": text,
        "n": count,
        "n_groups": count,
    }
    columns = {"id": text, "persona": text, "comparison": text, "site": text, "definition": count}
    columns |= {f"{side}_{name}": kind for side in ("headline", "control") for name, kind in numbers.items()}
    columns |= {"p": real, "p_adjusted": real, "tried": count, "status": text, "reason": text, "details": text}
    table = pa.Table.from_pylist([_row(finding) for finding in findings], schema=pa.schema(list(columns.items())))
    return _write(Path(path), lambda file: parquet.write_table(table, file))


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `record.json`."""
    content = Record.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | content


def export_schema(path: Path | str = Path("docs") / "record.schema.json") -> Path:
    """Writes `schema()` to a file."""
    text = json.dumps(schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return _write(Path(path), lambda file: file.write_text(text, encoding="utf-8"))


def _row(finding: Finding) -> dict[str, Any]:
    """One finding as flat columns."""
    content = finding.model_dump(mode="json")
    for side in ("headline", "control"):
        content |= {f"{side}_{name}": value for name, value in (content.pop(side) or {}).items()}
    return content | {"details": json.dumps(content["details"], ensure_ascii=False, allow_nan=False)}


def _leaves(value: Any, path: str = "record") -> Iterator[tuple[str, Any]]:
    """Every value that is neither a mapping nor a list, with where it stands."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _file(path: Path | str) -> Path:
    """The record in a folder, or the file itself."""
    path = Path(path)
    return path if path.suffix == ".json" and not path.is_dir() else path / RECORD_NAME


def _write(path: Path, fill: Callable[[Path], object]) -> Path:
    """Fills a neighbour, then renames it: a reader sees the old file or the new one, never a part."""
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        part = Path(name)
        fill(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AuditError(f"{path} cannot be written ({reason})", "a folder with room", "choose another --out") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path
