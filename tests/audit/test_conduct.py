"""An audit from end to end on tiny models: what is remembered, what is left untouched, what is refused and how."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import shipped
import tiny
import torch
from shell import command

from audit.conduct import Setting, audit, conduct, doctor
from audit.plan import plan_of
from audit.record import read
from audit.report.folder import write
from audit.scores import read_scores
from probes.digest import AuditError

FEW = {"personas": {"paths": [shipped.folder()]}}
QUICK = plan_of({"effort": "glance", **FEW})


@pytest.fixture(scope="module")
def conducted(refs, setting):
    return conduct(QUICK, **refs, setting=setting)


def persona_folder(path, groups=6, name="small", alarm="true"):
    """A folder with one persona of its own."""
    lines = []
    for domain in ("story", "assistant"):
        for g in range(groups):
            for label, words in ((1, f"yes then no {g}"), (0, f"no then yes {g}")):
                said = (
                    {"text": f"{words} said he"}
                    if domain == "story"
                    else {"messages": [{"role": "user", "content": words}, {"role": "assistant", "content": "said he"}]}
                )
                lines.append(
                    {
                        "persona": name,
                        "pair": f"{domain}{g}",
                        "scenario": f"{domain}-{g}",
                        "domain": domain,
                        "label": label,
                        **said,
                    }
                )
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / f"{name}.toml").write_text(
        f'name = "{name}"\ndefinition = "d"\nlabel_one = "l"\nalarm = {alarm}\n'
        'licence = "MIT"\nmade = "m"\nweaknesses = "w"\n'
    )
    return path


def test_a_record_is_written_read_and_rendered_again(conducted, tmp_path):
    out = write(conducted.record, tmp_path / "out", conducted.directions, conducted.scores)
    assert read(out) == conducted.record
    assert read_scores(out) == conducted.scores and len(conducted.scores) == len(conducted.record.verdicts)
    assert (out / "findings.parquet").is_file() and list((out / "directions").glob("*.safetensors"))
    page = (out / "report.html").read_text()
    assert all(verdict.verdict in page for verdict in conducted.record.verdicts)
    done = command("report", out / "record.json", "--out", tmp_path / "again.html", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "again.html").read_text() == page


def test_base_is_recorded_once(refs, setting, conducted, monkeypatch, tmp_path):
    """A second audit of the same base, against another post, reads base zero times."""
    from probes.model import Subject

    subjects = []
    made = Subject.__init__
    monkeypatch.setattr(
        Subject, "__init__", lambda self, *args, **kwargs: (made(self, *args, **kwargs), subjects.append(self))[0]
    )
    audit(QUICK, base=refs["base"], post=refs["base"], setting=setting)
    assert [subject.forwards for subject in subjects] == [0, 0]
    audit(QUICK, base=refs["base"], post=refs["post"], setting=Setting(store=tmp_path, progress=False))
    assert all(subject.forwards > 0 for subject in subjects[2:])


def test_the_same_audit_gives_the_same_digest(refs, setting, conducted, tmp_path):
    assert audit(QUICK, **refs, setting=setting).digest == conducted.record.digest
    fresh = Setting(store=tmp_path, progress=False)
    assert audit(QUICK, **refs, setting=fresh).digest == conducted.record.digest


def test_a_model_in_memory_comes_back_untouched(refs, setting):
    hf, words = tiny.model("llama", seed=1).train(), tiny.tokenizer("llama")
    ids = torch.arange(5, 25)[None]
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    logits = hf.eval()(ids).logits
    hf.train()
    record = audit(QUICK, base=refs["base"], post=(hf, words), setting=setting)
    assert record.pair.post.ref == "memory" and hf.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    assert torch.equal(hf.eval()(ids).logits, logits)


def test_few_groups_are_inconclusive_and_say_how_many_are_needed(refs, setting, tmp_path):
    folder = persona_folder(tmp_path / "mine")
    (verdict,) = audit(QUICK, **refs, personas=[folder], setting=setting).verdicts
    assert verdict.verdict == "inconclusive" and "20" in verdict.sentence


def test_activations_that_are_not_finite_are_named_and_not_measured(checkpoint, refs, tmp_path):
    broken = tiny.model("llama", seed=1)
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    record = audit(
        QUICK,
        base=refs["base"],
        post=(broken, tiny.tokenizer("llama")),
        setting=Setting(store=tmp_path, progress=False),
    )
    assert {verdict.verdict for verdict in record.verdicts} == {"not_measured"} and record.outcome.exit == 3
    reasons = {finding.reason for finding in record.findings}
    assert all("L1" in reason for reason in reasons), reasons


def test_models_of_another_depth_or_width_are_refused(refs, setting):
    from transformers import LlamaForCausalLM

    config = tiny.config("llama")
    config.num_hidden_layers += 1
    with pytest.raises(AuditError, match="4 layers, base has 3"):
        audit(QUICK, base=refs["base"], post=(LlamaForCausalLM(config), tiny.tokenizer("llama")), setting=setting)


def test_other_tokenizers_are_counted_out_or_refused(checkpoint, setting, tmp_path):
    llama, gpt2 = (str(checkpoint(family)) for family in ("llama", "gpt2"))
    with pytest.raises(AuditError, match="split every passage"):
        audit(QUICK, base=llama, post=gpt2, setting=setting)


def test_no_chat_template_anywhere_is_said(checkpoint, setting):
    base, post = (str(checkpoint("llama", seed=seed, template=False)) for seed in (0, 1))
    with pytest.raises(AuditError, match="chat template"):
        audit(QUICK, base=base, post=post, setting=setting)


def test_an_unknown_setting_of_a_comparison_is_refused(refs, setting):
    plan = plan_of({"effort": "glance", "comparisons": {"probe_transfer": {"permutation": 5}}})
    with pytest.raises(AuditError, match="permutation"):
        audit(plan, **refs, setting=setting)


def test_a_direction_of_ones_own_is_a_frozen_probe(refs, setting, conducted, tmp_path):
    name, direction = next(iter(conducted.directions.items()))
    path = direction.save(tmp_path / f"{name}.safetensors")
    comparisons = {"probe_transfer": {"direction": str(path)}, "geometry": {}}
    plan = plan_of({**FEW, "effort": "glance", "comparisons": comparisons})
    record = audit(plan, **refs, setting=setting)
    own = record.findings[0].details["own_direction"]
    assert own["site"] == str(direction.site) and 0 <= own["post"].value <= 1


def test_doctor_predicts_bytes_of_the_run(refs, tmp_path):
    setting = Setting(store=tmp_path, progress=False)
    cost = next(check for check in doctor(QUICK, **refs, setting=setting).checks if check.check == "cost")
    predicted = float(cost.found.split(" and ")[1].split(" MB")[0])
    audit(QUICK, **refs, setting=setting)
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) / 1e6
    assert predicted / 1.5 <= stored <= predicted * 1.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--base", "no/such-model", "--offline"), "no/such-model"),
        (("run", "--post", "organism:nobody"), "nobody"),
        (("run", "plan.toml"), "layer"),
        (("run", "missing.toml"), "missing.toml"),
        (("report", "nowhere"), "nowhere"),
    ],
)
def test_no_mistake_ends_in_a_traceback(tmp_path, arguments, said):
    (tmp_path / "plan.toml").write_text("[sites]\nlayer = 3\n")
    done = (
        command(*arguments, "--store", "s", cwd=tmp_path)
        if arguments[0] == "run"
        else command(*arguments, cwd=tmp_path)
    )
    assert done.returncode in (2, 3) and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_store_that_cannot_be_written_is_said(refs, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = command(
        "run", "--base", refs["base"], "--post", refs["post"], "--effort", "glance", "--store", blocked, cwd=tmp_path
    )
    assert done.returncode == 3 and "Traceback" not in done.stderr and str(blocked) in done.stderr


def test_a_residual_run_never_imports_transformer_lens(refs, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from audit.conduct import Setting, audit; from audit.plan import plan_of\n"
        f"audit(plan_of({QUICK.model_dump(mode='json', by_alias=True)!r}), base={refs['base']!r}, "
        f"post={refs['post']!r}, "
        f"setting=Setting(store=Path({str(tmp_path)!r}), progress=False))\n"
        "assert 'transformer_lens' not in sys.modules and 'sae_lens' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
