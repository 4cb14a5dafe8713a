from __future__ import annotations

import pytest
from pydantic import ValidationError

from audit.estimate import Estimate
from audit.finding import Finding

HEADLINE = Estimate(value=0.97, low=0.95, high=0.98, method="jackknife-logit-t", unit="auroc", n=480, n_groups=80)


def finding(**change):
    fields = {
        "id": "deception/probe_transfer/L3.resid_post",
        "persona": "deception",
        "comparison": "probe_transfer",
        "site": "L3.resid_post",
        "headline": HEADLINE,
        "p": 0.002,
        "p_adjusted": 0.008,
        "tried": 24,
        "status": "measured",
        "details": {
            "ladder": {"T0": HEADLINE, "T3": None},
            "layers": {"curve": [HEADLINE, HEADLINE], "null_low": [0.4, 0.5]},
            "misread": [{"pair": "d-0001", "tokens": ["a", "b"], "base": [0.5, 1], "post": [True, "x"]}],
        },
    }
    return Finding(**(fields | change))


def test_estimates_inside_details_survive_json():
    made = finding()
    read = Finding.model_validate_json(made.model_dump_json())
    assert read == made
    assert read.details["ladder"]["T0"] == HEADLINE and isinstance(read.details["layers"]["curve"][1], Estimate)
    assert read.details["misread"][0]["post"] == [True, "x"]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "deception/probe_transfer/L4.resid_post"},
        {"headline": None},
        {"reason": "why"},
        {"status": "not_measured", "reason": "why"},
        {"status": "not_measured", "headline": None, "p": None, "p_adjusted": None},
        {"p": 1.5},
        {"p_adjusted": 0.001},
        {"p": None},
        {"tried": 0},
        {"details": {"x": float("nan")}},
        {"details": {"x": [{"y": float("inf")}]}},
        {"details": {"x": object()}},
        {"extra": 1},
    ],
)
def test_refuses_what_does_not_hold_together(change):
    with pytest.raises(ValidationError):
        finding(**change)


def test_not_measured_names_its_reason_and_holds_no_number():
    made = Finding.not_measured("deception", "erasure", "L3.resid_post", "12 rows for 128 dimensions.")
    assert (made.id, made.headline, made.p) == ("deception/erasure/L3.resid_post", None, None)
    assert made.reason == "12 rows for 128 dimensions."
