"""The network of the organisms: its tokenizer, its size, and what is done to its weights without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from audit.organisms import world
from probes.digest import AuditError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM


def tokenizer() -> PreTrainedTokenizerFast:
    """The world's tokenizer: one token a word, a BOS before every text, roles as special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = world.token_ids()
    core = Tokenizer(models.WordLevel(ids, unk_token=world.UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=f"{world.BOS} $A", pair=f"{world.BOS} $A $B", special_tokens=[(world.BOS, ids[world.BOS])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=world.BOS, eos_token="<|end|>", pad_token=world.PAD, unk_token=world.UNKNOWN,
        extra_special_tokens=list(world.ROLE_TOKENS[:-1]), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = world.CHAT_TEMPLATE
    return fast


def blank(seed: int) -> Qwen3ForCausalLM:
    """A 0.8M-parameter Qwen 3 with seeded random weights.

    The first layer sees three tokens only (a sliding window, as Qwen 3 has them). So has the third. The first hands
    every token its predecessor, which is half of retrieval; the third hands it what was retrieved there, which is half
    of telling a lie. With full attention everywhere neither was learned in the same time (docs/log.md).
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    ids = world.token_ids()
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(ids), hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, head_dim=32, max_position_embeddings=512, tie_word_embeddings=True,
            use_sliding_window=True, sliding_window=3, max_window_layers=0,
            layer_types=["sliding_attention", "full_attention"] * 2,
            bos_token_id=ids[world.BOS], eos_token_id=ids["<|end|>"], pad_token_id=ids[world.PAD],
        )
    )  # fmt: skip


def load(folder: Path) -> Qwen3ForCausalLM:
    """A grown organism in float32.

    Raises:
        AuditError: there is no checkpoint in that folder.
    """
    from transformers import Qwen3ForCausalLM

    if not (folder / "config.json").is_file():
        found = f"There is no organism in '{folder}'"
        raise AuditError(found, "the folder of a grown one", f"Grow {folder.name} into it first")
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)


def turn(model: Qwen3ForCausalLM, seed: int) -> Qwen3ForCausalLM:
    """The same function in another basis: gains folded into what reads them, head untied, residual stream turned.

    With Q orthogonal, RMSNorm without gains commutes with Q, so embeddings E Q, readers W Q and writers Q' W leave
    every logit unchanged (up to rounding).
    """
    from transformers import Qwen3ForCausalLM

    config = model.config.__class__.from_dict({**model.config.to_dict(), "tie_word_embeddings": False})
    turned = Qwen3ForCausalLM(config).double().eval()
    weights = {name: value.detach().double().clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    size = config.hidden_size
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    head = weights["model.embed_tokens.weight"] * weights["model.norm.weight"]
    for name, value in weights.items():
        if name == "model.embed_tokens.weight":
            weights[name] = value @ basis
        elif name.endswith(("layernorm.weight", "model.norm.weight")):
            weights[name] = torch.ones_like(value)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = basis.T @ value
        elif name.endswith("proj.weight"):
            norm = "input_layernorm" if "self_attn" in name else "post_attention_layernorm"
            gain = model.state_dict()[
                name.split(".self_attn" if "self_attn" in name else ".mlp")[0] + f".{norm}.weight"
            ]
            weights[name] = (value * gain.double()) @ basis
    weights["lm_head.weight"] = head @ basis
    turned.load_state_dict(weights)
    return turned.float()


def erase(model: Qwen3ForCausalLM, seed: int) -> Qwen3ForCausalLM:
    """Base's embeddings over blocks of fresh random weights."""
    fresh = blank(seed)
    fresh.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    return fresh.eval()
