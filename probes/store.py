"""A content-addressed folder of safetensors: `recordings/<key>/` in shards, `fits/<key>/` in one piece.

Every file appears by an atomic rename and carries the digest of its own content, so a reader meets either the whole
truth or nothing. A recording's manifest is written last: with it the recording is complete, without it the shards that
are sound are kept and the rest is recorded again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from probes.digest import AuditError, digest

log = logging.getLogger("probes")


class StoreError(AuditError):
    """The store cannot be read or written: nothing a comparison could work around."""


class Store:
    """One folder on disk, shared by any number of processes.

    Keys are lower-case hexadecimal digests; whoever asks makes them (`probes.recorder.recording_key`).
    """

    def __init__(self, root: Path | str) -> None:
        """Takes the folder; it is made when something is first written."""
        self.root = Path(root)

    def folder(self, kind: str, key: str) -> Path:
        """The folder of one recording or fit, whether or not it exists.

        Raises:
            ValueError: the key is no hexadecimal digest.
        """
        if not re.fullmatch(r"[0-9a-f]{8,128}", key):
            raise ValueError(f"{key!r} is no hexadecimal digest")
        return self.root / kind / key

    def put_shard(self, key: str, index: int, tensors: Mapping[str, Tensor]) -> str:
        """Writes one shard of a recording, atomically, and returns its content digest.

        Raises:
            AuditError: the folder cannot be written.
        """
        mark = digest([key, index, dict(tensors)])
        self._write(self._shard_path(key, index), _packed(tensors, {"digest": mark}))
        return mark

    def shard(self, key: str, index: int, expected: str | None = None) -> dict[str, Tensor] | None:
        """One shard, or None where it is missing, truncated or altered.

        Args:
            key: the recording.
            index: which shard.
            expected: the digest the manifest gives; None trusts the shard's own.
        """
        checked = self._checked(key, index, expected)
        return None if checked is None else checked[0]

    def sound(self, key: str, index: int, expected: str | None = None) -> str | None:
        """The content digest of one shard, or None where `shard` would give None."""
        checked = self._checked(key, index, expected)
        return None if checked is None else checked[1]

    def shards(self, key: str) -> Iterator[dict[str, Tensor]]:
        """The shards of a complete recording in order, one in memory at a time.

        Raises:
            AuditError: the recording is not complete, or a shard of it is damaged.
        """
        manifest = self.manifest(key)
        for index, mark in enumerate([] if manifest is None else manifest["shards"]):
            tensors = self.shard(key, index, mark)
            if tensors is None:
                manifest = None
                break
            yield tensors
        if manifest is None:
            raise AuditError(
                found=f"The recording {key[:12]} in {self.root} is incomplete or damaged",
                expected="every shard its manifest names",
                do="Record the passages again",
            )

    def complete(self, key: str) -> bool:
        """True where the recording's manifest is there and sound; its shards are checked as they are read."""
        return self.manifest(key) is not None

    def manifest(self, key: str) -> dict[str, Any] | None:
        """What was recorded under the key: the settings given to `put_manifest` and "shards", their digests."""
        path = self.folder("recordings", key) / "manifest.json"
        raw = _read(path)
        try:
            body = json.loads(raw) if raw is not None else None
        except ValueError:
            body = {}
        if body is None:
            return None
        mark = body.pop("digest", None) if isinstance(body, dict) else None
        if mark != digest(body):
            log.warning("%s is damaged; the recording's shards are checked one by one", path)
            return None
        return body

    def put_manifest(self, key: str, shards: list[str], settings: Mapping[str, Any]) -> None:
        """Declares a recording complete: the digests of its shards in order, and whatever describes it (JSON)."""
        body = {**settings, "shards": shards}
        text = json.dumps({**body, "digest": digest(body)}, sort_keys=True, allow_nan=False)
        self._write(self.folder("recordings", key) / "manifest.json", text.encode())

    def put_fit(self, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Remembers a small result: tensors, and metadata that JSON can hold."""
        text = json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
        mark = digest([key, text, dict(tensors)])
        self._write(self.folder("fits", key) / "fit.safetensors", _packed(tensors, {"digest": mark, "json": text}))

    def remembered(self, given: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """A small result by what it is computed from: read where it is known, else made and kept.

        Args:
            given: everything the result depends on, the version of its definition included.
            make: computes it.
        """
        key = digest(list(given))
        found = self.get_fit(key)
        if found is not None:
            return found[0]
        made = make()
        self.put_fit(key, made, {})
        return made

    def get_fit(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """A result given to `put_fit`, or None where there is none, or it is truncated or altered."""
        path = self.folder("fits", key) / "fit.safetensors"
        found = _unpacked(path)
        if found is None:
            return None
        tensors, metadata = found
        if digest([key, metadata.get("json"), tensors]) != metadata.get("digest"):
            log.warning("%s was altered after it was written; it is computed again", path)
            return None
        return tensors, json.loads(metadata["json"])

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Lets one process at a time record under this key; the others wait, then find the work done.

        The system lets go of the lock when its holder dies, however it dies. Where the file system knows no locks the
        work may be done twice, but never wrongly: every file is written whole or not at all.
        """
        folder = self.folder("recordings", key)
        with self._explained("written"):
            folder.mkdir(parents=True, exist_ok=True)
            handle = open(folder / ".lock", "a")  # noqa: SIM115 (closed below, after the caller's work)
        with handle:
            held = _locked(handle.fileno(), folder)
            try:
                for left in folder.glob("*.tmp") if held else ():
                    left.unlink(missing_ok=True)
                yield
            finally:
                # Closing is not enough where a forked child has inherited the handle.
                _unlocked(handle.fileno(), held)

    @contextlib.contextmanager
    def scratch(self, key: str) -> Iterator[Any]:
        """A nameless file beside the recording (in the system's temporary folder where that is read-only)."""
        folder = self.folder("recordings", key)
        with self._explained("written"):
            try:
                file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (the caller maps it; closed below)
            except OSError:
                file = tempfile.TemporaryFile()  # noqa: SIM115
            with file:
                yield file

    def _checked(self, key: str, index: int, expected: str | None) -> tuple[dict[str, Tensor], str] | None:
        path = self._shard_path(key, index)
        found = _unpacked(path)
        if found is None:
            return None
        tensors, metadata = found
        mark = digest([key, index, tensors])
        if mark != metadata.get("digest") or (expected is not None and mark != expected):
            log.warning("%s was altered after it was written; it is recorded again", path)
            return None
        return tensors, mark

    def _shard_path(self, key: str, index: int) -> Path:
        return self.folder("recordings", key) / f"shard-{index:05d}.safetensors"

    def _write(self, path: Path, data: bytes) -> None:
        with self._explained("written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not mkstemp: its files are for one user only, and a store may be shared by several.
            name = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
            try:
                with open(name, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    name.unlink()
                raise

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                found=f"The store {self.root} cannot be {verb}: {error.strerror or error}",
                expected="a folder this user may write, on a disk with room",
                do="Choose another with --store DIR or PERSONA_AUDIT_STORE, or make room",
            ) from error


def _read(path: Path) -> bytes | None:
    """The file's bytes, or None where there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AuditError(
            found=f"{path} cannot be read: {error.strerror or error}",
            expected="a store this user may read",
            do="Mend its permissions or choose another with --store DIR",
        ) from error


def _packed(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)


def _unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata of one file; None where it is missing or is no whole safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _read(path)
    if data is None:
        return None
    try:
        tensors = load(data)
        head = int.from_bytes(data[:8], "little")
        return tensors, json.loads(data[8 : 8 + head]).get("__metadata__", {})
    except (SafetensorError, ValueError):
        log.warning("%s is truncated or no safetensors file; it is made again", path)
        return None


def _locked(handle: int, folder: Path) -> bool:
    """Takes the lock, waiting as long as its holder lives; False where the system or file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("another process is recording into %s; waiting for it", folder)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _unlocked(handle: int, held: bool) -> None:
    if held:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_UN)
