"""Waivers: a regression that its owner knows of and accepts until a date."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audit.plan import unknown_key
from probes.digest import AuditError

Said = Annotated[str, Field(min_length=1)]
FORM = 'tables [[waiver]] with finding, reason, owner and expires = 2030-01-31'


class Waiver(BaseModel):
    """One accepted regression.

    Attributes:
        finding: As a check calls it: `persona/comparison/site` for all its readings, `persona/comparison/site/reading`
            or `persona/verdict` for one. No patterns: what is accepted is named.
        reason: Why it is accepted.
        owner: Who answers for it.
        expires: The last day on which it holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, str_strip_whitespace=True)

    finding: Said
    reason: Said
    owner: Said
    expires: date

    def covers(self, name: str) -> bool:
        """Whether it is about a finding or about one of its readings."""
        return name == self.finding or name.startswith(f"{self.finding}/") and self.finding.count("/") == 2

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return self.expires < today

    def __str__(self) -> str:
        """E.g. "by Ada until 2030-01-31: the new template is being learnt"."""
        return f"by {self.owner} until {self.expires}: {self.reason}"


def read_waivers(path: Path | str) -> tuple[Waiver, ...]:
    """The waivers in a TOML file.

    Raises:
        AuditError: no such file, not TOML, a key that nobody reads, a waiver without a reason, an owner or a date, or
            two for one finding.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        do = "give the path of a file of waivers, or none"
        raise AuditError(f"waivers {path} cannot be read ({error.strerror})", "a readable TOML file", do) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AuditError(f"waivers {path} is not TOML: {error}", FORM, "mend that line") from None
    for key in content:
        if key != "waiver":
            raise unknown_key(key, ["waiver"], f"waivers {path}")
    tables = content.get("waiver", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise AuditError(f"waivers {path} has waiver = {tables!r}", FORM, "write each as a table [[waiver]]")
    found = tuple(_waiver(table, number, path) for number, table in enumerate(tables, 1))
    names = [waiver.finding for waiver in found]
    for name in names:
        if names.count(name) > 1:
            raise AuditError(f"waivers {path} waives {name} {names.count(name)} times", "once", "keep one of them")
    return found


def _waiver(table: dict[str, Any], number: int, path: Path) -> Waiver:
    source = f"waivers {path}, number {number},"
    for key in table:
        if key not in Waiver.model_fields:
            raise unknown_key(key, list(Waiver.model_fields), source)
    try:
        return Waiver.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0]
        given = "no" if first["type"] == "missing" else f"{table.get(str(key))!r} as"
        raise AuditError(f"{source} has {given} {key}", FORM, f"give its {key}") from None
