"""Series of checkpoints on tiny models: the first that breaks is named, the rest is still judged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import order
import pytest
import tiny
from shell import command
from window import HAND, opened, wider

from audit.conduct import Setting
from audit.gate import Terms
from audit.organisms.card import card
from audit.plan import plan_of
from audit.report.series import render, write
from audit.series import SERIES, checkpoints, follow, read_series
from probes.digest import AuditError


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Four checkpoints of one run: sound, sound, without the order of words, and one without weights."""
    root = tmp_path_factory.mktemp("series")
    base, personas = tiny.checkpoint(root / "base"), order.personas(root / "personas")
    for step, made in ((30, tiny.checkpoint), (200, tiny.checkpoint)):
        made(root / "run" / f"checkpoint-{step}")
    order.save(order.bag(), root / "run" / "checkpoint-1000")
    (root / "run" / "checkpoint-2000").mkdir()
    shutil.copy(base / "config.json", root / "run" / "checkpoint-2000")
    given = {"effort": "glance", "personas": {"paths": [str(personas)]}, "comparisons": order.QUICK}
    plan = plan_of({**given, "pair": {"base": str(base)}})
    setting = Setting(store=root / "store", progress=False)
    found = follow(plan, [str(root / "run" / "checkpoint-*")], Terms(), setting)
    return SimpleNamespace(root=root, base=base, personas=personas, setting=setting, plan=plan, found=found)


def test_the_first_checkpoint_that_breaks_is_named_and_the_others_are_judged(here):
    series = here.found.series
    assert [one.step for one in series.checkpoints] == [30, 200, 1000, 2000] and series.counted
    assert [one.outcome for one in series.checkpoints] == ["pass", "pass", "regression", "error"]
    assert series.first == 1000 and series.gate.exit == 3
    assert [one.verdicts.get("order") for one in series.checkpoints] == ["reused", "reused", "lost", None]


def test_trends_are_over_what_can_be_paired(here):
    trends = {one.reading: one for one in here.found.series.trends}
    frozen = trends["readability"]
    assert frozen.steps == (30, 200, 1000) and frozen.first == 1000
    # Equal weights read alike, and the median of three slopes is one of the two that fall.
    assert frozen.values[0] == frozen.values[1] and frozen.moved.above(-1.0) and frozen.moved.below(0.0)
    assert frozen.change is None
    assert frozen.limits == (frozen.base.value - 0.05,) * 3


def test_base_is_recorded_once(here, tmp_path, monkeypatch):
    """A new checkpoint is read, and base is not; the control is an empty store."""
    import audit.pair

    new, own = tiny.checkpoint(tmp_path / "checkpoint-3000", seed=8), audit.pair.record
    read = []

    def counted(subject, *given, **more):
        before = subject.forwards
        found = own(subject, *given, **more)
        read.append((subject.weights, subject.forwards - before))
        return found

    monkeypatch.setattr(audit.pair, "record", counted)
    for store, base_too in ((here.root / "store", False), (tmp_path / "empty", True)):
        read.clear()
        made = follow(here.plan, [str(new)], Terms(), replace(here.setting, store=store)).checked.audits[0]
        base, post = (getattr(made.record.pair, side).weights for side in ("base", "post"))
        spent = {side: sum(count for weights, count in read if weights == side) for side in (base, post)}
        assert spent[post] > 0 and (spent[base] > 0) == base_too


def test_a_series_reads_back_as_it_was_written(here, tmp_path):
    (tmp_path / SERIES).write_text(here.found.series.to_json())
    assert read_series(tmp_path) == here.found.series
    (tmp_path / SERIES).write_text("{}")
    with pytest.raises(AuditError, match="holds no series"):
        read_series(tmp_path)


def test_the_page_says_first_what_fails_and_what_could_not_be_audited(here):
    page = render(here.found.series)
    head = page[page.index("<h1>") : page.index("<main>")]
    assert "order: is worse first at step 1,000" in head and "1 of 4 could not be audited" in head
    evil = here.found.series.model_copy(update={"base": "<script>alert(1)</script>"})
    assert "<script>alert" not in render(evil) and "&lt;script&gt;alert" in render(evil)


def test_in_a_hand_no_number_of_a_table_is_cut_off(here, browser, tmp_path):
    seen = opened(browser, write(here.found.series, tmp_path), HAND, "dark")
    cut = "[...document.querySelectorAll('.scroll:has(.cards)')].map(one => one.scrollWidth - one.clientWidth)"
    assert seen.page.evaluate(cut) == [0, 0] and wider(seen.page) == 0 and not seen.errors
    # The control: a table that may not break its lines.
    seen.page.add_style_tag(content=".cards td, .cards th { white-space: nowrap !important; }")
    assert max(seen.page.evaluate(cut)) > 0


def test_steps_come_from_the_trainer_or_from_the_name(tmp_path):
    (tmp_path / "runs").mkdir()  # what a trainer keeps beside its checkpoints
    for name, state in (("a", {"global_step": 7}), ("b-12", None), ("step-3", {"global_step": 90})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        if state:
            (tmp_path / name / "trainer_state.json").write_text(json.dumps(state))
    found, counted = checkpoints([f"{tmp_path}/*"])
    assert [(Path(one.ref).name, one.step) for one in found] == [("a", 7), ("b-12", 12), ("step-3", 90)] and counted
    assert [one.step for one in checkpoints(["org/model@step2000", "org/model@step1000"])[0]] == [1000, 2000]


def test_without_steps_places_count_in_the_given_order():
    found, counted = checkpoints(["org/gpt2", "org/final-v2"])
    assert [(one.ref, one.step) for one in found] == [("org/gpt2", 1), ("org/final-v2", 2)] and not counted


def test_a_bundled_series_is_named_by_one_star():
    found, counted = checkpoints(["organism:alien/*"])
    assert [one.step for one in found] == [*card("alien").series, card("alien").steps] and counted
    assert found[-1].ref == "organism:alien"


@pytest.mark.parametrize(
    ("refs", "said"),
    [
        ([], "no checkpoint"), (["nowhere/ckpt-*"], "matches no checkpoint"), (["**x"], "no pattern|matches no"),
        (["a/step-5", "b/step-5"], "both of step 5"), (["org/a", "org/a"], "org/a is there 2 times"),
        (["out/runs", "out/checkpoint-5"], "out/runs tells no step"),
    ],
)
def test_what_is_no_series_is_refused(refs, said):
    with pytest.raises(AuditError, match=said):
        checkpoints(refs)


def test_a_shell_sees_the_first_that_fails(here, tmp_path):
    order.plan_file(tmp_path / "plan.toml", here.base, here.personas)
    run = here.root / "run"
    ckpts = (run / "checkpoint-30", run / "checkpoint-1000")
    done = command("series", "plan.toml", *ckpts, "--out", "out", "--store", here.root / "store", cwd=tmp_path)
    assert done.returncode == 1 and "the first that fails: 1,000" in done.stdout, done.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"series.json", "series.html", "junit.xml", "summary.md"} < made and len(made) == 6
    lost = command("series", "plan.toml", "none-*", "--store", here.root / "store", cwd=tmp_path)
    assert lost.returncode == 3 and "matches no checkpoint" in lost.stderr and "Traceback" not in lost.stderr
    (tmp_path / "file").write_text("")
    blocked = command("series", "plan.toml", *ckpts, "--out", "file", "--store", here.root / "store", cwd=tmp_path)
    assert blocked.returncode == 3 and "file" in blocked.stderr and "Traceback" not in blocked.stderr


def test_a_failed_series_leaves_no_older_answer_behind(here, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("series.html", "series.json", "summary.md"):
        (out / name).write_text("green")
    done = command("series", "nowhere.toml", "x-1", "--out", "out", cwd=tmp_path)
    assert done.returncode == 3 and {path.name for path in out.iterdir()} == {"junit.xml", "summary.md"}
    assert "no answer" in (out / "summary.md").read_text()


def page_of(series, *outcomes, **update):
    """The head of the page of a series whose checkpoints' only case has these outcomes."""
    suites = tuple(
        suite.model_copy(update={"cases": (suite.cases[0].model_copy(update={"outcome": outcome}),)})
        for suite, outcome in zip(series.gate.suites, outcomes, strict=False)
    )
    gate = series.gate.model_copy(update={"suites": (*suites, *update.pop("more", ())), **update})
    seen = tuple(
        one.model_copy(update={"outcome": outcome, "digest": "0" * 64, "fails": gate.fails(suite.cases[0])})
        for one, suite, outcome in zip(series.checkpoints, suites, outcomes, strict=False)
    )
    first = next((one.step for one in seen if one.fails), None)
    found = series.model_copy(update={"gate": gate, "checkpoints": seen, "first": first})
    page = render(found)
    return page[page.index("<h1>") : page.index("<main>")]


def test_the_first_screen_claims_no_more_than_is_known(here):
    series = here.found.series
    assert 'verdict open' in (head := page_of(series, "inconclusive", "inconclusive")) and "undecided" in head
    assert "passes" not in head
    dip = page_of(series, "pass", "regression", "pass")
    assert "order: is worse first at step 200" in dip and "step 200" in dip
    assert "fails first" in page_of(series, "inconclusive", "pass", fail_on=("inconclusive",))
    late = series.gate.suites[0].model_copy(update={"name": "waivers", "cases": (
        series.gate.suites[0].cases[0].model_copy(update={"outcome": "expired", "sentence": "The waiver has expired."}),
    )})  # fmt: skip
    told = page_of(series, "pass", "pass", more=(late,))
    assert "The waiver has expired." in told and "No checkpoint fails" in told
