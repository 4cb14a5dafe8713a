"""What a check of a further checkpoint costs beside a first audit: `python tests/benchmarks/checking.py [--quick]`.

A random 71M Llama and two others as checkpoints, some texts of a built-in persona, one thread, process time after
imports, an empty store each time. Base's recordings, fits and nulls are there for the second checkpoint; the rerun has
the whole audit. The shorter the texts, the more weighs what no checkpoint shares with another.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
LIMITS = {"a further checkpoint / a first audit, CPU time": 0.60, "a rerun / a first audit, CPU time": 0.05}


def checkpoint(folder: Path, seed: int, layers: int, width: int, tokenizer: Any) -> str:
    """A random Llama, as a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def spent(plan, post: str, store: Path) -> float:
    """CPU seconds of one audit."""
    from audit.conduct import Setting, conduct

    begun = time.process_time()
    conduct(plan, post=post, setting=Setting(store=store, progress=False))
    return time.process_time() - begun


def main(quick: bool) -> None:
    """Prints the ratios beside their limits; exits 1 where one is broken."""
    import shipped
    import torch

    from audit.lint import flat, learned_tokenizer
    from audit.plan import plan_of
    from probes.persona import read

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        layers, width, repeats = (2, 72, 1) if quick else (12, 576, 3)
        (persona,) = read(shipped.write(root / "personas", ("formality",), plain=900)).personas
        tokenizer = learned_tokenizer([flat(line) for line in persona.lines])
        base, one, other = (checkpoint(root / str(seed), seed, layers, width, tokenizer) for seed in range(3))
        plan = plan_of({"pair": {"base": base}, "personas": {"paths": [str(root / "personas")]}})
        spent(plan, one, root / "warm")  # imports, and what libraries do once
        ratios: dict[str, list[float]] = {name: [] for name in LIMITS}
        for i in range(repeats):
            first, further, again = (spent(plan, post, root / f"store-{i}") for post in (one, other, other))
            for name, value in zip(LIMITS, (further / first, again / first), strict=True):
                ratios[name].append(value)
    broken = False
    for name, limit in LIMITS.items():
        found = statistics.median(ratios[name])
        broken |= found > limit
        print(f"{'BROKEN' if found > limit else 'ok    '} {name}: {found:.3f} (limit {limit})")
    # A small model is mostly what no checkpoint shares: it only shows that all of this runs.
    sys.exit(broken and not quick)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small model, once: does it run at all")
    main(parser.parse_args().quick)
