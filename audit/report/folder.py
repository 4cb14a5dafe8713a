"""The folder of a run: every sink of a record, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from audit.record import Record, write_findings
from audit.report.page import render
from probes.digest import AuditError

if TYPE_CHECKING:
    from probes.direction import Direction

PAGE = "report.html"


def default(record: Record, root: Path = Path("persona-audit-out")) -> Path:
    """`persona-audit-out/<utc>-<plan digest 8>`."""
    return root / record.run.id


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
    """Writes the report of a record.

    Raises:
        AuditError: the path cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(record), encoding="utf-8")
    except OSError as error:
        raise AuditError(
            f"{path} cannot be written ({error.strerror})", "a writable folder", "Name another with --out"
        ) from error
    return path
