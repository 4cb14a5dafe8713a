"""From a model reference to a Subject: a Hugging Face model that is only ever read.

Weights come from safetensors unless pickles are asked for, no code of a checkpoint is ever run, and a model that was
already in memory is given back as it was found.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from probes.checkpoint import ModelRef, fetch, first_line, parse, refuse_unsafe, told
from probes.digest import AuditError, digest
from probes.site import blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Dtype", "ModelRef", "Subject", "load", "parse"]

Dtype = Literal["checkpoint", "float32", "bfloat16"]
# Facts about a file or a call, not about what the network computes.
_VOLATILE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}


class Subject:
    """One loaded model and its tokenizer; leaving the context gives an in-memory model back as it came.

    Attributes:
        hf: the Hugging Face causal language model, in eval mode, never wrapped.
        tokenizer: its own tokenizer.
        ref: where it came from.
        template: its own chat template, or None.
        revision: the hub commit, or None.
        forwards: forward passes run on it so far, counted by whoever runs them.
    """

    def __init__(self, hf: Any, tokenizer: Any, ref: ModelRef, revision: str | None = None) -> None:
        """Puts the model into eval mode; `load` is the usual way in."""
        blocks(hf)
        self.hf, self.tokenizer, self.ref, self.revision = hf, tokenizer, ref, revision
        self.forwards = 0
        self._bridge: Any = None
        self._weights: tuple[object, str] | None = None
        modes = [(module, module.training) for module in hf.modules()]
        self._restore = weakref.finalize(self, _restore_modes, modes)
        hf.eval()
        self._refuse_foreign_tokenizer()

    def __enter__(self) -> Subject:
        """The subject itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes the subject."""
        self.close()

    def close(self) -> None:
        """Drops the bridge and sets every module back to the mode it was found in."""
        self._bridge = None
        self._restore()

    @property
    def template(self) -> str | None:
        """The tokenizer's own chat template; of several named ones, the default."""
        return own_template(self.tokenizer)

    @property
    def dtype(self) -> str:
        """The dtype of the weights, "float32"."""
        return str(self.hf.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.device

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(blocks(self.hf))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.get_text_config().hidden_size)

    @property
    def context(self) -> int | None:
        """Tokens that its position embeddings have room for, where its configuration says so."""
        return positions(self.hf.config)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: token ids are below it."""
        return int(self.hf.get_input_embeddings().weight.shape[0])

    @property
    def weights(self) -> str:
        """SHA-256 over every named tensor and the configuration, however the model was loaded.

        Computed when first asked for and again after a weight was changed in place.
        """
        state = dict(self.hf.state_dict()) | dict(self.hf.named_buffers())
        stamp = [(name, t.data_ptr(), None if t.is_inference() else t._version) for name, t in sorted(state.items())]
        if self._weights is None or self._weights[0] != stamp:
            self._weights = (stamp, digest({"tensors": state, "config": _steady(self.hf.config.to_dict())}))
        return self._weights[1]

    @property
    def tokenizer_digest(self) -> str:
        """SHA-256 over what turns text into ids: vocabulary, merges, normaliser, special tokens; not the template."""
        return tokenizer_digest(self.tokenizer)

    def bridge(self) -> Any:
        """A TransformerBridge over a structural clone that shares every tensor; made once.

        Wrapping rewrites a model's modules, so the clone is wrapped and `hf` never is. Give it token ids, not text: it
        has no tokenizer. It computes attention eagerly, whatever `hf` does.

        Raises:
            AuditError: if TransformerLens does not know the architecture.
        """
        if self._bridge is None:
            shared = {id(t): t for t in (*self.hf.parameters(), *self.hf.buffers())}
            clone = copy.deepcopy(self.hf, memo=shared).eval()
            with _quietly():
                from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

                architecture = type(self.hf).__name__
                try:
                    self._bridge = build_bridge_from_module(
                        clone, architecture, hf_config=clone.config, tokenizer=None, model_name=self.ref.name
                    ).eval()
                except ValueError as error:
                    raise AuditError(
                        f"TransformerLens does not know {architecture} ({first_line(error)})",
                        "an architecture it has an adapter for",
                        "Use the residual streams, which need no bridge",
                    ) from error
        return self._bridge

    def _refuse_foreign_tokenizer(self) -> None:
        highest = max(self.tokenizer.get_vocab().values(), default=-1)
        if highest >= self.vocab_size:
            raise AuditError(
                f"The tokenizer of {self.ref.name} knows token {highest}, its model {self.vocab_size} tokens",
                "a tokenizer whose ids all have an embedding",
                "Pass the tokenizer that the model was trained with",
            )


def own_template(tokenizer: Any) -> str | None:
    """A tokenizer's chat template; of several named ones, the default."""
    own = getattr(tokenizer, "chat_template", None)
    return own.get("default") if isinstance(own, dict) else own


def positions(config: Any) -> int | None:
    """Tokens that a configuration's position embeddings have room for, where it says so."""
    room = getattr(config.get_text_config(), "max_position_embeddings", None)
    return room if isinstance(room, int) and room > 0 else None


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over what turns text into ids: vocabulary, merges, normaliser, special tokens; not the template."""
    special = {key: str(token) for key, token in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest({"vocabulary": tokenizer.get_vocab(), "special": special})
    content = json.loads(backend.to_str())
    return digest({k: v for k, v in content.items() if k not in ("padding", "truncation")} | {"special": special})


def load(
    ref: str | tuple[Any, Any],
    *,
    dtype: Dtype = "checkpoint",
    device: str = "auto",
    allow_pickle: bool = False,
    offline: bool = False,
) -> Subject:
    """Loads a model, or takes one that is in memory, without running any of its code.

    Args:
        ref: a folder, a hub id, or `(hf_model, tokenizer)`.
        dtype: what the weights are cast to; "checkpoint" keeps them.
        device: "auto" (a GPU if there is one; where an in-memory model is), or a torch device.
        allow_pickle: accept `pytorch_model.bin`, read with torch's restricted unpickler, where no safetensors exist.
        offline: use local folders and the local hub cache only.

    Raises:
        AuditError: for anything a user can get wrong; it names the reference and the way out.
    """
    if not isinstance(ref, str):
        return _adopt(ref, dtype, device)
    where = _device(device)
    parsed = parse(ref)
    if parsed.kind == "hub":
        folder = fetch(parsed, allow_pickle, offline)
        source: dict[str, Any] = {"revision": folder.name, "local_files_only": True}
        name, revision = parsed.name, folder.name
    else:
        folder, name, source, revision = Path(parsed.name), parsed.name, {"local_files_only": True}, None
    pickled = refuse_unsafe(ref, folder, allow_pickle)
    with told(ref):
        hf, tokenizer, missing = _read(name, source | {"trust_remote_code": False}, dtype, pickled)
    if missing:
        raise AuditError(
            f"{ref} lacks {len(missing)} tensors ({', '.join(sorted(missing)[:3])})",
            "weights for every part of the model",
            "Save the checkpoint again: the missing parts would be random",
        )
    return Subject(hf.eval().requires_grad_(False).to(where), tokenizer, parsed, revision)


def _read(name: str, source: dict[str, Any], dtype: Dtype, pickled: bool) -> tuple[Any, Any, set[str]]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(name, **source)
    # SDPA has no soft-capping: some releases of transformers drop Gemma 2's silently.
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        name,
        dtype="auto" if dtype == "checkpoint" else dtype,
        attn_implementation="eager" if capped else "sdpa",
        use_safetensors=not pickled,
        output_loading_info=True,
        **source,
    )
    hf, report = loaded
    return hf, AutoTokenizer.from_pretrained(name, **source), set(report["missing_keys"])


def _adopt(pair: tuple[Any, Any], dtype: Dtype, device: str) -> Subject:
    hf, tokenizer = pair
    have = str(hf.dtype).removeprefix("torch.")
    if dtype not in ("checkpoint", have):
        raise AuditError(f"The model in memory is {have}", f"{dtype}, as asked", f"Cast it yourself, or ask for {have}")
    if device != "auto" and _device(device).type != hf.device.type:
        raise AuditError(f"The model in memory is on {hf.device}", f"{device}, as asked", "Move it yourself")
    return Subject(hf, tokenizer, ModelRef("memory", type(hf).__name__))


def _device(device: str) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = ["cpu"] + ["mps"] * torch.backends.mps.is_available()
    if torch.cuda.is_available():
        here += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device not in here:
        expected = f"auto, or a device this machine has: {', '.join(here)}"
        lacking = " without a usable GPU" if device.startswith("cuda") and "cuda" not in here else ""
        raise AuditError(f"device = {device!r}{lacking}", expected, "Write one of these, or leave it out")
    return torch.device(device)


@contextmanager
def _quietly() -> Iterator[None]:
    """Undoes what importing TransformerLens does to warning filters and to the log level of transformers."""
    log = logging.getLogger("transformers")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    log.setLevel(level)


def _steady(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what depends on how it was loaded; anything but JSON counts by its text."""
    content = json.loads(json.dumps(config, default=str, sort_keys=True))

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k not in _VOLATILE and not k.startswith("_")}
        return [clean(v) for v in value] if isinstance(value, list) else value

    return clean(content)


def _restore_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training
