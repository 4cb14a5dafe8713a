"""A doctor of a configuration without weights: it says what shape and texts decide, and refuses nothing for that."""

from __future__ import annotations

import json
import shutil

import order
import pytest
import tiny
from shell import command

from audit.conduct import Setting, doctor
from audit.outline import outlined
from audit.plan import plan_of
from probes.digest import AuditError


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A pair with weights, and the same folder without."""
    root = tmp_path_factory.mktemp("outline")
    tiny.checkpoint(root / "whole")
    shutil.copytree(root / "whole", root / "bare")
    (root / "bare" / "model.safetensors").unlink()
    order.personas(root / "personas")
    return root


def examined(root, name):
    plan = plan_of({
        "effort": "glance", "pair": {"base": str(root / name), "post": str(root / name)},
        "personas": {"paths": [str(root / "personas")]}, "comparisons": {"probe_transfer": {}},
    })  # fmt: skip
    return {one.check: one for one in doctor(plan, setting=Setting(store=root / "store", progress=False)).checks}


def test_what_it_says_is_what_it_says_of_the_model_with_weights(here):
    bare, whole = examined(here, "bare"), examined(here, "whole")
    assert list(bare) == ["shape", "reliability of directions", "detectable effect", "cost"]
    assert all(one.ok for one in bare.values()) and "3 blocks of 32 dimensions" in bare["shape"].found
    for name in ("reliability of directions", "detectable effect"):
        assert bare[name] == whole[name]
    store = [one["cost"].found.rpartition(" and ")[2] for one in (bare, whole)]
    assert store[0] == store[1]


def test_a_block_is_timed_with_the_families_that_mix_kinds_of_layers(tmp_path):
    for family in ("llama", "gpt2", "gpt_neox", "gemma3_text", "qwen3"):
        tiny.config(family).save_pretrained(tmp_path / family)
        tiny.tokenizer(family).save_pretrained(tmp_path / family)
        outline = outlined(str(tmp_path / family))
        assert (outline.d_model, outline.n_layers) == (32, 3) and 0 < outline.block_seconds() < 1


def test_whatever_has_weights_or_is_no_folder_is_no_outline(here):
    assert outlined(str(here / "whole")) is None and outlined("org/name") is None


def test_a_base_whose_weights_are_missing_is_refused_beside_a_post_that_has_them(here, tmp_path):
    """The control: an upload that was cut off must not be approved."""
    for post in (here / "whole", "does/not-exist"):
        done = command("doctor", "--base", here / "bare", "--post", post, "--offline", "--personas", here / "personas",
                       cwd=tmp_path)  # fmt: skip
        assert done.returncode == 2 and "holds no weights" in done.stdout, done.stdout


def test_a_broken_configuration_is_told_in_one_sentence(here, tmp_path):
    shutil.copytree(here / "bare", tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(AuditError, match="bare cannot be loaded"):
        outlined(str(tmp_path / "bare"))
    done = command("doctor", "--base", "bare", "--post", "bare", "--personas", here / "personas", cwd=tmp_path)
    assert done.returncode == 2 and "cannot be loaded" in done.stdout and "Traceback" not in done.stderr
