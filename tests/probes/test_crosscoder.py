"""Planted directions of both models, of base and of post come back with their norms; nothing planted, nothing found."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from probes import crosscoder as module
from probes.codes import Codes
from probes.crosscoder import Crosscoder, kinds, latent_scaling, train_crosscoder
from probes.dictionary import Training
from probes.digest import AuditError

D, ROWS = 24, 8_000
HOW = Training(width=40, active=3, steps=800, batch=256, rate=5e-3)
SHARED, BASE, POST = range(24), range(24, 27), range(27, 30)


class Planted(NamedTuple):
    base: torch.Tensor
    post: torch.Tensor
    concepts: torch.Tensor
    """What each concept writes into each model, [model, concept, d_model]."""


def generator(seed):
    return torch.Generator().manual_seed(seed)


def planted(strength, seed=0, turned=0):
    """Sparse concepts written into both models with a strength each, and twice as large into post.

    Args:
        strength: of each concept, [model, concept].
        seed: of everything.
        turned: concepts, the first ones, of which post writes another direction than base.
    """
    rng, n = generator(seed), strength.shape[1]
    concepts = normalize(torch.randn(n, D, generator=rng), dim=1).repeat(2, 1, 1)
    concepts[1, :turned] = normalize(torch.randn(turned, D, generator=rng), dim=1)
    concepts = concepts * strength[..., None]
    active = (torch.rand(ROWS, n, generator=rng) < 0.08) * (1 + torch.rand(ROWS, n, generator=rng))
    noise = 0.05 * torch.randn(2, ROWS, D, generator=rng)
    return Planted(active @ concepts[0] + noise[0] + 0.5, 2 * (active @ concepts[1] + noise[1]) - 0.3, concepts)


def of_three_kinds():
    strength = torch.ones(2, 30)
    strength[0, POST], strength[1, BASE] = 0.0, 0.0
    return planted(strength)


def judged(found, plant):
    scaling, codes = latent_scaling(found, plant.base, plant.post), found.encode(plant.base, plant.post)
    return scaling, kinds(found, scaling, codes.firing()), codes


def nearest(found, plant, which, model):
    """The latent that writes each of some concepts into a model, and how closely."""
    long = found.decoder[model].norm(dim=1, keepdim=True) > 0.3
    return (normalize(plant.concepts[model][which], dim=1) @ (normalize(found.decoder[model], dim=1) * long).T).max(1)


@pytest.fixture(scope="module")
def plant():
    return of_three_kinds()


@pytest.fixture(scope="module")
def trained(plant):
    return train_crosscoder(plant.base, plant.post, HOW, progress=False)


def test_concepts_of_both_of_base_and_of_post_are_told_apart(plant, trained):
    scaling, kind, codes = judged(trained, plant)
    bounds = {0: (SHARED, 0.45, 0.55), 1: (BASE, 0.0, 0.1), 2: (POST, 0.9, 1.0)}
    found = []
    for which, low, high in bounds.values():
        cosine, latent = nearest(trained, plant, which, int(which is POST))
        assert float(cosine.min()) > 0.97
        assert bool(((trained.delta_norm[latent] >= low) & (trained.delta_norm[latent] <= high)).all())
        found.append(set(latent.tolist()))
    assert found[2] == set(kind.post_only.nonzero()[:, 0].tolist())
    assert found[1] == set(kind.base_only.nonzero()[:, 0].tolist())
    own = torch.tensor(sorted(found[2]))
    assert float(scaling.nu_error[own].max()) < 0.1 and float(scaling.nu_reconstruction[own].max()) < 0.2
    both = torch.tensor(sorted(found[0]))
    assert float(scaling.nu_error[both].min()) > 0.8 and bool(kind.shared[both].all())
    assert 2.5 < float(codes.counts.double().mean()) < 3.5
    torch.testing.assert_close(trained.decoder.square().sum((0, 2)), torch.ones(HOW.width))


@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_is_post_s_own_nothing_is_found(seed):
    """Post is twice as large, lies elsewhere and has its own noise: none of it is a latent of its own."""
    plant = planted(torch.ones(2, 30), seed)
    found = train_crosscoder(plant.base, plant.post, replace(HOW, seed=seed, steps=400), progress=False)
    _, kind, _ = judged(found, plant)
    assert not bool(kind.post_only.any() or kind.base_only.any())


def test_a_concept_that_post_writes_elsewhere_is_turned_and_not_post_s_alone():
    plant = planted(torch.ones(2, 30), turned=3)
    found = train_crosscoder(plant.base, plant.post, HOW, progress=False)
    _, kind, _ = judged(found, plant)
    cosine, latent = nearest(found, plant, range(3), 1)
    assert float(cosine.min()) > 0.95 and bool(kind.turned[latent].all())
    assert not bool(kind.post_only.any() or kind.turned[nearest(found, plant, range(3, 30), 1)[1]].any())


def made(decoder, rows=400, seed=0):
    """A crosscoder of given decoders that reads their activations off exactly, and rows it makes with some error."""
    n = decoder.shape[1]
    reader = torch.linalg.pinv(torch.cat([decoder[0], decoder[1]], 1)).unflatten(0, (2, -1))
    zeros = torch.zeros(2, decoder.shape[2])
    found = Crosscoder(reader, torch.zeros(n), decoder, zeros, zeros, torch.ones(2), torch.tensor(1e-3))
    rng = generator(seed)
    active = torch.rand(rows, n, generator=rng) * (torch.rand(rows, n, generator=rng) < 0.4)
    base, post = torch.einsum("rl,mld->mrd", active, decoder) + 0.1 * torch.randn(2, rows, D, generator=rng)
    return found, base, post


def test_latent_scaling_is_least_squares():
    """Every coefficient against a solver that is given the rows one by one."""
    rng = generator(3)
    found, base, post = made(torch.randn(2, 6, D, generator=rng))
    scaling = latent_scaling(found, base, post)
    (part,) = found.read(base, post)
    for latent in range(6):
        active, probe = part.latents[:, latent].double(), found.decoder[1, latent].double()
        design = (active[:, None] * probe).reshape(-1, 1).numpy()
        for model in (0, 1):
            own = active[:, None] * found.decoder[model, latent].double()
            error = (part.given[model] - part.made[model]).double() + own
            for name, wanted in (("error", error), ("reconstruction", part.made[model].double())):
                best = np.linalg.lstsq(design, wanted.reshape(-1).numpy(), rcond=None)[0][0]
                assert float(getattr(scaling, name)[model, latent]) == pytest.approx(best, rel=1e-4, abs=1e-5)


def test_a_concept_split_between_two_latents_is_caught_by_its_reconstruction():
    """Decoupling: one concept, a latent of base's and one of post's that fire together. By its norm one is post's."""
    rng = generator(4)
    decoder = torch.randn(2, 5, D, generator=rng)
    decoder[0, 0], decoder[1, 1] = 0.0, 0.0
    decoder[0, 1] = decoder[1, 0]
    found, base, post = made(decoder)
    active = torch.rand(len(base), 5, generator=rng) * (torch.rand(len(base), 5, generator=rng) < 0.4)
    active[:, 1] = active[:, 0]
    base, post = torch.einsum("rl,mld->mrd", active, decoder)
    scaling, kind, _ = judged(found, Planted(base, post, decoder))
    assert float(found.delta_norm[0]) == 1.0 and float(scaling.nu_error[0]) < 0.2
    assert float(scaling.nu_reconstruction[0]) > 0.5 and not bool(kind.post_only[0])


def test_what_sparsity_took_from_base_is_caught_by_its_error():
    """Shrinkage: base has the concept too, but no decoder of base writes it."""
    decoder = torch.randn(2, 5, D, generator=generator(5))
    whole = decoder.clone()
    decoder[0, 0], whole[0, 0] = 0.0, whole[1, 0]
    found, _, _ = made(decoder)
    active = torch.rand(400, 5, generator=generator(6)) * (torch.rand(400, 5, generator=generator(7)) < 0.4)
    base, post = torch.einsum("rl,mld->mrd", active, whole)
    reader = found.encoder.clone()
    reader[0], reader[1] = 0.0, torch.linalg.pinv(decoder[1])
    scaling, kind, _ = judged(replace(found, encoder=reader), Planted(base, post, whole))
    assert float(found.delta_norm[0]) == 1.0 and float(scaling.nu_error[0]) > 0.8 and not bool(kind.post_only[0])


def test_latents_that_never_fire_have_no_scaling_and_are_dead(plant, trained):
    mute = replace(trained, bias=trained.bias - 1e6 * (torch.arange(HOW.width) == 7))
    scaling, kind, _ = judged(mute, plant)
    assert bool(scaling.nu_error[7].isnan()) and bool(kind.dead[7])
    assert not any(bool(getattr(kind, name)[7]) for name in ("post_only", "base_only", "shared", "turned"))


def test_budget_changes_nothing(plant, trained, monkeypatch):
    whole = latent_scaling(trained, plant.base[:500], plant.post[:500])
    monkeypatch.setattr(module, "BUDGET", HOW.width * 64)
    parts = latent_scaling(trained, plant.base[:500], plant.post[:500])
    torch.testing.assert_close(parts.error, whole.error, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_what_latents_move_is_what_the_reconstructions_differ_by(plant, trained):
    base, post = plant.base[:300], plant.post[:300]
    (part,) = trained.read(base, post)
    raw = part.made / trained.scale[:, None, None] + trained.centre[:, None]
    moved = trained.moved(trained.encode(base, post), torch.ones(HOW.width, dtype=torch.bool))
    torch.testing.assert_close(moved + trained.shift, raw[1] - raw[0], rtol=1e-4, atol=1e-4)
    few = trained.moved(Codes.of(part.latents), torch.arange(HOW.width) < 5)
    apart = trained.decoder[1] / trained.scale[1] - trained.decoder[0] / trained.scale[0]
    torch.testing.assert_close(few, part.latents[:, :5] @ apart[:5], rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_weights(plant, tmp_path):
    how = replace(HOW, steps=30)
    mapped = []
    for name, rows in (("base", plant.base), ("post", plant.post)):
        np.save(tmp_path / name, rows.numpy())
        mapped.append(torch.from_numpy(np.load(tmp_path / f"{name}.npy", mmap_mode="c")))
    first, again, other = (
        train_crosscoder(*rows, one, progress=False).tensors()
        for rows, one in (((plant.base, plant.post), how), (mapped, how), (mapped, replace(how, seed=1)))
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["decoder"], other["decoder"])


def test_saved_and_loaded_it_is_the_same(plant, trained, tmp_path):
    trained.save(tmp_path / "a.safetensors")
    again = Crosscoder.load(tmp_path / "a.safetensors")
    assert all(torch.equal(value, again.tensors()[name]) for name, value in trained.tensors().items())


def test_a_dead_latent_is_revived():
    """Most latents begin unable to fire; with what is left over to learn from they come back."""
    plant = of_three_kinds()
    net = module._Net(D, HOW)
    rows = torch.cat([plant.base - plant.base.mean(0), plant.post - plant.post.mean(0)], 1)[:256]
    net.quiet[:] = torch.where(torch.arange(HOW.width) < 20, module.SILENT, 0)
    before = net.decoder.detach().clone()
    with torch.no_grad():
        net.bias[:20] = -0.5
    net.step(rows)
    assert bool((net.decoder.detach()[:20] != before[:20]).any())


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda b, p: (b[:100], p[:100]), "100 rows to train a crosscoder on. Expected 256 or more"),
        (lambda b, p: (b, p[:-1]), "base has rows of shape"),
        (lambda b, p: (b, p.clone().index_fill_(0, torch.tensor([5]), float("nan"))), "Rows of post are not finite"),
        (lambda b, p: (torch.ones_like(b), p), "All rows of base are alike"),
    ],
)
def test_rows_that_teach_nothing_are_refused(plant, change, pattern):
    with pytest.raises(AuditError, match=pattern):
        train_crosscoder(*change(plant.base, plant.post), HOW, progress=False)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda t: t.pop("decoder"), "has no decoder"),
        (lambda t: t.update(bias=t["bias"] * torch.nan), "bias of .* is not finite"),
        (lambda t: t.update(scale=torch.ones(3)), r"scale of .* has shape \(3,\)"),
    ],
)
def test_a_damaged_file_is_refused(trained, tmp_path, change, pattern):
    from safetensors.torch import save_file

    tensors = {name: value.clone().contiguous() for name, value in trained.tensors().items()}
    change(tensors)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(AuditError, match=pattern):
        Crosscoder.load(tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pt")
    for name in ("x.pt", "missing.safetensors"):
        with pytest.raises(AuditError, match="cannot be read as safetensors"):
            Crosscoder.load(tmp_path / name)


def test_it_needs_no_sae_lens():
    code = "import sys, probes.crosscoder, probes.matching; assert 'sae_lens' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
