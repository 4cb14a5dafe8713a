"""Whole audits, kept by everything that they are computed from: a rerun with nothing changed loads no model, nor torch.

Kept are audits in which everything was measured, of models that lie in local folders. One lies in `audits/<key>/` of
the store; it appears by one rename, so a reader meets a whole one or none.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
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

FORMAT = "audit, 1"
BUILTIN = "builtin"
"""The SAEs that come with an organism."""
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
        """Copies them as they lie."""
        shutil.copytree(self.home, to, dirs_exist_ok=True)


class Shelf:
    """The audits in one store."""

    def __init__(self, store: Path) -> None:
        """Takes the store's folder."""
        self.store = store

    def key(self, plan: Plan, library: Library, packages: Mapping[str, str], setting: Sequence[Any]) -> str | None:
        """The digest of everything an audit is computed from, or None where some of it does not lie in local files.

        Files count by their content; that of a file which has the size, time and place it had is not read again.
        `setting` is whatever else an answer depends on: threads, strictness.
        """
        models = [plan.pair.base, plan.pair.post]
        others = [value for own in plan.comparisons.values() for value in own.values() if isinstance(value, str)]
        others += [plan.pair.template] if plan.pair.template not in ("auto", "base", "post") else []
        named = [(ref, False) for ref in models]
        for ref in others:
            named += [(side, True) for side in models] if ref == BUILTIN else [(ref, True)]
        contents = [self._contents(ref, deep) for ref, deep in named]
        if None in contents:
            return None
        texts: Any = [[one.name, one.digest] for one in library.personas]
        machine: Any = [platform.machine(), os.cpu_count(), os.environ.get("OMP_NUM_THREADS"), *setting]
        plain = digest([vars(line) for line in library.plain])
        return digest([FORMAT, plan.model_dump(mode="json"), contents, texts, plain, dict(packages), machine])

    def get(self, key: str) -> tuple[Record, Directions, tuple[Scores, ...]] | None:
        """The audit under a key; one that is not there, or not whole, is None."""
        home = self.store / "audits" / key
        try:
            record, scores = read(home), read_scores(home)
        except AuditError:
            return None
        kept = {one.persona: one.digest for one in scores}
        held = {data.persona: data.scores for data in record.data if data.scores}
        return (record, Directions(home / "directions"), scores) if kept == held else None

    def put(self, key: str, record: Record, directions: Mapping[str, Direction], scores: tuple[Scores, ...]) -> None:
        """Keeps an audit in which everything was measured; where the store cannot be written nothing is kept."""
        home = self.store / "audits" / key
        if any(finding.status != "measured" for finding in record.findings):
            return
        fresh = home.with_name(f".{key}.{secrets.token_hex(4)}")
        try:
            record.write(fresh)
            (fresh / SCORES_NAME).write_text(dumped(scores), encoding="utf-8")
            for name, direction in directions.items():
                direction.save(fresh / "directions" / f"{name}.safetensors")
            if home.exists() and self.get(key) is None:
                shutil.rmtree(home)
            fresh.rename(home)
        except (OSError, AuditError):
            # Another process was first, or there is no room: the audit itself is not the worse for it.
            shutil.rmtree(fresh, ignore_errors=True)

    def _contents(self, ref: str, deep: bool) -> Any:
        """The digests of the files that a reference stands for, by name; None where it stands for none here."""
        try:
            path = folder(ref) if ref.startswith(PREFIX) else Path(ref).expanduser()
        except AuditError:
            return None
        if path.is_file():
            return self._digest(path)
        if not path.is_dir():
            return None
        files = path.rglob("*") if deep else path.glob("*")
        inside = sorted(one for one in files if one.is_file() and not one.name.startswith(_LEFT))
        return {one.relative_to(path).as_posix(): self._digest(one) for one in inside}

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered by its place, size and times."""
        stat = path.stat()
        seen = digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
        note = self.store / "files" / seen
        try:
            return json.loads(note.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        made = sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                made.update(chunk)
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            fresh = note.with_name(f".{seen}.{secrets.token_hex(4)}")
            fresh.write_text(json.dumps({"sha256": made.hexdigest()}), encoding="utf-8")
            fresh.replace(note)
        except OSError:
            pass
        return made.hexdigest()
