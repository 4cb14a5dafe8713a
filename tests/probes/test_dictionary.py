"""Dictionaries are real SAELens SAEs: what they read is theirs to say, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from probes import dictionary
from probes.dictionary import Training, load, train
from probes.digest import AuditError
from probes.model import load as load_model
from probes.site import Site

SITE, D = Site(1, "resid_post"), 32
HOW = Training(width=64, active=4, steps=40, batch=128, rate=3e-3)
ARCHITECTURES = ("standard", "gated", "jumprelu", "topk")


@pytest.fixture(scope="module")
def rows():
    """Sparse mixtures of 40 directions in 32 dimensions."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, D, generator=rng), dim=1)
    weights = torch.rand(4_096, 40, generator=rng) * (torch.rand(4_096, 40, generator=rng) < 0.08)
    return weights @ directions + 0.01 * torch.randn(4_096, D, generator=rng) + 0.5


@pytest.fixture(scope="module")
def subject(checkpoint):
    with load_model(str(checkpoint("llama")), dtype="float32", device="cpu") as found:
        yield found


@pytest.fixture(scope="module")
def trained(rows, subject, tmp_path_factory):
    return train(rows, SITE, tmp_path_factory.mktemp("sae") / "a", HOW, subject=subject, progress=False)


def saved(folder, architecture="standard", hook="blocks.1.hook_resid_post", **told):
    """A random SAE of any architecture, as SAELens saves it."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    kind, config = get_sae_class(architecture)
    more = {"k": 4} if architecture == "topk" else {}
    more |= {"apply_b_dec_to_input": False, "d_out": D} if "transcoder" in architecture else {}
    torch.manual_seed(0)
    sae = kind(config(d_in=D, d_sae=64, metadata=SAEMetadata(hook_name=hook, **told), **more))
    for name, value in sae.named_parameters():
        torch.nn.init.uniform_(value, 0.0 if "threshold" in name else -0.5, 0.5)
    sae.save_model(folder)
    return folder, sae


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_encodes_and_decodes_as_saelens_does(architecture, rows, tmp_path):
    folder, sae = saved(tmp_path / "sae", architecture)
    found = load(folder)
    assert (found.site, found.d_model, found.width, found.reconstructs) == (SITE, D, 64, True)
    some = rows[:200]
    with torch.no_grad():
        torch.testing.assert_close(found.encode(some).of_latents(torch.arange(64)), sae.encode(some))
        torch.testing.assert_close(found.reconstructed(some), sae(some))


def test_budget_changes_nothing(rows, trained, monkeypatch):
    whole = trained.encode(rows[:300])
    monkeypatch.setattr(dictionary, "BUDGET", 64 * 7)
    parts = trained.encode(rows[:300])
    for name in ("offsets", "latents", "values"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_training_learns_sparse_mixtures_and_a_random_dictionary_does_not(rows, subject, tmp_path):
    how = Training(width=64, active=4, steps=600, batch=256, rate=3e-3)
    found = train(rows, SITE, tmp_path / "long", how, progress=False)
    left = (found.reconstructed(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert left < 0.15 and 2 < found.encode(rows).counts.double().mean() < 6
    random = load(saved(tmp_path / "random")[0])
    assert (random.reconstructed(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum() > 0.5


def test_a_training_that_was_interrupted_ends_in_the_same_weights(rows, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(dictionary, "KEEP", 15)
    keep = dictionary._keep

    def stop(trainer, kept):
        keep(trainer, kept)
        if trainer.n_training_steps == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(dictionary, "_keep", stop)
    with pytest.raises(KeyboardInterrupt):
        train(rows, SITE, tmp_path / "b", HOW, progress=False)
    monkeypatch.setattr(dictionary, "_keep", keep)
    again = train(rows, SITE, tmp_path / "b", HOW, progress=False)
    assert again.weights == trained.weights
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    other = train(rows, SITE, tmp_path / "c", Training(**{**vars(HOW), "seed": 1}), progress=False)
    assert other.weights != trained.weights


def test_a_dictionary_fits_the_weights_it_was_trained_on_and_no_others(trained, subject, checkpoint):
    assert trained.fitting(subject) is trained
    with (
        load_model(str(checkpoint("llama", seed=1)), dtype="float32", device="cpu") as other,
        pytest.raises(AuditError, match=f"{subject.weights[:12]}.*{other.weights[:12]}"),
    ):
        trained.fitting(other)


@pytest.mark.parametrize(
    ("hook", "told", "pattern"),
    [
        ("blocks.9.hook_resid_post", {}, "L9.resid_post.*layers 0 to 2"),
        ("blocks.1.hook_resid_post", {"prepend_bos": True}, "texts with a BOS.*texts without one"),
    ],
)
def test_what_a_subject_cannot_give_is_refused(hook, told, pattern, checkpoint, tmp_path):
    found = load(saved(tmp_path / "sae", hook=hook, **told)[0])
    with load_model(str(checkpoint("gpt2")), dtype="float32", device="cpu") as without_bos, pytest.raises(
        AuditError, match=pattern
    ):
        found.fitting(without_bos)


def test_another_width_is_refused_with_both(subject, tmp_path, trained):
    import dataclasses

    wide = dataclasses.replace(trained, sae=trained.sae)
    wide.sae.cfg.d_in, before = D + 1, wide.sae.cfg.d_in
    try:
        with pytest.raises(AuditError, match=rf"{D + 1} dimensions.*{D}, the width"):
            wide.fitting(subject)
    finally:
        wide.sae.cfg.d_in = before


@pytest.mark.parametrize(
    ("hook", "pattern"),
    [("blocks.1.hook_mlp_in", "reads blocks.1.hook_mlp_in"), (None, "does not say what it reads")],
)
def test_a_hook_that_is_no_site_is_refused(hook, pattern, tmp_path):
    with pytest.raises(AuditError, match=pattern):
        load(saved(tmp_path / "sae", hook=hook)[0])


def test_a_block_of_a_hugging_face_model_is_its_output(tmp_path):
    found = load(saved(tmp_path / "sae", hook="blocks.2.hook_resid_post", hf_hook_name="model.layers.2")[0])
    assert found.site == Site(2, "resid_post")


def test_a_transcoder_is_read_and_reconstructs_nothing(tmp_path):
    assert not load(saved(tmp_path / "sae", "transcoder")[0]).reconstructs


def broken(folder, how):
    weights = folder / "sae_weights.safetensors"
    from safetensors.torch import load_file, save_file

    if how == "pickle":
        weights.rename(folder / "sae.pt")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "scale":
        config = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "expected_average_only_in"}))
    else:
        tensors = load_file(weights)
        if how == "W_dec":
            del tensors["W_dec"]
        else:
            tensors["W_enc"][3, 4] = float("nan")
        save_file(tensors, weights)
    return folder


@pytest.mark.parametrize(
    ("how", "pattern"),
    [
        ("pickle", r"holds sae.pt.*sae_weights.safetensors.*can lose"),
        ("empty", "holds nothing"),
        ("truncated", "cannot be read as an SAE"),
        ("W_dec", "has no W_dec"),
        ("NaN", "W_enc .* is not finite"),
        ("scale", "expected_average_only_in"),
    ],
)
def test_a_broken_sae_is_refused(how, pattern, tmp_path):
    folder = broken(saved(tmp_path / "sae")[0], how)
    with pytest.raises(AuditError, match=pattern):
        load(folder)


@pytest.mark.parametrize(("ref", "pattern"), [("no-such-folder", "no folder"), ("no-release:x", "cannot be loaded")])
def test_a_name_that_is_nothing_is_refused(ref, pattern):
    with pytest.raises(AuditError, match=pattern):
        load(ref)


def test_rows_that_cannot_train_are_refused(rows, tmp_path):
    with pytest.raises(AuditError, match="100 rows.*128 or more"):
        train(rows[:100], SITE, tmp_path / "few", HOW, progress=False)
    bad = rows.clone()
    bad[7, 7] = float("inf")
    with pytest.raises(AuditError, match="not finite"):
        train(bad, SITE, tmp_path / "bad", HOW, progress=False)
