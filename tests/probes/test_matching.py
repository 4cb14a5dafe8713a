"""A latent is found again in a dictionary that has it; in an unrelated one its best match is no better than chance."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize

from probes import matching
from probes.codes import Codes
from probes.digest import AuditError
from probes.matching import directions_like, explained, matched

D, WIDTH, ROWS = 24, 60, 3_000


def generator(seed):
    return torch.Generator().manual_seed(seed)


def directions(seed, width=WIDTH, stretch=1.0):
    """Unit vectors in a space whose i-th axis is i^-stretch as strong as the first."""
    axes = torch.arange(1, D + 1) ** -stretch
    return normalize(torch.randn(width, D, generator=generator(seed)) * axes, dim=1)


def activations(seed, width=WIDTH):
    rng = generator(seed)
    return torch.rand(ROWS, width, generator=rng) * (torch.rand(ROWS, width, generator=rng) < 0.1)


@pytest.fixture(scope="module")
def shuffled():
    """A dictionary and the same one in another order, slightly moved, its activations halved and noisy."""
    order, own, fired = torch.randperm(WIDTH, generator=generator(9)), directions(0), activations(1)
    other = own[order] + 0.03 * torch.randn(WIDTH, D, generator=generator(2))
    again = fired[:, order] * (0.5 + 0.1 * torch.rand(ROWS, WIDTH, generator=generator(3)))
    return order.argsort(), own, other, (Codes.of(fired), Codes.of(again))


def test_a_reordered_dictionary_is_found_again_latent_by_latent(shuffled):
    place, own, other, codes = shuffled
    found = matched(own, other, codes, draws=19)
    for name in ("nearest", "companion", "assigned"):
        assert torch.equal(getattr(found, name), place)
    assert bool(found.mutual.all() and found.companion_mutual.all())
    assert float(found.cosine.min()) > 0.97 and float(found.correlation.min()) > 0.95
    torch.testing.assert_close(found.correlation, found.companion_correlation)
    assert torch.equal(found.p, torch.full((WIDTH,), 1 / 20, dtype=torch.float64))


def test_correlations_are_pearson_s(shuffled):
    _, own, other, codes = shuffled
    found = matched(own, other, codes, draws=1)
    first, second = (each.of_latents(torch.arange(WIDTH)).double() for each in codes)
    dense = torch.corrcoef(torch.cat([first, second], 1).T)[:WIDTH, WIDTH:]
    best, companion = dense.max(1)
    torch.testing.assert_close(found.companion_correlation, best)
    assert torch.equal(found.companion, companion)
    torch.testing.assert_close(found.correlation, dense.gather(1, found.nearest[:, None])[:, 0])


def test_one_by_one_equals_all_at_once(shuffled, monkeypatch):
    _, own, other, codes = shuffled
    whole, some = matched(own, other, codes, draws=9), torch.tensor([41, 3, 17])
    monkeypatch.setattr(matching, "BUDGET", WIDTH * 7)
    parts, few = matched(own, other, codes, draws=9), matched(own, other, codes, asked=some, draws=9)
    for field in dataclasses.fields(whole):
        name = field.name
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), equal_nan=True)
        torch.testing.assert_close(getattr(few, name), getattr(whole, name)[some], equal_nan=True)
    assert few.of(3) == whole.of(3)


def test_unrelated_dictionaries_of_one_space_match_no_better_than_chance():
    """And permuted coordinates, which leave that space, are beaten by every one of them."""
    own, other = directions(10, stretch=1.5), directions(11, stretch=1.5)
    found = matched(own, other, (Codes.of(activations(1)), Codes.of(activations(2))), draws=99)
    assert 0.35 < float(found.p.mean()) < 0.65 and float((found.p <= 0.05).double().mean()) < 0.15
    assert float(found.companion_correlation.max()) < 0.15
    permuted = torch.stack([row[torch.randperm(D, generator=generator(i))] for i, row in enumerate(other)])
    assert float((found.cosine > (own @ permuted.T).max(1)[0]).double().mean()) > 0.9


@pytest.mark.parametrize("stretch", [0.0, 1.0, 2.0])
def test_random_directions_have_the_rows_second_moment(stretch):
    rows = 3 * directions(4, 4_000, stretch=stretch)
    drawn = directions_like(rows, 4_000, generator(5))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(4_000))
    first, second = (each.T @ each / len(each) for each in (rows / 3, drawn))
    assert float((first - second).norm() / first.norm()) < 0.1


def test_latents_that_never_fire_have_no_correlation(shuffled):
    _, own, other, (first, _) = shuffled
    silent = torch.zeros(ROWS, WIDTH)
    found = matched(own, other, (first, Codes.of(silent)), draws=1)
    assert bool(found.correlation.isnan().all() and (found.companion == -1).all())
    assert not bool(found.companion_mutual.any()) and found.of(0).correlation is None


def test_too_many_latents_are_not_assigned(shuffled, monkeypatch):
    _, own, other, codes = shuffled
    monkeypatch.setattr(matching, "ASSIGNED", WIDTH // 2)
    assert bool((matched(own, other, codes, draws=1).assigned == -1).all())
    few = matched(own, other, codes, draws=1, asked=torch.arange(WIDTH // 4))
    assert torch.equal(few.assigned, few.nearest)


def test_a_sum_of_few_atoms_is_explained_and_a_random_direction_is_not():
    atoms = directions(6, 40, stretch=0.0)
    sums = torch.stack([0.7 * atoms[3] + 0.4 * atoms[8], atoms[11], -atoms[11]])
    found = explained(sums, atoms, 5)
    assert float(found[:2].min()) > 0.999 and float(found[2]) < 0.9
    random = explained(directions(7, 30, stretch=0.0), atoms, 2)
    assert float(random.mean()) < 0.7 and bool((random >= 0).all() and (random <= 1).all())
    # With enough of them an overcomplete dictionary explains anything.
    assert float(explained(directions(7, 30), directions(8, 400), 24).mean()) > 0.95


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda a, b, c: (a[:, :5], b, c), "Decoders of 5 and 24 dimensions"),
        (lambda a, b, c: (a * 0, b, c), "The first decoder has rows without a direction"),
        (lambda a, b, c: (a, b * torch.nan, c), "The second decoder has rows without a direction"),
        (lambda a, b, c: (a, b, (c[0].rows(torch.arange(ROWS) < 9), c[1])), "Codes of 9 and 3000 rows"),
        (lambda a, b, c: (a[:9], b, c), r"Codes of \[60, 60\] latents"),
    ],
)
def test_what_does_not_belong_together_is_refused(shuffled, change, pattern):
    _, own, other, codes = shuffled
    with pytest.raises(AuditError, match=pattern):
        matched(*change(own, other, codes), draws=1)
    with pytest.raises(AuditError, match="Latents"):
        matched(own, other, codes, draws=1, asked=torch.tensor([WIDTH]))
    with pytest.raises(AuditError, match="Latent 5 was not matched"):
        matched(own, other, codes, draws=1, asked=torch.tensor([4])).of(5)
