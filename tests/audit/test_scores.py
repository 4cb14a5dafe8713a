"""What is kept of an audit is enough to be paired with it: the finding's own numbers, and the scores behind them."""

from __future__ import annotations

import json

import gated
import grouped
import numpy as np
import planted
import pytest
import torch
from pydantic import ValidationError

from audit.estimate import estimate
from audit.refitting import fixed
from audit.resampling import auroc
from audit.scores import (
    READINGS,
    Halves,
    Scores,
    Sheet,
    Statistic,
    change,
    compact,
    dumped,
    no_longer_told,
    read_scores,
)
from audit.verdict import tail
from probes.digest import AuditError

TURNED = planted.Plant(post=planted.turn(75), chats=lambda rows: rows + planted.unit(0))


@pytest.fixture(scope="module")
def made():
    findings, scores = gated.measured(TURNED, 0, "planted")
    return findings[0].details, scores


def test_kept_readings_and_their_changes_are_the_findings_own(made):
    details, scores = made
    assert scores.estimate("readability") == details["ladder"]["T0"]
    assert scores.estimate("ceiling") == details["ladder"]["T6"]
    assert scores.estimate("accuracy") == details["frozen_accuracy"]["post"]
    drift = {
        "readability": details["drift"],
        "ceiling": details["ceiling"]["difference"],
        "accuracy": details["frozen_accuracy"]["difference"],
    }
    for reading, reported in drift.items():
        now, then = (sheet.readings[reading] for sheet in (scores.post, scores.base))
        assert change(now, then, reading, 240) == reported, reading
    assert drift["readability"].below(0.0)


def rows(scores: Scores, halves: Halves):
    """Scores, labels, groups and folds again, row by row."""
    told = torch.tensor([*halves.one, *halves.zero], dtype=torch.float32)
    groups = [scores.groups[at] for at in scores.scenario] * 2
    folds = torch.tensor([scores.folds[at] for at in scores.scenario] * 2)
    return told, torch.arange(len(told)) < len(scores.pairs), groups, folds


def test_kept_scores_give_the_reading_and_its_deletions_again(made):
    """By the audit's own kernel: AUROC over all, the own probe's inside its folds, accuracy by the threshold."""
    _, scores = made
    for sheet in (scores.post, scores.base):
        told, labels, groups, folds = rows(scores, sheet.frozen)
        again = fixed(told, labels, groups)
        kept = sheet.readings["readability"]
        assert abs(float(again.full) - kept.value) < 1e-6
        assert np.abs(again.deleted.numpy() - kept.deleted).max() < 1e-6
        right = ((told > 0) == labels).double()
        accuracy = float((right[labels].mean() + right[~labels].mean()) / 2)
        assert accuracy == pytest.approx(sheet.readings["accuracy"].value)
        told, labels, groups, folds = rows(scores, sheet.own)
        inside = np.mean([float(auroc(told[folds == f], labels[folds == f])) for f in folds.unique()])
        assert inside == pytest.approx(sheet.readings["ceiling"].value, abs=1e-6)
    # The control: scores of another direction do not.
    told, labels, groups, _ = rows(scores, scores.base.frozen)
    assert abs(float(fixed(told, labels, groups).full) - scores.post.readings["readability"].value) > 0.05


def test_scores_are_float32_and_survive_their_file(made, tmp_path):
    _, scores = made
    told = np.array(scores.post.frozen.one)
    assert (told.astype(np.float32).astype(str).astype(float) == told).all()
    (tmp_path / "scores.json").write_text(dumped([scores]))
    assert read_scores(tmp_path) == read_scores(tmp_path / "scores.json") == (scores,)
    assert read_scores(tmp_path)[0].digest == scores.digest != scores.accepted.digest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["scores"][0]["post"]["frozen"]["one"].__setitem__(0, float("nan")),
        lambda c: c["scores"][0]["post"]["readings"]["ceiling"]["deleted"].__setitem__(0, float("inf")),
        lambda c: c["scores"][0]["post"]["frozen"]["one"].pop(),
        lambda c: c["scores"][0]["post"]["readings"]["ceiling"]["deleted"].pop(),
        lambda c: c["scores"][0]["post"]["readings"].pop("accuracy"),
        lambda c: c["scores"][0].pop("ids"),
        lambda c: c.__setitem__("schema", 2),
        lambda c: c.pop("scores"),
    ],
)
def test_a_file_that_is_not_whole_or_not_finite_is_refused(made, tmp_path, spoil):
    content = json.loads(dumped([made[1]]))
    spoil(content)
    (tmp_path / "scores.json").write_text(json.dumps(content))
    with pytest.raises(AuditError, match=r"scores\.json holds no scores"):
        read_scores(tmp_path)


def test_scores_that_are_missing_are_told_apart_from_old_records(tmp_path):
    with pytest.raises(AuditError, match="before scores were kept"):
        read_scores(tmp_path)
    with pytest.raises(ValidationError):
        Statistic(value=float("nan"), deleted=(0.5,))


def test_pairs_that_are_no_longer_told_are_named_worst_first():
    blank = {name: Statistic(value=0.5, deleted=(0.5,)) for name in READINGS}

    def sheet(one, zero):
        halves = Halves(one=one, zero=zero)
        return Sheet(frozen=halves, own=halves, readings=blank)

    then, now = sheet((2.0, 2.0, 2.0, -1.5), (-1.0,) * 4), sheet((2.0, -2.0, -5.0, -9.0), (-1.0,) * 4)
    assert no_longer_told(now, then, "abcd", "readability") == ("c", "b")
    assert no_longer_told(then, then, "abcd", "readability") == ()
    # Moved as a whole: on the sides of its own middle, and all on one side of the threshold.
    low = sheet((-2.0, -2.5, -3.0, -7.0), (-6.0,) * 4)
    assert no_longer_told(low, then, "abcd", "readability") == ()
    assert no_longer_told(low, then, "abcd", "accuracy") == ("c", "b", "a")


def test_compact_json_is_the_same_json():
    content = {"a": [1.5, None, "x [ y"], "b": {"c": [], "d": {}}, "e": [{"f": [1, 2]}, {"f": []}], "g": 0.1}
    assert json.loads(compact(content)) == content
    assert '"a": [1.5, null, "x [ y"]' in compact(content)
    with pytest.raises(ValueError, match="JSON compliant"):
        compact({"a": [float("nan")]})


DRAWS, GROUPS, LOSS = 1_000, 40, 0.05


@pytest.fixture(scope="module")
def boundary():
    """Two checkpoints read on the same rows in many draws; the second truly reads 0.05 less, what the gate allows."""
    rng = np.random.default_rng(20260101)
    labels, groups = grouped.design(GROUPS, grouped.PAIRS)
    common = grouped.noise(rng, (DRAWS,), GROUPS)
    rows = [0.7**0.5 * common + 0.3**0.5 * grouped.noise(rng, (DRAWS,), GROUPS) for _ in range(2)]
    read = [
        fixed(noise + grouped.gap(area) * labels, labels, groups)
        for noise, area in zip(rows, (0.95, 0.95 - LOSS), strict=True)
    ]
    full, deleted = read[1].full - read[0].full, read[1].deleted - read[0].deleted
    return read, [estimate(full[i], deleted[:, i], unit="auroc", n=len(labels)) for i in range(DRAWS)]


def test_at_the_margin_the_gate_is_wrong_no_more_often_than_alpha(boundary):
    """The error of the test at 0.02, where the truth lies exactly on the margin; simulation allows 3 of its errors."""
    _, changes = boundary
    wrong = np.mean([tail(one, -LOSS, "below") <= 0.02 for one in changes])
    assert wrong <= 0.02 + 3 * (0.02 * 0.98 / DRAWS) ** 0.5, wrong


def test_pairing_narrows_the_interval_and_the_control_does_not(boundary):
    read, changes = boundary
    paired = np.mean([one.high - one.low for one in changes])
    shuffled = read[0].deleted[torch.randperm(GROUPS, generator=torch.Generator().manual_seed(0))]
    full = read[1].full - read[0].full
    apart = [estimate(full[i], read[1].deleted[:, i] - shuffled[:, i], unit="auroc", n=240) for i in range(200)]
    assert paired < 0.85 * np.mean([one.high - one.low for one in apart])
