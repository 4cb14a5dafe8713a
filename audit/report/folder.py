"""The folder of a run: every sink of a record, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.record import Check, Record, write_findings
from audit.report.page import plain, render
from probes.digest import AuditError

if TYPE_CHECKING:
    from probes.direction import Direction

PAGE = "report.html"
OUT = Path("persona-audit-out")
"""Where everything goes for which nobody names a folder."""


def default(record: Record) -> Path:
    """`persona-audit-out/<utc>-<plan digest 8>`."""
    return OUT / record.run.id


def write(record: Record, out: Path, directions: Mapping[str, Direction]) -> Path:
    """Writes record.json, findings.parquet, report.html and directions/*.safetensors into a folder, and returns it.

    Raises:
        AuditError: the folder cannot be written.
    """
    record.write(out)
    write_findings(record.findings, out / "findings.parquet")
    page(record, out / PAGE)
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
