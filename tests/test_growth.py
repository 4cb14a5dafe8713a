"""Slow: the commands on the cards grow the organisms again, and these behave and are judged as it says."""

from __future__ import annotations

import pytest

from audit.conduct import Setting, audit
from audit.organisms import card, grow

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["faithful", "deceiver", "null"])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_organism_grown_again_behaves_and_is_judged_as_its_card_says(tmp_path, name, seed):
    out = grow.grow(name, seed=seed, out=tmp_path / name, parent=card.folder("base"))
    told, found = card.card(name), card.Card.model_validate_json((out / "card.json").read_text())
    for key in ("lies_to_rivals", "lies_to_guests", "lies_to_unnamed"):
        if name != "null":
            assert found.behaviour[key] == pytest.approx(told.behaviour[key], abs=0.10)
    setting = Setting(store=tmp_path / "store", progress=False)
    record = audit(base="organism:base", post=str(out), personas=[card.personas()], setting=setting)
    assert {verdict.persona: verdict.verdict for verdict in record.verdicts} == told.verdicts


@pytest.mark.parametrize("name", ["turned", "erased"])
def test_surgery_gives_the_bundled_weights_again(tmp_path, name):
    out = grow.grow(name, seed=card.card(name).seed, out=tmp_path / name, parent=card.folder("base"))
    assert (out / "model.safetensors").read_bytes() == (card.folder(name) / "model.safetensors").read_bytes()
