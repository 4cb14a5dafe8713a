"""A calibration that was stopped goes on: answers come back bit for bit, and only to the same question."""

import math
from typing import NamedTuple

import pytest

from audit.calibration import campaign
from audit.calibration.campaign import Campaign, calibrate
from audit.calibration.coverage import draw
from audit.calibration.ledger import Ledger
from audit.calibration.plants import Planted
from audit.calibration.synthetic import Sample
from audit.plan import plan_of
from probes.digest import AuditError


class Answer(NamedTuple):
    value: float
    names: dict[str, str]


class Maker:
    """Counts how often it is asked."""

    def __init__(self, value=math.pi):
        self.asked, self.value = 0, value

    def __call__(self):
        self.asked += 1
        return [Answer(self.value, {"a": "reused"})]


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "post").mkdir()
    (tmp_path / "post" / "model.safetensors").write_bytes(b"weights")
    return str(tmp_path / "post")


def test_an_answer_is_made_once_and_comes_back_bit_for_bit(tmp_path, checkpoint):
    make, ledger = Maker(0.1 + 0.2), Ledger.of(tmp_path)
    first = ledger(list[Answer], ["a", 1], [checkpoint], make)
    again = Ledger.of(tmp_path)(list[Answer], ["a", 1], [checkpoint], make)
    assert first == again == [Answer(0.1 + 0.2, {"a": "reused"})] and isinstance(again[0], Answer)
    assert make.asked == 1


@pytest.mark.parametrize("other", ["question", "model", "program", "damage"])
def test_another_question_model_or_program_and_a_damaged_entry_ask_anew(tmp_path, checkpoint, other):
    make, ledger, asked = Maker(), Ledger.of(tmp_path), ["a"]
    ledger(list[Answer], asked, [checkpoint], make)
    if other == "question":
        asked = ["b"]
    elif other == "model":
        (tmp_path / "post" / "model.safetensors").write_bytes(b"WEIGHTS")
    elif other == "program":
        ledger = Ledger(tmp_path, "another")
    else:
        (entry,) = (tmp_path / "calibration").iterdir()
        entry.write_bytes(entry.read_bytes()[:-3])
    assert ledger(list[Answer], asked, [checkpoint], make)[0].value == math.pi
    assert make.asked == 2


def test_a_model_that_is_no_file_and_a_store_that_is_no_folder_are_asked_each_time(tmp_path):
    make = Maker()
    for _ in range(2):
        Ledger.of(tmp_path)(list[Answer], ["a"], ["somebody/on-a-hub"], make)
    (tmp_path / "file").write_text("")
    for _ in range(2):
        Ledger(tmp_path / "file", "program")(list[Answer], ["a"], [], make)
    assert make.asked == 4


def test_estimates_survive_the_way_to_json_and_back(tmp_path):
    planted = Planted("turn", 20.0, 2.0, Sample(width=12, groups=20))
    made = [draw(planted, 0, number) for number in range(3)]
    kept = [Ledger.of(tmp_path)(list[campaign.Draw], ["sets"], [], lambda: made) for _ in range(2)]
    assert kept[0] == kept[1] == made


def test_a_calibration_that_was_stopped_draws_no_trial_twice(tmp_path, monkeypatch):
    """Processes are spared here: what they would be sent is called in this one."""
    ledger, plan = Ledger.of(tmp_path), plan_of({"effort": "glance"})
    made = campaign._trials(Planted(), plan, range(2), ledger)

    def stopped(*_):
        raise AuditError("asked again", "the answer that is kept", "")

    monkeypatch.setattr(campaign, "trial", stopped)
    assert campaign._trials(Planted(), plan, range(2), ledger) == made
    with pytest.raises(AuditError, match="asked again"):
        campaign._trials(Planted(), plan, range(2, 4), ledger)


def test_verdicts_and_redraws_of_a_model_are_kept_too(tmp_path, monkeypatch, setting):
    """The whole way, through its processes: the second calibration finds everything in the store."""
    monkeypatch.setitem(campaign.CAMPAIGNS, "glance", Campaign(((Planted("lost", 0.0), 2),), draws=0))
    monkeypatch.setattr(campaign.card, "names", lambda: ["base", "erased"])
    plan = plan_of({"effort": "glance"})
    first = calibrate(plan, setting=setting, workers=1)
    entries = {path: path.stat().st_mtime_ns for path in (setting.store / "calibration").iterdir()}
    assert len(entries) == 2
    again = calibrate(plan, setting=setting, workers=1)
    assert first.model_copy(update={"seconds": again.seconds}) == again
    assert {path: path.stat().st_mtime_ns for path in (setting.store / "calibration").iterdir()} == entries
