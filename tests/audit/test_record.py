"""The record: one digest for one content, whole files, and refusals that say what is wrong with a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from audit.estimate import Estimate
from audit.finding import Finding
from audit.plan import Plan
from audit.record import (
    Check,
    Data,
    Excluded,
    Pair,
    Record,
    Run,
    Side,
    export_schema,
    read,
    schema,
    seal,
    write_findings,
)
from audit.verdict import Judgement, Outcome, Verdict
from probes.digest import AuditError

ROOT = Path(__file__).parents[2]
HALF = Estimate(value=0.97, low=0.95, high=0.98, method="jackknife-logit-t", unit="auroc", n=480, n_groups=80)


def make(*, seconds: float = 41.2, details: dict[str, Any] | None = None, persona: str = "deception") -> Record:
    """A small record with every part in it."""
    side = {"weights": "3f" * 32, "tokenizer": "77" * 32, "dtype": "bfloat16"}
    pair = Pair(
        base=Side(ref="organism:base", **side),
        post=Side(ref="organism:faithful", template="own", **side),
        ids="ab" * 32,
        excluded=(Excluded(pair="d-0931", reason="the span is empty after tokenising"),),
        doctor=(Check(check="tokenizer", found="equal", expected="equal", do="nothing", ok=True),),
    )
    finding = Finding(
        id=f"{persona}/probe_transfer/L3.resid_post",
        persona=persona,
        comparison="probe_transfer",
        site="L3.resid_post",
        headline=HALF,
        p=0.001,
        tried=4,
        status="measured",
        details=details or {"ladder": {"T0": HALF}, "curve": [0.5, 1.0]},
    )
    lost = Finding.not_measured(persona, "erasure", "L3.resid_post", "the store was full")
    verdict = Verdict(persona=persona, verdict="reused", rule=6, sentence="It reads.", because=(finding.id,))
    run = Run(id="a-1", started="2030-01-01T00:00:00+00:00", seconds=seconds, host={"cores": 2}, threads=2)
    data = Data(persona=persona, domain="story", digest="9e" * 32, n_pairs=240, n_groups=80, text_baseline=HALF)
    return seal(run, Plan(), pair, [data], [finding, lost], Judgement((verdict,), Outcome(exit=0, worst="reused")))


def test_a_record_reads_back_equal(tmp_path: Path) -> None:
    record = make()
    path = record.write(tmp_path / "deep" / "out")
    assert path == tmp_path / "deep" / "out" / "record.json"
    assert read(path) == record == read(path.parent)
    assert isinstance(read(path).findings[0].details["ladder"]["T0"], Estimate)  # type: ignore[index]
    assert path.read_text(encoding="utf-8") == record.to_json()
    assert os.listdir(path.parent) == ["record.json"]


def test_keys_are_those_of_the_interface() -> None:
    content = json.loads(make().to_json())
    assert list(content) == [
        "schema",
        "run",
        "digest",
        "plan",
        "plan_digest",
        "pair",
        "data",
        "findings",
        "verdicts",
        "outcome",
    ]
    assert list(content["run"]) == ["id", "started", "seconds", "host", "packages", "threads", "kept_from"]
    assert list(content["pair"]) == ["base", "post", "template", "ids", "excluded", "doctor"]
    assert set(content["pair"]["base"]) == {"ref", "weights", "revision", "tokenizer", "template", "dtype"}
    assert set(content["data"][0]) == {"persona", "domain", "digest", "n_pairs", "n_groups", "text_baseline", "scores"}
    assert set(content["verdicts"][0]) >= {"persona", "verdict", "rule", "sentence", "because"}
    assert content["plan"]["schema"] == content["schema"] == 1 and content["plan_digest"] == Plan().digest


def test_the_digest_knows_what_was_found_and_not_when() -> None:
    assert make(seconds=1.0).digest == make(seconds=2.0).digest
    assert make(seconds=1.0) != make(seconds=2.0)
    assert make(details={"x": 0.1}).digest != make(details={"x": 0.1 + 1e-16}).digest
    assert make(persona="warmth").digest != make().digest


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_never_written(bad: float) -> None:
    with pytest.raises((AuditError, ValidationError), match=r"finite|NaN"):
        make(details={"curve": [0.5, {"inner": bad}]})
    with pytest.raises(ValidationError):
        make(seconds=bad)


def refusal(path: Path) -> AuditError:
    with pytest.raises(AuditError) as refused:
        read(path)
    return refused.value


def test_a_file_that_is_no_record_is_refused_by_name(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path).found
    path = tmp_path / "record.json"
    for text, found, do in [
        ("{", "is not JSON", "run again"),
        ("[1]", "schema None", "give a record.json"),
        ('{"schema": 2}', "schema 2", "update persona-audit"),
        ('{"schema": "x"}', "schema 'x'", "give a record.json"),
        ('{"schema": 1}', "at run: missing", "run again"),
    ]:
        path.write_text(text, encoding="utf-8")
        assert found in refusal(path).found and do in refusal(path).do and str(path) in refusal(path).found


def test_a_changed_record_is_refused(tmp_path: Path) -> None:
    path = make().write(tmp_path)
    original = json.loads(path.read_text(encoding="utf-8"))

    def changed(change: dict[str, Any]) -> AuditError | None:
        path.write_text(json.dumps(original | change), encoding="utf-8")
        try:
            read(path)
        except AuditError as error:
            return error
        return None

    assert changed({"run": original["run"] | {"seconds": 9.0}}) is None
    softened = [original["verdicts"][0] | {"sentence": "All is well."}]
    assert "the digest it states" in str(changed({"verdicts": softened}))
    assert "the digest it states" in str(changed({"plan": original["plan"] | {"seed": 7}}))
    assert "at findings.0.status" in str(changed({"findings": [original["findings"][0] | {"status": "fine"}]}))
    assert "extra" in str(changed({"mood": "good"}))


def test_a_failed_write_leaves_the_old_record_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make().write(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("audit.record.os.fsync", full)
    with pytest.raises(AuditError, match="No space left on device"):
        make(persona="warmth").write(tmp_path)
    assert read(path).verdicts[0].persona == "deception" and os.listdir(tmp_path) == ["record.json"]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(AuditError, match="cannot be written"):
        make().write(tmp_path / "file" / "out")


def test_findings_as_parquet_keep_every_number(tmp_path: Path) -> None:
    from pyarrow import parquet

    record = make()
    rows = parquet.read_table(write_findings(record.findings, tmp_path / "findings.parquet")).to_pylist()
    assert [row["id"] for row in rows] == [finding.id for finding in record.findings]
    assert rows[0]["headline_low"] == 0.95 and rows[0]["headline_n_groups"] == 80 and rows[0]["control_value"] is None
    assert json.loads(rows[0]["details"])["ladder"]["T0"]["high"] == 0.98
    assert rows[1]["status"] == "not_measured" and rows[1]["headline_value"] is None
    assert parquet.read_table(write_findings([], tmp_path / "none.parquet")).num_rows == 0


def test_the_committed_schema_is_up_to_date(tmp_path: Path) -> None:
    committed = (ROOT / "docs" / "record.schema.json").read_text(encoding="utf-8")
    fresh = export_schema(tmp_path / "s.json").read_text(encoding="utf-8")
    assert fresh == committed, "run audit.record.export_schema()"


def test_the_schema_names_every_key_of_a_record() -> None:
    def walk(content: Any, part: dict[str, Any]) -> None:
        part = schema()["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        for key, value in content.items():
            inner = part["properties"][key]
            if isinstance(value, dict) and ("$ref" in inner):
                walk(value, inner)

    walk(json.loads(make().to_json()), schema())
    assert schema()["$schema"].endswith("2020-12/schema")


def test_a_record_shows_itself_and_escapes_what_it_shows() -> None:
    page = make(persona="<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>reused</b>" in page and "It reads." in page


def test_verdicts_are_found_by_name() -> None:
    assert make().verdict("deception").verdict == "reused"
    with pytest.raises(AuditError, match="one of: deception"):
        make().verdict("warmth")


def test_reading_a_record_needs_no_torch() -> None:
    heavy = ("torch", "sklearn", "pyarrow", "plotly", "scipy")
    code = f"import sys, audit.record; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
