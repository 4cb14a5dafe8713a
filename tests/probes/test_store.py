"""Store: a reader meets the whole truth or nothing, and a disk that cannot be written is said so."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from probes.digest import AuditError, digest
from probes.store import Store

KEY = digest("a recording")


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    return {"values": torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(seed))}


def filled(root: Path) -> Store:
    store = Store(root)
    store.put_manifest(KEY, [store.put_shard(KEY, index, tensors(index)) for index in range(3)], {"note": "x"})
    return store


def shard_path(store: Store, index: int) -> Path:
    return store.folder("recordings", KEY) / f"shard-{index:05d}.safetensors"


@contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """Permissions mean nothing to root; for the length of the block nobody in particular asks."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose parents everybody may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_what_is_put_is_got(tmp_path: Path) -> None:
    store = filled(tmp_path / "not" / "there" / "yet")
    assert store.complete(KEY) and store.manifest(KEY)["note"] == "x"
    for index, shard in enumerate(store.shards(KEY)):
        assert torch.equal(shard["values"], tensors(index)["values"])
    assert not [path for path in store.root.rglob("*") if path.name.endswith(".tmp")]


def test_without_a_manifest_nothing_is_complete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.complete(KEY) and store.shard(KEY, 0) is None
    store.put_shard(KEY, 0, tensors())
    assert not store.complete(KEY) and store.shard(KEY, 0) is not None
    with pytest.raises(AuditError, match="incomplete or damaged"):
        list(store.shards(KEY))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_truncated_shard_is_not_read(tmp_path: Path, share: float) -> None:
    store = filled(tmp_path)
    path = shard_path(store, 1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert store.shard(KEY, 1) is None and store.shard(KEY, 0) is not None
    with pytest.raises(AuditError, match="damaged"):
        list(store.shards(KEY))


@pytest.mark.parametrize("where", ["header", "first tensor byte", "last byte"])
def test_an_altered_shard_is_not_read(tmp_path: Path, where: str) -> None:
    store = filled(tmp_path)
    path = shard_path(store, 1)
    data = bytearray(path.read_bytes())
    head = int.from_bytes(data[:8], "little")
    at = {"header": data.index(b'"digest":"') + 12, "first tensor byte": 8 + head, "last byte": len(data) - 1}[where]
    data[at] ^= 1
    path.write_bytes(data)
    assert store.shard(KEY, 1) is None


def test_a_sound_shard_in_the_wrong_place_is_not_read(tmp_path: Path) -> None:
    store = filled(tmp_path)
    shard_path(store, 1).write_bytes(shard_path(store, 0).read_bytes())
    assert store.shard(KEY, 1) is None
    # One that was recorded again differently is sound in itself, but not what the manifest promised.
    again = store.put_shard(KEY, 1, tensors(7))
    assert store.shard(KEY, 1) is not None and store.sound(KEY, 1) == again
    assert store.shard(KEY, 1, store.manifest(KEY)["shards"][1]) is None


@pytest.mark.parametrize("damage", ["cut", "edit", "list"])
def test_a_damaged_manifest_is_no_manifest(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path)
    path = store.folder("recordings", KEY) / "manifest.json"
    text = path.read_text()
    path.write_text({"cut": text[:40], "edit": text.replace('"x"', '"y"'), "list": json.dumps([1])}[damage])
    assert not store.complete(KEY)


def test_fits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get_fit(KEY) is None
    store.put_fit(KEY, tensors(), {"count": 3, "names": ["ä", "b"]})
    found, metadata = store.get_fit(KEY)
    assert torch.equal(found["values"], tensors()["values"]) and metadata == {"count": 3, "names": ["ä", "b"]}
    store.put_fit(digest("no tensor"), {}, {"p": 0.5})
    assert store.get_fit(digest("no tensor")) == ({}, {"p": 0.5})
    path = store.folder("fits", KEY) / "fit.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert store.get_fit(KEY) is None
    with pytest.raises(ValueError):
        store.put_fit(KEY, {}, {"p": float("nan")})


def test_a_read_only_store_is_read_and_says_why_it_is_not_written(open_folder: Path) -> None:
    store = filled(open_folder / "store")
    for path in sorted(store.root.rglob("*"), reverse=True) + [store.root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with ordinary_user(open_folder):
        assert len(list(store.shards(KEY))) == 3
        with pytest.raises(AuditError) as caught:
            store.put_shard(digest("another"), 0, tensors())
        with pytest.raises(AuditError), store.lock(digest("another")):
            pass
    message = str(caught.value)
    assert message.startswith(f"The store {store.root} cannot be written: Permission denied. Expected a folder")
    assert "--store" in message
    for path in [store.root, *store.root.rglob("*")]:
        path.chmod(0o755)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    store = filled(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(AuditError, match="cannot be written: File too large"):
            store.put_shard(KEY, 0, tensors(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(store.shard(KEY, 0)["values"], tensors(0)["values"])
    assert not list(tmp_path.rglob("*.tmp"))


def test_keys_are_digests_and_lead_nowhere_else(tmp_path: Path) -> None:
    for key in ("../../etc", "", "A" * 64, "a/b"):
        with pytest.raises(ValueError, match="no hexadecimal digest"):
            Store(tmp_path).complete(key)


def hold_then_die(root: str, ready: object) -> None:
    with Store(root).lock(KEY):
        (Store(root).folder("recordings", KEY) / ".half-written.tmp").write_bytes(b"x")
        ready.set()  # type: ignore[attr-defined]
        os.kill(os.getpid(), 9)


def test_the_lock_and_the_litter_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold_then_die, args=(str(tmp_path), ready))
    process.start()
    process.join(20)
    assert ready.is_set() and process.exitcode == -9
    assert list(tmp_path.rglob("*.tmp"))
    with Store(tmp_path).lock(KEY):
        assert not list(tmp_path.rglob("*.tmp"))


def test_the_lock_keeps_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    store, entered = Store(tmp_path), context.Event()

    def enter() -> None:
        with store.lock(KEY):
            entered.set()

    process = context.Process(target=enter)
    with store.lock(KEY):
        process.start()
        assert not entered.wait(0.5)
    assert entered.wait(20)
    process.join(20)


def test_a_small_result_is_made_once_for_what_it_is_computed_from(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"values": torch.arange(3.0)}

    for given in (["mean", 1, torch.ones(2)], ["mean", 1, torch.ones(2)], ["mean", 1, torch.zeros(2)]):
        assert torch.equal(store.remembered(given, make)["values"], torch.arange(3.0))
    assert len(made) == 2
    for path in tmp_path.glob("fits/*/fit.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert torch.equal(store.remembered(["mean", 1, torch.ones(2)], make)["values"], torch.arange(3.0))
    assert len(made) == 3, "an altered one was believed"
