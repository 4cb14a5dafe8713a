from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.digest import AuditError, digest

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NESTS = st.recursive(
    LEAVES, lambda n: st.lists(n, max_size=4) | st.dictionaries(st.text(), n, max_size=4), max_leaves=9
)


@given(NESTS)
def test_the_order_of_keys_does_not_count(value: object) -> None:
    def turned(nest: object) -> object:
        if isinstance(nest, dict):
            return {key: turned(nest[key]) for key in reversed(list(nest))}
        return tuple(turned(entry) for entry in nest) if isinstance(nest, list) else nest

    assert digest(turned(value)) == digest(value)


@given(NESTS, NESTS)
def test_different_values_have_different_digests(one: object, two: object) -> None:
    # repr tells 1 from 1.0 from True, as the digest does and == does not.
    same = repr(_sorted(one)) == repr(_sorted(two))
    assert (digest(one) == digest(two)) == same


def _sorted(nest: object) -> object:
    if isinstance(nest, dict):
        return {key: _sorted(nest[key]) for key in sorted(nest)}
    return [_sorted(entry) for entry in nest] if isinstance(nest, list) else nest


def test_a_tensor_counts_by_dtype_shape_and_bytes_only() -> None:
    grid = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    reference = digest({"w": grid})
    assert digest({"w": grid.numpy()}) == reference
    assert digest({"w": grid.T.contiguous().T}) == reference
    assert digest({"w": grid.numpy().astype(">f4")}) == reference
    others = [grid.reshape(3, 2), grid.double(), grid.bfloat16(), grid + 1, grid.flatten()]
    assert len({reference, *(digest({"w": other}) for other in others)}) == 6


def test_bfloat16_and_scalars_have_digests() -> None:
    assert digest(torch.tensor(1.5, dtype=torch.bfloat16)) != digest(torch.tensor(1.5))
    assert digest(np.float64(1.5)) == digest(1.5)
    assert len(digest(torch.zeros(0, 3))) == 64


def test_no_plain_value_forges_an_array_or_bytes() -> None:
    inner = torch.zeros(2)
    assert digest({"array": ["float32", [2], "…"]}) != digest(inner)
    assert digest(b"abc") != digest("abc") != digest({"bytes": "abc"})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1: 2}, {"a": {3}}, object(), np.array(["x", None])])
def test_values_without_content_are_refused(bad: object) -> None:
    with pytest.raises(AuditError):
        digest(bad)


def test_the_error_says_three_beats_and_survives_pickling() -> None:
    error = AuditError("12 groups.", "20 groups or more", "add scenarios")
    assert str(error) == "12 groups. Expected 20 groups or more. Add scenarios."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_digests_need_no_torch() -> None:
    code = "import sys, probes.digest as d; print(d.digest({'a': 1.5})); assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest({"a": 1.5})
