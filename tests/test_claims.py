"""What is claimed of speed and memory is measured by the benchmarks, and every one of their limits is met."""

from __future__ import annotations

import operator
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "benchmarks"
ROW = re.compile(r"\s*([\d.]+)  ([<>]=) ([\d.]+)  (met|MISSED|quick)\s+(.+)")
SIGNS = {"<=": operator.le, ">=": operator.ge}
LIMITED = ("recording", "bootstrap")


def limits(name: str) -> dict[str, tuple[str, float]]:
    """What a script says must hold."""
    return runpy.run_path(str(SCRIPTS / f"{name}.py"))["LIMITS"]


def printed(name: str, *flags: str) -> list[re.Match[str]]:
    """The ratios that a script prints in a process of its own, one thread."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return [row for line in done.stdout.splitlines() if (row := ROW.fullmatch(line))]


def missed(rows: list[re.Match[str]]) -> list[str]:
    """The ratios on the wrong side of their limits, by their own numbers."""
    return [row[0] for row in rows if not SIGNS[row[2]](float(row[1]), float(row[3]))]


@pytest.mark.parametrize("name", LIMITED)
def test_a_quick_run_prints_every_ratio(name: str) -> None:
    """Whether the script still runs; a tiny model says nothing about the numbers."""
    rows = printed(name, "--quick")
    assert {row[5]: (row[2], float(row[3])) for row in rows} == limits(name)
    assert {row[4] for row in rows} == {"quick"} and all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITED)
def test_every_limit_is_met(name: str) -> None:
    rows = printed(name)
    assert {row[5]: (row[2], float(row[3])) for row in rows} == limits(name)
    assert missed(rows) == []


def test_a_missed_limit_is_seen() -> None:
    """The control: on the wrong side by a little, whatever the line calls it."""
    lines = ("   1.060  <= 1.05  met     a, time", "   1.590  >= 1.60  MISSED  b, time", "   1.050  <= 1.05  met     c")
    rows = [row for line in lines if (row := ROW.fullmatch(line))]
    assert len(rows) == 3 and missed(rows) == list(lines[:2])
