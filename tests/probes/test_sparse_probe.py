"""A few latents that carry a label are found on the training groups, and read it on the others."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.codes import Codes
from probes.sparse_probe import contrasted, sparse_probe, strongest

GROUPS, EACH, WIDTH = 40, 4, 60


def planted(seed: int = 0):
    """Latent 7 fires on label 1, latent 11 on label 0, latent 3 wildly in one group; the rest by chance."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(GROUPS).repeat_interleave(EACH)
    labels = torch.arange(GROUPS * EACH) % 2 == 0
    values, gates = (torch.rand(len(labels), WIDTH, generator=generator) for _ in range(2))
    rows = values * (gates < 0.2)
    rows[:, 7] = torch.where(labels, 1.0, 0.1) * torch.rand(len(labels), generator=generator)
    rows[:, 11] = torch.where(labels, 0.0, 1.0) * (torch.rand(len(labels), generator=generator) < 0.6)
    rows[:, 3] = 0
    rows[(group == 5) & labels, 3] = 1e4
    return rows, labels, group


def test_the_latents_that_carry_the_label_come_first_with_their_sign() -> None:
    rows, labels, group = planted()
    found = contrasted(Codes.of(rows), labels, group, torch.ones(1, GROUPS, dtype=torch.bool))[0]
    assert set(strongest(found, 2).tolist()) == {7, 11} and found[7] > 5 and found[11] < -5
    # Ten thousand in one scenario is one scenario.
    assert abs(found[3]) < 1.1


def test_a_contrast_is_the_mean_difference_by_group_over_its_standard_error() -> None:
    rows, labels, group = planted()
    found = contrasted(Codes.of(rows), labels, group, torch.ones(1, GROUPS, dtype=torch.bool))[0]
    means = [[rows[kind & (group == at), 7].mean() for at in range(GROUPS)] for kind in (labels, ~labels)]
    apart = torch.tensor(means[0]) - torch.tensor(means[1])
    assert torch.isclose(found[7], apart.double().mean() / (apart.double().std() / GROUPS**0.5), rtol=1e-5)


def test_a_fit_sees_its_own_groups_alone() -> None:
    rows, labels, group = planted()
    train = torch.zeros(2, GROUPS, dtype=torch.bool)
    train[0, :20], train[1, 20:] = True, True
    both = contrasted(Codes.of(rows), labels, group, train)
    seen = group < 20
    alone = contrasted(Codes.of(rows[seen]), labels[seen], group[seen], torch.ones(1, 20, dtype=torch.bool))
    assert torch.allclose(both[0], alone[0])


@given(st.integers(0, 50))
def test_a_probe_reads_held_out_rows_and_labels_by_chance_it_does_not(seed: int) -> None:
    rows, labels, group = planted(seed)
    train = group < 20
    probe = sparse_probe(Codes.of(rows), labels, train, torch.tensor([7, 11]))
    scores = probe(Codes.of(rows))
    assert scores[~train & labels].mean() > scores[~train & ~labels].mean() + 0.5
    assert bool(((scores > scores.mean()) == labels)[~train].double().mean() > 0.7)


def test_latents_that_never_fire_have_no_say() -> None:
    rows, labels, group = planted()
    rows[:, 20] = 0
    train = group < 20
    assert not sparse_probe(Codes.of(rows), labels, train, torch.tensor([20])).weights.any()
    both = sparse_probe(Codes.of(rows), labels, train, torch.tensor([7, 20]))
    assert both.weights[0] > 0 and both.weights[1] == 0
