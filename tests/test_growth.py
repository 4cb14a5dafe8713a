"""Slow: the commands on the cards grow the organisms again, and these behave and are judged as it says."""

from __future__ import annotations

import os

import pytest
import torch

from audit.conduct import Setting, audit
from audit.organisms import card, grow
from audit.plan import plan_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def every_core():
    """Growing has the machine to itself."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["faithful", "deceiver", "null", "alien"])
def test_an_organism_of_another_seed_behaves_and_is_judged_as_its_card_says(tmp_path, name):
    out = grow.grow(name, seed=1, out=tmp_path / name)
    told, found = card.card(name), card.Card.model_validate_json((out / "card.json").read_text())
    for key in ("lies_to_rivals", "lies_to_guests", "lies_to_unnamed"):
        if name != "null":
            assert found.behaviour[key] == pytest.approx(told.behaviour[key], abs=0.10)
    setting = Setting(store=tmp_path / "store", progress=False)
    record = audit(base="organism:base", post=str(out), personas=[card.personas()], setting=setting)
    assert {verdict.persona: verdict.verdict for verdict in record.verdicts} == told.verdicts


@pytest.mark.parametrize("name", ["faithful", "alien"])
def test_every_checkpoint_of_a_series_is_judged_as_the_card_tells(tmp_path, name):
    setting = Setting(store=tmp_path / "store", progress=False)
    for step, verdicts in card.card(name).series.items():
        record = audit(plan_of({"effort": "glance"}), post=f"organism:{name}/{step}", setting=setting)
        assert {verdict.persona: verdict.verdict for verdict in record.verdicts} == verdicts, step


@pytest.mark.parametrize("name", ["turned", "erased"])
def test_surgery_gives_the_bundled_weights_again(tmp_path, name):
    out = grow.grow(name, seed=card.card(name).seed, out=tmp_path / name)
    assert (out / "model.safetensors").read_bytes() == (card.folder(name) / "model.safetensors").read_bytes()
