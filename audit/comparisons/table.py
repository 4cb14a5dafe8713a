"""The comparisons a plan may name, and how each is built from the plan's effort and its own settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from audit.comparisons.erasure import Erasure
from audit.comparisons.feature_transfer import FeatureTransfer
from audit.comparisons.features import Features
from audit.comparisons.geometry import Geometry
from audit.comparisons.novelty import Novelty
from audit.comparisons.probe_transfer import ProbeTransfer
from audit.comparisons.shift import Shift
from audit.finding import Finding
from audit.pair import Pair
from probes.digest import AuditError


class Comparison(Protocol):
    """A frozen dataclass of settings, called with a pair and a generator of its own."""

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The finding at the pair's chosen site."""
        ...


TABLE: Mapping[str, Callable[..., Comparison]] = {
    "probe_transfer": ProbeTransfer,
    "geometry": Geometry,
    "erasure": Erasure,
    "shift": Shift,
    "feature_transfer": FeatureTransfer,
    "features": Features,
    "novelty": Novelty,
}


ELSEWHERE = ("margin", "fidelity", "explainer")
"""Settings that come from the plan's margins, and one that no file can hold."""
WORDS = {
    int: "a whole number of at least 1", str | None: "a path or a name, in quotes",
    str | list[str] | None: "a path in quotes, or a list of them",
}  # fmt: skip
"""What a plan may give a setting of each type."""
Count = Annotated[int, Field(ge=1)]


def settings(name: str) -> dict[str, Any]:
    """The settings that a plan may give a comparison, with their types. Margins have a table of their own."""
    kinds, fields = get_type_hints(TABLE[name]), TABLE[name].__dataclass_fields__  # type: ignore[attr-defined]
    return {key: kinds[key] for key in fields if key not in ELSEWHERE}


def build(name: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> Comparison:
    """A comparison with what the whole plan says, where it has such a setting, and over that what it says by name.

    Args:
        name: a key of the table.
        common: the effort's numbers and the margins.
        own: the comparison's own settings, of keys that `settings` names.

    Raises:
        AuditError: a value of another type, or below its range.
    """
    kinds = settings(name)
    for key, value in own.items():
        adapter = TypeAdapter(Count if kinds[key] is int else kinds[key], config=ConfigDict(strict=True))
        try:
            adapter.validate_python(value)
        except ValidationError:
            found = f"plan has comparisons.{name}.{key} = {json.dumps(value, ensure_ascii=False)}"
            do = f"Change comparisons.{name}.{key}, or leave it out for its default"
            raise AuditError(found, WORDS.get(kinds[key], str(kinds[key])), do) from None
    known = TABLE[name].__dataclass_fields__  # type: ignore[attr-defined]
    return TABLE[name](**{**{key: value for key, value in common.items() if key in known}, **own})
