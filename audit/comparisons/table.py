"""The comparisons a plan may name, and how each is built from the plan's effort and its own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from audit.comparisons.erasure import Erasure
from audit.comparisons.geometry import Geometry
from audit.comparisons.probe_transfer import ProbeTransfer
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
}


def settings(name: str) -> frozenset[str]:
    """The settings a comparison takes."""
    return frozenset(TABLE[name].__dataclass_fields__)  # type: ignore[attr-defined]


def build(name: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> Comparison:
    """A comparison with what the effort says, where it has such a setting, and what the plan says of it by name."""
    known = settings(name)
    unknown = sorted(set(own) - known)
    if unknown:
        raise AuditError(
            f"comparisons.{name} has an unknown setting {unknown[0]}",
            f"some of: {', '.join(sorted(known))}",
            "Mend the plan",
        )
    return TABLE[name](**{key: value for key, value in common.items() if key in known}, **own)
