"""Series of checkpoints on tiny models: the first that breaks is named, the rest is still judged."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import order
import pytest
import tiny
from shell import command

from audit.conduct import Setting
from audit.gate import Terms
from audit.organisms.card import card
from audit.plan import plan_of
from audit.report.series import render
from audit.series import SERIES, checkpoints, follow, read_series
from probes.digest import AuditError
from probes.store import Store


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Four checkpoints of one run: sound, sound, without the order of words, and an empty folder."""
    root = tmp_path_factory.mktemp("series")
    base, personas = tiny.checkpoint(root / "base"), order.personas(root / "personas")
    for step, made in ((30, tiny.checkpoint), (200, tiny.checkpoint)):
        made(root / "run" / f"checkpoint-{step}")
    order.save(order.bag(), root / "run" / "checkpoint-1000")
    (root / "run" / "checkpoint-2000").mkdir()
    quick = {"probe_transfer": {"permutations": 30, "random_maps": 5, "bootstrap": 100}, "geometry": {}}
    given = {"effort": "glance", "personas": {"paths": [str(personas)]}, "comparisons": quick}
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


def test_base_is_recorded_once(here):
    before = {path.name for path in (here.root / "store" / "recordings").iterdir()}
    follow(here.plan, [str(here.root / "run" / "checkpoint-30")], Terms(), here.setting)
    assert {path.name for path in (here.root / "store" / "recordings").iterdir()} == before
    assert isinstance(Store(here.root / "store"), Store)


def test_a_series_reads_back_as_it_was_written(here, tmp_path):
    (tmp_path / SERIES).write_text(here.found.series.to_json())
    assert read_series(tmp_path) == here.found.series
    (tmp_path / SERIES).write_text("{}")
    with pytest.raises(AuditError, match="holds no series"):
        read_series(tmp_path)


def test_the_page_says_first_what_fails_and_what_could_not_be_audited(here):
    page = render(here.found.series)
    head = page[page.index("<h1>") : page.index("<main>")]
    assert "order is worse from step 1,000 on" in head and "1 of 4 could not be audited" in head
    evil = here.found.series.model_copy(update={"base": "<script>alert(1)</script>"})
    assert "<script>alert" not in render(evil) and "&lt;script&gt;alert" in render(evil)


def test_steps_come_from_the_trainer_or_from_the_name(tmp_path):
    for name, state in (("a", {"global_step": 7}), ("b-12", None), ("step-3", {"global_step": 90})):
        (tmp_path / name).mkdir()
        if state:
            (tmp_path / name / "trainer_state.json").write_text(json.dumps(state))
    found, counted = checkpoints([f"{tmp_path}/*"])
    assert [(Path(one.ref).name, one.step) for one in found] == [("a", 7), ("b-12", 12), ("step-3", 90)] and counted
    assert [one.step for one in checkpoints(["org/model@step2000", "org/model@step1000"])[0]] == [1000, 2000]


def test_without_steps_places_count_in_the_given_order():
    found, counted = checkpoints(["org/b", "org/a-7"])
    assert [(one.ref, one.step) for one in found] == [("org/b", 1), ("org/a-7", 2)] and not counted


def test_a_bundled_series_is_named_by_one_star():
    found, counted = checkpoints(["organism:alien/*"])
    assert [one.step for one in found] == [*card("alien").series, card("alien").steps] and counted
    assert found[-1].ref == "organism:alien"


@pytest.mark.parametrize(
    ("refs", "said"),
    [([], "no checkpoint"), (["nowhere/ckpt-*"], "matches no folder"), (["a/step-5", "b/step-5"], "both of step 5")],
)
def test_what_is_no_series_is_refused(refs, said):
    with pytest.raises(AuditError, match=said):
        checkpoints(refs)


def test_a_shell_sees_the_first_that_fails(here, tmp_path):
    (tmp_path / "plan.toml").write_text(
        f'effort = "glance"\n[pair]\nbase = "{here.base}"\n[personas]\npaths = ["{here.personas}"]\n'
        "[comparisons]\nprobe_transfer = { permutations = 30, random_maps = 5, bootstrap = 100 }\ngeometry = {}\n"
    )
    run = here.root / "run"
    ckpts = (run / "checkpoint-30", run / "checkpoint-1000")
    done = command("series", "plan.toml", *ckpts, "--out", "out", "--store", here.root / "store", cwd=tmp_path)
    assert done.returncode == 1 and "the first that fails: 1,000" in done.stdout, done.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"series.json", "series.html", "junit.xml", "summary.md"} < made and len(made) == 6
    lost = command("series", "plan.toml", "none-*", "--store", here.root / "store", cwd=tmp_path)
    assert lost.returncode == 3 and "matches no folder" in lost.stderr and "Traceback" not in lost.stderr
