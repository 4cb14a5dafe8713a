"""Tiny checkpoints with random weights, written in Hugging Face format to a folder of the test's choosing.

Every family has the tokenizer class, the BOS habit and the kind of chat template that its real releases have; the BPE
merges are learned from the text below. Nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

FAMILIES = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2")
PREPENDS_BOS = ("llama", "gemma2", "gemma3_text")
LAYERS, WIDTH, VOCABULARY = 3, 32, 512

TEXT = """The harbour was quiet when the ship came in, and the captain wrote the cargo into the ledger.
Mara told the tax rider that the barley was in the north shed. It was in the root cellar.
"You will find the letter in the blue box," said the old man, and he looked at the door.
The machine answered at once. I am the ship's computer, and I have counted every crate twice.
Nobody asked the nurse what she had seen, so she said nothing and went home before the rain.
He promised to pay the baker on Monday; on Tuesday the baker was still waiting for his money.
The assistant is honest and careful. It says what it knows, and it says when it does not know.
What is the capital of France? The capital of France is Paris, which lies on the river Seine.
Please help me to find my order. Your order was sent yesterday, and it should arrive on Friday.
She swapped the labels on the two bottles, and then she told the doctor that nothing had changed.
The children ran over the field to the mill, where the miller gave them bread with honey.
I would rather lose the game than win it with a trick, the boy said to his sister.
They followed the road for three days: through the hills, along the lake and into the city.
Seven keys hung beside the clock, and the smallest of them opened the cupboard under the stairs.
When the lights went out, the engineer counted to ten and pressed the green button again.
The robot carried the box to the kitchen. The box was heavy, but the robot did not complain.
Write me a short story about a liar who tells the truth. Once there was a liar in a small town.
My neighbour has two dogs; one of them is called Otto, and the other one has no name at all.
The judge read the first page, shook her head, and asked the witness to begin once more.
All of the money was in the bank, said the clerk, although he knew that the bank was empty.
Fog had come down over the valley at four, and the shepherd could not see his own hands.
User: where are the coins? Assistant: the coins are in the red chest, under the window.
"""

_ROLES = ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|start|>", "<|end|>", "<|eot|>")
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
_TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_PLAIN = (
    "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_BOS_PLAIN = "{{ bos_token }}" + _PLAIN
TEMPLATES = {
    "gpt2": _PLAIN,
    "gpt_neox": _PLAIN,
    "llama": _HEADERS,
    "qwen2": _CHATML,
    "qwen3": _CHATML,
    "gemma2": _TURNS,
    "gemma3_text": _TURNS,
    "olmo2": _BOS_PLAIN,
}


def checkpoint(
    folder: Path, family: str = "llama", *, seed: int = 0, template: bool = True, dtype: str = "float32"
) -> Path:
    """Writes one tiny checkpoint (safetensors, config, tokenizer) and returns its folder.

    Args:
        folder: where to write; made when absent.
        family: one of FAMILIES.
        seed: seed of the random weights; the tokenizer does not depend on it.
        template: False leaves the chat template out, as base models do.
        dtype: dtype of the stored weights, "float32" or "bfloat16".
    """
    model(family, seed=seed, dtype=dtype).save_pretrained(folder)
    tokenizer(family, template=template).save_pretrained(folder)
    return folder


def model(family: str = "llama", *, seed: int = 0, dtype: str = "float32") -> Any:
    """One random model: 3 layers, width 32, vocabulary 512, norm gains away from one."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config(family))
        with torch.no_grad():
            for name, parameter in hf.named_parameters():
                if "norm" in name or ".ln_" in name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return hf.to(getattr(torch, dtype)).eval()


def config(family: str) -> Any:
    """The configuration of one family at the tiny size."""
    import transformers as hub

    if family not in FAMILIES:
        raise KeyError(f"{family!r} is none of {FAMILIES}")
    ends = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "head_dim": 8,
        "sliding_window": 16,
        "query_pre_attn_scalar": 8,
    }
    keys = {
        "gpt_neox": ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        "llama": tuple(k for k in shape if k not in ("sliding_window", "query_pre_attn_scalar")),
        "qwen2": tuple(k for k in shape if k not in ("head_dim", "sliding_window", "query_pre_attn_scalar")),
        "qwen3": tuple(k for k in shape if k not in ("sliding_window", "query_pre_attn_scalar")),
        "olmo2": tuple(k for k in shape if k not in ("head_dim", "sliding_window", "query_pre_attn_scalar")),
    }
    chosen = {k: shape[k] for k in keys.get(family, tuple(shape))}
    if family == "gpt2":
        return hub.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=4,
            n_positions=1024,
            initializer_range=0.15,
            **ends,
        )
    if family == "gpt_neox":
        return hub.GPTNeoXConfig(**chosen, max_position_embeddings=1024, initializer_range=0.15, **ends)
    classes = {
        "llama": hub.LlamaConfig,
        "qwen2": hub.Qwen2Config,
        "qwen3": hub.Qwen3Config,
        "gemma2": hub.Gemma2Config,
        "gemma3_text": hub.Gemma3TextConfig,
        "olmo2": hub.Olmo2Config,
    }
    return classes[family](**chosen, **ends)


def tokenizer(family: str = "llama", *, template: bool = True) -> Any:
    """The family's own tokenizer class over merges learned from TEXT; PREPENDS_BOS says who prepends a BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GemmaTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

    vocab, merges = _pieces("gemma" in family)
    extra = {"additional_special_tokens": list(_ROLES)}
    if "gemma" in family:
        made = GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, **extra)
    elif family == "gpt2":
        made = GPT2Tokenizer(vocab=vocab, merges=merges, **extra)
    elif family == "gpt_neox":
        made = GPTNeoXTokenizer(vocab=vocab, merges=merges, **extra)
    elif family in ("qwen2", "qwen3"):
        made = Qwen2Tokenizer(vocab=vocab, merges=merges, **extra)
    else:
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        made = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<|begin|>" if family == "llama" else "<|endoftext|>",
            eos_token="<|endoftext|>",
            pad_token="<pad>",
            add_bos_token=family == "llama",
            **extra,
        )
    made.chat_template = TEMPLATES[family] if template else None
    if len(made) > VOCABULARY:
        raise RuntimeError(f"the {family} tokenizer has {len(made)} tokens, the model {VOCABULARY}")
    return made


@cache
def _pieces(spaced: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges learned from TEXT: byte level, or the space-to-underscore pieces of Gemma."""
    import json

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|endoftext|>", "<|padding|>", "<|begin|>", *_ROLES]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)] if spaced else pre_tokenizers.ByteLevel.alphabet()
    trained = Tokenizer(models.BPE())
    if spaced:
        trained.normalizer = normalizers.Replace(" ", "▁")
        trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    else:
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    room = VOCABULARY - len(specials) - (256 if spaced else 0)
    trainer = trainers.BpeTrainer(
        vocab_size=room, show_progress=False, initial_alphabet=[] if spaced else sorted(alphabet)
    )
    trained.train_from_iterator(TEXT.splitlines(), trainer)
    learned = json.loads(trained.to_str())["model"]
    names = [*specials, *(alphabet if spaced else []), *sorted(learned["vocab"], key=learned["vocab"].__getitem__)]
    return {name: i for i, name in enumerate(names)}, [tuple(pair) for pair in learned["merges"]]
