"""The folder of a run: every sink of a record, side by side."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.gate import Gate
from audit.record import Check, Record, write_findings
from audit.report.junit import JUNIT, junit
from audit.report.page import plain, render
from audit.report.summary import SUMMARY, summary
from audit.scores import SCORES_NAME, Scores, dumped
from audit.shelf import Directions
from probes.digest import AuditError

if TYPE_CHECKING:
    from probes.direction import Direction

PAGE = "report.html"
OUT = Path("persona-audit-out")
"""Where everything goes for which nobody names a folder."""


def default(record: Record) -> Path:
    """`persona-audit-out/<utc>-<plan digest 8>`."""
    return OUT / record.run.id


def write(record: Record, out: Path, directions: Mapping[str, Direction], scores: Sequence[Scores] = ()) -> Path:
    """Writes record.json, scores.json, findings.parquet, report.html and directions/*.safetensors into a folder.

    Raises:
        AuditError: the folder cannot be written.
    """
    record.write(out)
    text(out / SCORES_NAME, dumped(scores))
    write_findings(record.findings, out / "findings.parquet")
    page(record, out / PAGE)
    if isinstance(directions, Directions):
        directions.copied(out / "directions")
        return out
    for name, direction in directions.items():
        direction.save(out / "directions" / f"{name}.safetensors")
    return out


def page(record: Record, path: Path) -> Path:
    """Writes the report of a record; a dashboard that lies beside it is linked.

    Raises:
        AuditError: the path cannot be written.
    """
    beside = (path.parent / "features" / "index.html").is_file()
    return text(path, render({**plain(record), "dashboard": "features/index.html" if beside else None}))


def tell(gate: Gate, out: Path, started: str) -> Path:
    """Writes junit.xml and summary.md into a folder, and returns the summary.

    Args:
        gate: what is told.
        out: the folder; made where there is none.
        started: when the check began, ISO 8601.

    Raises:
        AuditError: the folder cannot be written.
    """
    text(out / JUNIT, junit(gate, started, platform.node()))
    return text(out / SUMMARY, summary(gate))


def proof(checks: Sequence[Check], out: Path) -> Path:
    """Writes the checks of a pair to doctor.json in a folder, and returns the file.

    Raises:
        AuditError: the folder cannot be written.
    """
    content = [check.model_dump() for check in checks]
    return text(out / "doctor.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def text(path: Path, content: str) -> Path:
    """Writes a file and the folders above it, and returns it.

    Raises:
        AuditError: the path cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise AuditError(
            f"{path} cannot be written ({error.strerror})", "a writable folder", "Name another with --out"
        ) from error
    return path
