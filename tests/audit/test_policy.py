"""Policies and waivers are data: what they select, what they allow, and refusals in the user's own words."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from audit.estimate import Estimate
from audit.plan import plan_of, read_plan
from audit.policy import DEFAULTS, MARGIN, Policy, effective, refuse_idle
from audit.scores import READINGS
from audit.waiver import Waiver, read_waivers
from probes.digest import AuditError

FINDINGS = ("deception/probe_transfer/L2.resid_post", "warmth/probe_transfer/L2.resid_post")
NAMES = [f"{finding}/{reading}" for finding in FINDINGS for reading in READINGS]
ENTRY = '[[waiver]]\nfinding = "deception/verdict"\nreason = "known"\nowner = "Ada"\nexpires = 2030-01-31\n'


def test_without_policies_every_reading_has_one():
    assert effective(()) == DEFAULTS and effective((Policy(select="*/*/*"),)) != DEFAULTS
    for name in NAMES:
        (policy,) = [policy for policy in DEFAULTS if policy.selects(name)]
        assert policy.severity == ("warn" if name.endswith("accuracy") else "fail")
        assert policy.margin(reference(0.9)) == MARGIN


@pytest.mark.parametrize(
    ("select", "count"),
    [
        ("*/*/*", 6),
        ("deception/*/*", 3),
        ("*/probe_transfer/*/ceiling", 2),
        ("warm*/probe_transfer/L?.resid_post/readability", 1),
        ("*/geometry/*", 0),
        ("*/probe_transfer/L3.resid_post", 0),
        ("decep/*/*", 0),
    ],
)
def test_a_selector_matches_part_by_part(select, count):
    policy = Policy(select=select)
    assert sum(policy.selects(name) for name in NAMES) == count
    if count:
        refuse_idle([policy], NAMES)
    else:
        with pytest.raises(AuditError, match="selects nothing") as refused:
            refuse_idle([policy], NAMES)
        assert NAMES[0] in refused.value.expected


def test_a_site_that_is_not_known_yet_is_any():
    before = [f"deception/probe_transfer//{reading}" for reading in READINGS]
    refuse_idle([Policy(select="*/*/L99.resid_post")], before)
    with pytest.raises(AuditError, match="deception/probe_transfer/\\*/accuracy"):
        refuse_idle([Policy(select="warmth/*/*")], before)


def reference(value):
    return Estimate(value=value, low=value, high=value, method="m", unit="auroc", n=1, n_groups=9)


def test_of_two_tolerances_the_wider_counts():
    assert Policy(select="*/*/*", absolute=0.02).margin(reference(0.9)) == 0.02
    assert Policy(select="*/*/*", relative=0.1).margin(reference(0.9)) == pytest.approx(0.09)
    assert Policy(select="*/*/*", absolute=0.02, relative=0.1).margin(reference(0.9)) == pytest.approx(0.09)
    assert Policy(select="*/*/*", absolute=0.2, relative=0.1).margin(reference(0.9)) == 0.2
    assert Policy(select="*/*/*", absolute=0.0).margin(reference(0.9)) == 0.0


@pytest.mark.parametrize(
    ("policy", "found", "expected"),
    [
        ({"selct": "a/b/c"}, "unknown key policies.0.selct", "policies.select"),
        ({"select": "a/b/c", "absolut": 0.1}, "unknown key policies.0.absolut", "policies.absolute"),
        ({"select": "a/b"}, 'policies.0.select = "a/b"', "persona/comparison/site"),
        ({"select": "a//c"}, 'policies.0.select = "a//c"', "persona/comparison/site"),
        ({"on": "low"}, "policies.0.select = none", "persona/comparison/site"),
        ({"select": "a/b/c", "on": "middle"}, 'policies.0.on = "middle"', "'low' or 'high'"),
        ({"select": "a/b/c", "severity": "red"}, 'policies.0.severity = "red"', "'fail' or 'warn'"),
        ({"select": "a/b/c", "absolute": -0.1}, "policies.0.absolute = -0.1", "greater than or equal to 0"),
        ({"select": "a/b/c", "relative": float("nan")}, "policies.0.relative", "finite"),
    ],
)
def test_a_policy_nobody_can_read_is_refused(policy, found, expected):
    with pytest.raises(AuditError) as refused:
        plan_of({"policies": [policy]})
    assert found in refused.value.found and expected in refused.value.expected


def test_policies_of_a_file_are_part_of_the_plan(tmp_path):
    (tmp_path / "plan.toml").write_text('[[policies]]\nselect = "*/*/*"\nrelative = 0.1\nseverity = "warn"\n')
    plan = read_plan(tmp_path / "plan.toml")
    assert plan.policies == (Policy(select="*/*/*", relative=0.1, severity="warn"),)
    assert plan.digest != plan_of({}).digest


def waivers(folder: Path, text: str):
    (folder / "waivers.toml").write_text(text)
    return read_waivers(folder / "waivers.toml")


def test_a_waiver_covers_a_finding_or_one_of_its_readings_until_its_last_day(tmp_path):
    (waiver,) = waivers(tmp_path, ENTRY)
    assert waiver == Waiver(finding="deception/verdict", reason="known", owner="Ada", expires=date(2030, 1, 31))
    assert waiver.covers("deception/verdict") and not waiver.covers("deception/verdicts")
    assert not waiver.expired(date(2030, 1, 31)) and waiver.expired(date(2030, 2, 1))
    whole = waiver.model_copy(update={"finding": "deception/probe_transfer/L2.resid_post"})
    assert [whole.covers(name) for name in NAMES] == [True] * 3 + [False] * 3
    assert not waiver.model_copy(update={"finding": "deception"}).covers("deception/verdict")
    assert not waiver.model_copy(update={"finding": "*/verdict"}).covers("deception/verdict")
    assert waivers(tmp_path, "") == ()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.replace("owner", "onwer"), "unknown key onwer"),
        (lambda t: t.replace("[[waiver]]", "[[waivers]]"), "unknown key waivers"),
        (lambda t: t.replace('reason = "known"\n', ""), "no reason"),
        (lambda t: t.replace('owner = "Ada"\n', ""), "no owner"),
        (lambda t: t.replace("expires = 2030-01-31", ""), "no expires"),
        (lambda t: t.replace('"known"', '"  "'), "as reason"),
        (lambda t: t.replace("2030-01-31", '"2030-01-31"'), "as expires"),
        (lambda t: t.replace("2030-01-31", "2030-01-31T10:00:00"), "as expires"),
        (lambda t: t + t, "2 times"),
        (lambda t: "waiver = 3", "waiver = 3"),
        (lambda t: "[[waiver", "is not TOML"),
    ],
)
def test_a_waiver_without_reason_owner_or_date_is_refused(tmp_path, spoil, said):
    with pytest.raises(AuditError, match="waivers.toml") as refused:
        waivers(tmp_path, spoil(ENTRY))
    assert said in refused.value.found


def test_a_missing_file_of_waivers_is_named(tmp_path):
    with pytest.raises(AuditError, match=r"nowhere\.toml cannot be read"):
        read_waivers(tmp_path / "nowhere.toml")
