"""Whole audits, kept by everything that they are computed from: a rerun with nothing changed loads no model, nor torch.

Kept are audits in which everything was measured, of models that lie in local folders and did not change meanwhile. One
lies in `audits/<key>/` of the store; it appears by one rename, so a reader meets a whole one or none. The key holds the
content of every file that is read, the plan, this program's own sources, the libraries, and the machine.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.organisms.card import PREFIX, folder
from audit.plan import Plan
from audit.record import Record, read
from audit.scores import SCORES_NAME, Scores, dumped, read_scores
from probes.digest import AuditError, digest
from probes.persona import Library

if TYPE_CHECKING:
    from probes.direction import Direction

FORMAT = "audit, 3"
DIRECTIONS = "directions.json"
"""What the folder of directions must hold: SHA-256 by name."""
BUILTIN = "builtin"
"""The SAEs that come with an organism."""
LIBRARIES = (
    "persona-audit", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn",
    "transformer-lens", "sae-lens", "concept-erasure", "jinja2", "einops",
)  # fmt: skip
_LEFT = ("optimizer", "scheduler", "rng_state", "training_args", "trainer_state", "events.out")
"""What a trainer leaves beside a checkpoint, and no audit reads."""


class Directions(Mapping[str, "Direction"]):
    """Directions in a folder, each loaded when it is asked for."""

    def __init__(self, home: Path) -> None:
        """Takes a folder of NAME.safetensors, which need not be there."""
        self.home = home

    def __getitem__(self, name: str) -> Direction:
        """Loads one."""
        from probes.direction import Direction

        path = self.home / f"{name}.safetensors"
        if not path.is_file():
            raise KeyError(name)
        return Direction.load(path)

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return (path.name.removesuffix(".safetensors") for path in sorted(self.home.glob("*.safetensors")))

    def __len__(self) -> int:
        """How many there are."""
        return len(list(self.home.glob("*.safetensors")))

    def copied(self, to: Path) -> None:
        """Copies them as they lie.

        Raises:
            AuditError: they cannot be read or written.
        """
        if not self.home.is_dir():
            return
        try:
            shutil.copytree(self.home, to, dirs_exist_ok=True)
        except OSError as error:
            raise AuditError(f"{to} cannot be written ({error})", "a writable folder", "Name another") from error


class Shelf:
    """The audits in one store."""

    def __init__(self, store: Path) -> None:
        """Takes the store's folder."""
        self.store = store

    def key(self, plan: Plan, library: Library, setting: Sequence[Any]) -> str | None:
        """The digest of everything an audit is computed from, or None where some of it does not lie in local files.

        Files count by their content; that of a file which has the size, time and place it had is not read again.
        `setting` is whatever else an answer depends on: strictness, threads.
        """
        models = [plan.pair.base, plan.pair.post]
        given = [value for own in plan.comparisons.values() for value in own.values()]
        listed = [one for value in given for one in (value if isinstance(value, list) else [value])]
        others = [one for one in listed if isinstance(one, str)]
        others += [plan.pair.template] if plan.pair.template not in ("auto", "base", "post") else []
        named = [(ref, False) for ref in models]
        for ref in others:
            named += [(side, True) for side in models] if ref == BUILTIN else [(ref, True)]
        contents = [self.contents(ref, deep) for ref, deep in named]
        if None in contents:
            return None
        texts: Any = [[one.name, one.digest] for one in library.personas]
        plain = digest([vars(line) for line in library.plain])
        told: Any = [plan.model_dump(mode="json"), list(setting)]
        return digest([FORMAT, contents, texts, plain, self.program(), *told])

    def program(self) -> str:
        """The digest of what computes: this program's own sources, the libraries, the machine."""
        own = [self.contents(str(Path(str(files(name)))), True, "*.py") for name in ("audit", "probes")]
        return digest([own, dict(machine()), dict(computing())])

    def get(self, key: str) -> tuple[Record, Directions, tuple[Scores, ...]] | None:
        """The audit under a key; one that is not there, or not whole, is None."""
        home = self.store / "audits" / key
        try:
            record, scores = read(home), read_scores(home)
            listed = json.loads((home / DIRECTIONS).read_text(encoding="utf-8"))
            there = {path.name: _sha256(path) for path in (home / "directions").glob("*")}
        except (AuditError, OSError, ValueError):
            return None
        kept = {one.persona: one.digest for one in scores}
        held = {data.persona: data.scores for data in record.data if data.scores}
        whole = kept == held and there == listed
        return (record, Directions(home / "directions"), scores) if whole else None

    def put(self, key: str, record: Record, directions: Mapping[str, Direction], scores: tuple[Scores, ...]) -> None:
        """Keeps an audit in which everything was measured; where the store cannot be written nothing is kept."""
        home = self.store / "audits" / key
        if any(finding.status != "measured" for finding in record.findings):
            return
        fresh = home.with_name(f".{key}.{secrets.token_hex(4)}")
        try:
            record.write(fresh)
            (fresh / SCORES_NAME).write_text(dumped(scores), encoding="utf-8")
            paths = [
                direction.save(fresh / "directions" / f"{name}.safetensors") for name, direction in directions.items()
            ]
            listed = {path.name: _sha256(path) for path in paths}
            (fresh / DIRECTIONS).write_text(json.dumps(listed), encoding="utf-8")
            if home.exists() and self.get(key) is None:
                shutil.rmtree(home)
            fresh.rename(home)
        except (OSError, AuditError):
            # Another process was first, or there is no room: the audit itself is not the worse for it.
            shutil.rmtree(fresh, ignore_errors=True)

    def contents(self, ref: str, deep: bool = False, kind: str = "*") -> Any:
        """The digests of the files that a reference stands for, by name; None where it stands for none to be read.

        Args:
            ref: a local file or folder, or an organism.
            deep: whether folders in it count too.
            kind: a pattern that names must match.
        """
        try:
            path = folder(ref) if ref.startswith(PREFIX) else Path(ref).expanduser()
            if path.is_file():
                return self._digest(path)
            inside = sorted(_inside(path, deep, kind))
            return {one.relative_to(path).as_posix(): self._digest(one) for one in inside} or None
        except (AuditError, OSError, RuntimeError):
            # Nobody's home folder, or a file that only others may read: such an audit is made anew each time.
            return None

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered by its place, size and times."""
        stat = path.stat()
        seen = digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
        note = self.store / "files" / seen
        try:
            return json.loads(note.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        made = _sha256(path)
        keep(note, json.dumps({"sha256": made}).encode())
        return made


def keep(note: Path, content: bytes) -> None:
    """Writes a note of the store, whole or not at all; where it cannot be written whoever asks finds out again."""
    fresh = note.with_name(f".{note.name}.{secrets.token_hex(4)}")
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(note)


def machine() -> Mapping[str, Any]:
    """What numbers may depend on of the machine: its processor, its cores, and the devices that "auto" may choose."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        processor = next((line for line in told.splitlines() if line.startswith("model name")), "")
    except OSError:
        processor = platform.processor()
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*")) + [str(Path("/dev/kfd").exists())]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {
        "machine": platform.machine(), "processor": processor, "cores": os.cpu_count(), "devices": devices,
        "environment": [os.environ.get(name) for name in names], "python": platform.python_version(),
    }  # fmt: skip


def computing() -> Mapping[str, str]:
    """Versions of the libraries that numbers go through."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _inside(path: Path, deep: bool, kind: str) -> Iterator[Path]:
    """The files of a folder, of folders in it too where `deep`; links are followed, as whoever reads them does."""
    seen: set[Path] = set()
    for here, below, names in os.walk(path, followlinks=True):
        if Path(here).resolve() in seen or not deep:
            below.clear()
        seen.add(Path(here).resolve())
        found = (Path(here) / name for name in names if fnmatch(name, kind) and not name.startswith(_LEFT))
        yield from (one for one in found if one.is_file())


def _sha256(path: Path) -> str:
    made = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            made.update(chunk)
    return made.hexdigest()
