"""What the gate asks of a finding, as data: a selector, the bound that decides, a tolerance, a severity."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from audit.estimate import Estimate
from probes.digest import AuditError

MARGIN = 0.05
"""What a gated reading may lose where a policy names no tolerance."""
SELECTOR = "persona/comparison/site, or persona/comparison/site/reading; * and ? stand for anything"
Tolerance = Annotated[float, Field(ge=0.0, lt=1.0)]


class Policy(BaseModel):
    """How much worse than its reference a reading may be, and what happens where it is.

    Attributes:
        select: Pattern for `persona/comparison/site` or `persona/comparison/site/reading`, part by part.
        on: The bound of the change that fails. high: the upper one, so that only what is shown to be worse fails and
            noise does not. low: the lower one, so that whatever is not shown to be within the tolerance fails.
        absolute: Loss allowed, in the reading's unit.
        relative: Loss allowed, as a share of the reference; of two tolerances the wider counts.
        severity: fail turns the check red, warn is told and does not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    select: str
    on: Literal["low", "high"] = "high"
    absolute: Tolerance | None = None
    relative: Tolerance | None = None
    severity: Literal["fail", "warn"] = "fail"

    @field_validator("select")
    @classmethod
    def _three_or_four_parts(cls, value: str) -> str:
        parts = value.split("/")
        if len(parts) not in (3, 4) or not all(parts):
            raise ValueError(SELECTOR)
        return value

    def selects(self, name: str) -> bool:
        """Whether a reading called `persona/comparison/site/reading` is meant; a site of "" is any."""
        parts, patterns = name.split("/"), self.select.split("/")
        return all(part == "" or fnmatchcase(part, pattern) for part, pattern in zip(parts, patterns, strict=False))

    def margin(self, reference: Estimate) -> float:
        """The loss that is allowed from a reference, in its unit."""
        if self.absolute is None and self.relative is None:
            return MARGIN
        return max(self.absolute or 0.0, (self.relative or 0.0) * abs(reference.value))


DEFAULTS: tuple[Policy, ...] = (
    Policy(select="*/probe_transfer/*/readability"),
    Policy(select="*/probe_transfer/*/ceiling"),
    # A lost threshold is set anew; a lost direction is not.
    Policy(select="*/probe_transfer/*/accuracy", severity="warn"),
)
"""The policies of a plan that names none."""


def effective(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """The plan's policies, or the default ones where it has none."""
    return tuple(policies) or DEFAULTS


def refuse_idle(policies: Sequence[Policy], names: Sequence[str]) -> None:
    """Refuses a policy that selects none of the readings: it would look like a pass.

    Raises:
        AuditError: with the readings there are.
    """
    for policy in policies:
        if not any(policy.selects(name) for name in names):
            there = ", ".join(name.replace("//", "/*/") for name in sorted(names)) or "none"
            raise AuditError(f"the policy {policy.select!r} selects nothing", f"some of: {there}", "mend its select")
