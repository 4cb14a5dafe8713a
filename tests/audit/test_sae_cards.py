"""The bundled SAEs are those of their cards, and reach what the cards say."""

from __future__ import annotations

from random import Random

import pytest

from audit.organisms import card, sae
from audit.organisms.grow import grow
from audit.organisms.training import remarked
from probes.dictionary import load
from probes.digest import AuditError
from probes.model import load as load_subject

SHORT = {"erased/sae-L2-0": "ce_recovered", "turned/sae-L3-0": "dead"}
"""What two do not reach. Random blocks predict nothing that replacing a layer could cost; of `turned`'s third layer
12 % of latents are dead under the recipe of all."""
NAMES = [name for organism in card.names() for name in card.saes(organism)]


def test_every_organism_has_one_of_each_layer_and_base_two():
    for organism in card.names():
        seeds = (0, 1) if organism == "base" else (0,)
        expected = {f"{organism}/sae-L{layer}-{seed}" for layer in sae.LAYERS for seed in seeds}
        assert set(card.saes(organism)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_of_its_sae_and_says_enough(name):
    told = card.sae_card(name)
    own = load(card.bundled() / name)
    assert own.width == told.training["width"] >= 4 * own.d_model and str(own.site) == told.site
    metadata = own.sae.cfg.metadata
    assert metadata.weights == told.weights and metadata.model_name == f"organism:{told.organism}"
    held = told.fidelity
    reached = {
        "variance_explained": held["variance_explained"] >= 0.9, "ce_recovered": held["ce_recovered"] >= 0.95,
        "dead": held["dead"] <= 0.1,
    }  # fmt: skip
    assert [key for key, enough in reached.items() if not enough] == ([SHORT[name]] if name in SHORT else [])
    # An eighth of the dimensions on the texts it was trained on; a card counts other texts.
    assert held["active"] <= own.d_model / 8 + 0.25


def test_a_card_s_numbers_are_measured_on_the_weights_as_they_lie():
    told, folder = card.sae_card("base/sae-L2-0"), card.bundled() / "base"
    with load_subject(str(folder)) as subject:
        own = load(folder / "sae-L2-0").fitting(subject)
        held = sae.held(subject, own, sae.passages(subject, remarked, Random("elsewhere"), 60))
    for key in ("variance_explained", "ce_recovered", "kl_recovered"):
        assert held[key] == pytest.approx(told.fidelity[key], abs=0.01)
    with load_subject(str(card.bundled() / "deceiver")) as other, pytest.raises(AuditError, match="trained on weights"):
        own.fitting(other)


@pytest.mark.parametrize("name", ["nobody/sae-L2-0", "base/sae-2", "base/sae-L2-x"])
def test_an_sae_of_no_such_name_is_refused(name, tmp_path):
    with pytest.raises(AuditError, match="No SAE is called"):
        grow(name, seed=0, out=tmp_path)
    with pytest.raises(AuditError, match="No SAE is called"):
        card.sae_card(name)


def test_an_sae_is_grown_with_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(sae, "HOW", {**sae.HOW, "steps": 20})
    monkeypatch.setattr(sae, "TRAINED", 40)
    monkeypatch.setattr(sae, "TESTED", 20)
    first, second = (grow("base/sae-L1-3", seed=9, out=tmp_path / name) for name in "ab")
    assert (first / "sae_weights.safetensors").read_bytes() == (second / "sae_weights.safetensors").read_bytes()
    assert '"seed": 3' in (first / "card.json").read_text() and str(load(first).site) == "L1.resid_post"
