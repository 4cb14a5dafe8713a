"""A gate as JUnit XML: one test case for each policy on each reading, a suite for each checkpoint.

Only what JUnit's public schemas have in common is written. A case that counts against the check is a `failure`, or an
`error` where there is no answer; one that is neither that nor a pass is `skipped` and says why: no reader takes a
warning, a waiver or an undecided reading for a pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as xml

from audit.case import Case
from audit.gate import UNKNOWN, Gate, Suite

JUNIT = "junit.xml"
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""
KINDS = {"failures": "failure", "errors": "error", "skipped": "skipped"}
"""Counts of a suite, and the element that each counts."""


def junit(gate: Gate, started: str, host: str) -> str:
    """The text of `junit.xml`.

    Args:
        gate: what is told.
        started: when the check began, ISO 8601 without a zone.
        host: the machine's name.
    """
    root = xml.Element("testsuites")
    for number, suite in enumerate(gate.suites):
        place = {"id": str(number), "timestamp": started[:19], "hostname": _legal(host) or "localhost"}
        root.append(_suite(gate, suite, place))
    xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml.tostring(root, encoding="unicode")}\n'


def _suite(gate: Gate, suite: Suite, attributes: dict[str, str]) -> xml.Element:
    """One checkpoint."""
    cases = [_case(gate, case, name) for case, name in zip(suite.cases, _names(suite.cases), strict=True)]
    counts = {kind: sum(case.find(tag) is not None for case in cases) for kind, tag in KINDS.items()}
    element = xml.Element("testsuite", {
        "name": _legal(suite.name), "package": "persona-audit", **attributes, "tests": str(len(cases)),
        **{kind: str(count) for kind, count in counts.items()}, "time": f"{suite.seconds:.3f}",
    })  # fmt: skip
    xml.SubElement(element, "properties")
    element.extend(cases)
    xml.SubElement(element, "system-out").text = _legal("\n".join([*map(_told, suite.cases), *suite.notes]))
    xml.SubElement(element, "system-err").text = ""
    return element


def _case(gate: Gate, case: Case, name: str) -> xml.Element:
    """One test case, with what makes it no pass."""
    element = xml.Element("testcase", classname=_legal(case.persona), name=_legal(name), time=f"{case.seconds:.6f}")
    if case.outcome == "pass":
        return element
    tag = "skipped" if not gate.fails(case) else "error" if case.outcome in UNKNOWN else "failure"
    message = _legal(case.sentence)
    if tag == "skipped":
        xml.SubElement(element, tag, message=f"{case.outcome}: {message}")
    else:
        xml.SubElement(element, tag, type=case.outcome, message=message).text = message
    return element


def _names(cases: Sequence[Case]) -> list[str]:
    """What each case is called: the reading and, where there is one, the policy; no two alike."""
    names, seen = [], Counter[str]()
    for case in cases:
        policy = case.policy
        name = case.id + (f" [{policy.select} on {policy.on}, {policy.severity}]" if policy else "")
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return names


def _told(case: Case) -> str:
    return f"{case.outcome}: {case.id}: {case.sentence}"


def _legal(text: str) -> str:
    """A text without what XML cannot hold."""
    return ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
