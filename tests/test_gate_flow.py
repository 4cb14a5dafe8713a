"""The gate as the owner of a CI lives with it: a repository, commits, and the action's own script as the runner."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import order
import pytest
import tiny
import yaml

ROOT = Path(__file__).parents[1]
SCRIPT = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"][1]["run"]
PLAN = """effort = "glance"
[pair]
base = "base"
post = "checkpoint"
[personas]
paths = ["personas"]
[comparisons]
probe_transfer = { permutations = 50, random_maps = 5, bootstrap = 100 }
geometry = {}
"""
WAIVER = """[[waiver]]
finding = "{finding}"
reason = "word order is being retaught"
owner = "Ada"
expires = {expires}

"""


@pytest.fixture
def repository(tmp_path):
    """A repository with a plan and texts; models lie beside them and are not committed."""
    home, tools = tmp_path / "repository", tmp_path / "bin"
    home.mkdir()
    tools.mkdir()
    (tools / "persona-audit").write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m audit.cli "$@"\n')
    (tools / "persona-audit").chmod(0o755)
    env = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "GIT_AUTHOR_NAME": "Ada", "GIT_COMMITTER_NAME": "Ada", "EMAIL": "ada@example.org", "COLUMNS": "200",
    }  # fmt: skip

    def shell(script, **more):
        return subprocess.run(["bash", "-c", script], cwd=home, env=env | more, capture_output=True, text=True)

    def commit(message):
        done = shell(f"git add -A && git commit -qm {shlex.quote(message)}")
        assert done.returncode == 0, done.stderr

    def build(waivers=""):
        """What the runner does: the action's script, and its step summary."""
        step = tmp_path / f"step-{len(list(tmp_path.glob('step-*')))}"
        given = {"PLAN": "plan.toml", "POST": "checkpoint", "BASELINE": "baseline.json", "FAIL_ON": ""}
        github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(step), "GITHUB_OUTPUT": str(tmp_path / "output")}
        places = {"OUT": "persona-audit-out/check", "STORE": "persona-audit-out/store"}
        done = shell(SCRIPT, **given, **github, **places, WAIVERS=waivers)
        assert "Traceback" not in done.stderr, done.stderr[-600:]
        summary = (home / "persona-audit-out" / "check" / "summary.md").read_text()
        assert step.read_text() == summary
        return done, summary

    assert shell("git init -q -b main").returncode == 0
    (home / ".gitignore").write_text("base/\ncheckpoint/\npersona-audit-out/\n")
    (home / "plan.toml").write_text(PLAN)
    order.personas(home / "personas")
    tiny.checkpoint(home / "base")
    return SimpleNamespace(home=home, shell=shell, commit=commit, build=build)


@pytest.mark.slow
def test_green_red_waived_expired(repository):
    home = repository.home
    shutil.copytree(home / "base", home / "checkpoint")
    made = repository.shell(
        "persona-audit run plan.toml --out persona-audit-out/first --store persona-audit-out/store &&"
        " persona-audit baseline create persona-audit-out/first --out baseline.json"
    )
    assert made.returncode == 0, made.stderr[-600:]
    repository.commit("Accept the first checkpoint")

    done, summary = repository.build()
    assert done.returncode == 0 and summary.startswith("# persona-audit: green"), done.stdout
    assert "::error" not in done.stdout and "::warning" not in done.stdout

    # A model breaks: its attention weighs all words alike, and it knows their order no longer.
    shutil.rmtree(home / "checkpoint")
    order.save(order.bag(), home / "checkpoint")
    done, summary = repository.build()
    assert done.returncode == 1 and summary.startswith("# persona-audit: red"), done.stdout
    worst = summary.splitlines()[6]
    assert worst.startswith("| **regression** | checkpoint | order/probe") and "in the baseline" in worst
    findings = [line.split(": ")[0].split()[1] for line in done.stdout.splitlines() if line.startswith("  regression")]
    assert done.stdout.count("::error ") == len(findings) == 3

    def waive(day):
        (home / "waivers.toml").write_text("".join(WAIVER.format(finding=name, expires=day) for name in findings))
        repository.commit(f"Waive until {day}")

    today = datetime.now(UTC).date()
    waive(today + timedelta(days=7))
    done, summary = repository.build("waivers.toml")
    assert done.returncode == 0 and summary.startswith("# persona-audit: yellow"), done.stdout
    assert summary.count("Waived, by Ada until") == 3 and "::error" not in done.stdout
    assert done.stdout.count("::warning ") == 4

    waive(today - timedelta(days=1))
    done, summary = repository.build("waivers.toml")
    assert done.returncode == 1 and summary.startswith("# persona-audit: red"), done.stdout
    assert "The waiver has expired, by Ada" in summary and "word order is being retaught" in summary

    # Nothing but what was meant is in the way of a commit.
    assert repository.shell("git status --porcelain").stdout == ""
    assert len(repository.shell("git log --oneline").stdout.splitlines()) == 3
