"""The baseline: only what belongs together is accepted, what differs is named, and nothing is loosened silently."""

from __future__ import annotations

import json

import gated
import planted
import pytest

from audit.baseline import accept, changes, create, read_baseline, shown
from audit.plan import plan_of
from audit.provenance import differences, origin
from audit.record import Excluded, Record
from audit.scores import dumped
from probes.digest import AuditError

TURNED = planted.Plant(post=planted.turn(75))


@pytest.fixture(scope="module")
def audit():
    return gated.audited()


@pytest.fixture
def folder(audit, tmp_path):
    audit.record.write(tmp_path / "out")
    (tmp_path / "out" / "scores.json").write_text(dumped(audit.scores))
    return tmp_path / "out"


def test_a_baseline_is_made_of_a_folder_and_reads_back_equal(audit, folder, tmp_path):
    made = create(folder)
    assert made == create(folder / "record.json") == gated.accepted(audit)
    (tmp_path / "b.json").write_text(made.to_json())
    assert read_baseline(tmp_path / "b.json") == made
    assert gated.only(made.scores).base is None and gated.only(made.scores).post == gated.only(audit.scores).post
    told, read = "\n".join(shown(made)), gated.only(audit.scores).estimate("readability")
    assert "weights 3f3f3f3f3f3f" in told and "planted: reused" in told and f"readability: {read}" in told


def test_its_file_has_a_line_for_each_row_of_numbers(audit):
    lines = gated.accepted(audit).to_json().splitlines()
    assert len(lines) < 200 and max(map(len, lines)) > 1_000


def test_a_record_without_scores_or_with_another_runs_is_refused(audit, folder):
    other = gated.audited(TURNED)
    with pytest.raises(AuditError, match="not those that it names"):
        accept(audit.record, tuple(other.scores))
    with pytest.raises(AuditError, match="not those that it names"):
        accept(audit.record, ())
    (folder / "scores.json").unlink()
    with pytest.raises(AuditError, match="before scores were kept"):
        create(folder)


def test_a_record_of_before_is_read_and_has_no_scores(audit, folder):
    """A record without the keys that came with the gate is a record still."""
    content = json.loads((folder / "record.json").read_text())
    del content["pair"]["template"]
    for one in content["data"]:
        del one["scores"]
    record = Record.model_validate_json(json.dumps(content))
    with pytest.raises(AuditError, match="not those that it names"):
        accept(record, tuple(audit.scores))


def test_what_was_not_measured_is_not_accepted(audit):
    lost = [verdict.model_copy(update={"verdict": "not_measured"}) for verdict in audit.record.verdicts]
    with pytest.raises(AuditError, match="every persona measured"):
        accept(audit.record.model_copy(update={"verdicts": tuple(lost)}), tuple(audit.scores))


def edited(content, path, value):
    *way, last = path
    for key in way:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("scores", 0, "post", "readings", "readability", "value"), 0.5, "has content"),
        (("origin", "pair", "base", "weights"), "00" * 32, "has content"),
        (("scores", 0, "post", "readings", "ceiling", "value"), float("nan"), "finite"),
        (("scores", 0, "post", "frozen", "one"), [float("inf")] * 120, "finite"),
        (("schema",), 2, "schema 2"),
        (("looser",), True, "extra_forbidden"),
        (("scores",), None, "scores"),
    ],
)
def test_a_file_that_was_edited_is_refused(audit, tmp_path, path, value, said):
    content = json.loads(gated.accepted(audit).to_json())
    edited(content, path, value)
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(AuditError, match=r"b\.json") as refused:
        read_baseline(tmp_path / "b.json")
    assert said in str(refused.value)


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[]", "schema None"), (None, "cannot be read")])
def test_a_file_that_is_none_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "b.json").write_text(text)
    with pytest.raises(AuditError, match=said):
        read_baseline(tmp_path / "b.json")


def with_pair(record, **update):
    return record.model_copy(update={"pair": record.pair.model_copy(update=update)})


def with_side(record, name, **update):
    return with_pair(record, **{name: getattr(record.pair, name).model_copy(update=update)})


def with_plan(record, **tables):
    return record.model_copy(update={"plan": plan_of({"effort": "glance", **tables})})


def with_text(record, domain):
    data = [one.model_copy(update={"digest": "00" * 32}) if one.domain == domain else one for one in record.data]
    return record.model_copy(update={"data": tuple(data)})


def with_run(record, **update):
    return record.model_copy(update={"run": record.run.model_copy(update=update)})


OTHER = "00" * 32
BREAKS = {
    "weights of base": lambda r: with_side(r, "base", weights=OTHER),
    "tokenizer of base": lambda r: with_side(r, "base", tokenizer=OTHER),
    "tokenizer of post": lambda r: with_side(r, "post", tokenizer=OTHER),
    "dtype of base": lambda r: with_side(r, "base", dtype="bfloat16"),
    "dtype of post": lambda r: with_side(r, "post", dtype="bfloat16"),
    "chat template": lambda r: with_pair(r, template=OTHER),
    "pairs counted out": lambda r: with_pair(r, excluded=(Excluded(pair="d-1", reason="r"),)),
    "texts of planted in domain story": lambda r: with_text(r, "story"),
    "texts of planted in domain assistant": lambda r: with_text(r, "assistant"),
    "plan, seed": lambda r: with_plan(r, seed=1),
    "plan, effort": lambda r: with_plan(r, effort="standard"),
    "plan, sites.pooling": lambda r: with_plan(r, sites={"pooling": "last_token"}),
    "plan, sites.layers": lambda r: with_plan(r, sites={"layers": [1]}),
    "plan, margins.ratio": lambda r: with_plan(r, margins={"ratio": 0.7}),
    "plan, family.alarm_alpha": lambda r: with_plan(r, family={"alarm_alpha": 0.1}),
    "plan, comparisons.probe_transfer.permutations": lambda r: with_plan(
        r, comparisons={"probe_transfer": {"permutations": 7}, "geometry": {}}
    ),
}
WARNS = {
    "reference of base": lambda r: with_side(r, "base", ref="elsewhere"),
    "source of the template": lambda r: with_side(r, "base", template="renamed.jinja"),
    "package torch": lambda r: with_run(r, packages={"torch": "9.9"}),
    "machine": lambda r: with_run(r, host={"machine": "riscv"}),
    "device": lambda r: with_run(r, host={"device": "cuda"}),
    "token ids of all texts, plain ones included": lambda r: with_pair(r, ids=OTHER),
    "plan, policies": lambda r: with_plan(r, policies=[{"select": "*/*/*"}]),
    "plan, comparisons.probe_transfer.direction": lambda r: with_plan(
        r, comparisons={"probe_transfer": {"direction": "renamed.safetensors"}}
    ),
}
SAME = {
    "another post": lambda r: with_side(r, "post", ref="checkpoint-200", weights=OTHER),
    "renamed persona files": lambda r: with_plan(r, personas={"paths": ["renamed"]}),
    "another clock": lambda r: with_run(r, seconds=1.0, started="2031-01-01T00:00:00+00:00"),
    "a comparison more": lambda r: with_plan(r, comparisons={"probe_transfer": {}, "features": {"dictionary": "x"}}),
    "a renamed base in the plan": lambda r: with_plan(r, pair={"base": "elsewhere"}),
}


def apart(audit, change):
    return differences(origin(audit.record), origin(change(audit.record)))


@pytest.mark.parametrize("what", BREAKS)
def test_what_changes_numbers_breaks_the_comparison_and_is_named(audit, what):
    (found,) = apart(audit, BREAKS[what])
    assert found.breaks and found.what == what and found.then != found.now
    assert (found.persona == "planted") == what.startswith("texts")


@pytest.mark.parametrize("what", WARNS)
def test_where_it_lay_and_what_ran_it_only_warns(audit, what):
    (found,) = apart(audit, WARNS[what])
    assert not found.breaks and found.what == what


@pytest.mark.parametrize("what", SAME)
def test_what_changes_nothing_is_not_mentioned(audit, what):
    assert apart(audit, SAME[what]) == ()


def test_everything_that_differs_is_named_at_once_the_worst_first(audit):
    def all_of(record):
        for change in (*WARNS.values(), *list(BREAKS.values())[:7]):
            record = change(record)
        return record

    found = apart(audit, all_of)
    assert [one.breaks for one in found] == sorted([one.breaks for one in found], reverse=True)
    assert {one.what for one in found if one.breaks} >= set(list(BREAKS)[:7])


def test_an_update_names_what_it_loosens(audit):
    worse = gated.accepted(gated.audited(TURNED))
    told = list(changes(gated.accepted(audit), worse))
    assert any(line.startswith("looser") and "readability" in line and "change -0." in line for line in told), told
    assert any(line.startswith("tighter") for line in changes(worse, gated.accepted(audit)))
    assert list(changes(worse, worse)) == []
    assert any(line.startswith("verdict") and "reused →" in line for line in told) == (
        worse.verdicts != gated.accepted(audit).verdicts
    )


def test_an_update_names_personas_that_come_and_go(audit):
    two = gated.accepted(gated.audited(personas=("planted", "warmth")))
    one = gated.accepted(audit)
    assert [line for line in changes(two, one) if line.startswith("looser")] == [
        "looser   warmth is no longer held, and no longer gated"
    ]
    added = [line for line in changes(one, two) if line.startswith("added")]
    assert len(added) == 3 and all("warmth" in line for line in added)


def test_an_update_over_other_passages_pairs_nothing(audit):
    one = gated.accepted(audit)
    scores = gated.only(one.scores).model_copy(update={"ids": OTHER})
    worse = gated.only(gated.accepted(gated.audited(TURNED)).scores)
    then, now = (one.model_copy(update={"scores": (some,)}) for some in (scores, worse))
    told = list(changes(then, now))
    assert told and all("not on the same passages" in line for line in told)
