"""Directions leave in the form that SAEDashboard reads, site by site, and are the same numbers."""

from __future__ import annotations

import json

import jsonschema
import pytest
import torch

from audit.report.exchange import latents, vector_sets, write
from probes.dictionary import Dictionary
from probes.digest import AuditError
from probes.direction import Direction
from probes.site import Site

WIDTH = 16
NUMBER, TEXT, COUNT = {"type": "number"}, {"type": "string"}, {"type": "integer", "minimum": 0}
CONFIG = {
    "d_in": COUNT, "d_vectors": COUNT, "vector_names": {"type": "array", "items": TEXT}, "model_name": TEXT,
    "hook_name": {"type": "string", "pattern": r"^blocks\.\d+\.hook_(resid_pre|resid_post|attn_out|mlp_out)$"},
    "hook_layer": COUNT, "hook_head_index": {"type": ["integer", "null"]}, "prepend_bos": {"type": "boolean"},
    "context_size": COUNT, "dataset_path": TEXT, "dtype": {"enum": ["float32", "float16", "bfloat16"]},
    "device": TEXT, "model_from_pretrained_kwargs": {"type": "object"},
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "required": ["vectors", "config"],
    "additionalProperties": False,
    "properties": {
        "vectors": {"type": "array", "items": {"type": "array", "items": NUMBER}},
        "config": {"type": "object", "required": list(CONFIG), "additionalProperties": False, "properties": CONFIG},
    },
}
"""VectorSet JSON as the public reader takes it: every key of its config is asked for, and it knows no other."""


def direction(seed: int, layer: int) -> Direction:
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Direction(vector / vector.norm(), 0.5, Site(layer, "resid_post"), "lda")


@pytest.fixture(scope="module")
def directions() -> dict[str, Direction]:
    """Two personas at one site and a third, whose name has a dot, at another."""
    found = {"deception": direction(0, 2), "assistant_identity": direction(1, 2), "a.b": direction(2, 0)}
    return {f"{name}.{one.site}": one for name, one in found.items()}


def test_each_site_has_a_file_that_keeps_to_the_schema(directions, tmp_path):
    files = write(vector_sets(directions, "org/base", True), tmp_path / "vectors")
    assert [path.name for path in files] == ["L2.resid_post.json", "L0.resid_post.json"]
    for path in files:
        found = json.loads(path.read_text())
        jsonschema.validate(found, SCHEMA)
        assert len(found["vectors"]) == found["config"]["d_vectors"] == len(found["config"]["vector_names"])
        assert all(len(vector) == found["config"]["d_in"] == WIDTH for vector in found["vectors"])


def test_names_hooks_and_numbers_are_those_of_the_directions(directions):
    sets = vector_sets(directions, "org/base", False)
    two, zero = sets["L2.resid_post"], sets["L0.resid_post"]
    assert two["config"]["vector_names"] == ["deception", "assistant_identity"]
    assert zero["config"]["vector_names"] == ["a.b"] and zero["config"]["hook_name"] == "blocks.0.hook_resid_post"
    told = [two["config"][key] for key in ("hook_layer", "model_name", "prepend_bos")]
    assert told == [2, "org/base", False]
    kept = torch.tensor(two["vectors"], dtype=torch.float32)
    assert torch.equal(kept[0], directions["deception.L2.resid_post"].vector.float())
    rows = torch.randn(5, WIDTH, dtype=torch.float64)
    # What the reader computes is the score before its threshold.
    scores = directions["deception.L2.resid_post"](rows) + 0.5
    torch.testing.assert_close(rows.float() @ kept[0], scores.float(), rtol=0, atol=1e-5)


def test_latents_leave_as_their_decoder_rows():
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=32))
    own = Dictionary(sae, Site(1, "mlp_out"), "own")
    found = latents(own, [31, 0], "org/base", True)
    jsonschema.validate(found, SCHEMA)
    assert found["config"]["vector_names"] == ["latent 31", "latent 0"]
    assert torch.equal(torch.tensor(found["vectors"]), own.decoder[[31, 0]])
    for latent in (-1, 32):
        with pytest.raises(AuditError, match=f"Latent {latent}. Expected 0 to 31"):
            latents(own, [latent], "org/base", True)


def test_without_directions_nothing_is_written(tmp_path):
    assert write(vector_sets({}, "org/base", True), tmp_path / "vectors") == [] and not (tmp_path / "vectors").exists()


def test_a_folder_that_cannot_be_written_is_refused(directions, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be written"):
        write(vector_sets(directions, "org/base", True), tmp_path / "file" / "vectors")


def test_the_schema_sees_what_is_wrong(directions):
    """The control: a set without a key that the reader asks for, or with one that it does not know."""
    one = vector_sets(directions, "org/base", True)["L2.resid_post"]
    for config in ({k: v for k, v in one["config"].items() if k != "hook_layer"}, {**one["config"], "threshold": 0.5}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**one, "config": config}, SCHEMA)
