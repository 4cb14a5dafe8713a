"""Kept audits: nothing changed means nothing is loaded; whatever changes an answer makes it anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import order
import pytest
import tiny
from shell import command

from audit import conduct as conducting
from audit import shelf
from audit.conduct import Setting, conduct
from audit.plan import plan_of
from audit.report.folder import write
from probes.reader import Reader


@pytest.fixture
def here(tmp_path, shared):
    """A copy of a pair, its texts and the store in which it was audited once."""
    shutil.copytree(shared, tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    root = tmp_path_factory.mktemp("shelf")
    tiny.checkpoint(root / "base")
    order.save(order.bag(), root / "post")
    order.personas(root / "personas")
    return root


def planned(root: Path, **tables):
    pair = {"base": str(root / "base"), "post": str(root / "post")}
    given = {"effort": "glance", "pair": pair, "personas": {"paths": [str(root / "personas")]}}
    return plan_of({**given, "comparisons": order.QUICK, **tables})


def audited(root: Path, setting: Setting | None = None, **tables):
    return conduct(planned(root, **tables), setting=setting or set_up(root))


def set_up(root: Path) -> Setting:
    return Setting(store=root / "store", progress=False)


def anew(made) -> bool:
    return made.record.run.kept_from is None


def test_a_second_audit_is_the_first_one_again(here, tmp_path):
    first, second, third = audited(here), audited(here), audited(here)
    assert anew(first) and second.record.run.kept_from == third.record.run.kept_from == first.record.run.id
    assert second.record.digest == first.record.digest and second.scores == first.scores
    assert set(second.directions) == set(first.directions) and len(second.directions) == 1
    for name, direction in first.directions.items():
        assert (second.directions[name].vector == direction.vector).all()
    for name, made in (("first", first), ("second", second)):
        write(made.record, tmp_path / name, made.directions, made.scores)
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*")) for n in ("first", "second")]
    assert files[0] == files[1]


def test_a_rerun_loads_neither_torch_nor_transformers(here, tmp_path):
    plan = order.plan_file(tmp_path / "plan.toml", here / "base", here / "personas", here / "post").read_text()
    posts = ["--post", f"{here}/post", "--post", f"{here}/base"]
    typed = ["check", "plan.toml", *posts, "--out", "out", "--store", f"{here}/store"]
    assert command(*typed, cwd=tmp_path).returncode == 1
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"sys.argv = {['persona-audit', *typed]!r}\n"
        "from audit.cli import main\nmain()\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    given = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120, "env": env}
    done = subprocess.run([sys.executable, "-c", code], **given)
    assert done.returncode == 1 and "regression" in done.stdout, done.stderr
    records = list((tmp_path / "out").glob("*/record.json"))
    assert len(records) == 2 and all(json.loads(path.read_text())["run"]["kept_from"] for path in records)
    # The control: with another seed there is nothing kept, and torch is missed.
    (tmp_path / "plan.toml").write_text("seed = 1\n" + plan)
    done = subprocess.run([sys.executable, "-c", code], **given)
    assert done.returncode == 3 and "torch" in done.stderr + done.stdout


def test_nothing_is_recorded_again(here, monkeypatch):
    audited(here)
    monkeypatch.setattr(Reader, "__call__", None)
    assert not anew(audited(here))


def weights(root, monkeypatch):
    order.save(tiny.model("llama", seed=5), root / "post")


def tokenizer(root, monkeypatch):
    for name in ("base", "post"):
        path = root / name / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"]["merges"].pop()
        path.write_text(json.dumps(content))


def texts(root, monkeypatch):
    path = root / "personas" / "order.jsonl"
    path.write_text(path.read_text().replace("the mill ", "the moor ", 1))


def plain(root, monkeypatch):
    path = root / "personas" / "order.jsonl"
    old = '"scenario": "plain-0-0", "text": "'
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, old + "So: ", 1))


def packages(root, monkeypatch):
    monkeypatch.setattr(shelf, "computing", lambda: {"torch": "0.0.1"})


def sources(root, monkeypatch):
    """Another version of this program: one more file among its own."""
    (root / "probes").mkdir()
    (root / "probes" / "more.py").write_text("X = 1")
    own = shelf.files
    monkeypatch.setattr(shelf, "files", lambda name: root / "probes" if name == "probes" else own(name))


def device(root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")


@pytest.mark.parametrize("changed", [weights, tokenizer, texts, plain, packages, sources, device])
def test_whatever_changes_an_answer_makes_it_anew(here, monkeypatch, changed):
    audited(here)
    changed(here, monkeypatch)
    assert anew(audited(here))


def test_plan_and_setting_count(here):
    audited(here)
    assert anew(audited(here, seed=1)) and anew(audited(here, replace(set_up(here), strict=True)))
    assert anew(conduct(planned(here), post=(tiny.model("llama"), tiny.tokenizer("llama")), setting=set_up(here)))


def test_every_file_of_a_list_counts(here):
    for name in ("one", "other"):
        (here / f"{name}.json").write_text("{}")
    plan = planned(here, comparisons={"novelty": {"null": [str(here / "one.json"), str(here / "other.json")]}})
    held = shelf.Shelf(here / "store")
    first = held.key(plan, conducting.libraries(plan), [])
    assert first and held.key(plan, conducting.libraries(plan), []) == first
    (here / "other.json").write_text("[]")
    assert held.key(plan, conducting.libraries(plan), []) not in (None, first)


def test_what_no_audit_reads_does_not_count_and_equal_content_is_equal(here):
    audited(here)
    (here / "post" / "optimizer.pt").write_bytes(b"adam")
    path = here / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes())
    assert not anew(audited(here))


def test_a_damaged_one_is_made_again(here):
    audited(here)
    (kept,) = (here / "store" / "audits").iterdir()
    (direction,) = (kept / "directions").iterdir()
    for path in (kept / "record.json", kept / "scores.json", direction):
        path.write_text("{}")
        assert anew(audited(here))
        assert path.read_bytes() != b"{}" and not anew(audited(here))
    direction.unlink()
    assert anew(audited(here)) and not anew(audited(here))


def test_a_checkpoint_that_is_written_to_meanwhile_is_not_kept(here, monkeypatch):
    """A trainer writes the next weights over those that are being read."""
    whole = (here / "post" / "model.safetensors").read_bytes()
    own = conducting._sealed

    def sealed(*given):
        order.save(tiny.model("llama", seed=5), here / "post")
        return own(*given)

    monkeypatch.setattr(conducting, "_sealed", sealed)
    audited(here)
    (here / "post" / "model.safetensors").write_bytes(whole)
    assert not (here / "store" / "audits").exists()


def test_linked_folders_count_by_what_they_hold(here):
    """SAEs are found through links; the shelf must look where their reader looks."""
    (here / "real").mkdir()
    (here / "real" / "cfg.json").write_text("1")
    (here / "saes").mkdir()
    (here / "saes" / "L1").symlink_to(here / "real")
    before = shelf.Shelf(here / "store").contents(str(here / "saes"), True)
    (here / "real" / "cfg.json").write_text("22")
    assert shelf.Shelf(here / "store").contents(str(here / "saes"), True) != before
    (here / "saes" / "loop").symlink_to(here / "saes")
    assert len(shelf.Shelf(here / "store").contents(str(here / "saes"), True)) == 1


def test_what_was_not_measured_is_not_kept(here):
    few = order.personas(here / "few", groups=2)
    made = audited(here, personas={"paths": [str(few)]})
    assert {finding.status for finding in made.record.findings} == {"not_measured"}
    assert not (here / "store" / "audits").exists()
