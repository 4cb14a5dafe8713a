"""The command line in a process of its own, as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def command(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `persona-audit ARGUMENTS` in a folder: one thread, no network, a terminal 200 columns wide.

    Args:
        arguments: what is typed after the command's name.
        cwd: where it is typed.
        env: further variables of its environment.
    """
    return subprocess.run(
        [sys.executable, "-m", "audit.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200", **env},
        timeout=300,
    )
