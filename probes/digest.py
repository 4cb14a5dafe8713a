"""One content identity for specifications, texts and tensors, and the one error that users see."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

    Leaf: TypeAlias = None | bool | int | float | str | bytes | np.ndarray | np.generic | torch.Tensor
    Content: TypeAlias = Leaf | Mapping[str, "Content"] | list["Content"] | tuple["Content", ...]


class AuditError(ValueError):
    """Something the user can mend, said in three beats.

    Attributes:
        found: what was found, with the user's own values.
        expected: what was expected instead.
        do: what to do about it.
    """

    def __init__(self, found: str, expected: str, do: str) -> None:
        """Keeps the three beats; `str()` joins them to "found. Expected expected. Do."."""
        super().__init__(found, expected, do)
        self.found, self.expected, self.do = (beat.strip().removesuffix(".") for beat in (found, expected, do))

    def __str__(self) -> str:
        """The sentence shown to the user."""
        return f"{self.found}. Expected {self.expected}. {self.do[:1].upper()}{self.do[1:]}."


def digest(value: Content) -> str:
    """SHA-256 (64 hex digits) of a value's content.

    Mappings are read in the order of their keys, tuples as lists, floats by `repr`. A tensor or array counts by dtype,
    shape and bytes, wherever it lives and whichever library holds it, at any depth.

    Args:
        value: JSON-like values, bytes, numpy arrays, torch tensors, and nests of these.

    Raises:
        AuditError: for NaN or infinity outside a tensor, keys that are not strings, and types with no defined content.
    """
    text = json.dumps(_canonical(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> Any:
    """JSON with one meaning: every non-JSON leaf becomes a one-key object whose key no mapping can produce."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise AuditError(f"The number {value} has no digest", "finite numbers", "Leave it out or say null")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise AuditError(f"The key {key!r} is not text", "text keys", "Name the entries with strings")
        return {f"={key}": _canonical(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(entry) for entry in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.generic):
        return _canonical(value.item())
    return _array(value)


def _array(value: Any) -> dict[str, Any]:
    # torch is looked up, never imported: records are digested where torch is not installed.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        flat = value.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        dtype = value.dtype.name
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        flat = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    else:
        raise AuditError(
            f"A {type(value).__name__} has no digest", "JSON values, bytes, arrays or tensors", "Convert it first"
        )
    return {"array": [dtype, [int(size) for size in value.shape], hashlib.sha256(flat.data).hexdigest()]}
