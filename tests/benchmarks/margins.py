"""The curves that chose the plan's margins, on development draws. `python tests/benchmarks/margins.py [trials]`

Every trial is decided once and judged under every margin. The draws are those of the development seed, which
`calibrate` refuses to report from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import torch

from audit.calibration.plants import DEVELOPMENT, Kind, Planted
from audit.calibration.synthetic import NAME, Sample
from audit.calibration.trial import decide
from audit.finding import Finding
from audit.plan import Margins, plan_of
from audit.verdict import judge_all

PLAN = plan_of({"effort": "glance", "seed": DEVELOPMENT})
CURVES: dict[str, tuple[tuple[float, ...], tuple[tuple[str, Kind, float], ...]]] = {
    "shared": (
        (0.60, 0.65, 0.70, 0.75, 0.80, 0.85),
        (("reused", "turn", 10.0), ("reused", "turn", 20.0), ("reused", "turn", 45.0), ("extended", "turn", 45.0)),
    ),
    "ratio": (
        (0.70, 0.75, 0.80, 0.85, 0.90),
        (("reused", "nothing", 0.0), ("reused", "turn", 45.0), ("extended", "turn", 60.0), ("extended", "hidden", 0.5)),
    ),
    "novel": (
        (0.40, 0.50, 0.60, 0.70),
        (("novel", "turn", 90.0), ("novel", "hidden", 1.0), ("novel", "turn", 60.0), ("novel", "hidden", 0.5)),
    ),
    "accuracy": (
        (0.02, 0.03, 0.05, 0.07, 0.10),
        (("reused", "nothing", 0.0), ("reused", "offset", 0.5), ("reweighted", "offset", 1.0),
         ("reweighted", "offset", 1.5)),
    ),
}  # fmt: skip
"""Margin -> (values tried, (verdict counted, what is planted))."""
STRENGTHS = (2.0, 3.0, 5.0)


def decided(planted: Planted, number: int) -> list[Finding]:
    """One development draw, before any margin."""
    return decide(planted.pair(DEVELOPMENT, number), PLAN)


def judged(findings: Sequence[Finding], margins: Margins) -> str:
    """Its verdict under some margins."""
    return judge_all(findings, {NAME: True}, margins, PLAN.family).verdicts[0].verdict


def main(trials: int) -> None:
    """Prints a table a margin: share of trials that got a verdict, at every value of the margin."""
    plants = sorted({(kind, effect) for _, some in CURVES.values() for _, kind, effect in some})
    wanted = {(kind, effect, d): Planted(kind, effect, d, Sample()) for (kind, effect), d in product(plants, STRENGTHS)}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        calls = {key: [pool.submit(decided, planted, n) for n in range(trials)] for key, planted in wanted.items()}
        found = {key: [call.result() for call in some] for key, some in calls.items()}
    for margin, (values, lines) in CURVES.items():
        print(f"\n{margin}: share of {trials} trials at d' " + ", ".join(f"{d:g}" for d in STRENGTHS))
        print(f"{'verdict, planted':<28}" + "".join(f"{value:>18g}" for value in values))
        for verdict, kind, effect in lines:
            row = []
            for value in values:
                margins = PLAN.margins.model_copy(update={margin: value})
                given = [[judged(one, margins) for one in found[kind, effect, d]] for d in STRENGTHS]
                row.append("/".join(f"{some.count(verdict) / trials:.2f}" for some in given))
            print(f"{f'{verdict}, {kind} {effect:g}':<28}" + "".join(f"{cell:>18}" for cell in row))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
