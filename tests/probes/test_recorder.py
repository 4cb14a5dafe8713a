"""Recorder: the rows do not depend on how they were recorded, and nothing is computed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from probes import layout, recorder
from probes.activations import Activations
from probes.digest import AuditError
from probes.model import Subject, load
from probes.passage import Passage
from probes.recorder import load_recording, record, record_moments, record_tokens, recording_key
from probes.site import Site, sites
from probes.store import Store
from tests import tiny
from tests.probes.texts import passage, passages

ALL = sites("resid_post", "all", tiny.LAYERS)
ROOT = Path(__file__).parents[2]
HF, TOKENIZER = tiny.model(), tiny.tokenizer()


@pytest.fixture
def subject() -> Iterator[Subject]:
    with load((HF, TOKENIZER)) as subject:
        yield subject


def alone(one: Passage, hf: Any = HF) -> torch.Tensor:
    """The span's mean residuals by the shortest road there is: one text, no padding, no batch."""
    caught: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _a, out: caught.append(out if isinstance(out, torch.Tensor) else out[0]))
        for block in hf.model.layers
    ]
    with torch.no_grad():
        hf(torch.tensor([one.token_ids]))
    for handle in handles:
        handle.remove()
    return torch.stack([hidden[0, slice(*one.span)].mean(0) for hidden in caught])


def same(a: Activations, b: Activations, atol: float = 2e-5) -> None:
    assert a.passages == b.passages and a.sites == b.sites
    torch.testing.assert_close(a.values, b.values, rtol=0, atol=atol)


# ------------------------------------------------------------------ the rows


def test_a_mixed_batch_equals_each_text_alone(subject: Subject) -> None:
    texts = passages(25)
    got = record(subject, texts, ALL, progress=False)
    assert subject.forwards < len(texts)
    torch.testing.assert_close(got.values, torch.stack([alone(text) for text in texts]), rtol=0, atol=2e-5)
    same(record(subject, texts, ALL, token_budget=1, progress=False), got)
    # Control: the comparison would see rows that were put back in the wrong order.
    assert (got.values - got.values.roll(1, 0)).abs().max() > 0.1


@pytest.mark.parametrize("pooling", ["span_mean", "last_token", "tokens"])
def test_one_shard_equals_seven_shards_equals_memory(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: Any
) -> None:
    texts = passages(42)
    memory = record(subject, texts, ALL, pooling=pooling, progress=False)
    one = record(subject, texts, ALL, pooling=pooling, store=Store(tmp_path / "one"), progress=False)
    monkeypatch.setattr(layout, "SHARD_PASSAGES", 6)
    monkeypatch.setattr(layout, "SHARD_TOKENS", 1 + len(memory) // 7)
    seven = record(subject, texts, ALL, pooling=pooling, store=Store(tmp_path / "seven"), progress=False)
    assert torch.equal(one.values, memory.values)
    same(seven, memory)
    assert len(list((tmp_path / "one").rglob("shard-*"))) == 1
    assert 7 <= len(list((tmp_path / "seven").rglob("shard-*"))) <= 9


def test_a_repeated_text_is_read_once_and_given_twice(subject: Subject) -> None:
    first, second = passages(2)
    got = record(subject, [first, second, first], ALL, token_budget=1, progress=False)
    assert subject.forwards == 2
    assert torch.equal(got.values[0], got.values[2]) and got.passages == (first.id, second.id, first.id)


def test_every_stream_is_the_one_its_name_says(subject: Subject) -> None:
    texts = passages(6)
    wanted = tuple(Site(1, stream) for stream in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
    got = record(subject, texts, wanted, progress=False)
    pre, attention, mlp, post = got.values.unbind(1)
    torch.testing.assert_close(pre + attention + mlp, post, rtol=0, atol=1e-5)
    torch.testing.assert_close(pre, record(subject, texts, ALL, progress=False).values[:, 0], rtol=0, atol=1e-5)


def test_bfloat16_weights_give_float32_rows() -> None:
    with load((tiny.model(dtype="bfloat16"), TOKENIZER)) as subject:
        got = record(subject, passages(5), ALL, progress=False)
    assert got.values.dtype == torch.float32 and not got.values.is_inference()


def test_tokens_have_their_own_rows(subject: Subject) -> None:
    texts = passages(10)
    got = record_tokens(subject, texts, ALL, progress=False)
    assert got.passages == tuple(f"{t.id}:{i}" for t in texts for i in range(1, len(t.token_ids)))
    inside = [f"{texts[3].id}:{i}" for i in range(*texts[3].span)]
    torch.testing.assert_close(got.take(inside).values.mean(0), alone(texts[3]), rtol=0, atol=2e-5)
    span = record(subject, texts, ALL, pooling="tokens", progress=False).take(inside)
    torch.testing.assert_close(span.values, got.take(inside).values, rtol=0, atol=2e-5)


def test_base_and_post_give_the_same_limited_rows(subject: Subject) -> None:
    texts = passages(10)
    base = record_tokens(subject, texts, ALL[:1], limit=55, progress=False)
    with load((tiny.model(seed=1), TOKENIZER)) as other:
        post = record_tokens(other, texts, ALL[:1], limit=55, progress=False)
    assert base.passages == post.passages and len(base) == len(set(base.passages)) == 55
    assert (base.values - post.values).abs().max() > 0.1


def test_moments_are_those_of_the_token_rows(subject: Subject, tmp_path: Path) -> None:
    texts = [*passages(20), passages(1)[0]]
    rows = record_tokens(subject, texts, ALL, progress=False)
    store = Store(tmp_path)
    got = record_moments(subject, texts, ALL[::2], store=store, progress=False)
    for site in ALL[::2]:
        assert got[site].count == len(rows)
        torch.testing.assert_close(got[site].mean, rows.at(site).double().mean(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(got[site].covariance, rows.at(site).double().T.cov(), rtol=1e-4, atol=1e-5)
    before = subject.forwards
    again = record_moments(subject, texts, ALL[:1], store=store, progress=False)
    assert subject.forwards == before
    assert torch.equal(again[ALL[0]].scatter, got[ALL[0]].scatter)
    record_moments(subject, texts, ALL, store=store, progress=False)
    assert subject.forwards > before


def test_settings_that_contradict_are_refused(subject: Subject) -> None:
    texts = passages(2)
    with pytest.raises(ValueError, match="twice"):
        record(subject, texts, [ALL[0], ALL[0]], progress=False)
    with pytest.raises(ValueError, match="no site"):
        record(subject, texts, [], progress=False)
    with pytest.raises(ValueError, match="no place"):
        record(subject, texts, ALL, pooling="tokens", surprisal=True, progress=False)
    assert record(subject, [], ALL, progress=False).values.shape == (0, 3, tiny.WIDTH)


# ------------------------------------------------------------------ nothing twice, nothing lost


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SHARD_PASSAGES", 6)


def test_a_second_recording_needs_no_pass_and_no_model(subject: Subject, tmp_path: Path) -> None:
    texts, store = passages(20), Store(tmp_path)
    first = record(subject, texts, ALL, store=store, surprisal=True, progress=False)
    before = subject.forwards
    second = record(subject, texts, ALL, store=Store(tmp_path), surprisal=True, progress=False)
    assert subject.forwards == before > 0
    key = recording_key(subject.weights, subject.dtype, texts, ALL, surprisal=True)
    read = load_recording(store, key)
    for again in (second, read):
        assert again is not None and again.passages == first.passages
        assert torch.equal(again.values, first.values) and torch.equal(again.surprisal, first.surprisal)


def test_whatever_changes_the_rows_changes_the_key(subject: Subject) -> None:
    texts = passages(3)
    ids, span = texts[0].token_ids, texts[0].span
    given = ("a" * 64, "float32", texts, ALL, "span_mean", False)
    changed: list[tuple[Any, ...]] = [
        ("b" * 64, *given[1:]),
        (given[0], "bfloat16", *given[2:]),
        (*given[:2], [passage((ids[0] + 1, *ids[1:]), span), *texts[1:]], *given[3:]),
        (*given[:2], [passage(ids, (span[0] - 1, span[1])), *texts[1:]], *given[3:]),
        (*given[:2], texts[::-1], *given[3:]),
        (*given[:3], ALL[:2], *given[4:]),
        (*given[:4], "last_token", False),
        (*given[:4], "span_mean", True),
    ]
    keys = {recording_key(*call) for call in (given, *changed)}
    assert len(keys) == len(changed) + 1 and recording_key(*given) in keys


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "manifest"])
@pytest.mark.usefixtures("small_shards")
def test_damage_is_found_and_only_the_damaged_part_recorded_again(
    subject: Subject, tmp_path: Path, damage: str
) -> None:
    texts, store = passages(42), Store(tmp_path)
    first = record(subject, texts, ALL, store=store, progress=False)
    total = subject.forwards
    path = sorted(tmp_path.rglob("shard-*"))[2]
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "alter":
        data[-7] ^= 1
        path.write_bytes(data)
    elif damage == "remove":
        path.unlink()
    else:
        next(tmp_path.rglob("manifest.json")).write_text("{")
    assert load_recording(store, recording_key(subject.weights, subject.dtype, texts, ALL)) is None
    again = record(subject, texts, ALL, store=store, progress=False)
    assert torch.equal(again.values, first.values)
    assert 0 <= subject.forwards - total <= (0 if damage == "manifest" else total // 4)
    assert damage == "manifest" or subject.forwards > total


@pytest.mark.usefixtures("small_shards")
def test_a_large_recording_comes_back_as_a_map(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = passages(30)
    memory = record(subject, texts, ALL, progress=False)
    monkeypatch.setattr(recorder, "MAP_ABOVE", 0)
    mapped = record(subject, texts, ALL, store=Store(tmp_path), progress=False)
    same(mapped, memory)
    names = {path.name.split("-")[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"shard", "manifest.json", ".lock"}


def test_a_store_that_cannot_be_written_is_said_so(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AuditError, match=r"cannot be written: Not a directory\. .*--store DIR"):
        record(subject, passages(2), ALL, store=Store(tmp_path / "file"), progress=False)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch; torch.set_num_threads(1)
from probes import layout
from probes.model import load
from probes.recorder import record
from probes.store import Store
from tests import tiny
from tests.probes.test_recorder import ALL, HF, TOKENIZER
from tests.probes.texts import passages
layout.SHARD_PASSAGES = 6
root, die_at, wait = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with load((HF, TOKENIZER)) as subject:
    def count(*_):
        if subject.forwards == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    HF.model.register_forward_pre_hook(count)
    subject.weights
    print("ready", flush=True)
    if wait == "wait":
        sys.stdin.readline()
    record(subject, passages(42), ALL, store=Store(root), progress=False)
    print(subject.forwards)
"""


def start(root: Path, die_at: int = -1, wait: bool = False) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(root), str(die_at), "wait" if wait else "go"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.usefixtures("small_shards")
def test_killed_in_the_middle_it_goes_on_where_it_was(subject: Subject, tmp_path: Path) -> None:
    whole = record(subject, passages(42), ALL, store=Store(tmp_path / "whole"), progress=False)
    total, subject.forwards = subject.forwards, 0
    die_at = total // 2 + 1
    child = start(tmp_path / "killed", die_at)
    child.communicate(timeout=900)
    assert child.returncode == -signal.SIGKILL
    left = list((tmp_path / "killed").rglob("shard-*"))
    assert 0 < len(left) < 7 and not list((tmp_path / "killed").rglob("manifest.json"))
    resumed = record(subject, passages(42), ALL, store=Store(tmp_path / "killed"), progress=False)
    # The child finished die_at - 1 passes; at most the passes of one unfinished shard are made again.
    assert total - (die_at - 1) <= subject.forwards < total
    assert torch.equal(resumed.values, whole.values)


@pytest.mark.usefixtures("small_shards")
def test_two_processes_share_one_store_and_the_work(subject: Subject, tmp_path: Path) -> None:
    whole = record(subject, passages(42), ALL, progress=False)
    total, subject.forwards = subject.forwards, 0
    children = [start(tmp_path, wait=True) for _ in range(2)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    counts = [int(child.communicate(timeout=900)[0]) for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(counts) == [0, total]
    same(record(subject, passages(42), ALL, store=Store(tmp_path), progress=False), whole)
    assert subject.forwards == 0
