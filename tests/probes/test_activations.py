"""Activations: rows by id and site; poolings that see the span and nothing else."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.activations import Activations, RowWriter, pool
from probes.digest import AuditError
from probes.site import Site

SITES = (Site(0, "resid_post"), Site(2, "resid_post"))


def recorded(n: int = 4) -> Activations:
    values = torch.arange(n * 2 * 3, dtype=torch.float32).reshape(n, 2, 3)
    return Activations(values, SITES, tuple(f"p{i}" for i in range(n)), torch.arange(n, dtype=torch.float64))


@given(spans=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_poolings_equal_a_loop_over_the_span(spans: list[tuple[int, int]], seed: int) -> None:
    hidden = torch.randn(len(spans), 12, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(len(spans), 12, dtype=torch.bool)
    for row, (start, length) in enumerate(spans):
        mask[row, start : start + length] = True
    each = [hidden[row, start : start + length] for row, (start, length) in enumerate(spans)]
    torch.testing.assert_close(pool(hidden, mask, "span_mean"), torch.stack([tokens.mean(0) for tokens in each]))
    assert torch.equal(pool(hidden, mask, "last_token"), torch.stack([tokens[-1] for tokens in each]))
    assert torch.equal(pool(hidden, mask, "tokens"), torch.cat(each))


def test_the_mean_of_a_bfloat16_span_is_taken_in_float32() -> None:
    hidden = torch.full((1, 4096, 1), 1.0, dtype=torch.bfloat16)
    hidden[0, ::2] = 1.0078125
    mask = torch.ones(1, 4096, dtype=torch.bool)
    assert pool(hidden, mask, "span_mean").item() == pytest.approx(1.00390625, abs=1e-6)
    # Control: bfloat16 itself has no number between the two.
    assert hidden.mean(1).item() != pytest.approx(1.00390625, abs=1e-3)


def test_pooling_refuses_what_has_no_answer() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"\[1\]"):
        pool(torch.zeros(2, 2, 3), mask, "span_mean")
    with pytest.raises(ValueError, match="'median'"):
        pool(torch.zeros(2, 2, 3), mask, "median")  # type: ignore[arg-type]


def test_take_and_at() -> None:
    activations = recorded()
    taken = activations.take(["p3", "p0", "p3"])
    assert taken.passages == ("p3", "p0", "p3")
    assert torch.equal(taken.values, activations.values[[3, 0, 3]])
    assert taken.surprisal is not None and taken.surprisal.tolist() == [3.0, 0.0, 3.0]
    assert torch.equal(taken.at(SITES[1]), activations.values[[3, 0, 3], 1])
    assert len(activations) == 4 and "4 rows at L0.resid_post, L2.resid_post, d_model 3" in repr(activations)


def test_an_unknown_row_or_site_is_named() -> None:
    with pytest.raises(AuditError, match="1 of 2 rows were not recorded, the first is nobody"):
        recorded().take(["p1", "nobody"])
    with pytest.raises(AuditError, match="L1.resid_post was not recorded"):
        recorded().at(Site(1, "resid_post"))


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows and 2 sites"):
        Activations(torch.zeros(4, 2, 3), SITES, ("a", "b", "c"))
    with pytest.raises(ValueError, match="surprisal"):
        Activations(torch.zeros(1, 2, 3), SITES, ("a",), torch.zeros(2))


def test_rows_written_to_a_file_equal_rows_in_memory() -> None:
    rows = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    order = np.random.default_rng(0).permutation(50)
    with tempfile.TemporaryFile() as file:
        writers = RowWriter((50, 2, 3)), RowWriter((50, 2, 3), file)
        for writer in writers:
            for part in np.split(order, [7, 30]):
                writer.put(part, rows[torch.from_numpy(part)])
        memory, mapped = (writer.tensor() for writer in writers)
    assert torch.equal(memory, rows) and torch.equal(mapped, rows)
    mapped[0] = 0  # a private map: the caller may scribble on it
