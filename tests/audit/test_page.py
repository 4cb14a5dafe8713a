"""The page is one offline file, says every verdict with its number, escapes all text, and bears missing readings."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from audit.report.facts import beside, erasure, geometry
from audit.report.page import render
from audit.report.passages import sheet
from audit.report.room import VERDICTS

SAMPLE = runpy.run_path(str(Path(__file__).with_name("sample.py")))
FEATURES = runpy.run_path(str(Path(__file__).with_name("feature_sample.py")))
HOSTILE = SAMPLE["HOSTILE"]
KEYS = sorted(SAMPLE["record"]()["findings"][0]["details"])


class Reader(HTMLParser):
    """Collects tags, attributes, scripts and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.inside != "style":
            self.text += data


def read(html: str) -> Reader:
    """The page, parsed; its two running scripts, five megabytes, are cut at their ends and set beside it."""
    document, *scripts = html.split("\n<script>")
    reader = Reader()
    reader.feed(document)
    reader.close()
    for script in scripts:
        text, _, rest = script.partition("</script>")
        assert "<" not in rest.replace("</body>", "").replace("</html>", "")
        reader.scripts.append(({}, text))
    reader.text = re.sub(r"\s+", " ", reader.text)
    return reader


@pytest.fixture(scope="module")
def page() -> Reader:
    """The sample's page."""
    return read(render(SAMPLE["record"]()))


def test_nothing_refers_outside(page: Reader) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}


def test_policy_allows_its_own_two_scripts_and_no_network(page: Reader) -> None:
    policy = next(
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'")
    running = [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(running) == 2 and "plotly.js" in running[0][:200]
    for text in running:
        assert f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy
    assert "http" not in policy and "unsafe-inline" not in policy.split("style-src")[0]


def test_data_blocks_are_json_and_every_plot_has_one(page: Reader) -> None:
    blocks = {attributes["id"]: json.loads(text) for attributes, text in page.scripts if "type" in attributes}
    plots = [attributes["data-plot"] for _, attributes in page.tags if "data-plot" in attributes]
    assert len(plots) == 6
    assert set(plots) | {"twins"} == set(blocks)


def test_every_verdict_is_said_before_the_evidence(page: Reader) -> None:
    first = page.text.split("Fit here, judge there")[0].replace("\u00a0", " ")
    for verdict in SAMPLE["record"]()["verdicts"]:
        assert verdict["sentence"] in first
        assert verdict["verdict"] in first and verdict["persona"].replace("_", " ") in first
    assert first.index("novel") < first.index("reused")


def test_a_sentence_without_a_number_gets_the_headline() -> None:
    record = SAMPLE["record"]()
    record["verdicts"][0]["sentence"] = "No number."
    assert re.search(r"No number\.\s+AUROC 0\.54\s\[0\.51,\s0\.56\]", read(render(record)).text)


def test_hostile_text_stays_text(page: Reader) -> None:
    assert HOSTILE.split(" ")[0] in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


@pytest.mark.parametrize(
    "path",
    [
        ("verdicts", 0, "persona"),
        ("verdicts", 0, "sentence"),
        ("pair", "post", "ref"),
        ("pair", "doctor", 0, "found"),
        ("data", 0, "domain"),
        ("findings", 0, "site"),
    ],
)
def test_every_door_is_escaped(path: tuple[Any, ...]) -> None:
    record = SAMPLE["record"]()
    node: Any = record
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = HOSTILE
    html = render(record)
    assert HOSTILE not in html and "<img" not in html.split("plotly.js v")[0]


def test_provenance_is_last(page: Reader) -> None:
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["persona-0", "persona-1", "verdict-table", "doctor", "provenance"]
    for part in ("Passages it most misreads", "Checks of the pair"):
        assert page.text.index(part) < page.text.index("Provenance")


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_reading_costs_only_its_own_block(key: str) -> None:
    record = SAMPLE["record"]()
    del record["findings"][0]["details"][key]
    assert "Provenance" in read(render(record)).text


def test_reasons_are_named() -> None:
    record = SAMPLE["record"]()
    record["findings"][0] |= {
        "status": "not_measured",
        "reason": "NaN in passage 3f2a",
        "details": {},
        "headline": None,
    }
    record["plan"]["comparisons"] = {"probe_transfer": {}, "geometry": {}}
    text = read(render(record)).text
    assert "Not measured: NaN in passage 3f2a." in text
    assert "the plan does not run erasure" in text


@pytest.mark.parametrize("record", [{}, {"verdicts": [], "findings": []}])
def test_an_empty_record_still_renders(record: dict[str, Any]) -> None:
    assert "The record holds no verdict." in read(render(record)).text


@pytest.mark.parametrize("name", VERDICTS)
def test_every_verdict_has_tone_mark_and_meaning(name: str) -> None:
    record = SAMPLE["record"]()
    record["verdicts"][0]["verdict"] = name
    assert VERDICTS[name][2] in read(render(record)).text


def with_features(**more: Any) -> dict[str, Any]:
    """The sample record with what the features' comparisons found of deception."""
    record = SAMPLE["record"]()
    found = [finding.model_dump(mode="json") for finding in FEATURES["findings"]()]
    record["findings"] += [finding for finding in found if finding["persona"] == "deception"]
    return record | more


def test_the_features_part_says_its_verdict_its_fidelity_and_its_best_features() -> None:
    text = read(render(with_features())).text.replace("\u00a0", " ")
    assert "4 of the 6 features found for it have a rule that holds in base" in text
    best = r"17\s*keeps\s*in the scored span; label 1\s*0\.81 \[0\.79, 0\.83\]\s*0\.80 \[0\.78, 0\.82\]"
    assert re.search(best, text)
    assert "The gate: pass. FVU on the Assistant's tokens changes by 0.02 % [0.01, 0.03], margin 10 %." in text
    for row in ("random directions (floor), %", "post's Assistant, fitted on base's", "each other's nearest"):
        assert row in text


def test_what_post_alone_has_is_told_with_its_sham_and_its_latents() -> None:
    text = read(render(with_features())).text
    share = r"Of what fires, post's own latents, %: assistant\s*balanced accuracy\s*1\.23 \[1\.13, 1\.33\]"
    for told in (share, r"More than a sham fine-tune\s*yes", r"Latent 88: post's own latents\s*fires on 0\.40%"):
        assert re.search(told, text), told
    assert "90% of it on template tokens; base's dictionary explains 0.12 of it" in text
    assert FEATURES["HOSTILE"] not in render(with_features())


def test_the_features_part_points_to_a_dashboard_only_where_there_is_one() -> None:
    assert "All features with their examples" not in read(render(with_features())).text
    page = read(render(with_features(dashboard="features/index.html")))
    assert ("a", {"href": "features/index.html"}) in page.tags


def test_a_features_part_that_is_not_there_says_why() -> None:
    record = with_features()
    record["plan"]["comparisons"] = {"probe_transfer": {}}
    record["findings"] = [one for one in record["findings"] if one["comparison"] not in ("features", "novelty")]
    text = read(render(record)).text
    assert "The plan does not run features." in text and "Not measured: the plan does not run novelty." in text
    failed = FEATURES["finding"]("deception", "features", {}, reason="no SAE of base is named")
    record["findings"].append(failed.model_dump(mode="json"))
    assert "No SAE of base is named." in read(render(record)).text


def test_same_record_same_bytes() -> None:
    assert render(SAMPLE["record"]()) == render(SAMPLE["record"]())


def test_rendering_needs_no_torch() -> None:
    sample = Path(__file__).with_name("sample.py")
    code = (
        "import runpy, sys; from audit.report.page import render; "
        f"render(runpy.run_path({str(sample)!r})['record']()); "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_tokens_are_shaded_by_projection_on_one_scale() -> None:
    row = {
        "pair": "p",
        "scenario": "s",
        "label": 1,
        "tokens": ["a", " b", " c"],
        "span": [1, 3],
        "base": [-4.0, 0.0, 4.0],
        "post": [2.0, -2.0, None],
    }
    base, post = sheet([row]).passages[0].readings
    assert [token.shade for token in base.tokens] == ["n4", "", "p4"]
    assert [token.shade for token in post.tokens] == ["p2", "n2", ""]
    assert [token.scored for token in base.tokens] == [False, True, True]
    assert (base.mean, base.right, post.right) == (2.0, True, False)
    assert [token.space + token.text for token in base.tokens] == row["tokens"]


def test_vocabulary_spellings_are_turned_back() -> None:
    row = {"pair": "p", "tokens": ["The", "Ġship", "Ċ"], "base": [0.1, 0.2, 0.3], "post": [0.1, 0.2, 0.3]}
    assert "".join(t.space + t.text for t in sheet([row]).passages[0].readings[0].tokens) == "The ship↵\n"


def test_a_plain_number_and_an_absent_one_stand_beside_estimates() -> None:
    table = geometry({"cka": 0.931, "procrustes": None, "cosine": SAMPLE["estimate"](0.9), "established": False}, "why")
    assert [(row.label.split(" ")[0], row.note) for row in table.rows[1:]] == [("Cosine", ""), ("CKA", "0.93")]
    assert "not established" in table.rows[0].note
    assert erasure({}, "why").rows == () and beside({}, "because").why == "because"
