"""What may go wrong around a check: it is killed, the disk is full, others use the store, a checkpoint vanishes.

Everything is played with real processes. A child is forked from a server that has imported everything, so that a kill
costs a second and not ten.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import order
import pytest
import tiny

KILLS = 20
ROOM = 30_000
"""Bytes that a file may have on the full disk: enough for reports, too few for a shard."""


def checked(root: str, store: str, out: str, post: str = "post", room: int | None = None) -> None:
    """One check as a process of its own, which writes its folder as the command does and exits as the gate says."""
    import sys

    import torch

    torch.set_num_threads(1)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    from audit.cli import main

    os.chdir(root)
    sys.argv = ["persona-audit", "check", "plan.toml", "--post", post, "--out", out, "--store", store]
    main()


@pytest.fixture(scope="module")
def server():
    """Forks children that have torch and the audit imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "sklearn.linear_model", "audit.conduct", "test_faults"])
    return context


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A pair with texts of many shards, and a plan."""
    root = tmp_path_factory.mktemp("faults")
    tiny.checkpoint(root / "base")
    tiny.checkpoint(root / "post", seed=1)
    order.personas(root / "personas", groups=60)
    order.plan_file(root / "plan.toml", "base", "personas", "post")
    return root


def digest(out: Path) -> str:
    return json.loads((out / "record.json").read_text())["digest"]


def shards(store: Path) -> int:
    return len(list(store.rglob("shard-*.safetensors")))


def started(server, *arguments):
    child = server.Process(target=checked, args=tuple(map(str, arguments)))
    child.start()
    return child


@pytest.fixture(scope="module")
def undisturbed(here, server, tmp_path_factory):
    """The digest of a run that nothing happened to, and how many shards it leaves."""
    root = tmp_path_factory.mktemp("undisturbed")
    child = started(server, here, root / "store", root / "out")
    child.join(300)
    assert child.exitcode in (0, 1)
    return digest(root / "out"), shards(root / "store")


@pytest.mark.slow
def test_killed_at_any_point_a_rerun_finds_the_same(here, undisturbed, server, tmp_path):
    wanted, total = undisturbed
    assert total >= 8
    rng, killed = random.Random(0), 0
    for number in range(2 * KILLS):
        store, out = tmp_path / f"store-{number}", tmp_path / f"out-{number}"
        child, after = started(server, here, store, out), rng.randrange(total)
        deadline, wait = time.monotonic() + 120, rng.random() * 0.3
        while child.is_alive() and shards(store) < after and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            assert child.exitcode == -signal.SIGKILL
            killed += 1
        again = started(server, here, store, out)
        again.join(300)
        assert again.exitcode in (0, 1) and digest(out) == wanted, f"killed after {after} shards"
        shutil.rmtree(store)
        if killed == KILLS:
            break
    assert killed == KILLS


def test_four_checks_at_once_in_one_store_find_what_each_finds_alone(here, undisturbed, server, tmp_path):
    outs = [tmp_path / f"out-{number}" for number in range(4)]
    children = [started(server, here, tmp_path / "store", out) for out in outs]
    for child in children:
        child.join(300)
    assert {child.exitcode for child in children} <= {0, 1}
    assert {digest(out) for out in outs} == {undisturbed[0]}
    left = [path.name for path in (tmp_path / "store").rglob("*") if path.name.startswith((".", "tmp"))]
    assert set(left) <= {".lock"}


def test_a_full_disk_ends_without_an_answer_and_says_what_could_not_be_written(here, server, tmp_path):
    where = (str(here), str(tmp_path / "store"), str(tmp_path / "out"))
    child = server.Process(target=checked, args=(*where, "post", ROOM))
    child.start()
    child.join(300)
    assert child.exitcode == 3
    assert not list((tmp_path / "store").rglob("manifest.json"))
    told = (tmp_path / "out" / "summary.md").read_text()
    assert "no answer" in told and "cannot be written" in told


def test_a_checkpoint_that_vanished_is_named(here, server, tmp_path):
    child = started(server, here, tmp_path / "store", tmp_path / "out", "checkpoint-9000")
    child.join(300)
    assert child.exitcode == 3
    told = (tmp_path / "out" / "junit.xml").read_text()
    assert "checkpoint-9000" in told and "<error" in told
