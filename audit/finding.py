"""What one comparison says about one persona at one site; the row a verdict is made from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypeAliasType

from audit.estimate import Estimate

Detail = TypeAliasType(  # a recursive alias as pydantic reads it; `type` statements need Python 3.12
    "Detail",
    "Estimate | bool | int | float | str | None | list[Detail] | dict[str, Detail]",  # pyright: ignore
)
"""JSON in which an object with exactly an estimate's keys is an `Estimate`, when made and when read back."""


class Finding(BaseModel):
    """A headline, its control and the evidence beside it, or the reason why there is none.

    A finding that was not measured carries no number at all: no headline, no control, no p-value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    """`persona/comparison/site`."""
    persona: str
    comparison: str
    site: str
    """E.g. "L3.resid_post"."""
    definition: int = Field(default=1, ge=1)
    """Version of the comparison's definition: findings of different versions are not comparable."""
    headline: Estimate | None = None
    control: Estimate | None = None
    """The same statistic where nothing should be found."""
    p: float | None = Field(default=None, ge=0.0, le=1.0)
    p_adjusted: float | None = Field(default=None, ge=0.0, le=1.0)
    """After the family's correction; None until the family is complete."""
    tried: int = Field(default=1, ge=1)
    """How many readings the headline was chosen from or is corrected for."""
    status: Literal["measured", "not_measured"]
    reason: str | None = None
    """Why it was not measured."""
    details: dict[str, Detail] = Field(default_factory=dict)

    @classmethod
    def not_measured(cls, persona: str, comparison: str, site: str, reason: str) -> Finding:
        """The finding of a comparison that could not be made; `reason` is one sentence for the reader."""
        name = f"{persona}/{comparison}/{site}"
        return cls(id=name, persona=persona, comparison=comparison, site=site, status="not_measured", reason=reason)

    @model_validator(mode="after")
    def _consistent(self) -> Finding:
        name = f"{self.persona}/{self.comparison}/{self.site}"
        if self.id != name:
            raise ValueError(f"id {self.id!r}. Expected {name!r}. Build it as persona/comparison/site.")
        if self.status == "measured" and (self.headline is None or self.reason is not None):
            raise ValueError(f"{name} is measured. Expected a headline and no reason. Give the headline.")
        if self.status == "not_measured":
            if not self.reason:
                raise ValueError(f"{name} is not measured and gives no reason. Expected a sentence. Name the reason.")
            if any(x is not None for x in (self.headline, self.control, self.p, self.p_adjusted)):
                raise ValueError(f"{name} is not measured but holds a number. Expected none. Drop it.")
        if self.p_adjusted is not None and (self.p is None or self.p_adjusted < self.p):
            raise ValueError(f"{name}: p {self.p}, adjusted {self.p_adjusted}. Expected p <= adjusted. Adjust raw p.")
        return self

    def _repr_html_(self) -> str:
        """The headline beside its control, for notebooks."""
        from html import escape

        if self.status == "not_measured":
            return f"<p><b>{escape(self.id)}</b>: not measured. {escape(str(self.reason))}</p>"
        rows = {"headline": self.headline, "control": self.control, "p": self.p, "p adjusted": self.p_adjusted}
        cells = "".join(f"<tr><th>{k}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items() if v is not None)
        return f"<table><caption>{escape(self.id)}</caption>{cells}</table>"
