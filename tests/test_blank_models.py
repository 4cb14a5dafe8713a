"""No built-in persona is carried by a model that nobody trained: three architectures, three seeds, every cell."""

from __future__ import annotations

import pytest
import torch

from audit.lint import flat, learned_tokenizer
from audit.pair import DOMAINS, Judged, cross_validated
from audit.plan import Margins
from audit.resampling import estimate_auroc, kernel, seed_of
from probes.direction import lda
from probes.model import load
from probes.passage import render_all
from probes.persona import Persona, builtin, read
from probes.recorder import record
from probes.site import sites
from probes.split import folds

LAYERS, WIDTH = 3, 64
MARGINS = Margins()


def blank(family: str, vocabulary: int, seed: int):
    """A model of the family with random weights, wide enough to tell words apart."""
    import transformers as hub

    shape = {"vocab_size": vocabulary, "initializer_range": 0.1}
    usual = {
        **shape, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTH, "max_position_embeddings": 2_048,
    }  # fmt: skip
    config = {
        "llama": lambda: hub.LlamaConfig(**usual, num_key_value_heads=2),
        "gpt_neox": lambda: hub.GPTNeoXConfig(**usual),
        "gpt2": lambda: hub.GPT2Config(**shape, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=2_048),
    }[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return hub.AutoModelForCausalLM.from_config(config).eval()


def half(persona: Persona):
    """The first quads of every other scenario of each domain."""
    kept = {
        line.scenario for domain in DOMAINS
        for line in persona.domain(domain) if line.control is None
    }  # fmt: skip
    names = set(sorted(kept)[::2])
    return [one for one in persona.lines if one.scenario in names and not one.control and one.pair[-2] in "01"]


@pytest.fixture(scope="module")
def texts():
    personas = {persona.name: half(persona) for persona in read(builtin()).personas}
    return personas, learned_tokenizer([flat(line) for lines in personas.values() for line in lines])


def judged(model, lines, name: str) -> dict[str, Judged]:
    passages = render_all(lines, model.tokenizer, model.template)
    rows = record(model, passages, sites("resid_post", "all", LAYERS), progress=False).values.double().transpose(0, 1)
    found = {}
    for domain in DOMAINS:
        at = [i for i, passage in enumerate(passages) if passage.domain == domain]
        mine = tuple(passages[i] for i in at)
        fold = folds([passage.group for passage in mine], 5, seed_of(0, "blank", name, domain))
        found[domain] = Judged(mine, fold, {"base": rows[:, at].contiguous()}, {})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_no_persona_is_carried_in_any_cell(texts, family, seed):
    personas, tokenizer = texts
    with load((blank(family, len(tokenizer), seed), tokenizer)) as model:
        for name, lines in personas.items():
            domains = judged(model, lines, name)
            everyone = torch.ones(1, len(domains["story"].passages))
            carried_over = lda(domains["story"].rows["base"], domains["story"].labels, everyone)[:, 0]
            chat = domains["assistant"]
            cells = {f"{d} by its own probe": (cross_validated(j.rows["base"], j), j) for d, j in domains.items()}
            scores = torch.einsum("srd,sd->sr", chat.rows["base"], carried_over)
            cells["story to assistant"] = (scores, chat)
            for cell, (values, rows) in cells.items():
                fold = None if cell == "story to assistant" else rows.fold
                for layer, read_ in enumerate(estimate_auroc(kernel(values, rows.labels, rows.groups, fold))):
                    where = f"{name}, {cell}, layer {layer}: {read_}"
                    assert read_.value < MARGINS.carried and read_.below(MARGINS.not_carried), where


@pytest.mark.slow
def test_what_words_give_away_a_blank_model_carries(texts):
    """The control: the same model, probe and cells on texts that open with a word for each label."""
    from dataclasses import replace

    personas, tokenizer = texts
    story = [line for line in personas["deception"] if line.domain == "story"]
    given = [replace(one, text=("Sure, " if one.label else "Well, ") + one.text, span=(0, 8)) for one in story]
    chats = [line for line in personas["deception"] if line.domain == "assistant"]
    with load((blank("llama", len(tokenizer), 0), tokenizer)) as model:
        rows = judged(model, [*given, *chats], "deception")["story"]
    (*_, last) = estimate_auroc(kernel(cross_validated(rows.rows["base"], rows), rows.labels, rows.groups, rows.fold))
    assert last.above(MARGINS.carried)
