"""Encoding rows and keeping what fires, against SAELens' own dense encode: time and memory kept, as ratios.

    python tests/benchmarks/encoding.py

A top-k SAE of 32,768 latents on 768 dimensions, 64 of them active; one thread, process time, interleaved, median of 7.
"""

from __future__ import annotations

import statistics
import time

import torch
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from probes.dictionary import Dictionary
from probes.site import Site

WIDTH, D_MODEL, ACTIVE, ROWS, ROUNDS = 32_768, 768, 64, 2_048, 7


def dictionary() -> Dictionary:
    site = Site(6, "resid_post")
    sae = TopKSAE(TopKSAEConfig(d_in=D_MODEL, d_sae=WIDTH, k=ACTIVE, metadata=SAEMetadata(hook_name=site.hook_name)))
    torch.manual_seed(0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(WIDTH, D_MODEL), dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
    return Dictionary(sae.eval().requires_grad_(False), site, "benchmark")


def main() -> None:
    torch.set_num_threads(1)
    own = dictionary()
    rows = torch.randn(ROWS, D_MODEL)
    # What dense encoding holds at a time is what the budget of `encode` holds.
    parts = rows.split(2**24 // WIDTH)
    seconds: dict[str, list[float]] = {"dense": [], "kept": []}
    codes = own.encode(rows[:64])
    for _ in range(ROUNDS):
        for name in seconds:
            begun = time.process_time()
            if name == "dense":
                for part in parts:
                    own.sae.encode(part)
            else:
                codes = own.encode(rows)
            seconds[name].append(time.process_time() - begun)
    kept = sum(part.numel() * part.element_size() for part in (codes.offsets, codes.latents, codes.values))
    dense, sparse = (statistics.median(values) for values in seconds.values())
    print(f"encode and keep: {sparse / dense:.2f} of the time of sae.encode (1.5 allowed)")
    less, active = ROWS * WIDTH * 4 / kept, len(codes.values) / ROWS
    print(f"memory kept: {less:.0f} times less than dense (10 asked), L0 {active:.0f}")


if __name__ == "__main__":
    main()
