"""What a dashboard shows is read from the very models of the record, out of the store, or refused."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import order
import pytest
import tiny
import torch
from shell import command

from audit.conduct import Setting, conduct, prepared
from audit.gallery import gallery, sample
from audit.plan import plan_of, to_toml
from audit.record import content_digest
from probes.codes import Codes
from probes.dictionary import Training, load, train
from probes.digest import AuditError
from probes.recorder import record_tokens
from probes.site import Site

SITE = Site(1, "resid_post")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A tiny base that is its own post, an SAE of it, a record with its features, and the plan behind it."""
    from contextlib import ExitStack

    root = tmp_path_factory.mktemp("gallery")
    base = tiny.checkpoint(root / "base")
    people = order.personas(root / "personas", groups=24)
    setting = Setting(store=root / "store", progress=False)
    with ExitStack() as models:
        _, ready = prepared(plan_of({}), str(base), str(base), [people], setting, models)
        subject, texts = ready.recorder.base, (*ready.texts.passages["order"], *ready.texts.plain)
        rows = record_tokens(subject, texts, [SITE], limit=6_000, progress=False).at(SITE)
        how = Training(width=128, active=8, steps=400, batch=256, rate=3e-3)
        train(rows, SITE, root / "sae", how, subject=subject, progress=False)
    common = {"dictionary": str(root / "sae"), "rows": 4_000}
    written = {
        "effort": "glance", "pair": {"base": str(base), "post": str(base)}, "personas": {"paths": [str(people)]},
        "comparisons": {"features": {**common, "permutations": 100}, "feature_transfer": {**common, "texts": 20}},
    }  # fmt: skip
    made = conduct(plan_of(written), setting=setting)
    made.record.write(root / "out")
    for name, direction in made.directions.items():
        direction.save(root / "out" / "directions" / f"{name}.safetensors")
    return SimpleNamespace(root=root, base=base, setting=setting, written=written, record=made.record)


@pytest.fixture(scope="module")
def shown(here):
    return gallery(here.root / "out", setting=here.setting)


def listed(record):
    (found,) = (finding for finding in record.findings if finding.comparison == "features")
    return [row["latent"] for row in found.details["features"]]


def test_every_listed_feature_is_shown_at_its_site(here, shown):
    (wing,) = shown.wings
    assert wing.site == "L1.resid_post" and wing.width == 128 and wing.name == str(here.root / "sae")
    assert [feature.latent for feature in wing.features] == listed(here.record) != []
    assert shown.source == ("record", here.record.digest) and shown.base["bos"] is True
    assert list(shown.directions) == [path.stem for path in (here.root / "out" / "directions").iterdir()]


def test_one_model_twice_is_shown_alike(shown):
    for feature in shown.wings[0].features:
        assert feature.firing["base"] == feature.firing["post"] and feature.words["base"] == feature.words["post"]
        assert all(example.values["base"] == example.values["post"] for s in feature.strips for example in s.examples)


def test_activations_are_those_of_the_dictionary(here, shown):
    """The values beside an example, computed anew from the model for its whole text."""
    from contextlib import ExitStack

    feature = next(one for one in shown.wings[0].features if one.strips)
    with ExitStack() as models:
        _, ready = prepared(plan_of(here.written), None, None, None, here.setting, models)
        known = {(p.domain, p.group, p.label): [] for p in ready.texts.passages["order"]}
        for passage in ready.texts.passages["order"]:
            known[passage.domain, passage.group, passage.label].append(passage)
        one = next(e for strip in feature.strips for e in strip.examples if e.persona)
        values = []
        for passage in known[one.domain, one.group, one.label]:
            rows = record_tokens(ready.recorder.base, [passage], [SITE], progress=False).at(SITE)
            codes: Codes = load(here.root / "sae").encode(rows)
            along = codes.of_latents(torch.tensor([feature.latent]))[:, 0].tolist()
            start = one.beyond[0]
            values.append([round(v, 3) for v in along[start : start + len(one.tokens)]])
    assert [round(v, 3) for v in one.values["base"]] in values


def test_nothing_is_read_twice(here):
    from contextlib import ExitStack

    from audit.gallery import Told, _shown

    with ExitStack() as models:
        _, ready = prepared(plan_of(here.written), None, None, None, here.setting, models)
        _shown(Told(here.record.findings, {}, ("record", "")), ready, None)
        assert ready.recorder.base.forwards == ready.recorder.post.forwards == 0


def test_a_plan_is_measured_first_and_its_other_comparisons_are_left(here, tmp_path):
    asked = here.written | {"comparisons": {"geometry": {}, "features": here.written["comparisons"]["features"]}}
    (tmp_path / "plan.toml").write_text(to_toml(plan_of(asked)))
    found = gallery(tmp_path / "plan.toml", setting=here.setting)
    assert [finding.comparison for finding in found.findings] == ["feature_transfer", "features"]
    assert [feature.latent for feature in found.wings[0].features] == listed(here.record)
    # The comparison that the plan lacks reads the dictionary of the one that it has.
    assert found.findings[0].status == "measured" and list(found.directions)


def test_the_command_writes_the_pages_and_the_directions(here, tmp_path):
    done = command("features", here.root / "out", "--out", tmp_path / "d", "--store", here.root / "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d" / "index.html").is_file()
    assert {path.stem for path in (tmp_path / "d" / "features").iterdir()} == {
        f"L1.resid_post-{latent}" for latent in listed(here.record)
    }
    (vectors,) = (tmp_path / "d" / "vectors").iterdir()
    assert json.loads(vectors.read_text())["config"]["vector_names"] == ["order"]
    assert done.stdout.split() == [str(tmp_path / "d" / "index.html"), str(vectors)]


def changed(here, **content):
    """The record with other content, its digest made anew."""
    whole = json.loads(here.record.to_json()) | content
    return type(here.record).model_validate_json(json.dumps(whole | {"digest": content_digest(whole)}))


def test_a_record_without_the_comparison_is_refused_before_a_model_is_loaded(here):
    kept = [finding for finding in json.loads(here.record.to_json())["findings"] if finding["comparison"] != "features"]
    with pytest.raises(AuditError, match="has no features comparison. Expected findings of comparisons.features"):
        gallery(changed(here, findings=kept))


def test_a_record_whose_comparison_failed_says_why(here, tmp_path):
    plan = plan_of(here.written | {"comparisons": {"features": {"dictionary": str(tmp_path / "nowhere")}}})
    with pytest.raises(AuditError, match="has no feature to show: .*nowhere"):
        gallery(plan, setting=here.setting)


def test_models_that_changed_since_are_refused_with_both_digests(here, tmp_path):
    out = tmp_path / "post"
    shutil.copytree(here.base, out)
    pair = json.loads(here.record.to_json())["pair"]
    plan = json.loads(here.record.to_json())["plan"]
    pair["post"]["ref"] = plan["pair"]["post"] = str(out)
    record = changed(here, pair=pair, plan=plan)
    assert gallery(record, setting=here.setting).post["ref"] == str(out)
    tiny.checkpoint(out, seed=1)
    told = here.record.pair.post.weights[:12]
    with pytest.raises(AuditError, match=rf"post' has digest [0-9a-f]{{12}} today. Expected {told}, as in the record"):
        gallery(record, setting=here.setting)


def test_an_sae_that_is_gone_or_another_is_refused(here, tmp_path):
    plan = json.loads(here.record.to_json())["plan"]
    plan["comparisons"]["features"]["dictionary"] = str(tmp_path / "sae")
    with pytest.raises(AuditError, match="There is no folder"):
        gallery(changed(here, plan=plan), setting=here.setting)
    shutil.copytree(here.root / "sae", tmp_path / "sae")
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    gallery(changed(here, plan=plan), setting=here.setting)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, tmp_path / "sae" / "sae_weights.safetensors")
    assert cfg["d_sae"] == 128
    with pytest.raises(AuditError, match="the SAE .* has digest"):
        gallery(changed(here, plan=plan), setting=here.setting)


def test_a_latent_that_the_dictionary_has_not_is_refused(here):
    findings = json.loads(here.record.to_json())["findings"]
    for finding in findings:
        for row in finding["details"].get("features", [])[:1]:
            row["latent"] = 128
    with pytest.raises(AuditError, match="Latent 128. Expected 0 to 127"):
        gallery(changed(here, findings=findings), setting=here.setting)


def test_a_model_that_was_in_memory_must_be_handed_in(here):
    plan = json.loads(here.record.to_json())["plan"]
    plan["pair"]["base"] = "memory"
    with pytest.raises(AuditError, match="base was a model in memory"):
        gallery(changed(here, plan=plan), setting=here.setting)


def test_a_record_that_is_not_there_and_a_plan_that_is_none_are_refused(tmp_path):
    with pytest.raises(AuditError, match="cannot be read"):
        gallery(tmp_path / "record.json")
    (tmp_path / "plan.toml").write_text("[[")
    with pytest.raises(AuditError, match="is not TOML"):
        gallery(tmp_path / "plan.toml")


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(here, tmp_path):
    (tmp_path / "file").write_text("")
    done = command(
        "features", here.root / "out", "--out", tmp_path / "file" / "d", "--store", here.root / "store", cwd=tmp_path
    )
    assert done.returncode == 3 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_a_sample_takes_whole_pairs_of_as_many_scenarios_as_it_can(here):
    from contextlib import ExitStack

    with ExitStack() as models:
        _, ready = prepared(plan_of(here.written), None, None, None, here.setting, models)
        passages = [one for one in ready.texts.passages["order"] if one.domain == "assistant"]
    each = len(passages[0].token_ids) - 1
    some = sample(passages, 12 * each)
    pairs = {(one.group, one.pair) for one in some}
    assert len(some) == 2 * len(pairs) and len({group for group, _ in pairs}) == len(pairs) > 2
    assert sum(len(one.token_ids) - 1 for one in some) <= 14 * each
    assert list(some) == [one for one in passages if one in set(some)]
    assert len(sample(passages, 1)) == 2 and sample(passages * 2, 10**9) == tuple(passages)
