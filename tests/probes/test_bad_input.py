"""What users get wrong in persona files, checkpoints and devices is refused by name, before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.digest import AuditError
from probes.direction import Direction
from probes.line import LineError
from probes.model import load
from probes.persona import builtin, read
from probes.site import Site

HEADER = 'definition = "d"\nlabel_one = "l"\nalarm = false\nlicence = "MIT"\nmade = "m"\n'
STATEMENTS = "statement,label\nRome is in Italy.,1\nOslo is in Peru.,0\nBonn lies on the Rhine.,1\nTwo is odd.,0\n"


def lines(name: str = "lying", scenario: str = "s") -> list[dict[str, Any]]:
    """One pair in each domain."""
    own = {"persona": name, "text": "He said so."}
    story = [own | {"pair": "a", "scenario": scenario, "domain": "story", "label": label} for label in (1, 0)]
    chat = [own | {"pair": "b", "scenario": "t", "domain": "assistant", "label": label} for label in (1, 0)]
    return story + chat


def folder(path: Path, some: list[dict[str, Any]], extra: str = "") -> Path:
    path.mkdir()
    (path / "lying.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
    (path / "persona.toml").write_text(f"name = {json.dumps(some[0]['persona'])}\n{HEADER}{extra}")
    return path


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "two words", "lügen", "line\n", "", "a\\b", "nul\0"])
def test_a_persona_whose_name_is_no_file_name_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(LineError, match=r"lying\.jsonl:1: persona is ") as refused:
        read(folder(tmp_path / "p", lines(name)))
    assert repr(name) in refused.value.found


def test_a_name_of_letters_digits_and_marks_is_taken(tmp_path: Path) -> None:
    (persona,) = read(folder(tmp_path / "p", lines("Lying_2.0-b"))).personas
    assert persona.name == "Lying_2.0-b"


def test_half_a_character_is_refused_with_its_place(tmp_path: Path) -> None:
    some = lines()
    some[1]["text"] = "He said \ud83d so."
    with pytest.raises(LineError, match=r"lying\.jsonl:2: the lone surrogate '\\ud83d'"):
        read(folder(tmp_path / "p", some))
    some[1]["text"] = "He said \U0001f600 so."
    assert read(folder(tmp_path / "q", some)).personas[0].lines[1].text == some[1]["text"]


def test_a_scenario_in_both_domains_is_refused_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(LineError, match=r"lying\.jsonl:3: scenario 't' is in domain 'assistant'") as refused:
        read(folder(tmp_path / "p", lines(scenario="t")))
    assert "lying.jsonl:1" in refused.value.expected


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("", ()),
        ('weaknesses = ""\n', ()),
        ('weaknesses = "few"\n', ("few",)),
        ('weaknesses = ["few", "short"]\n', ("few", "short")),
    ],
)
def test_weaknesses_are_texts_however_they_are_written(tmp_path: Path, written: str, kept: tuple[str, ...]) -> None:
    assert read(folder(tmp_path / "p", lines(), written)).personas[0].weaknesses == kept


@pytest.mark.parametrize("written", ["weaknesses = 3", 'weaknesses = ["few", 3]', 'weaknesses = [" "]'])
def test_weaknesses_that_are_no_texts_are_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(AuditError, match="weaknesses is .* a text, or a list of texts"):
        read(folder(tmp_path / "p", lines(), written))


def test_shipped_headers_say_what_is_wrong_with_them_in_a_list() -> None:
    for persona in read(builtin()).personas:
        assert len(persona.weaknesses) > 1 and all(isinstance(one, str) for one in persona.weaknesses)


def test_a_file_of_statements_stands_where_a_folder_may(tmp_path: Path) -> None:
    path = tmp_path / "cities.csv"
    path.write_text("\ufeff" + STATEMENTS, encoding="utf-8")
    (persona,) = read(path).personas
    assert (persona.name, len(persona.lines), {line.domain for line in persona.lines}) == (
        "cities", 4, {"story", "assistant"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.csv", None, "absent.csv cannot be read"),
        ("absent.jsonl", None, "absent.jsonl cannot be read"),
        ("latin.csv", STATEMENTS.replace("Rome", "Zürich").encode("latin-1"), "latin.csv cannot be read"),
        ("my cities.csv", STATEMENTS.encode(), "names its persona 'my cities'"),
        ("my cities.jsonl", b"{}\n", "names its persona 'my cities'"),
        ("other.jsonl", b'{"text": "x"}\n', "other.jsonl:1: no answers"),
    ],
)
def test_a_file_without_statements_is_refused(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AuditError, match=said):
        read(tmp_path / name)


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta", "mps:0", "cpu:x", ""])
def test_a_device_that_is_not_here_is_refused(checkpoint, device: str) -> None:
    with pytest.raises(AuditError, match="a device this machine has: cpu") as refused:
        load(str(checkpoint("llama")), device=device)
    assert repr(device) in refused.value.found


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has one")
def test_a_mac_s_accelerator_elsewhere_is_refused(checkpoint) -> None:
    with pytest.raises(AuditError, match="'mps'"):
        load(str(checkpoint("llama")), device="mps")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[1, 2]", "holds a list"),
        ('"llama"', "holds a str"),
        ('{"model_type": ["llama"]}', "unknown model type"),
        ('{"model_type": "mine", "auto_map": ["x"]}', "unknown model type 'mine'"),
    ],
)
def test_a_config_that_is_no_configuration_is_refused(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(AuditError, match=said):
        load(str(tmp_path))


@pytest.mark.parametrize("lost", ["method", "origin", "offset", "vector"])
def test_a_direction_file_that_lacks_something_is_refused_by_name(tmp_path: Path, lost: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = Direction(torch.tensor([1.0, 0.0]), 0.5, Site(1, "resid_post"), "lda").save(tmp_path / "d.safetensors")
    with safe_open(str(path), framework="pt") as file:
        tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    told.pop(lost, None)
    save_file({name: 2 * t if lost == "vector" else t for name, t in tensors.items()}, path, told)
    with pytest.raises(AuditError, match=r"d\.safetensors is not a readable direction"):
        Direction.load(path)
