"""The installed wheel audits a pair far from the clone: everything a run and its report need travels with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.record import read

ROOT = Path(__file__).parents[1]
CODE = """
import sys
sys.argv = ["persona-audit", *{arguments!r}]
import audit.cli
try:
    audit.cli.main()
finally:
    ours = [m for name, m in sys.modules.items() if name.split(".")[0] in ("audit", "probes") and m.__file__]
    strangers = [m.__file__ for m in ours if not m.__file__.startswith({target!r})]
    assert len(ours) > 20 and not strangers, strangers
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this tree without network, and installed into a folder of its own."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("far")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(folder / "site")]
    for command in (build, install):
        wheels = [str(path) for path in folder.glob("*.whl")]
        done = subprocess.run([sys.executable, *command, *wheels], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_a_pair_is_audited_by_the_installed_wheel(
    installed: Path, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """With a persona it ships; random weights carry nothing, or it is not decided."""
    (tmp_path / "plan.toml").write_text('personas.only = ["formality"]\n')
    arguments = [
        "run", "plan.toml", "--base", str(checkpoint("llama")), "--post", str(checkpoint("llama", seed=1)),
        "--effort", "glance", "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store"), "--threads", "1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(arguments=arguments, target=str(installed))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    record = read(tmp_path / "out")
    assert [verdict.persona for verdict in record.verdicts] == ["formality"]
    assert {verdict.verdict for verdict in record.verdicts} <= {"absent", "inconclusive"}, record.verdicts
    page = (tmp_path / "out" / "report.html").read_text()
    assert "plotly.js" in page and all(verdict.verdict in page for verdict in record.verdicts)
