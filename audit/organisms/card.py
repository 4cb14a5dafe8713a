"""The bundled organisms: where they lie and what their cards say."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from probes.digest import AuditError
from probes.persona import builtin

PREFIX = "organism:"
Mark = Literal["good", "grey", "bad"]
"""A gate must pass the good and fail the bad; between them it is free."""
WORLD = "world"
"""The folder that holds the world's own persona files instead of weights."""
MARK = "/sae-"
"""Between an organism and the layer and seed of its SAE: base/sae-L2-0 reads what block 2 leaves in the stream."""


class Card(BaseModel):
    """What was planted in an organism, how it behaves as bundled, and the verdict an audit must give it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    planted: str = Field(description="what was done to base, in one sentence")
    verdicts: dict[str, str] = Field(description="persona -> verdict against base; empty for base itself")
    series: dict[int, dict[str, str]] = Field(
        default={}, description="steps at which a checkpoint was kept -> its verdicts; named organism:NAME/STEP"
    )
    marks: dict[int, Mark] = Field(
        default={}, description="steps of the series -> what a gate must say, by readings on more texts than it sees"
    )
    behaviour: dict[str, float] = Field(description="measured on the bundled weights, as sampled probability")
    parent: str | None = Field(description="the organism it was grown from")
    command: str = Field(description="grows it again")
    seed: int
    steps: int
    tokens: int
    parameters: int
    storage: Literal["bfloat16"] = "bfloat16"


class SAECard(BaseModel):
    """What an organism's SAE was trained on, and what it makes again, measured on the weights as they are bundled."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    organism: str
    weights: str = Field(description="digest of the organism's weights")
    site: str
    training: dict[str, int | float] = Field(description="width, active latents, steps, batch, rate, seed")
    tokens: int = Field(description="rows it was trained on, gone through several times")
    fidelity: dict[str, float] = Field(description="on other texts of the same kind")
    definition: str = Field(description="version and meaning of the unexplained variance behind variance_explained")
    command: str = Field(description="grows it again")
    storage: Literal["bfloat16"] = "bfloat16"


def bundled() -> Path:
    """The folder of all bundled organisms."""
    return Path(str(files("audit.organisms").joinpath("bundled")))


def names() -> tuple[str, ...]:
    """The organisms that have a card, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in bundled().glob("*/card.json")))


def folder(ref: str) -> Path:
    """The checkpoint folder that `organism:NAME` or `organism:NAME/STEP` names.

    Raises:
        AuditError: no such organism is bundled.
    """
    name = ref.removeprefix(PREFIX)
    path = bundled() / name
    if name not in names() and not (path / "config.json").is_file():
        known = ", ".join(names()) or "none"
        raise AuditError(f"No organism is called '{name}'", f"one of: {known}", "Run `persona-audit organism list`")
    return path


def personas() -> Path:
    """The folder of the world's own persona files."""
    return bundled() / WORLD


def texts_of(base: str, post: str) -> Path:
    """The folder that "builtin" stands for: the world's own where both are organisms."""
    return personas() if base.startswith(PREFIX) and post.startswith(PREFIX) else builtin()


def saes(name: str) -> tuple[str, ...]:
    """The SAEs of one bundled organism, e.g. "base/sae-L2-0"."""
    return tuple(f"{name}/{path.parent.name}" for path in sorted((bundled() / name).glob("sae-*/card.json")))


def sae_card(name: str) -> SAECard:
    """The card of a bundled SAE.

    Raises:
        AuditError: no such SAE is bundled.
    """
    whole = name.removeprefix(PREFIX)
    if whole not in saes(whole.partition(MARK)[0]):
        known = ", ".join(one for organism in names() for one in saes(organism)) or "none"
        raise AuditError(f"No SAE is called '{name}'", f"one of: {known}", "Name one of these")
    return SAECard.model_validate(json.loads((bundled() / whole / "card.json").read_text(encoding="utf-8")))


def card(name: str) -> Card:
    """The card of one bundled organism.

    Raises:
        AuditError: no such organism, or a checkpoint of a series, which is told of on its organism's card.
    """
    path = folder(name) / "card.json"
    if not path.is_file():
        whole = name.removeprefix(PREFIX).partition("/")[0]
        raise AuditError(f"'{name}' has no card of its own", f"'{whole}', whose card tells of it", "Ask for that card")
    return Card.model_validate(json.loads(path.read_text(encoding="utf-8")))
