"""What docs/ci.md and action.yml say can be typed, read and run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from shell import command as persona_audit

from audit.case import Outcome
from audit.cli import app
from audit.plan import plan_of
from audit.scores import READINGS
from audit.waiver import read_waivers

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text()
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
PINNED = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)*@[\w.-]+")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def typed(text: str) -> list[list[str]]:
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("persona-audit ")]


COMMANDS = typed("\n".join([*blocks("sh"), *blocks("yaml")]))


def parsed(words: list[str]) -> None:
    """Has the command line itself read a command, and not run it."""
    group = typer.main.get_command(app)
    with group.make_context("persona-audit", list(words), allow_extra_args=True) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        if hasattr(command, "commands"):
            inner = command.make_context(name, rest, parent=context, allow_extra_args=True)
            name, command, rest = command.resolve_command(inner, [*inner._protected_args, *inner.args])
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_page_is_understood(words):
    parsed(words)
    with pytest.raises(Exception, match="No such option: --bogus"):
        parsed([*words, "--bogus"])


def test_the_page_shows_every_verb():
    assert {tuple(words[:2]) for words in COMMANDS if words[0] == "baseline"} == {
        ("baseline", verb) for verb in ("create", "show", "update")
    }
    assert sum(words[0] == "check" for words in COMMANDS) >= 3


def test_policies_and_waivers_of_the_page_are_read(tmp_path):
    policies, waivers = blocks("toml")
    assert len(plan_of(tomllib.loads(policies)).policies) == 2
    (tmp_path / "w.toml").write_text(waivers)
    assert [waiver.owner for waiver in read_waivers(tmp_path / "w.toml")] == ["Ada"]


def test_every_outcome_and_reading_has_its_row():
    from typing import get_args

    rows = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert [row for row in rows if "/" not in row] == list(get_args(Outcome))
    assert {row.rpartition("/")[2] for row in rows if "/" in row} == {*READINGS, "verdict"}


def faults(action: dict) -> list[str]:
    """What GitHub would refuse in a composite action, and what lets an input into a shell."""
    found = [f"no {key}" for key in ("name", "description", "runs") if not action.get(key)]
    inputs, runs = action.get("inputs", {}), action.get("runs", {})
    found += [f"the input {name} has no description" for name, one in inputs.items() if not one.get("description")]
    found += [] if runs.get("using") == "composite" else ["it is not composite"]
    text, steps = yaml.safe_dump(action), runs.get("steps", [])
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    found += [f"the input {name} is used and not declared" for name in sorted(used - set(inputs))]
    found += [f"the input {name} is declared and not used" for name in sorted(set(inputs) - used)]
    ids = {step.get("id") for step in steps}
    found += [f"no step {name}" for name in re.findall(r"steps\.([\w-]+)\.outputs", text) if name not in ids]
    for step in steps:
        known = {"name", "id", "if", "shell", "env", "run", "uses", "with", "working-directory", "continue-on-error"}
        found += [f"a step has {key}" for key in step if key not in known]
        if "run" in step:
            found += [] if step.get("shell") else ["a run without a shell"]
            found += ["an input is pasted into a script"] if "${{" in step["run"] else []
            done = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True)
            found += [f"bash: {done.stderr}"] if done.returncode else []
        elif not PINNED.fullmatch(step.get("uses", "")):
            found.append("a step that neither runs nor uses anything")
    for output in action.get("outputs", {}).values():
        found += [] if output.get("description") and output.get("value") else ["an output without value"]
    return found


def test_the_action_is_one_that_github_takes():
    assert faults(ACTION) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a.pop("description"),
        lambda a: a["runs"].update(using="node20"),
        lambda a: a["runs"]["steps"][1].pop("shell"),
        lambda a: a["runs"]["steps"][1].update(run="check ${{ inputs.plan }}"),
        lambda a: a["runs"]["steps"][1].update(run="if [ -n x"),
        lambda a: a["runs"]["steps"][1].update(id="other"),
        lambda a: a["runs"]["steps"][1].update(shel="bash"),
        lambda a: a["inputs"].pop("waivers"),
        lambda a: a["inputs"].update(more={"description": "unused"}),
    ],
)
def test_a_planted_fault_of_the_action_is_found(spoil):
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    spoil(action)
    assert faults(action)


def test_workflows_of_the_page_are_yaml_and_name_what_the_action_takes():
    github, gitlab = (yaml.safe_load(block) for block in blocks("yaml"))
    steps = github["jobs"]["gate"]["steps"]
    (ours,) = [step for step in steps if "persona-audit@" in step.get("uses", "")]
    assert set(ours["with"]) <= set(ACTION["inputs"])
    required = {name for name, one in ACTION["inputs"].items() if one["required"]}
    assert required <= set(ours["with"])
    assert all(PINNED.fullmatch(step["uses"]) for step in steps)
    assert gitlab["persona-audit"]["artifacts"]["when"] == "always"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_actions_script_passes_its_inputs_and_the_exit_code_on(tmp_path, code):
    """Its own script, with a stand-in for the command that writes down what it was called with."""
    (tmp_path / "persona-audit").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > called\nexit {code}\n')
    (tmp_path / "persona-audit").chmod(0o755)
    step = ACTION["runs"]["steps"][1]
    given = {"plan": "a plan.toml", "out": "o", "store": "s", "waivers": "w"}
    given["post"] = "out/one\n--store=x\n\n$(touch hacked)"
    env = {key: given.get(value.split("inputs.")[1].split(" ")[0], "") for key, value in step["env"].items()}
    env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(tmp_path / "output")}
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=env)
    assert done.returncode == code and (tmp_path / "output").read_text() == f"exit={code}\n"
    assert (tmp_path / "called").read_text().splitlines() == [
        "check", "--out=o", "--store=s", "--post=out/one", "--post=--store=x", "--post=$(touch hacked)", "--waivers=w",
        "--", "a plan.toml",
    ]  # fmt: skip
    assert not (tmp_path / "hacked").exists()


@pytest.mark.slow
def test_the_page_leads_from_nothing_to_a_red_build(tmp_path):
    """Its first block, as it stands, on the bundled models."""
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "persona-audit"
    wrapper.write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m audit.cli "$@"\n')
    wrapper.chmod(0o755)
    script = blocks("sh")[0]
    env = {"PATH": f"{wrapper.parent}:{os.environ['PATH']}", "PERSONA_AUDIT_STORE": str(tmp_path / "store")}
    env |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-1000:]
    assert (tmp_path / "good" / "summary.md").read_text().startswith("# persona-audit: green")
    red = (tmp_path / "bad" / "summary.md").read_text()
    assert red.startswith("# persona-audit: red") and "**regression**" in red.splitlines()[6]


def test_help_of_the_gate_is_short_and_loads_no_torch(tmp_path):
    done = persona_audit("check", "--help", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) < 40
