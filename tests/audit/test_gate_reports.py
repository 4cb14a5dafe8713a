"""A gate in JUnit, Markdown and GitHub's own words: nothing that is no pass is shown as one, and no text breaks out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as xml

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from audit.case import Case, Outcome
from audit.estimate import Estimate
from audit.gate import FAIL_ON, Gate, Suite
from audit.policy import Policy
from audit.report.actions import ANNOTATIONS, STEP_LIMIT, append_summary, workflow_commands
from audit.report.folder import tell
from audit.report.junit import junit
from audit.report.summary import escaped, summary

STARTED = "2030-01-01T12:00:00+00:00"
SCHEMA = etree.XMLSchema(file=Path(__file__).with_name("junit.xsd"))


def faults(text: str) -> list[str]:
    """What a JUnit file does against the schema, and against its own counts."""
    root = etree.fromstring(text.encode())
    found = [] if SCHEMA.validate(root) else [str(fault) for fault in SCHEMA.error_log]
    for suite in root if not found else ():
        cases = suite.findall("testcase")
        counts = {"tests": len(cases)} | {
            name: sum(case.find(tag) is not None for case in cases)
            for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
        }
        found += [f"{name} is {suite.get(name)}, not {n}" for name, n in counts.items() if suite.get(name) != str(n)]
        if sum(float(case.get("time", 0)) for case in cases) > float(suite.get("time", 0)) + 1e-3:
            found.append("cases took longer than their suite")
        names = [(case.get("classname"), case.get("name")) for case in cases]
        found += ["two cases have one name"] if len(set(names)) < len(names) else []
    return found


def case(outcome: Outcome, number: int = 0, **more: Any) -> Case:
    name = f"deception/probe_transfer/L{number}.resid_post/readability"
    given = {"id": name, "persona": "deception", "outcome": outcome, "sentence": f"About {outcome}.", "seconds": 0.25}
    return Case(**{**given, **more})


def gate(*cases: Case, notes: tuple[str, ...] = (), fail_on: Any = FAIL_ON) -> Gate:
    suite = Suite(name="out/checkpoint-100", cases=cases, notes=notes, seconds=41.5 + 0.25 * len(cases))
    return Gate(suites=(suite,), fail_on=fail_on)


EVERY = gate(*(case(outcome, number) for number, outcome in enumerate(get_args(Outcome))))


def element(outcome: Outcome, fail_on: Any = FAIL_ON) -> str | None:
    """What stands in the test case of one outcome."""
    made = xml.fromstring(junit(gate(case(outcome), fail_on=fail_on), STARTED, "host"))
    children = list(made.iter("testcase").__next__())
    return children[0].tag if children else None


def test_junit_keeps_to_the_public_schemas_and_to_its_counts():
    assert faults(junit(EVERY, STARTED, "host")) == []
    assert faults(junit(gate(), STARTED, "")) == []
    two = Gate(suites=(*EVERY.suites, *gate(case("pass")).suites))
    text = junit(two, STARTED, "host")
    assert faults(text) == []
    assert [suite.get("id") for suite in xml.fromstring(text)] == ["0", "1"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.replace('failures="2"', 'failures="0"'),
        lambda t: t.replace('time="44.000"', 'time="0"'),
        lambda t: t.replace('time="0.250000"', 'time="0:00:01"', 1),
        lambda t: t.replace('timestamp="2030-01-01T12:00:00"', 'timestamp="1.1.2030"'),
        lambda t: t.replace("<properties />", ""),
        lambda t: t.replace(' type="regression"', "", 1),
        lambda t: t.replace("<system-err />", "<system-err /><testcase />"),
    ],
)
def test_a_planted_fault_of_junit_is_found(spoil):
    text = junit(EVERY, STARTED, "host")
    assert spoil(text) != text and faults(spoil(text))


def test_only_a_pass_looks_like_one():
    """A failing condition shown as a passing case, a crash counted as none: not here."""
    assert {outcome: element(outcome) for outcome in get_args(Outcome)} == {
        "error": "error", "not_measured": "error", "not_comparable": "error", "regression": "failure",
        "expired": "failure", "inconclusive": "skipped", "warning": "skipped", "waived": "skipped",
        "ungated": "skipped", "pass": None,
    }  # fmt: skip


@pytest.mark.parametrize("outcome", [outcome for outcome in get_args(Outcome) if outcome != "pass"])
@pytest.mark.parametrize("fail_on", [FAIL_ON, ("regression",), ("not_measured",), (*FAIL_ON, "warning")])
def test_a_case_fails_in_junit_exactly_where_it_counts(outcome, fail_on):
    counts = gate(case(outcome), fail_on=fail_on).fails(case(outcome))
    assert (element(outcome, fail_on) in ("failure", "error")) == counts


def test_one_case_for_each_policy_on_a_reading():
    policies = [Policy(select="*/*/*", absolute=x) for x in (0.1, 0.2)] + [Policy(select="*/*/*", severity="warn")]
    text = junit(gate(*(case("pass", policy=policy) for policy in policies)), STARTED, "host")
    assert faults(text) == [] and len(list(xml.fromstring(text).iter("testcase"))) == 3


@given(st.text(st.characters(codec=None, exclude_categories=["Cs"]), max_size=40))
def test_whatever_a_text_holds_xml_is_whole_and_a_table_keeps_its_columns(text):
    hostile = gate(case("regression", sentence=text or "x", id=f"a/b/c/{text}"), notes=(text,))
    made = junit(hostile, STARTED, "host")
    assert faults(made) == []
    assert "]]>" not in made.replace("]]&gt;", "")
    rows = [line for line in summary(hostile).split("\n") if line.startswith("| ")][1:]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)(?:\\\\)*\|", rows[0])) == 7
    (command,) = workflow_commands(hostile)
    assert "\n" not in command and "\r" not in command and command.count("::") >= 2


def test_markdown_and_html_in_texts_stay_text():
    told = escaped("<img src=x onerror=alert(1)> | `a` [b](c) *d* \n# e &lt;")
    assert "<" not in told and ">" not in told and "\n" not in told
    assert r"\|" in told and r"\`a\`" in told and r"\[b\]" in told and r"\*d\*" in told and r"\&lt;" in told


def test_the_summary_is_worst_first_and_says_what_failed():
    fell = [case("regression", n, change=estimate(-x)) for n, x in enumerate((0.1, 0.4, 0.2))]
    note = "package torch: 1 in the baseline, 2 here"
    lines = summary(gate(case("pass", 9), *fell, case("warning", 8), notes=(note,))).splitlines()
    assert lines[0] == "# persona-audit: red: something is worse"
    assert lines[2] == "Exit 1. 3 regression, 1 warning, 1 pass."
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert [re.search(r"L(\d)", row)[1] for row in rows] == ["1", "2", "0", "8", "9"]
    assert rows[0].startswith("| **regression** | out/checkpoint-100 |") and r"-0.400 \[-0.450, -0.350\]" in rows[0]
    assert lines[-1] == f"- {note}"


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.05, method="m", unit="auroc", n=9, n_groups=9)


@pytest.mark.parametrize(
    ("outcomes", "head"),
    [
        (["pass"], "green"), (["pass", "waived"], "yellow"), (["not_measured"], "no answer"), (["regression"], "red"),
        ([], "no answer"),
    ],
)  # fmt: skip
def test_the_summary_names_a_colour(outcomes, head):
    assert summary(gate(*map(case, outcomes))).startswith(f"# persona-audit: {head}")


MANY = gate(*(case("regression", n, sentence="why " * 500) for n in range(1_500)), case("error", 7777))


def test_a_step_summary_stays_under_the_limit_and_keeps_the_worst(tmp_path):
    path = tmp_path / "step"
    path.write_text("from an earlier command\n" * 1_000)
    before = path.stat().st_size
    assert len(summary(MANY).encode()) > STEP_LIMIT
    assert append_summary(MANY, {"GITHUB_STEP_SUMMARY": str(path)}) is None
    text = path.read_text()
    assert STEP_LIMIT - 10_000 < path.stat().st_size <= STEP_LIMIT and text.startswith("from an earlier")
    assert "L7777" in text[before:] and re.search(r"\d+ further lines are in the file summary.md", text)
    shown = text.count("| **regression** |")
    assert f"{1_500 - shown} further lines" in text


def test_a_step_summary_that_fits_is_whole_and_one_that_cannot_be_written_is_told(tmp_path):
    path = tmp_path / "step"
    assert append_summary(EVERY, {"GITHUB_STEP_SUMMARY": str(path)}) is None
    assert path.read_text() == summary(EVERY)
    assert append_summary(EVERY, {}) is None
    assert "cannot be written" in append_summary(EVERY, {"GITHUB_STEP_SUMMARY": str(tmp_path)})
    path.write_text("x" * STEP_LIMIT)
    assert "no room left" in append_summary(EVERY, {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.stat().st_size == STEP_LIMIT


def test_annotations_are_escaped_and_no_more_than_are_shown():
    told = list(workflow_commands(gate(case("regression", sentence="50% worse\nA: b, c", id="a:b,c/d/e/readability"))))
    assert told == [
        "::error title=persona-audit%3A regression%3A a%3Ab%2Cc/d/e/readability::50%25 worse%0AA: b, c"
    ]
    many = list(workflow_commands(MANY))
    assert len(many) == ANNOTATIONS and "error" in many[0] and "1492 more" in many[-1]
    kinds = [line.split(" ")[0] for line in workflow_commands(EVERY)]
    assert kinds == ["::error"] * 5 + ["::warning"] * 3


def test_both_files_are_written(tmp_path):
    path = tell(EVERY, tmp_path / "deep" / "out", STARTED)
    assert path.read_text() == summary(EVERY)
    assert faults((path.parent / "junit.xml").read_text()) == []
