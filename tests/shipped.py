"""A little of the built-in personas: one quad of some scenarios in both domains, and some plain texts.

An audit of all of them reads 17,000 passages, which says no more about a tiny model.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

NAMES = ("assistant_identity", "deception")
SCENARIOS, PLAIN = 24, 60


def write(folder: Path, names: tuple[str, ...] = NAMES, scenarios: int = SCENARIOS, plain: int = PLAIN) -> Path:
    """Writes them as a folder of personas and returns it."""
    from probes.persona import builtin, read

    folder.mkdir(parents=True, exist_ok=True)
    library = read(builtin())
    kept = {"plain": library.plain[:: max(1, len(library.plain) // plain)]}
    for persona in library.personas:
        if persona.name in names:
            shutil.copy(builtin() / f"{persona.name}.toml", folder)
            judged = [line for line in persona.lines if line.control is None and str(line.pair)[-2] == "0"]
            some = {
                name for domain in ("story", "assistant")
                for name in list(dict.fromkeys(line.scenario for line in judged if line.domain == domain))[:scenarios]
            }  # fmt: skip
            kept[persona.name] = tuple(line for line in judged if line.scenario in some)
    for name, lines in kept.items():
        rows = ({key: value for key, value in vars(line).items() if value is not None} for line in lines)
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@cache
def folder() -> str:
    """The same in a temporary folder that is removed when the tests end."""
    home = tempfile.mkdtemp(prefix="shipped-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return str(write(Path(home)))
