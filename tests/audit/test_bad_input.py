"""What users get wrong, and what models get wrong, is said in one sentence: refused before anything is computed, or not
measured while everything else goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import tiny
import torch
from shell import command

from audit.comparisons.table import TABLE
from audit.conduct import Setting, audit, conduct, doctor, libraries
from audit.estimate import Estimate
from audit.finding import Finding
from audit.plan import plan_of
from probes.digest import AuditError, digest
from probes.direction import Direction
from probes.site import Site

NOWHERE = {"base": "no/such-base", "post": "no/such-post", "setting": Setting(offline=True, progress=False)}
"""Models that cannot be loaded: what is refused before them cost nothing."""


def quick(**comparisons):
    return plan_of({"effort": "glance", "comparisons": comparisons})


def persona(path, name="small", groups=6, ending=lambda g: ""):
    """A folder with one persona of a few short pairs in each domain, and as many plain texts."""
    lines = []
    for domain in ("story", "assistant"):
        for g in range(groups):
            for label in (1, 0):
                text = f"{'yes no' if label else 'no yes'} {g}{ending(g)}"
                own = {"persona": name, "pair": f"{domain}{g}", "scenario": f"{domain}-{g}", "domain": domain}
                lines.append(own | {"label": label, "text": text})
    for g in range(groups):
        lines.append({"domain": "plain", "scenario": f"plain-{g}", "text": f"It rained for {g} days{ending(g)}."})
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    header = f'name = "{name}"\ndefinition = "d"\nlabel_one = "l"\nalarm = true\nlicence = "MIT"\nmade = "m"\n'
    (path / f"{name}.toml").write_text(header)
    return path


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"probe_transfer": {"permutations": "500"}}, 'comparisons.probe_transfer.permutations = "500"'),
        ({"probe_transfer": {"permutations": 0}}, "comparisons.probe_transfer.permutations = 0"),
        ({"probe_transfer": {"bootstrap": -1}}, "comparisons.probe_transfer.bootstrap = -1"),
        ({"probe_transfer": {"random_maps": 2.5}}, "comparisons.probe_transfer.random_maps = 2.5"),
        ({"probe_transfer": {"permutations": True}}, "comparisons.probe_transfer.permutations = true"),
        ({"probe_transfer": {"direction": ["a"]}}, 'comparisons.probe_transfer.direction = ["a"]'),
        ({"geometry": {"splits": 0}}, "comparisons.geometry.splits = 0"),
        ({"geometry": {"split": 3}}, "the nearest is comparisons.geometry.splits"),
        ({"probe_transfer": {"permutation": 5}}, "the nearest is comparisons.probe_transfer.permutations"),
        ({"erasure": {"rank": 1}}, "the nearest is comparisons.erasure = {}"),
        ({"probe_transfer": {"margin": [0.6, 0.7]}}, "margins.carried and margins.not_carried"),
    ],
)
def test_a_wrong_setting_of_a_comparison_is_refused_before_a_model_is_loaded(own, said):
    with pytest.raises(AuditError, match=re.escape(said)):
        audit(quick(**own), **NOWHERE)


def test_a_plan_s_own_setting_wins_over_the_effort_s(refs, setting, tmp_path):
    plan = quick(probe_transfer={"permutations": 7, "bootstrap": 50, "random_maps": 3}, geometry={"splits": 2})
    probe, geometry = audit(plan, **refs, personas=[persona(tmp_path / "p")], setting=setting).findings
    assert probe.status == geometry.status == "measured"
    assert probe.p * 8 == round(probe.p * 8), "p is (1 + k) / (1 + 7 draws)"


def test_reliability_is_stated_and_refuses_nothing(refs, setting, tmp_path):
    checks = audit(quick(), **refs, personas=[persona(tmp_path / "p")], setting=setting).pair.doctor
    (stated,) = (check for check in checks if check.check == "reliability of directions")
    assert stated.ok and stated.found.startswith("0.27 at 32 dimensions and 6 pairs") and "16 pairs" in stated.expected


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda path: path, "not a readable direction"),
        (lambda path: path.write_text("x"), "not a readable direction"),
        (lambda path: unit(31, 1).save(path), "has 31 dimensions. Expected 32"),
        (lambda path: unit(32, 9).save(path), "reads L9.resid_post. Expected one of the plan's sites: L0.resid_post"),
    ],
)
def test_a_direction_that_does_not_fit_is_refused_before_a_text_is_read(refs, tmp_path, made, said):
    path, store = tmp_path / "own.safetensors", tmp_path / "store"
    made(path)
    plan = quick(probe_transfer={"direction": str(path)})
    with pytest.raises(AuditError, match=re.escape(said)) as refused:
        audit(plan, **refs, setting=Setting(store=store, progress=False))
    assert "own.safetensors" in refused.value.found and not (store / "recordings").exists()


def test_a_missing_direction_is_noticed_before_a_model_is_loaded():
    with pytest.raises(AuditError, match="nowhere.safetensors"):
        audit(quick(probe_transfer={"direction": "nowhere.safetensors"}), **NOWHERE)


def test_want_of_memory_while_recording_is_a_sentence(refs, tmp_path):
    def exhausted(*_):
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    hf = tiny.model("llama", seed=1)
    hf.base_model.register_forward_pre_hook(exhausted)
    with pytest.raises(AuditError, match="Recording 'small': .*80 GiB.*--device") as refused:
        audit(quick(), base=refs["base"], post=(hf, tiny.tokenizer("llama")), personas=[persona(tmp_path / "p")],
              setting=Setting(store=tmp_path / "store", progress=False))  # fmt: skip
    assert isinstance(refused.value.__cause__, torch.OutOfMemoryError)


def unit(width, layer):
    return Direction(torch.eye(width)[0], 0.0, Site(layer, "resid_post"), "by hand")


def test_a_direction_of_ones_own_is_recorded_by_its_content(refs, setting, tmp_path):
    own = unit(32, 1)
    plan = quick(probe_transfer={"direction": str(own.save(tmp_path / "own.safetensors"))})
    (finding,) = audit(plan, **refs, personas=[persona(tmp_path / "p")], setting=setting).findings
    held = finding.details["own_direction"]
    assert (held["file"], held["digest"]) == ("own.safetensors", digest(own.vector)) and "digest_path" not in held


def test_ctrl_c_says_that_what_was_recorded_is_kept(refs, tmp_path):
    arguments = ["run", "--base", refs["base"], "--post", refs["post"], "--effort", "glance", "--store", "store"]
    running = subprocess.Popen(
        [sys.executable, "-m", "audit.cli", *arguments],
        cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True,
        # A test run put in the background of a script ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    begun = time.monotonic()
    while not list((tmp_path / "store").glob("recordings/*/.lock")):
        assert running.poll() is None and time.monotonic() - begun < 120
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    told = running.communicate(timeout=60)[1]
    assert running.returncode == 3 and "interrupted. What was recorded is kept" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--help",), 0), (("run", "--nonsense"), 2), (("organism", "card", "nobody"), 3)]
)
def test_other_exits_are_as_they_were(tmp_path, arguments, code):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == code and "interrupted" not in done.stderr


@dataclass(frozen=True)
class Defeated:
    """A comparison that its numbers defeat."""

    name = "erasure"
    by: str = ""

    def __call__(self, pair, rng):
        if self.by == "nan":
            Estimate(value=float("nan"), method="m", unit="auroc", n=1, n_groups=1)
        if self.by == "singular":
            torch.linalg.cholesky(-torch.eye(2))
        if self.by == "torch's memory":
            torch.empty(2**60)
        if self.by == "numpy's memory":
            np.empty(2**56)
        return Finding.not_measured(pair.persona.name, self.name, str(pair.site), "nothing defeated it")


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("nan", "ValidationError .*finite number"),
        ("singular", "LinAlgError .*positive-definite"),
        ("torch's memory", "RuntimeError .*memory"),
        ("numpy's memory", "MemoryError .*allocate"),
    ],
)
def test_what_defeats_one_comparison_leaves_the_others_alone(refs, setting, tmp_path, monkeypatch, by, said):
    monkeypatch.setitem(TABLE, "erasure", Defeated)
    plan = quick(erasure={"by": by}, geometry={"splits": 2})
    defeated, geometry = audit(plan, **refs, personas=[persona(tmp_path / "p")], setting=setting).findings
    assert defeated.status == "not_measured" and re.search(said, defeated.reason), defeated.reason
    assert geometry.status == "measured"


def test_a_direction_that_cannot_be_fitted_is_not_saved_and_stops_nothing(refs, setting, tmp_path):
    mute = tiny.model("llama")
    with torch.no_grad():
        mute.model.embed_tokens.weight.zero_()
    pair = {"base": (mute, tiny.tokenizer("llama")), "post": refs["post"]}
    record, directions, _ = conduct(quick(erasure={}), **pair, personas=[persona(tmp_path / "p")], setting=setting)
    assert directions == {} and len(record.findings) == len(record.verdicts) == 1


@pytest.fixture(scope="module")
def splits_money(checkpoint, tmp_path_factory):
    """A checkpoint whose tokenizer has not learned the word "money", and all others as base's has."""
    path = tmp_path_factory.mktemp("other") / "post"
    shutil.copytree(checkpoint("llama", seed=1), path)
    words = json.loads((path / "tokenizer.json").read_text())
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in words["model"]["merges"]]
    words["model"]["merges"] = [list(pair) for pair in merges if "oney" not in "".join(pair)]
    assert len(words["model"]["merges"]) < len(merges)
    (path / "tokenizer.json").write_text(json.dumps(words))
    return str(path)


def test_pairs_that_two_tokenizers_split_differently_are_counted_out_and_the_rest_goes_on(
    refs, setting, splits_money, tmp_path
):
    folder = persona(tmp_path / "p", ending=lambda g: " for money" if g < 2 else " for bread")
    plan = quick(probe_transfer={}, geometry={"splits": 2})
    record = audit(plan, base=refs["base"], post=splits_money, personas=[folder], setting=setting)
    out = {one.pair: one.reason for one in record.pair.excluded}
    assert set(out) == {"story0", "story1", "assistant0", "assistant1", "plain-0", "plain-1"}
    assert all(reason.startswith("plain text") == pair.startswith("plain") for pair, reason in out.items())
    assert [(data.n_pairs, data.n_groups) for data in record.data] == [(4, 4), (4, 4)]
    assert all(finding.status == "measured" for finding in record.findings)
    (verdict,) = record.verdicts
    assert "4 story groups are judged after 4 pairs were counted out;" in verdict.sentence
    checks = {check.check: check for check in record.pair.doctor}
    assert "4 pairs and 2 plain texts split differently" in checks["tokenizer"].found and checks["vocabulary"].ok


def test_the_vocabulary_check_sees_plain_texts(refs):
    from audit.diagnosis import examine
    from audit.pair import Recorder
    from audit.texts import Texts
    from probes.model import load
    from probes.passage import Passage

    plain = Passage("0" * 64, None, "plain", None, None, "p", None, (2, 511), (1, 2), "a", ((0, 0), (0, 1)))
    judged = Passage("1" * 64, "x", "story", 1, "a", "s", None, (2, 5), (1, 2), "a", ((0, 0), (0, 1)))
    texts = Texts({"x": (judged,)}, (plain,), (), None, "base")
    subjects = [load(refs[name]) for name in ("base", "post")]
    (check,) = (check for check in examine(texts, Recorder(*subjects, (plain,))) if check.check == "vocabulary")
    assert "largest id 511" in check.found and check.ok


def broken(layer=1):
    """A model in memory that gives NaN from one layer on."""
    hf = tiny.model("llama", seed=1)
    with torch.no_grad():
        hf.model.layers[layer].mlp.down_proj.weight[0, 0] = float("nan")
    return hf, tiny.tokenizer("llama")


def test_nan_is_named_by_pair_scenario_and_layer(refs, setting, tmp_path):
    folder = persona(tmp_path / "p")
    record = audit(quick(geometry={}), base=refs["base"], post=broken(), personas=[folder], setting=setting)
    (reason,) = {finding.reason for finding in record.findings}
    assert re.search(r"at L1\.resid_post in pair '(story|assistant)\d' of scenario '(story|assistant)-\d'", reason)
    assert not re.search("[0-9a-f]{64}", reason)


def test_a_check_that_cannot_be_made_does_not_stop_the_others(refs, setting, tmp_path):
    folder = persona(tmp_path / "p")
    found = doctor(quick(), base=refs["base"], post=broken(), personas=[folder], setting=setting)
    checks = {check.check: check for check in found.checks}
    failed = {name for name, check in checks.items() if not check.ok}
    assert failed == {"batching (post)", "hooks (post)", "determinism (post)", "surprisal", "cost"}, checks
    assert "NaN" in checks["batching (post)"].found and "of scenario '" in checks["batching (post)"].found


def test_an_architecture_that_transformer_lens_does_not_know_fails_one_check(refs, setting, tmp_path):
    from transformers import HeliumConfig, HeliumForCausalLM

    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4}
    hf = HeliumForCausalLM(HeliumConfig(vocab_size=512, intermediate_size=64, head_dim=8, **shape, pad_token_id=0))
    post = (hf, tiny.tokenizer("llama"))
    found = doctor(quick(), base=refs["base"], post=post, personas=[persona(tmp_path / "p")], setting=setting)
    checks = {check.check: check for check in found.checks}
    assert "cannot wrap it (TransformerLens does not know Helium" in checks["hooks (post)"].found
    assert all(check.ok for name, check in checks.items() if name not in ("hooks (post)", "surprisal")), checks


def test_two_precisions_are_refused(checkpoint, refs, setting):
    half = str(checkpoint("llama", seed=1, dtype="bfloat16"))
    with pytest.raises(AuditError, match=r"base is float32, post is bfloat16.*Set pair\.dtype"):
        audit(quick(), base=refs["base"], post=half, setting=setting)


def test_a_persona_in_two_folders_is_refused_with_both(tmp_path):
    one, two = persona(tmp_path / "one"), persona(tmp_path / "two")
    with pytest.raises(AuditError, match=f"'small' is defined in {one} and in {two}"):
        audit(quick(), personas=[one, two], **NOWHERE)


def test_a_template_that_is_no_text_is_refused(refs, setting, tmp_path):
    (tmp_path / "t.jinja").write_bytes(b"{{ '\xff' }}")
    plan = plan_of({"pair": {"template": str(tmp_path / "t.jinja")}})
    with pytest.raises(AuditError, match=r"t\.jinja' cannot be read \(it is not UTF-8\)"):
        audit(plan, **refs, setting=setting)


def test_files_of_statements_are_personas(refs, setting, tmp_path):
    rows = [{"statement": f"I like {i}", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
            for i in range(16)]  # fmt: skip
    for row in rows[::2]:
        row["answer_matching_behavior"], row["answer_not_matching_behavior"] = " No", " Yes"
    (tmp_path / "likes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sums = "".join(f"{i} is {i},1\n{i} is {i + 1},0\n" for i in range(8))
    (tmp_path / "sums.csv").write_text("statement,label\n" + sums)
    own = [tmp_path / "likes.jsonl", tmp_path / "sums.csv", persona(tmp_path / "p")]
    record = audit(quick(geometry={"splits": 2}), **refs, personas=own, setting=setting)
    assert [(data.persona, data.n_pairs) for data in record.data[::2]] == [("likes", 4), ("small", 6), ("sums", 4)]
    assert all(finding.status == "measured" for finding in record.findings)


def test_published_evaluations_are_personas(data):
    files = sorted((data / "anthropic-evals").glob("*.jsonl"))
    library = libraries(plan_of({"personas": {"paths": [str(path) for path in files]}}))
    assert files and [one.name for one in library.personas] == sorted(path.stem for path in files)


def test_glance_reads_two_pairs_of_125_scenarios_and_every_other_effort_all():
    from audit.organisms.card import personas

    read = {
        effort: libraries(plan_of({"effort": effort, "personas": {"paths": [str(personas())]}})).personas
        for effort in ("glance", "standard", "thorough")
    }
    assert read["standard"] == read["thorough"]
    for some, whole in zip(read["glance"], read["standard"], strict=True):
        few, all_of_them = (
            Counter(scenario for scenario, _ in {(line.scenario, line.pair) for line in one.lines})
            for one in (some, whole)
        )
        assert few.keys() < all_of_them.keys() and (len(few), len(all_of_them)) == (250, 500)
        assert Counter(one.domain for one in some.lines) == {"story": 500, "assistant": 500}
        assert set(few.values()) == {2} and set(all_of_them.values()) == {4}


def test_doctor_writes_what_it_found_to_a_folder_of_its_own(refs, tmp_path):
    folder = persona(tmp_path / "p")
    plan = tmp_path / "plan.toml"
    plan.write_text('effort = "glance"\n[sites]\nlayers = [1]\n')
    done = command("doctor", plan, "--base", refs["base"], "--post", refs["post"], "--personas", folder, cwd=tmp_path)
    (written,) = (tmp_path / "persona-audit-out").glob("*/doctor.json")
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}", written.parent.name) and str(written.name) in done.stdout
    checks = json.loads(written.read_text())
    assert done.returncode == (0 if all(check["ok"] for check in checks) else 2), done.stdout + done.stderr
    shown = command(
        "plan", plan, "--base", refs["base"], "--post", refs["post"], "--personas", folder, cwd=tmp_path
    ).stdout
    (tmp_path / "effective.toml").write_text(shown)
    from audit.plan import read_plan

    assert written.parent.name.endswith(read_plan(tmp_path / "effective.toml").digest[:8])


def test_doctor_writes_a_refusal_as_a_failed_check(refs, tmp_path):
    arguments = ("doctor", "--base", "no/such-model", "--post", refs["post"], "--offline", "--out")
    done = command(*arguments, tmp_path / "told", cwd=tmp_path)
    (check,) = json.loads((tmp_path / "told" / "doctor.json").read_text())
    assert done.returncode == 2 and not check["ok"] and "no/such-model" in check["found"] and check["do"] in done.stdout
    (tmp_path / "file").write_text("in the way")
    done = command(*arguments, tmp_path / "file" / "told", cwd=tmp_path)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_growing_needs_no_folder_and_says_where_it_cannot_write(tmp_path):
    done = command("organism", "grow", "world", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "persona-audit-out" / "organisms" / "world" / "deception.jsonl").is_file()
    (tmp_path / "file").write_text("in the way")
    done = command("organism", "grow", "base", "--out", tmp_path / "file" / "base", cwd=tmp_path)
    assert done.returncode == 3 and "cannot be grown into" in done.stderr and "Traceback" not in done.stderr
    done = command("organism", "grow", "../nobody", cwd=tmp_path)
    assert done.returncode == 3 and not (tmp_path / "persona-audit-out" / "nobody").exists()
