"""What a whole call answers: waivers, exit codes and colours, and the reports of a run."""

from __future__ import annotations

from datetime import date
from itertools import combinations
from typing import get_args

import gated
import pytest
from gated import FEW, LOST, OFFSET, SITE, TURNED, accepted, audited, crashed, held, other_base, outcomes

from audit.case import Case, Outcome
from audit.gate import FAIL_ON, Gate, Suite, verdicts_only
from audit.verdict import judge_all
from audit.waiver import Waiver


@pytest.fixture(scope="module")
def baseline():
    return accepted(audited())


def waiver(finding=f"{SITE}/readability", expires=date(2030, 6, 30)):
    return Waiver(finding=finding, reason="retraining", owner="Ada", expires=expires)


def test_a_waived_regression_is_yellow_until_its_waiver_expires(baseline):
    others = [waiver(f"{SITE}/ceiling"), waiver("planted/verdict")]
    gate = held(audited(LOST), baseline, waivers=(waiver(), *others))
    assert gate.exit == 0 and gate.colour == "yellow" and outcomes(gate)["readability"] == "waived"
    assert "Waived, by Ada until 2030-06-30: retraining." in gate.cases[-1].sentence or any(
        "Waived, by Ada until 2030-06-30: retraining." in case.sentence for case in gate.cases
    )
    late = held(audited(LOST), baseline, waivers=(waiver(expires=date(2030, 5, 31)), *others))
    assert late.exit == 1 and late.colour == "red"
    told = {case.outcome: case.sentence for case in late.cases}
    assert "The waiver has expired, by Ada until 2030-05-31" in told["regression"]
    assert "Renew it or remove it" in told["expired"]


def test_a_waiver_of_a_whole_finding_covers_its_readings_and_not_the_verdict(baseline):
    gate = held(audited(LOST), baseline, waivers=(waiver(SITE),))
    found = outcomes(gate)
    assert (found["readability"], found["ceiling"], found["verdict"]) == ("waived", "waived", "regression")


def test_an_expired_waiver_fails_even_where_nothing_needs_it(baseline):
    gate = held(audited(), baseline, waivers=(waiver(expires=date(2030, 5, 31)),))
    assert gate.exit == 1 and gate.cases[0].outcome == "expired"


def test_waivers_that_match_nothing_or_are_not_needed_are_told(baseline):
    gate = held(audited(), baseline, waivers=(waiver("nobody/verdict"), waiver()))
    assert gate.exit == 0
    nothing, needless = gate.suites[-1].notes
    assert "nobody/verdict matches nothing" in nothing and "Nothing needs the waiver" in needless


def test_what_is_unknown_cannot_be_waived(baseline):
    everything = (waiver(SITE), waiver("planted/verdict"))
    assert held(other_base(audited()), baseline, waivers=everything).exit == 3
    assert held(crashed(audited()), baseline, waivers=everything).exit == 3


# Exit codes.


def oracle(some, fail_on):
    """Exit precedence again, as questions: error, not measured, worse, undecided, pass."""
    counting = {outcome for outcome in some if outcome in fail_on or outcome == "error"}
    if not some & {"regression", "inconclusive", "warning", "waived", "pass"}:
        return 3
    for outcome in ("error", "not_measured", "not_comparable"):
        if outcome in counting:
            return 3
    for outcome in ("regression", "expired", "warning"):
        if outcome in counting:
            return 1
    return 3 if "inconclusive" in counting else 0


@pytest.mark.parametrize("fail_on", [FAIL_ON, ("regression",), (*FAIL_ON, "inconclusive"), (*FAIL_ON, "warning")])
def test_every_combination_of_outcomes_has_the_exit_of_the_table(fail_on):
    names = get_args(Outcome)
    for size in range(len(names) + 1):
        for some in combinations(names, size):
            cases = tuple(Case(id=name, persona="p", outcome=name, sentence="") for name in some)
            gate = Gate(suites=(Suite(name="x", cases=cases),), fail_on=fail_on)
            assert gate.exit == oracle(set(some), fail_on), some
            assert list(gate.counts) == [name for name in names if name in some]
            assert (gate.colour == "green") == (gate.exit == 0 and set(some) <= {"pass", "ungated"})


@pytest.mark.parametrize("plant", [gated.NOTHING, TURNED, LOST, FEW, OFFSET])
@pytest.mark.parametrize("strict", [False, True])
def test_the_reports_of_a_run_exit_as_the_run_does(plant, strict):
    record = audited(plant).record
    verdicts = judge_all(record.findings, {"planted": True}, record.plan.margins, record.plan.family, strict)
    record = record.model_copy(update={"verdicts": verdicts.verdicts, "outcome": verdicts.outcome})
    assert verdicts_only(record).exit == record.outcome.exit
    assert verdicts_only(crashed(audited()).record).exit == 3


def test_a_gate_reads_back_from_json(baseline):
    gate = held(audited(LOST), baseline, waivers=(waiver(),))
    assert Gate.model_validate_json(gate.model_dump_json()) == gate
