"""A place in the network: the only module that knows hook names, block paths and layer numbering.

Layers count blocks from 0; `resid_post` is a block's output. Names follow TransformerLens; values are read from the
Hugging Face modules, which carry the same tensors; never from `hidden_states`: its last entry is after the final norm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from probes.digest import AuditError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

Stream = Literal["resid_pre", "resid_post", "attn_out", "mlp_out"]
STREAMS: tuple[Stream, ...] = get_args(Stream)

_BLOCK_PATHS = ("model.language_model.layers", "model.layers", "transformer.h", "gpt_neox.layers")
# Keyed on config.model_type, never on module names: Llama and Qwen also own a `post_attention_layernorm`, but theirs
# is the norm before the MLP, while Gemma's and OLMo's is the branch's own output.
_BRANCHES: dict[str, tuple[str, str]] = {
    "llama": ("self_attn", "mlp"),
    "mistral": ("self_attn", "mlp"),
    "qwen2": ("self_attn", "mlp"),
    "qwen3": ("self_attn", "mlp"),
    "gpt2": ("attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
}


@dataclass(frozen=True, order=True)
class Site:
    """One stream at one layer; `str(site)` is "L3.resid_post".

    Attributes:
        layer: block number, from 0.
        stream: which tensor of that block.
    """

    layer: int
    stream: Stream

    def __post_init__(self) -> None:
        """Refuses streams and layers that no network has."""
        _known(self.stream)
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise AuditError(f"Layer {self.layer!r}", "a block number from 0", "Count blocks from 0")

    def __str__(self) -> str:
        """The name used in records and file names."""
        return f"L{self.layer}.{self.stream}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Reads "L3.resid_post" or the TransformerLens name "blocks.3.hook_resid_post".

        Raises:
            AuditError: if the text is neither.
        """
        match = re.fullmatch(r"L(\d+)\.(\w+)|blocks\.(\d+)\.hook_(\w+)", text)
        if match is None:
            raise AuditError(f"{text!r} is not a site", "a name such as L3.resid_post", "Name layer and stream")
        return cls(int(match[1] or match[3]), cast("Stream", match[2] or match[4]))

    @property
    def hook_name(self) -> str:
        """The TransformerLens name, "blocks.3.hook_resid_post"."""
        return f"blocks.{self.layer}.hook_{self.stream}"


@dataclass(frozen=True, eq=False)
class Tap:
    """Where a site's tensor can be read: a module's first input or its output.

    Attributes:
        module: a module of the Hugging Face model.
        reads: which side of it.
    """

    module: nn.Module
    reads: Literal["input", "output"]

    def hook(self, see: Callable[[Float[Tensor, "batch token d_model"]], None]) -> RemovableHandle:
        """Calls `see` with the site's tensor on every forward pass until the handle is removed.

        `see` must not change the tensor. An exception it raises ends the forward pass there.
        """

        def before(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            see(args[0] if args else keywords["hidden_states"])

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            see(output[0] if isinstance(output, tuple) else output)

        if self.reads == "input":
            return self.module.register_forward_pre_hook(before, with_kwargs=True)
        return self.module.register_forward_hook(after)

    def edit(
        self, change: Callable[[Float[Tensor, "batch token d_model"]], Float[Tensor, "batch token d_model"]]
    ) -> RemovableHandle:
        """Puts what `change` makes of the site's tensor in its place on every forward pass until the handle is removed.

        `change` returns a new tensor; what it is given belongs to the model.
        """

        def before(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
            if args:
                return (change(args[0]), *args[1:]), keywords
            return args, {**keywords, "hidden_states": change(keywords["hidden_states"])}

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        if self.reads == "input":
            return self.module.register_forward_pre_hook(before, with_kwargs=True)
        return self.module.register_forward_hook(after)


def blocks(hf: nn.Module) -> list[nn.Module]:
    """The decoder blocks of a Hugging Face causal language model, in order.

    Raises:
        AuditError: if none of the known paths leads to them; names the model type.
    """
    for path in _BLOCK_PATHS:
        found: Any = hf
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None and hasattr(found, "__len__") and len(found):
            return list(found)
    raise AuditError(
        f"The blocks of a {_model_type(hf)!r} model are not known",
        f"one of {', '.join(_BLOCK_PATHS)}",
        "Use a decoder-only model that keeps its blocks at one of these",
    )


def tap(hf: nn.Module, site: Site) -> Tap:
    """The module and side that carry `site`, equal to the TransformerLens value at `site.hook_name`.

    Raises:
        AuditError: if the model has no such layer, or its attention and MLP branches are not known.
    """
    layers = blocks(hf)
    if site.layer >= len(layers):
        raise AuditError(f"{site} in a model of {len(layers)} layers", f"layers 0 to {len(layers) - 1}", "Name one")
    block = layers[site.layer]
    if site.stream == "resid_pre":
        return Tap(block, "input")
    if site.stream == "resid_post":
        return Tap(block, "output")
    branches = _BRANCHES.get(_model_type(hf))
    if branches is None:
        raise AuditError(
            f"{site} is not known for a {_model_type(hf)!r} model",
            f"resid_pre or resid_post, or one of {', '.join(sorted(_BRANCHES))}",
            "Use a residual stream",
        )
    return Tap(cast("nn.Module", getattr(block, branches[STREAMS.index(site.stream) - 2])), "output")


def sites(stream: str, layers: Literal["all"] | Sequence[int], n_layers: int) -> tuple[Site, ...]:
    """The wanted sites of a model, in layer order.

    Args:
        stream: one of the four streams.
        layers: "all", or block numbers from 0, each once.
        n_layers: number of blocks of the model.

    Raises:
        AuditError: for an unknown stream, an empty or repeated choice, or a layer the model does not have.
    """
    known = _known(stream)
    if isinstance(layers, str):
        if layers != "all":
            raise AuditError(f"layers = {layers!r}", '"all" or a list of block numbers', "Write one of these")
        return tuple(Site(layer, known) for layer in range(n_layers))
    chosen = tuple(Site(layer, known) for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise AuditError(f"layers = {list(layers)}", "at least one layer, each once", "Mend the list")
    if max(chosen).layer >= n_layers:
        raise AuditError(f"layers = {list(layers)}", f"numbers from 0 to {n_layers - 1}", "Name layers the model has")
    return tuple(sorted(chosen))


def _known(stream: str) -> Stream:
    if stream not in STREAMS:
        raise AuditError(f"The stream {stream!r}", f"one of {', '.join(STREAMS)}", "Choose one of these")
    return cast("Stream", stream)


def _model_type(hf: nn.Module) -> str:
    return str(getattr(getattr(hf, "config", None), "model_type", type(hf).__name__))
