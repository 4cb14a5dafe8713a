"""A model known by its configuration alone: what its width, depth and tokenizer let a doctor say without weights."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from audit.calibration.detectable import detectable
from audit.diagnosis import Checked, Doctor, cost, reliability
from audit.plan import Plan
from audit.texts import Texts, agree
from audit.workload import Forecast, costs, timed
from probes.checkpoint import told
from probes.model import own_template, positions, tokenizer_digest
from probes.persona import Library
from probes.site import sites

TOKENS = 512
"""Of the trial batch that one block is timed on."""
ROWS = 256
"""Vocabulary of the trial block: its embeddings are no part of what is timed."""


@dataclass(frozen=True, eq=False)
class Outline:
    """A folder with config.json and a tokenizer, and no weights. Stands where texts are tokenised."""

    config: Any
    tokenizer: Any

    @property
    def template(self) -> str | None:
        """The tokenizer's own chat template."""
        return own_template(self.tokenizer)

    @property
    def context(self) -> int | None:
        """Tokens that its position embeddings have room for."""
        return positions(self.config)

    @property
    def tokenizer_digest(self) -> str:
        """SHA-256 over what turns text into ids."""
        return tokenizer_digest(self.tokenizer)

    @cached_property
    def text(self) -> Any:
        """The part of the configuration that the language model has."""
        return self.config.get_text_config()

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.text.hidden_size)

    @property
    def n_layers(self) -> int:
        """Blocks."""
        return int(self.text.num_hidden_layers)

    def block_seconds(self, device: str = "cpu") -> float:
        """Seconds that one block takes for one token, timed on a block with random weights."""
        from transformers import AutoModel

        config = copy.deepcopy(self.text)
        config.num_hidden_layers, config.vocab_size = 1, ROWS
        for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(config, key, None)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:1]
        with torch.random.fork_rng(devices=[]):
            model = AutoModel.from_config(config).eval().to(device)
        ids = torch.arange(TOKENS, device=device).remainder(ROWS).reshape(4, -1)
        with torch.inference_mode():
            return timed(lambda: model(input_ids=ids, use_cache=False), warm=True) / TOKENS

    def forecast(self, texts: Texts, n_sites: int, permutations: int, device: str = "cpu") -> Forecast:
        """A first run of a pair of this shape: the blocks' passes and the statistics."""
        spent = costs(texts, self.d_model, n_sites, permutations)
        passes = 2 * spent.tokens * self.n_layers * self.block_seconds(device)
        return Forecast(spent.bytes, passes + spent.seconds)


def examined(outline: Outline, plan: Plan, library: Library) -> Doctor:
    """What can be said of a pair of this shape before there are weights: nothing is refused for lack of them.

    Raises:
        AuditError: the tokenizer cannot render the texts.
    """
    device = "cuda" if plan.pair.device == "auto" and torch.cuda.is_available() else plan.pair.device
    device = "cpu" if device == "auto" else device
    choice = "auto" if plan.pair.template in ("base", "post") else plan.pair.template
    texts = agree(library.personas, library.plain, outline, outline, choice)
    n_sites = len(sites(plan.sites.stream, plan.sites.layers, outline.n_layers))
    found = f"{outline.n_layers} blocks of {outline.d_model} dimensions, and no weights"
    return Doctor((
        Checked("shape", found, "weights, for every check that runs a model", "Run doctor again with them", True),
        reliability(texts, outline.d_model),
        detectable(texts, outline.d_model, plan),
        cost(lambda: outline.forecast(texts, n_sites, plan.draws.permutations, device)),
    ))  # fmt: skip


def outlined(ref: str) -> Outline | None:
    """The outline of a folder that holds a configuration and a tokenizer and no weights; None of anything else.

    Raises:
        AuditError: its configuration or tokenizer cannot be read.
    """
    folder = Path(ref).expanduser()
    if not (folder / "config.json").is_file() or any(list(folder.glob(kind)) for kind in ("*.safetensors", "*.bin")):
        return None
    from transformers import AutoConfig, AutoTokenizer

    with told(ref):
        json.loads((folder / "config.json").read_text("utf-8"))
        where = {"local_files_only": True, "trust_remote_code": False}
        return Outline(AutoConfig.from_pretrained(folder, **where), AutoTokenizer.from_pretrained(folder, **where))
