"""Every check of the doctor sees the fault it is for, and finds nothing in a sane pair."""

from __future__ import annotations

import copy
import re
import runpy
import time
from pathlib import Path
from typing import Any

import order
import pytest
import shipped
import tiny
import torch
from torch import nn
from transformers import GPT2LMHeadModel, GPT2Model, LlamaForCausalLM, LlamaModel

from audit.conduct import Setting, audit, doctor
from audit.diagnosis import examine
from audit.pair import Recorder
from audit.plan import plan_of
from audit.texts import agree
from probes.digest import AuditError
from probes.model import load
from probes.persona import read

GLANCE = {"effort": "glance"}
SIDES = ("batching", "hooks", "determinism")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return order.personas(tmp_path_factory.mktemp("personas") / "order", groups=24)


@pytest.fixture(scope="module")
def sane(folder):
    """Two small models that expect the persona's texts, with their tokenizer."""
    words = tiny.tokenizer("llama")
    return {name: (order.taught(tiny.model(seed=i), words, folder), words) for i, name in enumerate(("base", "post"))}


@pytest.fixture
def examined(folder, tmp_path):
    """Runs the doctor on a pair in memory: its checks by name."""

    def run(base: Any, post: Any, personas: Path = folder, **plan: Any) -> dict[str, Any]:
        setting = Setting(store=tmp_path / "store", progress=False)
        found = doctor(plan_of({**GLANCE, **plan}), base=base, post=post, personas=[personas], setting=setting)
        assert found.ok == all(check.ok for check in found.checks)
        assert all(check.found and check.expected and check.do for check in found.checks)
        return {check.check: check for check in found.checks}

    return run


def bad(checks: dict[str, Any]) -> set[str]:
    return {name for name, check in checks.items() if not check.ok}


@pytest.mark.parametrize("stream", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_a_sane_pair_needs_nothing(examined, sane, stream):
    checks = examined(sane["base"], sane["post"], sites={"stream": stream})
    assert bad(checks) == set(), [checks[name] for name in bad(checks)]
    expected = {
        "tokenizer", "vocabulary", "BOS", "chat template", "dtype", "reliability of directions", "surprisal", "cost",
        "detectable effect",
    }  # fmt: skip
    assert set(checks) == expected | {f"{name} ({side})" for name in SIDES for side in ("base", "post")}


def test_a_template_that_adds_a_second_bos_is_seen(examined, sane):
    twice = tiny.tokenizer("llama")
    twice.chat_template = "{{ bos_token }}" + tiny.TEMPLATES["llama"]
    check = examined((sane["base"][0], twice), sane["post"])["BOS"]
    chats = sum(line["domain"] == "assistant" for line in order.lines(24))
    assert not check.ok and f"{chats} of" in check.found


def test_two_dtypes_are_seen(examined, sane):
    words = sane["post"][1]
    try:
        check = examined(sane["base"], (tiny.model(seed=1, dtype="bfloat16"), words))["dtype"]
    except AuditError as refusal:  # refused before any check is no worse
        assert "bfloat16" in refusal.found and "float32" in refusal.found and "dtype" in refusal.do
    else:
        assert not check.ok and "bfloat16" in check.found and "float32" in check.found


class Mixing(LlamaModel):
    """Adds the mean of the whole batch to every token: a text reads otherwise in other company."""

    def forward(self, input_ids=None, **given):
        rows = self.embed_tokens(input_ids)
        return super().forward(inputs_embeds=rows + 0.2 * rows.mean((0, 1)), **given)


class MixingLlama(LlamaForCausalLM):
    """A Llama over `Mixing`."""

    def __init__(self, config):
        super().__init__(config)
        self.model = Mixing(config)


class FromTheEnd(GPT2Model):
    """Counts positions from the right end of the batch: padding moves every token of a short text."""

    def forward(self, input_ids=None, **given):
        given["position_ids"] = torch.arange(input_ids.shape[1] - 1, -1, -1)[None]
        return super().forward(input_ids, **given)


class FromTheEndGPT2(GPT2LMHeadModel):
    """A GPT-2 over `FromTheEnd`."""

    def __init__(self, config):
        super().__init__(config)
        self.transformer = FromTheEnd(config)


@pytest.mark.parametrize(("kind", "family"), [(MixingLlama, "llama"), (FromTheEndGPT2, "gpt2")])
def test_a_model_that_depends_on_its_batch_is_seen(examined, kind, family):
    words, sound = tiny.tokenizer(family), tiny.model(family, seed=1)
    broken = kind(tiny.config(family))
    broken.load_state_dict(sound.state_dict())
    checks = examined((sound, words), (broken.eval(), words))
    assert not checks["batching (post)"].ok and checks["batching (base)"].ok
    assert checks["determinism (post)"].ok, "the same batch gives the same rows: only its company matters"


class Stuck(nn.Dropout):
    """A dropout that evaluation does not switch off."""

    def forward(self, rows):
        return nn.functional.dropout(rows, self.p, True)


def test_a_model_that_draws_is_seen(examined):
    words, drawing = tiny.tokenizer("gpt2"), tiny.model("gpt2", seed=1)
    drawing.transformer.drop = Stuck(0.1)
    checks = examined((tiny.model("gpt2"), words), (drawing, words))
    assert not checks["determinism (post)"].ok and checks["determinism (base)"].ok


def test_attention_that_is_not_what_transformer_lens_computes_is_seen(examined, sane):
    """The model's own kernel doubles what attention gives; TransformerLens attends eagerly, by the definition."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def doubled(*given, **named):
        rows, weights = sdpa_attention_forward(*given, **named)
        return 2 * rows, weights

    ALL_ATTENTION_FUNCTIONS.register("doubled", doubled)
    try:
        odd = tiny.model(seed=1)
        odd.config._attn_implementation = "doubled"
        checks = examined(sane["base"], (odd, sane["base"][1]))
    finally:
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop("doubled")
    assert not checks["hooks (post)"].ok and "differ" in checks["hooks (post)"].found
    assert checks["hooks (base)"].ok and checks["batching (post)"].ok


def test_an_architecture_that_transformer_lens_does_not_know_is_said(examined, sane):
    class Renamed(LlamaForCausalLM):
        """No adapter has this name."""

    stranger = Renamed(tiny.config("llama"))
    check = examined(sane["base"], (stranger.eval(), sane["base"][1]))["hooks (post)"]
    assert not check.ok and "Renamed" in check.found


def test_ids_outside_the_smaller_vocabulary_are_seen(folder, sane):
    library = read(folder)
    small = tiny.model(seed=1)
    with load(sane["base"]) as base, load((small, sane["base"][1])) as post:
        texts = agree(library.personas, library.plain, base, post)
        checks = {check.check: check for check in examine(texts, Recorder(base, post, texts.plain))}
        assert checks["vocabulary"].ok
        small.resize_token_embeddings(300)
        check = next(c for c in examine(texts, Recorder(base, post, texts.plain)) if c.check == "vocabulary")
    largest = max(max(passage.token_ids) for passage in (*texts.passages["order"], *texts.plain))
    assert not check.ok and "post 300" in check.found and str(largest) in check.found


def test_no_template_anywhere_is_seen(folder, sane, tmp_path):
    """Passages without turns can be judged without a template; that there is none is said all the same."""
    library = read(folder)
    stories = tuple(line for line in library.personas[0].lines if line.domain == "story")
    bare = [(hf, tiny.tokenizer("llama", template=False)) for hf, _ in sane.values()]
    with load(bare[0]) as base, load(bare[1]) as post:
        persona = type(library.personas[0])(**{**vars(library.personas[0]), "lines": stories})
        texts = agree([persona], library.plain, base, post)
        checks = {check.check: check for check in examine(texts, Recorder(base, post, texts.plain))}
    assert not checks["chat template"].ok and "none" in checks["chat template"].found
    assert bad(checks) == {"chat template"}


def test_a_tokenizer_that_splits_otherwise_is_seen(examined, sane):
    """One merge of "ship" more in post: pairs with the ship are counted out and named, the others stay."""
    other = tiny.tokenizer("llama")
    other.add_tokens([" ship"])
    wide = tiny.model(seed=1)
    wide.resize_token_embeddings(len(other))
    check = examined(sane["base"], (wide, other))["tokenizer"]
    ships = {line["pair"] for line in order.lines(24) if "the ship" in str(line)}
    assert not check.ok and str(len(ships)) in check.found
    assert any(name in check.found for name in ships)


def test_texts_that_a_model_does_not_say_are_seen(examined, sane):
    """The output rows in another order: the model is as sure as before, of other words."""
    hf = copy.deepcopy(sane["post"][0])
    with torch.no_grad():
        rows = hf.lm_head.weight
        rows.copy_(30 * rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))])
    checks = examined(sane["base"], (hf, sane["base"][1]))
    assert bad(checks) == {"surprisal"}, checks["surprisal"]


@pytest.mark.parametrize("width", [32, 96])
def test_predicted_bytes_are_those_of_a_run(folder, tmp_path, width):
    words, setting = tiny.tokenizer("llama"), Setting(store=tmp_path / "store", progress=False)
    pair = {name: (sized(width, seed), words) for seed, name in enumerate(("base", "post"))}
    checks = doctor(plan_of(GLANCE), **pair, personas=[folder], setting=setting).checks
    said = next(check.found for check in checks if check.check == "cost")
    predicted = float(re.search(r"([\d.]+) MB", said)[1]) * 1e6
    audit(plan_of(GLANCE), **pair, personas=[folder], setting=setting)
    stored = sum(file.stat().st_size for file in (tmp_path / "store").rglob("*") if file.is_file())
    assert stored / 1.5 <= predicted <= stored * 1.5


def sized(width: int, seed: int) -> Any:
    """A random Llama of another width."""
    config = tiny.config("llama")
    config.hidden_size, config.head_dim, config.intermediate_size = width, width // 4, 2 * width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@pytest.mark.slow
def test_predicted_seconds_are_those_of_a_run(tmp_path):
    """A 70M model and a shipped persona, in this very process: what else the machine does slows both."""
    benchmark = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "recording.py"))
    words, setting = tiny.tokenizer("llama"), Setting(store=tmp_path / "store", threads=1, progress=False)
    pair = {name: (benchmark["build"](benchmark["FULL"]).hf, words) for name in ("base", "post")}
    with torch.no_grad():
        pair["post"][0].lm_head.weight.mul_(1.01)  # other weights, else post is remembered from base
    shipped.write(tmp_path / "personas", ("deception",))
    plan = plan_of({**GLANCE, "personas": {"paths": [str(tmp_path / "personas")]}})
    checks = doctor(plan, **pair, setting=setting).checks
    said = next(check.found for check in checks if check.check == "cost")
    predicted = float(re.search(r"([\d.]+) s\b", said)[1])
    start = time.perf_counter()
    audit(plan, **pair, setting=setting)
    taken = time.perf_counter() - start
    assert taken / 2 <= predicted <= taken * 2, (predicted, taken)
