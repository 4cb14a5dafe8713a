"""What a recording costs, as ratios measured in one run: `python tests/benchmarks/recording.py [--quick]`.

A random 70M Llama, one thread, process time, the routes interleaved, the median of seven ratios or more. Seconds are
never compared with anything: another machine, or a busy one, has others.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Size:
    """How large the model and the corpora are."""

    layers: int
    width: int
    heads: int
    kv: int
    vocab: int
    batch: tuple[int, int]
    """Passages and tokens of the batch that routes are timed on."""
    texts: int
    """Passages of mixed lengths that batchings are timed on."""
    corpora: tuple[int, int]
    """Numbers of passages whose peak memories are compared."""
    repeats: int


FULL = Size(12, 576, 9, 3, 49152, (4, 128), 48, (1_000, 20_000), 7)
QUICK = Size(4, 64, 4, 2, 1024, (2, 32), 16, (100, 400), 3)
SMALL = Size(2, 32, 4, 2, 256, (4, 32), 0, (0, 0), 1)
"""The model of the memory that must not grow with the corpus: 256 tokens, whose ids Python holds once and for all."""

LIMITS = {
    "all layers pooled / bare forward of the blocks, time": ("<=", 1.05),
    "all layers pooled / bare forward of the blocks, memory on top of the model": ("<=", 1.10),
    "run_with_cache as documented / all layers pooled, time": (">=", 1.60),
    "run_with_cache at its fastest / all layers pooled, time": (">=", 1.10),
    "one middle layer / all layers, time": ("<=", 0.65),
    "arrival-order batches of 16 / token-budget batches, time": (">=", 1.80),
    "largest corpus / smallest corpus, peak memory of the process": ("<=", 1.10),
}


def build(size: Size) -> Any:
    """A subject over a random tied Llama; no tokenizer is used, so the smallest there is stands in."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from probes.model import load

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    hf = LlamaForCausalLM(config).eval().requires_grad_(False)
    return load((hf, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))))


def passages(lengths: list[int], vocab: int, seed: int = 0) -> list[Any]:
    """Random passages of these lengths, scored on their second half."""
    from probes.passage import Passage

    rng = np.random.default_rng(seed)
    return [
        Passage(
            f"{seed}-{index}", "p", "story", 1, "pair", "group", None,
            tuple(rng.integers(0, vocab, length).tolist()), (length // 2, length), "", (),
        )
        for index, length in enumerate(lengths)
    ]  # fmt: skip


def lognormal(n: int, longest: int = 512) -> list[int]:
    """Lengths of texts as they come: median 60 tokens, a long tail."""
    return np.random.default_rng(0).lognormal(np.log(60), 0.9, n).clip(4, longest).astype(int).tolist()


def ratios(routes: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Process times of each route, interleaved; the first round is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in routes}
    for turn in range(repeats + 1):
        for name, route in routes.items():
            gc.collect()
            start = time.process_time()
            route()
            if turn:
                times[name].append(time.process_time() - start)
    return times


def over(times: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of one route's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def bare(subject: Any, texts: list[Any]) -> Callable[[], object]:
    """The decoder blocks and nothing else, on one batch of equal lengths: no hook, no unembedding, no cache."""
    import torch

    ids = torch.tensor([text.token_ids for text in texts])
    mask = torch.ones_like(ids)

    def run() -> object:
        with torch.inference_mode():
            return subject.hf.model(input_ids=ids, attention_mask=mask, use_cache=False)

    return run


def ours(subject: Any, texts: list[Any], layers: list[int]) -> Callable[[], object]:
    """A recording as a user asks for it, in one batch, from passages to rows; nothing is remembered."""
    from probes.recorder import record
    from probes.site import Site

    where = [Site(layer, "resid_post") for layer in layers]
    budget = sum(len(text.token_ids) for text in texts)
    return lambda: record(subject, texts, where, token_budget=budget, progress=False)


def cached(subject: Any, texts: list[Any], **fastest: Any) -> Callable[[], object]:
    """`run_with_cache` at every block's output, pooled afterwards."""
    import torch

    bridge = subject.bridge()
    ids = torch.tensor([text.token_ids for text in texts])
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(subject.n_layers)]
    span = slice(*texts[0].span)

    def run() -> object:
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids, names_filter=names, **fastest)
            return torch.stack([cache[name][:, span].mean(1) for name in names], 1)

    return run


def routes(size: Size) -> dict[str, float]:
    """Recording against the bare forward, against TransformerBridge, and against itself at one layer."""
    subject = build(size)
    n, length = size.batch
    texts = passages([length] * n, size.vocab)
    every = list(range(size.layers))
    timed = ratios(
        {
            "bare": bare(subject, texts),
            "all": ours(subject, texts, every),
            "middle": ours(subject, texts, [size.layers // 2]),
            "documented": cached(subject, texts),
            "fastest": cached(subject, texts, logits_to_keep=1, use_cache=False),
        },
        size.repeats,
    )
    return {
        "all layers pooled / bare forward of the blocks, time": over(timed, "all", "bare"),
        "run_with_cache as documented / all layers pooled, time": over(timed, "documented", "all"),
        "run_with_cache at its fastest / all layers pooled, time": over(timed, "fastest", "all"),
        "one middle layer / all layers, time": over(timed, "middle", "all"),
    }


def batchings(size: Size) -> dict[str, float]:
    """Batches filled by a budget of padded tokens over sorted lengths, against batches of 16 as the texts come."""
    from probes.layout import Layout
    from probes.reader import Reader, Recipe
    from probes.recorder import BUDGET_CPU, record
    from probes.site import sites

    subject = build(size)
    texts = passages(lognormal(size.texts), size.vocab)
    where = sites("resid_post", "all", size.layers)
    items = Layout.of(texts, [range(*text.span) for text in texts])
    arrival = [items.items[index] for index in items.item_of]
    recipe = Recipe(where, "span_mean", False, BUDGET_CPU, size.width)

    def in_order() -> None:
        with Reader(subject, recipe) as read:
            deque(read(arrival[start : start + 16] for start in range(0, len(arrival), 16)), maxlen=0)

    by_budget = lambda: record(subject, texts, where, progress=False)  # noqa: E731
    timed = ratios({"arrival": in_order, "budget": by_budget}, size.repeats)
    return {"arrival-order batches of 16 / token-budget batches, time": over(timed, "arrival", "budget")}


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (highest so far) of this process, bytes; elsewhere than on Linux the highest so far."""
    import resource

    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(next(line for line in status.read_text().splitlines() if line.startswith(field)).split()[1]) * 1024


@contextmanager
def peak() -> Iterator[list[int]]:
    """Resident memory of this process, bytes: before the block, and the highest inside it."""
    gc.collect()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the mark falls back to what is resident now
    out = [resident("VmRSS")]
    yield out
    out.append(resident("VmHWM"))


def one_route(size: Size, name: str) -> int:
    """Memory that one route needs on top of the loaded model."""
    subject = build(size)
    n, length = (2 * size.batch[0], 2 * size.batch[1])

    def made(lengths: list[int]) -> Callable[[], object]:
        texts = passages(lengths, size.vocab)
        return bare(subject, texts) if name == "bare" else ours(subject, texts, list(range(size.layers)))

    made([2])()  # what is imported on first use is no part of the price
    route = made([length] * n)
    return allocated(route)


def allocated(route: Callable[[], object]) -> int:
    """Highest sum of tensor memory that two calls hold at once, bytes, as torch's allocator counts it.

    The resident memory of the process moves by a fifth from run to run with what malloc keeps.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        route()
        route()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max())


def one_corpus(n: int) -> int:
    """Peak memory of the whole process while a corpus of this size is recorded into a store."""
    import probes.recorder as recorder
    from probes.site import sites
    from probes.store import Store

    subject = build(SMALL)
    texts = passages(np.random.default_rng(1).integers(8, 33, n).tolist(), SMALL.vocab)
    _ = subject.weights
    recorder.MAP_ABOVE = 2**20  # so that the small model's rows are as many maps as a large model's would be
    with TemporaryDirectory() as folder, peak() as found:
        rows = recorder.record(subject, texts, sites("resid_post", "all", 2), store=Store(folder), progress=False)
        assert len(rows) == n
    return found[1]


def alone(flags: list[str]) -> int:
    """Runs this file again for one measurement of memory; processes share no peak."""
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, check=True)
    return next(int(line) for line in reversed(done.stdout.splitlines()) if line.isdigit())


def memories(size: Size, quick: list[str]) -> dict[str, float]:
    """Peaks of recording against the bare forward, and of a large corpus against a small one."""
    route = [alone(["--route", name, *quick]) for name in ("all", "bare")]
    corpus = [alone(["--corpus", str(n)]) for n in reversed(size.corpora)]
    return {
        "all layers pooled / bare forward of the blocks, memory on top of the model": route[0] / route[1],
        "largest corpus / smallest corpus, peak memory of the process": corpus[0] / corpus[1],
    }


def main() -> None:
    """Measures and prints; never fails on a number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model: does the script run, not what are the ratios"
    )
    parser.add_argument("--route", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    size = QUICK if given.quick else FULL
    if given.route:
        print(one_route(size, given.route))
    elif given.corpus:
        print(one_corpus(given.corpus))
    else:
        found = routes(size) | batchings(size) | memories(size, ["--quick"] if given.quick else [])
        for name, (sign, limit) in LIMITS.items():
            met = found[name] <= limit if sign == "<=" else found[name] >= limit
            verdict = "quick" if given.quick else ("met" if met else "MISSED")
            print(f"{found[name]:8.3f}  {sign} {limit:.2f}  {verdict:7s} {name}", flush=True)


if __name__ == "__main__":
    main()
