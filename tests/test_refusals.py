"""What a user can get wrong is answered by the command in one sentence with three beats, and by the right exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import order
import pytest
import tiny
from shell import command

MESSAGE = re.compile(r"persona-audit: (?P<found>.+)\. Expected (?P<expected>.+)\. (?P<do>.+)\.")
REFUSED, FAILED = 2, 3


@pytest.fixture(scope="module")
def base(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("llama")


@pytest.fixture(scope="module")
def personas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return order.personas(tmp_path_factory.mktemp("personas") / "order", groups=6)


@pytest.fixture
def run(base: Path, personas: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run` on a sound pair and persona, with whatever the test puts in their place."""

    def typed(*more: object, verb: str = "run", **other: object) -> subprocess.CompletedProcess[str]:
        given = {"base": base, "post": base, "personas": personas, "effort": "glance", "store": tmp_path / "store"}
        flags = [part for name, value in {**given, **other}.items() for part in (f"--{name}", value)]
        done = command(verb, *more, *flags, cwd=tmp_path)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr[-800:]
        return done

    return typed


def told(done: subprocess.CompletedProcess[str], code: int = FAILED) -> re.Match[str]:
    """The one message of a command that was refused."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("persona-audit:")]
    assert len(lines) == 1, done.stderr
    match = MESSAGE.fullmatch(lines[0])
    assert match, lines[0]
    return match


def spoilt(folder: Path, source: Path, change: Callable[[Path], Any]) -> Path:
    """A copy of a folder in which something was changed."""
    copy = shutil.copytree(source, folder)
    change(copy)
    return copy


def with_line(number: int, **keys: Any) -> Callable[[Path], None]:
    """Changes one line of the persona's file."""

    def change(folder: Path) -> None:
        path = folder / "order.jsonl"
        lines = path.read_text().splitlines()
        lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | keys)
        path.write_text("\n".join(lines))

    return change


@pytest.mark.parametrize(
    ("number", "keys", "found", "expected"),
    [
        (3, {"label": 2}, "label is 2", "0 or 1"),
        (5, {"mood": "glum"}, "'mood'", "only the keys"),
        (2, {"label": 1}, "one-sided", "one label 0"),
        (1, {"span": [5, 9_999]}, "[5, 9999]", "characters"),
        (4, {"span": [3, 3]}, "empty", "character"),
    ],
)
def test_a_malformed_persona_line(run, personas, tmp_path, number, keys, found, expected):
    folder = spoilt(tmp_path / "spoilt", personas, with_line(number, **keys))
    message = told(run(personas=folder))
    assert re.search(rf"order\.jsonl:{number}\b", message["found"]), message["found"]
    assert found in message["found"] and expected in message["expected"]


def test_a_line_that_is_no_json(run, personas, tmp_path):
    def change(folder: Path) -> None:
        path = folder / "order.jsonl"
        path.write_text(path.read_text() + "{\n")

    count = len((personas / "order.jsonl").read_text().splitlines()) + 1
    message = told(run(personas=spoilt(tmp_path / "spoilt", personas, change)))
    assert f"order.jsonl:{count}" in message["found"] and "JSON" in message["found"]


def pickled(folder: Path) -> None:
    """Leaves the weights as a pickle alone."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_pickled_weights_only(run, base, tmp_path):
    folder = spoilt(tmp_path / "pickled", base, pickled)
    message = told(run(post=folder))
    assert "pytorch_model.bin" in message["found"] and "--allow-pickle" in message["do"]
    # The control: the flag that is named lets them in.
    assert run("--allow-pickle", post=folder).returncode == 0


def test_a_model_that_needs_its_own_code(run, base, tmp_path):
    marker = tmp_path / "ran"

    def change(folder: Path) -> None:
        (folder / "odd.py").write_text(f"import os; os.mkdir({str(marker)!r})\n")
        config = json.loads((folder / "config.json").read_text())
        maps = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.Odd"}
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "odd", "auto_map": maps}))

    message = told(run(post=spoilt(tmp_path / "odd", base, change)))
    assert "odd.Odd" in message["found"] and "remote code" in message["do"]
    assert not marker.exists()


def shaped(folder: Path, **shape: int) -> Path:
    """A tiny llama of another shape."""
    from transformers import LlamaForCausalLM

    config = tiny.config("llama")
    for key, value in shape.items():
        setattr(config, key, value)
    return order.save(LlamaForCausalLM(config), folder)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ({"hidden_size": 48, "head_dim": 12}, ("48 dimensions", "32")),
        ({"num_hidden_layers": 4}, ("4 layers", "3")),
    ],
)
def test_models_of_another_width_or_depth(run, tmp_path, shape, found):
    message = told(run(post=shaped(tmp_path / "other", **shape)))
    assert all(part in message["found"] for part in found)


def test_models_of_another_tokenizer(run, checkpoint):
    message = told(run(post=checkpoint("gpt2")))
    assert "split" in message["found"] and "tokenizer" in message["expected"]


def test_models_of_another_dtype(run, checkpoint):
    message = told(run(post=checkpoint("llama", dtype="bfloat16")))
    assert "bfloat16" in message["found"] and "float32" in message["found"] and "dtype" in message["do"]


def test_no_chat_template_anywhere(run, checkpoint):
    bare = [checkpoint("llama", seed=seed, template=False) for seed in (0, 1)]
    message = told(run(base=bare[0], post=bare[1]))
    assert "chat template" in message["found"] and "template" in message["do"]


def test_a_store_that_cannot_be_written(run, tmp_path):
    """Permission bits bind nobody who is root: a store below a file can be written by no one."""
    (tmp_path / "file").write_text("in the way")
    message = told(run(store=tmp_path / "file" / "store"))
    assert str(tmp_path / "file") in message["found"] and "--store" in message["do"]


def test_an_out_that_cannot_be_written_loses_no_recording(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = told(run(out=tmp_path / "file" / "out"))
    assert str(tmp_path / "file") in message["found"] and "--out" in message["do"]
    again = run(out=tmp_path / "out")
    assert again.returncode == 0 and (tmp_path / "out" / "record.json").is_file()


@pytest.mark.parametrize(
    ("text", "found", "near"),
    [
        ("[sites]\nlayer = 3\n", "sites.layer", "sites.layers"),
        ("[margin]\nratio = 0.9\n", "margin", "margins"),
        ("[comparisons]\ngeometri = {}\n", "comparisons.geometri", "comparisons.geometry"),
        ("[comparisons]\ngeometry = { split = 3 }\n", "split", "splits"),
    ],
)
def test_an_unknown_plan_key(run, tmp_path, text, found, near):
    (tmp_path / "plan.toml").write_text(text)
    message = told(run("plan.toml"))
    assert found in message["found"] and near in message["expected"] + message["do"]


def test_a_plan_that_is_no_toml_or_not_there(run, tmp_path):
    (tmp_path / "plan.toml").write_text("[sites\n")
    assert "plan.toml" in told(run("plan.toml"))["found"]
    assert "nowhere.toml" in told(run("nowhere.toml"))["found"]


def test_a_hub_id_that_is_not_here(run):
    message = told(run("--offline", post="nobody/no-such-model"))
    assert "nobody/no-such-model" in message["found"] and "local cache" in message["found"]
    assert "--offline" in message["do"]


def test_a_name_that_no_organism_has(run):
    message = told(run(post="organism:nobody"))
    assert "nobody" in message["found"] and "organism list" in message["do"]


def test_a_word_that_is_no_effort(run):
    message = told(run(effort="fast"))
    assert "fast" in message["found"] and "glance" in message["expected"]


def test_a_folder_without_personas(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in told(run(personas=tmp_path / "empty"))["found"]


def test_too_few_groups_are_no_mistake(run, tmp_path):
    """Undecided, with the number that is needed, and exit 0: nothing is refused."""
    done = run(out=tmp_path / "out")
    assert done.returncode == 0 and "persona-audit:" not in done.stderr
    assert "inconclusive" in done.stdout
    (verdict,) = json.loads((tmp_path / "out" / "record.json").read_text())["verdicts"]
    assert verdict["verdict"] == "inconclusive"
    assert "6 story groups" in verdict["sentence"] and "20" in verdict["sentence"]


@pytest.mark.parametrize("fault", ["persona", "width", "plan"])
def test_doctor_refuses_with_2(run, personas, tmp_path, fault):
    """The same three beats, on the screen and in doctor.json where a folder is named."""
    (tmp_path / "plan.toml").write_text("[sites]\nlayer = 3\n")
    if fault == "persona":
        broken = spoilt(tmp_path / "s", personas, with_line(3, label=2))
        done = run(verb="doctor", personas=broken, out=tmp_path / "out")
        said = "order.jsonl:3"
    elif fault == "width":
        done = run(verb="doctor", post=shaped(tmp_path / "w", hidden_size=48, head_dim=12), out=tmp_path / "out")
        said = "48 dimensions"
    else:
        done = run("plan.toml", verb="doctor", out=tmp_path / "out")
        said = "sites.layer"
    assert done.returncode == REFUSED and said in done.stdout + done.stderr
    assert "Expected" in done.stdout + done.stderr


@pytest.mark.parametrize("content", [None, "{", "{}", '{"schema": 2}'])
def test_a_record_that_is_none(tmp_path, content):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    done = command("report", path, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert str(path) in told(done)["found"]


@pytest.mark.parametrize("arguments", [["walk"], ["run", "--pots", "x"], ["run", "--threads", "0"], ["report"]])
def test_a_slip_of_the_finger_is_a_usage_error(tmp_path, arguments):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Usage" in done.stderr
