"""Sparse codes say what the dense ones say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from probes.codes import Codes
from probes.digest import AuditError


@some.composite
def dense_codes(draw):
    rows, width = draw(some.integers(0, 12)), draw(some.integers(1, 9))
    cells = some.lists(some.sampled_from([0.0, 0.0, 0.5, -2.0, 3.0]), min_size=rows * width, max_size=rows * width)
    return torch.tensor(draw(cells)).reshape(rows, width)


@given(dense_codes())
def test_codes_hold_what_is_not_zero(dense):
    codes = Codes.of(dense)
    assert len(codes) == len(dense) and bool((codes.values != 0).all())
    torch.testing.assert_close(codes.of_latents(torch.arange(dense.shape[1])), dense)
    torch.testing.assert_close(codes.counts, (dense != 0).sum(1))
    torch.testing.assert_close(codes.firing() * max(1, len(dense)), (dense != 0).sum(0).double())
    weights = torch.arange(2.0 * len(dense)).reshape(len(dense), 2)
    torch.testing.assert_close(codes.sums(weights), dense.double().T @ weights.double())


@given(dense_codes(), some.data())
def test_rows_that_are_taken_and_joined_are_those_rows(dense, data):
    kept = torch.tensor(data.draw(some.lists(some.booleans(), min_size=len(dense), max_size=len(dense))), dtype=bool)
    codes, every = Codes.of(dense), torch.arange(dense.shape[1])
    torch.testing.assert_close(codes.rows(kept).of_latents(every), dense[kept])
    joined = Codes.join([codes.rows(kept), codes, codes.rows(~kept)])
    torch.testing.assert_close(joined.of_latents(every), torch.cat([dense[kept], dense, dense[~kept]]))


def test_a_latent_may_be_asked_for_twice_and_must_exist():
    codes = Codes.of(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    assert codes.of_latents(torch.tensor([1, 1, 0])).tolist() == [[2, 2, 0], [0, 0, 1]]
    for latent in (2, -1):
        with pytest.raises(AuditError, match=f"Latent {latent}. Expected 0 to 1"):
            codes.of_latents(torch.tensor([latent]))
    with pytest.raises(ValueError, match="rows end at 3"):
        Codes(torch.tensor([0, 3]), torch.tensor([1]), torch.tensor([1.0]), 2)
