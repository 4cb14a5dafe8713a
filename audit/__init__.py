"""The court: judges a base model and what post-training made of it.

`audit.audit(...)` gives a record, `audit.doctor(...)` proves a pair beforehand, `audit.read(path)` reads a record,
`audit.check(...)` holds checkpoints to a baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audit.checking import check
    from audit.conduct import Setting, audit, doctor
    from audit.record import read

__all__ = ["Setting", "audit", "check", "doctor", "read"]
ELSEWHERE = {"check": "audit.checking", "read": "audit.record"}
"""Public names that are not the conductor's."""


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for: importing the package costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'audit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(ELSEWHERE.get(name, "audit.conduct")), name)


def __dir__() -> list[str]:
    return __all__
