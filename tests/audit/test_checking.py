"""A check from end to end on tiny models: checkpoints that crash, origins that really differ, and what a shell sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import order
import pytest
import tiny
import torch
from shell import command

import audit
from audit.baseline import accept
from audit.checking import check
from audit.conduct import Setting, conduct
from audit.gate import Terms
from audit.plan import plan_of
from audit.report.folder import write
from probes.digest import AuditError


def planned(here, **tables):
    """A quick plan about the pair."""
    pair = {"base": str(here.base), "post": str(here.base), **tables.pop("pair", {})}
    given = {
        "effort": "glance",
        "personas": {"paths": [str(here.personas)]},
        "comparisons": order.QUICK,
    }
    return plan_of({**given, **tables, "pair": pair})


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A base, one that lost the order of words, and the baseline of base held against itself."""
    root = tmp_path_factory.mktemp("checking")
    made = SimpleNamespace(
        root=root,
        base=tiny.checkpoint(root / "base"),
        bag=order.save(order.bag(), root / "bag"),
        personas=order.personas(root / "personas"),
        setting=Setting(store=root / "store", progress=False),
    )
    made.plan = planned(made)
    made.first = conduct(made.plan, setting=made.setting)
    made.baseline = accept(made.first.record, made.first.scores)
    made.baseline_file = root / "baseline.json"
    made.baseline_file.write_text(made.baseline.to_json())
    return made


def held(here, *posts, plan=None, baseline=True):
    terms = Terms(baseline=here.baseline if baseline else None)
    return check(plan or here.plan, posts, terms, here.setting).gate


def outcomes(suite):
    return {case.reading: case.outcome for case in suite.cases}


def test_a_sound_checkpoint_passes_a_broken_one_is_red_and_a_vanished_one_an_error(here):
    nan = tiny.model("llama")
    with torch.no_grad():
        nan.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    found = check(
        here.plan,
        [str(here.base), str(here.bag), (nan, tiny.tokenizer("llama")), str(here.root / "vanished")],
        Terms(baseline=here.baseline),
        here.setting,
    )
    sound, bag, broken, vanished = found.gate.suites
    assert set(outcomes(sound).values()) == {"pass"}
    assert outcomes(bag)["readability"] == outcomes(bag)["verdict"] == "regression"
    assert set(outcomes(broken).values()) == {"not_measured"} and "L1" in broken.cases[0].sentence
    assert [case.outcome for case in vanished.cases] == ["error"] and "vanished" in vanished.cases[0].sentence
    assert found.gate.exit == 3 and len(found.audits) == 3
    assert judged_alone(found, 0).exit == 0 and judged_alone(found, 1).exit == 1


def judged_alone(found, index):
    return found.gate.model_copy(update={"suites": (found.gate.suites[index],)})


def test_a_crash_of_any_kind_is_an_error(here, monkeypatch):
    import audit.checking

    def boom(*_, **__):
        raise MemoryError("of the machine")

    monkeypatch.setattr(audit.checking, "conduct", boom)
    gate = held(here, str(here.base))
    assert gate.exit == 3 and gate.cases[0].sentence == "It ended with MemoryError: of the machine"


def test_a_policy_that_selects_nothing_is_refused_before_a_model_is_loaded(here):
    plan = planned(here, pair={"base": "no/such-model"}, policies=[{"select": "ordre/*/*"}])
    with pytest.raises(AuditError, match="'ordre/\\*/\\*' selects nothing"):
        held(here, plan=plan)


def test_the_python_door_is_open_and_costs_nothing_to_import():
    assert audit.check is check and "check" in dir(audit)


def changed_text(here, folder):
    """The personas with one word changed."""
    shutil.copytree(here.personas, folder)
    path = folder / "order.jsonl"
    path.write_text(path.read_text().replace("the mill ", "the moor ", 1))
    return {"personas": {"paths": [str(folder)]}}


def changed_template(here, folder):
    folder.mkdir()
    (folder / "other.jinja").write_text(tiny.TEMPLATES["llama"].replace("<|eot|>", "<|end|>"))
    return {"pair": {"template": str(folder / "other.jinja")}}


def changed_tokenizer(here, folder):
    """Both models with one merge less: the same ids for most texts, and another tokenizer."""
    shutil.copytree(here.base, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return {"pair": {"base": str(folder), "post": str(folder)}}


def changed_base(here, folder):
    return {"pair": {"base": str(tiny.checkpoint(folder, seed=9))}}


CHANGED = {
    "texts of order": changed_text,
    "chat template": changed_template,
    "tokenizer of base": changed_tokenizer,
    "weights of base": changed_base,
    "dtype of base": lambda here, folder: {"pair": {"dtype": "bfloat16"}},
    "plan, seed": lambda here, folder: {"seed": 1},
    "plan, sites.pooling": lambda here, folder: {"sites": {"pooling": "last_token"}},
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_real_change_of_origin_is_not_comparable_and_named(here, tmp_path, what):
    gate = held(here, plan=planned(here, **CHANGED[what](here, tmp_path / "changed")))
    cases = [case for case in gate.cases if case.policy]
    assert {case.outcome for case in cases} == {"not_comparable"} and gate.exit == 3
    assert what in cases[0].sentence, cases[0].sentence


def test_a_renamed_file_with_equal_content_only_warns(here, tmp_path):
    base, personas = shutil.copytree(here.base, tmp_path / "b"), shutil.copytree(here.personas, tmp_path / "p")
    (tmp_path / "own.jinja").write_text(tiny.TEMPLATES["llama"])
    pair = {"base": str(base), "template": str(tmp_path / "own.jinja")}
    gate = held(here, plan=planned(here, pair=pair, personas={"paths": [str(personas)]}))
    assert {case.outcome for case in gate.cases} == {"pass"} and gate.exit == 0
    assert [note.partition(":")[0] for note in gate.suites[0].notes] == ["reference of base", "source of the template"]


def test_another_package_version_only_warns(here):
    packages = {**here.baseline.origin.packages, "torch": "0.0.1"}
    old = here.baseline.model_copy(
        update={"origin": here.baseline.origin.model_copy(update={"packages": packages})}
    )
    gate = check(here.plan, [str(here.base)], Terms(baseline=old), here.setting).gate
    assert gate.exit == 0 and "package torch: 0.0.1 in the baseline" in gate.suites[0].notes[0]


# What a shell sees.


@pytest.fixture
def typed(here, tmp_path):
    """`persona-audit check` in a folder of its own, and the folder it wrote."""
    order.plan_file(tmp_path / "plan.toml", here.base, here.personas, here.base)

    def run(*more, out="out", **env):
        done = command("check", "plan.toml", "--out", out, "--store", here.root / "store", *more, cwd=tmp_path, **env)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    run.cwd = tmp_path
    return run


def test_a_check_writes_every_sink_and_tells_github(here, typed):
    step = typed.cwd / "step.md"
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(step)}
    done = typed("--post", here.bag, "--baseline", here.baseline_file, **env)
    assert done.returncode == 1 and "red, exit 1" in done.stdout
    out = typed.cwd / "out"
    sinks = {"record.json", "scores.json", "findings.parquet", "report.html", "directions", "junit.xml", "summary.md"}
    assert {path.name for path in out.iterdir()} == sinks
    assert step.read_text() == (out / "summary.md").read_text()
    assert len([line for line in done.stdout.splitlines() if line.startswith("::error ")]) == 3
    assert len([line for line in done.stdout.splitlines() if line.startswith("::warning ")]) == 1


def test_a_check_that_is_refused_leaves_no_older_answer_behind(here, typed):
    out = typed.cwd / "out"
    out.mkdir()
    for name in ("junit.xml", "summary.md"):
        (out / name).write_text("green")
    for more, said in (
        (("--baseline", "nowhere.json"), "nowhere.json"),
        (("--waivers", "nowhere.toml"), "nowhere.toml"),
        (("--post", "no/such-model", "--offline"), "no/such-model"),
    ):
        done = typed(*more)
        assert done.returncode == 3 and said in done.stderr + done.stdout
        assert "<error" in (out / "junit.xml").read_text() and said in (out / "junit.xml").read_text()
        assert (out / "summary.md").read_text().startswith("# persona-audit: no answer")
    (typed.cwd / "plan.toml").write_text('policies = [{ select = "*/*" }]')
    done = typed()
    assert done.returncode == 3 and "policies.0.select" in done.stderr
    assert "policies.0.select" in (out / "junit.xml").read_text()


@pytest.mark.parametrize("listed", ["regressions", "", "pass", "error"])
def test_what_fails_is_one_of_the_outcomes(typed, listed):
    done = typed("--fail-on", listed)
    assert done.returncode == 2 and "not_comparable" in done.stderr


def test_baselines_are_created_shown_and_updated_only_when_told(here, tmp_path):
    worse = conduct(here.plan, post=str(here.bag), setting=here.setting)
    for name, made in (("first", here.first), ("worse", worse)):
        write(made.record, tmp_path / name, made.directions, made.scores)

    def typed(*words):
        done = command("baseline", *words, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        return done

    assert typed("create", "first", "--out", "b.json").returncode == 0
    text = (tmp_path / "b.json").read_text()
    assert text == here.baseline.to_json()
    again = typed("create", "worse", "--out", "b.json")
    assert again.returncode == 3 and "is there already" in again.stderr
    assert "order: reused" in typed("show", "b.json").stdout
    shown = typed("update", "b.json", "worse")
    assert shown.returncode == 1 and "looser" in shown.stdout and "--accept" in shown.stdout
    assert (tmp_path / "b.json").read_text() == text
    same = typed("update", "b.json", "first")
    assert same.returncode == 0 and "nothing would change" in same.stdout
    done = typed("update", "b.json", "worse", "--accept")
    assert done.returncode == 0 and "looser" in done.stdout
    assert "order: lost" in typed("show", "b.json").stdout


def test_texts_are_read_once_for_all_checkpoints_and_refused_before_any(here, monkeypatch):
    from audit import checking, conduct

    read, own = [], conduct.libraries
    for module in (checking, conduct):
        monkeypatch.setattr(module, "libraries", lambda plan: read.append(plan.personas.paths) or own(plan))
    gate = held(here, str(here.base), str(here.bag))
    assert [suite.name for suite in gate.suites] == [str(here.base), str(here.bag)]
    assert read == [(str(here.personas),)]
    with pytest.raises(AuditError, match="'nobody/.*order/probe_transfer"):
        held(here, str(here.base), plan=planned(here, policies=[{"select": "nobody/*/*/*"}]))


def test_a_baseline_needs_no_torch(here, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"sys.argv = ['persona-audit', 'baseline', 'show', {str(here.baseline_file)!r}]\n"
        "from audit.cli import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0 and "readability" in done.stdout, done.stderr
