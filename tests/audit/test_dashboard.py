"""The dashboard says each persona's verdict first, shows base beside post, escapes everything, and keeps its cap."""

from __future__ import annotations

import re
import runpy
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from window import DESK, HAND, contrast, opened, undrawn, wider

from audit.report.dashboard import CAP, pages, refuse_unwritable, size, write
from audit.report.facts import percent
from audit.report.meaning import STATES, headline, part
from probes.digest import AuditError

SAMPLE = runpy.run_path(str(Path(__file__).with_name("feature_sample.py")))
HOSTILE = SAMPLE["HOSTILE"]
FIRST = "features/L2.resid_post-17.html"
ORDER = """() => [...document.querySelectorAll('#features tbody tr')].filter(row => !row.hidden)
  .map(row => row.cells[0].innerText)"""


class Reader(HTMLParser):
    """Tags with their attributes, running scripts and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        document, *scripts = html.split("\n<script>")
        self.running = [script.partition("</script>")[0] for script in scripts]
        self.feed(document)
        self.close()
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " " * (tag in ("td", "th", "li"))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def policy(self) -> str:
        """The page's content security policy."""
        found = [a["content"] for tag, a in self.tags if a.get("http-equiv") == "Content-Security-Policy"]
        return str(found[0])


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages(SAMPLE["gallery"]())


@pytest.fixture(scope="module")
def index(made: dict[str, str]) -> Reader:
    return Reader(made["index.html"])


@pytest.fixture(scope="module")
def page(made: dict[str, str]) -> Reader:
    return Reader(made[FIRST])


def test_there_is_a_page_for_each_feature_at_each_site(made: dict[str, str]) -> None:
    latents = [row["latent"] for row in SAMPLE["table"]()]
    names = [f"features/L2.resid_post-{latent}.html" for latent in latents] + ["features/L1.resid_post-17.html"]
    assert list(made) == ["index.html", *names]


def test_the_verdict_of_each_persona_comes_first(index: Reader) -> None:
    first = index.text.split("Search")[0].replace("\u00a0", " ")
    assert "fell silent" in first and "kept" in first
    assert (
        "4 of the 6 features found for it have a rule that holds in base (1 beyond what random directions "
        "reach): in post 1 keep it, 2 lose it, 1 are open. Silent in post: 45. Base's dictionary leaves 0.02 % "
        "[0.01, 0.03] more of post's variance unexplained."
    ) in first


def test_every_state_is_named_and_explained(index: Reader) -> None:
    for state, (_, meaning) in STATES.items():
        assert state in index.text and meaning in index.text


def test_plotly_is_there_once_and_a_feature_s_page_runs_no_script(made: dict[str, str], index: Reader) -> None:
    assert [name for name, html in made.items() if "plotly.js v" in html] == ["index.html"]
    assert made["index.html"].count("plotly.js v") == 1 and len(index.running) == 2
    for text in index.running:
        assert f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in index.policy
    for name, html in made.items():
        if name != "index.html":
            assert "<script" not in html and "script-src 'none'" in Reader(html).policy


def test_nothing_refers_outside_the_folder(made: dict[str, str]) -> None:
    for name, html in made.items():
        reader = Reader(html)
        assert reader.policy.startswith("default-src 'none'") and "http" not in reader.policy
        assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in reader.tags}
        home = Path(name).parent
        for _, attributes in reader.tags:
            assert "src" not in attributes and not any(key.startswith("on") for key in attributes)
            if attributes.get("href"):
                target = (home / str(attributes["href"])).as_posix().replace("features/../", "")
                assert target in made, attributes


def test_hostile_text_stays_text(made: dict[str, str], index: Reader, page: Reader) -> None:
    for html in made.values():
        assert HOSTILE not in html and "<img" not in html.split("plotly.js v")[0]
    assert "alert('x')" in index.text and "alert('x')" in page.text


def test_a_feature_s_page_shows_both_models_side_by_side(made: dict[str, str], page: Reader) -> None:
    html = made[FIRST]
    assert html.count('<svg class="bars') == 2 and "activation, where it fires" in page.text
    for told in ("Strongest in base", "Strongest quarter in base", "8 of the 8 strongest are shown above"):
        assert told in page.text
    for told in ("␣under +0.90", "↵ +0.90", "Not known: the final norm of a llama is not known", "latent 300 −0.20"):
        assert told in page.text
    again = "In an SAE of post's own: latent 40 (cosine 0.93, correlation 0.90, each the other's nearest, p 0.005)."
    assert again in page.text
    assert re.search(r"Its rule, balanced accuracy 0\.81 \[0\.79, 0\.83\] 0\.80 \[0\.78, 0\.82\] −0\.01", page.text)
    assert "What they add to rules of random directions, 95th percentile 0.24" in page.text


def test_tokens_are_shaded_on_one_scale_for_both_models(made: dict[str, str]) -> None:
    html = made[FIRST]
    assert 'class="p4 at" title="8"' in html and 'title="3"' in html
    assert not re.search(r'class="p4[^"]*" title="3"', html)


def test_what_is_silent_says_so(made: dict[str, str]) -> None:
    both = Reader(made["features/L2.resid_post-511.html"]).text
    assert both.count("Silent on every token shown.") == 2 and "it fires on no token of the texts shown" in both
    assert "It fires in 2 of the 30 judged scenarios, 5 are needed." in both
    assert Reader(made["features/L2.resid_post-45.html"]).text.count("Silent on every token shown.") == 1


def test_same_gallery_same_bytes(made: dict[str, str]) -> None:
    assert pages(SAMPLE["gallery"]()) == made


def test_the_cap_takes_examples_first_and_says_so(made: dict[str, str]) -> None:
    whole = size(made)
    assert whole < CAP and "Left out" not in Reader(made["index.html"]).text
    fewer = pages(SAMPLE["gallery"](), whole - 1)
    assert size(fewer) < whole and list(fewer) == list(made)
    assert "Left out to stay below" in Reader(fewer["index.html"]).text
    assert "examples beyond 4 in each range" in Reader(fewer["index.html"]).text
    assert "4 further examples were left out" in Reader(fewer[FIRST]).text


def test_the_cap_then_takes_pages_and_names_them() -> None:
    least = size(pages(SAMPLE["gallery"](1)))
    some = pages(SAMPLE["gallery"](), least - 40_000)
    left = [one["latent"] for one in SAMPLE["table"]() if f"features/L2.resid_post-{one['latent']}.html" not in some]
    assert size(some) <= least - 40_000 and left and FIRST in some
    # What holds stays longest, and what lost its page is in the table still, without a link.
    assert left[-1] == 511
    index = Reader(some["index.html"])
    assert "L2.resid_post-511" in index.text and "511L2.resid_post deception" in index.text
    assert not any("511.html" in str(attributes.get("href")) for _, attributes in index.tags)


def test_a_cap_below_the_index_is_refused() -> None:
    with pytest.raises(AuditError, match=r"A cap of 100,000 bytes. Expected [\d,]+, the index alone, or more"):
        pages(SAMPLE["gallery"](), 100_000)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for refused in (refuse_unwritable, lambda out: write(SAMPLE["gallery"](), out)):
        with pytest.raises(AuditError, match="cannot be written"):
            refused(tmp_path / "file" / "out")
    refuse_unwritable(tmp_path / "not" / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("key", ["weight", "from", "auroc", "firing", "own", "mean", "rule", "silent", "reason"])
def test_a_missing_reading_costs_only_its_own_place(key: str) -> None:
    gallery = SAMPLE["gallery"]()
    changed = []
    for finding in gallery.findings:
        content = finding.model_dump(mode="json")
        for row in content["details"].get("features", []):
            del row[key]
        changed.append(type(finding).model_validate(content))
    made = pages(replace(gallery, findings=tuple(changed)))
    assert "Provenance" in Reader(made["index.html"]).text and "Nearest neighbours" in Reader(made[FIRST]).text


def test_a_persona_whose_gate_failed_says_why_and_the_rest_goes_on() -> None:
    gallery = SAMPLE["gallery"]()
    gate = {"gate": {"status": "fail", "margin": 0.1, "change": SAMPLE["estimate"](0.4)}}
    failed = SAMPLE["finding"]("assistant_identity", "features", gate, reason="no feature is read across the pair")
    index = Reader(pages(replace(gallery, findings=(*gallery.findings[:3], failed)))["index.html"])
    assert "not read across" in index.text and "No feature is read across the pair." in index.text
    assert "in the scored span; label 1" in index.text


def test_the_part_of_an_empty_record_is_why_it_is_empty() -> None:
    why = dict.fromkeys(("feature_transfer", "features", "novelty"), "the plan does not run it")
    found = part("deception", {}, why)
    assert (found.headline.word, found.headline.says) == ("not measured", "The plan does not run it.")
    assert found.rows == found.fidelity.rows == found.sparse.rows == () and found.novelty.why == why["novelty"]


def test_no_zero_is_negative() -> None:
    assert percent({"value": -1e-9, "low": -1e-9, "high": None})["value"] == 0.0
    assert str(percent({"value": -1e-9, "low": None, "high": None})["value"]) == "0.0"


def test_a_part_without_a_rule_that_holds_is_open() -> None:
    rows = [SAMPLE["row"](9, 0.4, SAMPLE["rule"]("anywhere", 0.52, 0.51, "yes", readable=False))]
    found = headline("deception", {"persona": "deception", "details": {"features": rows}}, "")
    assert (found.tone, found.word) == ("open", "no rule holds")
    assert found.says == "0 of the 1 features found for it have a rule that holds in base."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dashboard")
    write(SAMPLE["gallery"](), out)
    return out


@pytest.fixture(scope="module", params=[(DESK, "light"), (DESK, "dark"), (HAND, "light"), (HAND, "dark")],
                ids=["desk-light", "desk-dark", "hand-light", "hand-dark"])  # fmt: skip
def look(request: pytest.FixtureRequest) -> tuple[tuple[int, int], str]:
    return request.param


@pytest.mark.parametrize("name", ["index.html", FIRST, "features/L2.resid_post-511.html"])
def test_a_browser_finds_nothing_wrong_and_asks_for_nothing(
    browser: Any, folder: Path, look: tuple[tuple[int, int], str], name: str
) -> None:
    seen = opened(browser, folder / name, *look)
    assert seen.errors == [] and seen.requests == [(folder / name).as_uri()]
    assert wider(seen.page) == 0
    for selector in ("h1", ".verdict .says", ".verdict .word", ".why", "th"):
        assert contrast(seen.page, selector) >= 4.5, selector
    seen.page.context.close()


def test_the_table_sorts_by_its_headings(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html", DESK).page
    found = page.evaluate(ORDER)
    head = page.get_by_role("columnheader", name="weight")
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [int(text.split()[0]) for text in page.evaluate(ORDER)] == [17, 17, 120, 45, 9, 511, 3]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [int(text.split()[0]) for text in page.evaluate(ORDER)] == [3, 511, 9, 45, 120, 17, 17]
    page.get_by_role("columnheader", name="accuracy in base").get_by_role("button").click()
    # What has no rule comes last whichever way it is sorted.
    assert page.evaluate(ORDER)[-1].split()[0] == "511"
    page.get_by_label("Sort").select_option("")
    assert page.evaluate(ORDER) == found
    page.context.close()


def test_the_table_narrows_down_to_what_is_searched(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html", HAND, "dark").page
    page.get_by_label("Search").fill("deception USER")
    assert [text.split()[-2:] for text in page.evaluate(ORDER)] == [["120", "L2.resid_post"]]
    assert page.locator("output").inner_text() == "1 of 7 features"
    page.get_by_label("Search").fill("nobody")
    assert page.evaluate(ORDER) == []
    page.get_by_label("Search").fill("")
    assert len(page.evaluate(ORDER)) == 7 and page.locator("output").inner_text() == "7 features"
    page.context.close()


def test_a_feature_is_reached_by_keyboard_and_shows_its_examples(browser: Any, folder: Path) -> None:
    seen = opened(browser, folder / "index.html", DESK)
    page = seen.page
    page.get_by_role("link", name="17", exact=True).first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/L2.resid_post-17.html")
    assert page.get_by_role("heading", name="Strongest in base").is_visible()
    shown = page.locator("#examples .passage:visible")
    before = shown.count()
    summary = page.locator("#examples summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert shown.count() == before + 4 and page.locator("b.at").count() > 8
    assert HOSTILE in shown.first.inner_text().replace("\n", "")
    page.get_by_role("link", name="all features").click()
    page.wait_for_url("**/index.html")
    assert seen.errors == [] and {url[:8] for url in seen.requests} == {"file:///"}
    page.context.close()


def test_the_plot_is_drawn_with_its_axes_named(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "index.html", DESK).page
    assert undrawn(page) == [] and page.locator("[data-plot] .scatterlayer path.point").count() == 6
    page.context.close()


def test_a_table_whose_script_is_blocked_is_caught(browser: Any, folder: Path, tmp_path: Path) -> None:
    """The control: with another script in place the policy stops it, and the same eyes see that nothing sorts."""
    html = (folder / "index.html").read_text(encoding="utf-8")
    broken = tmp_path / "index.html"
    broken.write_text(html.replace("Tables that sort", "Tables that never sort"), encoding="utf-8")
    seen = opened(browser, broken, DESK)
    seen.page.get_by_role("columnheader", name="weight").get_by_role("button").click()
    assert any("Content Security Policy" in error for error in seen.errors)
    assert seen.page.get_by_role("columnheader", name="weight").get_attribute("aria-sort") == "none"
    seen.page.context.close()
