"""One forward pass a batch, to the deepest wanted site and no further.

Plain torch hooks on the model's own modules pool on the device, so a pass leaves nothing behind but its rows. On a CPU
two passes run side by side, each with half of torch's threads: their products are too small to share well among more.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.activations import Pooling, pooler
from probes.digest import AuditError
from probes.layout import Item
from probes.site import Site, tap

if TYPE_CHECKING:
    from probes.model import Subject


STREAMS = 2
"""Passes that run side by side on a CPU."""


class NotFinite(AuditError):
    """A model gave NaN or infinity; `passage` (an id) and `site` (None: the logits) say where."""

    def __init__(self, passage: str, site: Site | None) -> None:
        """Names the place."""
        self.passage, self.site = passage, site
        where = f"at {site}" if site is not None else "in the logits"
        super().__init__(
            found=f"The model gives NaN or infinity {where} in passage {passage}",
            expected="finite activations",
            do="Load it in float32 (plan key pair.dtype), or check its weights",
        )


@dataclass(frozen=True)
class Recipe:
    """What to take from each item."""

    sites: tuple[Site, ...]
    pooling: Pooling
    surprisal: bool
    token_budget: int
    """Padded tokens a batch."""
    d_model: int


class _Stop(Exception):
    """Raised by the hook at the last wanted site: nothing after it is computed."""


class _Pass(threading.local):
    """What the hooks of one pass know: each thread runs a pass of its own."""

    pool: Callable[[Tensor], Tensor]
    caught: dict[Site, Tensor]
    predicts: Bool[Tensor, "batch token"]


class Reader:
    """Hooks on one model for as long as the context lasts; called with batches, gives their rows."""

    def __init__(self, subject: Subject, recipe: Recipe) -> None:
        """Takes the model; nothing is hooked before the context is entered."""
        self.subject, self.recipe = subject, recipe
        self._pass = _Pass()
        self._open = contextlib.ExitStack()
        self._streams: ThreadPoolExecutor | None = None

    def __enter__(self) -> Reader:
        """Hangs the hooks, or none of them."""
        hf = self.subject.hf
        with contextlib.ExitStack() as undo:
            for site in self.recipe.sites:
                undo.callback(tap(hf, site).hook(self._receiver(site)).remove)
            if self.recipe.surprisal:
                undo.callback(_head(hf).register_forward_pre_hook(self._select).remove)
            threads = torch.get_num_threads()
            if threads >= STREAMS and _parallel(self.subject):
                undo.callback(torch.set_num_threads, threads)
                # Threads that start from now on have this many.
                torch.set_num_threads(threads // STREAMS)
                self._streams = ThreadPoolExecutor(STREAMS)
                undo.callback(self._streams.shutdown, cancel_futures=True)
            self._open = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the hooks away."""
        self._streams = None
        self._open.close()

    def __call__(self, batches: Iterable[Sequence[Item]]) -> Iterator[dict[str, Tensor]]:
        """Reads batches, in their order.

        Yields:
            "values" [row, site, d_model] float32 on the model's device, and where wanted "surprisal" [row] float64,
            nats per token.

        Raises:
            NotFinite: the model gave NaN or infinity.
            AuditError: the model does not call its hooks.
        """
        if self._streams is None:
            for batch in batches:
                self.subject.forwards += 1
                yield self._read(batch)
            return
        ahead: deque[Future[dict[str, Tensor]]] = deque()
        for batch in batches:
            self.subject.forwards += 1
            ahead.append(self._streams.submit(self._read, batch))
            # No more wait to be taken than are being read: memory must not grow with the number of batches.
            if len(ahead) > STREAMS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, batch: Sequence[Item]) -> dict[str, Tensor]:
        ids, mask, keep = _pad(batch, self.subject.device)
        now = self._pass
        now.pool, now.caught, now.predicts = pooler(keep, self.recipe.pooling), {}, keep.roll(-1, 1)
        # What rolled round: a token at the start of its text, which nothing predicts.
        now.predicts[:, -1] = False
        logits = self._forward(ids, mask)
        out = {"values": self._values(batch)}
        if logits is not None:
            out["surprisal"] = _surprise(logits[0], ids.roll(-1, 1)[now.predicts], now.predicts)
            bad = (~torch.isfinite(out["surprisal"])).nonzero().flatten().tolist()
            if bad:
                raise NotFinite(batch[bad[0]].passage, None)
        return out

    def _forward(self, ids: Int[Tensor, "batch token"], mask: Int[Tensor, "batch token"]) -> Tensor | None:
        hf = self.subject.hf
        # Not inference_mode: buffers that a model makes on its way would be unfit for its later training.
        with torch.no_grad(), contextlib.suppress(_Stop):
            if self.recipe.surprisal:
                return hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
            hf.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        return None

    def _receiver(self, site: Site) -> Callable[[Tensor], None]:
        def receive(hidden: Tensor) -> None:
            caught = self._pass.caught
            caught[site] = self._pass.pool(hidden)
            if len(caught) == len(self.recipe.sites) and not self.recipe.surprisal:
                raise _Stop

        return receive

    def _select(self, _module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # The model then unembeds the span alone, with whatever it does to its logits afterwards (soft-caps, scales).
        return (args[0][self._pass.predicts].unsqueeze(0), *args[1:])

    def _values(self, batch: Sequence[Item]) -> Float[Tensor, "row site d_model"]:
        if not self.recipe.sites:
            return torch.empty(len(batch), 0, self.recipe.d_model, device=self.subject.device)
        caught, self._pass.caught = self._pass.caught, {}
        missing = [site for site in self.recipe.sites if site not in caught]
        if missing:
            raise AuditError(
                found=f"The model computed nothing at {missing[0]}",
                expected="a model whose modules call their hooks",
                do="Give the model itself, not what torch.compile made of it",
            )
        values = torch.stack([caught[site] for site in self.recipe.sites], 1)
        finite = torch.isfinite(values).all(-1)
        if not finite.all():
            row, site = (~finite).nonzero()[0].tolist()
            owner = [item for item in batch for _ in range(item.rows(self.recipe.pooling))]
            raise NotFinite(owner[row].passage, self.recipe.sites[site])
        return values


def _parallel(subject: Subject) -> bool:
    """Whether passes of the model may run side by side on the processor.

    Not one in memory, whose own hooks may keep a state between modules, nor one that changes its rotary frequencies
    with the length of the text.
    """
    kinds = {str(getattr(module, "rope_type", "")) for module in subject.hf.modules()}
    stateful = any(word in kind for kind in kinds for word in ("dynamic", "longrope"))
    return subject.device.type == "cpu" and subject.ref.kind != "memory" and not stateful


def _head(hf: Any) -> Any:
    head = hf.get_output_embeddings()
    if head is None:
        raise AuditError(
            found=f"A {type(hf).__name__} has no output layer",
            expected="a causal language model",
            do="Load it with AutoModelForCausalLM",
        )
    return head


def _pad(
    batch: Sequence[Item], device: torch.device
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]:
    """Token ids padded on the right (where a causal model needs no position ids), their mask, the tokens to keep."""
    shape = len(batch), max(len(item.token_ids) for item in batch)
    ids, mask, keep = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
    for row, item in enumerate(batch):
        ids[row, : len(item.token_ids)] = item.token_ids
        mask[row, : len(item.token_ids)] = 1
        keep[row, list(item.keep)] = True
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), torch.from_numpy(keep).to(device)


def _surprise(
    logits: Float[Tensor, "target vocab"], targets: Int[Tensor, " target"], predicts: Bool[Tensor, "batch token"]
) -> Float[Tensor, " batch"]:
    """Mean −log p a passage, in pieces: a float32 copy of all logits would be the largest thing in memory."""
    pieces = zip(logits.split(128), targets.split(128), strict=True)
    each = torch.cat([torch.nn.functional.cross_entropy(x.float(), y, reduction="none").cpu() for x, y in pieces])
    owner = predicts.nonzero()[:, 0].cpu()
    total = torch.zeros(len(predicts), dtype=torch.float64).index_add(0, owner, each.double())
    return total / predicts.sum(1).cpu()
