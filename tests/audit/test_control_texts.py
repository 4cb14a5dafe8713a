"""Control texts stand beside a persona: they are read, and nothing is fitted, judged or counted on them."""

from __future__ import annotations

import json

import order
import pytest
import tiny

from audit.conduct import Setting, conduct
from audit.plan import plan_of


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """One pair audited with the persona alone, and with the same texts as controls under turned labels."""
    root = tmp_path_factory.mktemp("controls")
    base = tiny.checkpoint(root / "base")
    alone, beside = order.personas(root / "alone"), order.personas(root / "beside")
    turned = [
        line | {"pair": f"{line['pair']}-turned", "scenario": f"{line['scenario']}-turned", "label": 1 - line["label"],
                "control": "turned_round"}
        for line in order.lines()
    ]  # fmt: skip
    with (beside / "order.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in turned)
    made = {}
    for name, folder in (("alone", alone), ("beside", beside)):
        plan = plan_of({
            "effort": "glance", "pair": {"base": str(base), "post": str(base)}, "comparisons": order.QUICK,
            "personas": {"paths": [str(folder)]},
        })  # fmt: skip
        made[name] = conduct(plan, setting=Setting(store=root / "store", progress=False)).record
    return made


def test_they_move_no_other_number(records):
    one, other = ({f.comparison: f for f in records[name].findings} for name in ("alone", "beside"))
    for name in ("probe_transfer", "geometry"):
        kept = {key: value for key, value in other[name].details.items() if key != "controls"}
        assert other[name].headline == one[name].headline
        assert kept == {key: value for key, value in one[name].details.items() if key != "controls"}
    counts = [[(d.domain, d.n_pairs, d.n_groups) for d in records[name].data] for name in ("alone", "beside")]
    assert counts[0] == counts[1]
    assert [v.verdict for v in records["alone"].verdicts] == [v.verdict for v in records["beside"].verdicts]


def test_they_are_read_by_base_s_direction_in_both_models_and_domains(records):
    found = next(f for f in records["beside"].findings if f.comparison == "probe_transfer").details
    told = found["controls"]
    assert set(told) == {f"turned round, {d}, {m}" for d in ("story", "assistant") for m in ("base", "post")}
    own = found["ladder"]["T0"].value
    # The same texts under turned labels: what reads the persona reads these the other way.
    assert own > 0.8 and told["turned round, assistant, post"].value == pytest.approx(1 - own, abs=0.02)
    assert not next(f for f in records["alone"].findings if f.comparison == "probe_transfer").details["controls"]
