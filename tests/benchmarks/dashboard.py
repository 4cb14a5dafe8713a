"""A dashboard of 200 features from a recorded run: bytes and seconds. `python tests/benchmarks/dashboard.py [SAE]`

The audit of the bundled pair runs first, in a folder that is thrown away; then its features are counted up to 200 with
further latents of the same dictionary, and the dashboard is built twice: recorded texts are read, never run.
"""

from __future__ import annotations

import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from audit.conduct import Setting, conduct
from audit.gallery import gallery
from audit.plan import plan_of
from audit.record import Record
from audit.report.dashboard import write

FEATURES, MOST_BYTES, MOST_SECONDS = 200, 15_000_000, 30


def widened(record: Record) -> Record:
    """The record with so many features in all: rows of its own, under latents that it does not list at that site."""
    own = [finding for finding in record.findings if finding.comparison == "features"]
    tables: dict[str, list[Any]] = {finding.id: list(cast("Any", finding.details["features"])) for finding in own}
    listed = {(finding.site, row["latent"]) for finding in own for row in tables[finding.id]}
    for finding, latent in product(own, range(FEATURES)):
        if len(listed) < FEATURES and (finding.site, latent) not in listed:
            listed.add((finding.site, latent))
            tables[finding.id].append({**tables[finding.id][0], "latent": latent})
    findings = [
        finding.model_copy(update={"details": {**finding.details, "features": tables[finding.id]}})
        if finding.id in tables else finding
        for finding in record.findings
    ]  # fmt: skip
    return record.model_copy(update={"findings": tuple(findings)})


def main(sae: str) -> None:
    """Prints what the dashboard costs, and exits 1 where that is too much."""
    common = {"dictionary": sae}
    plan = plan_of({"effort": "glance", "comparisons": {"feature_transfer": common, "features": common}})
    with TemporaryDirectory() as folder:
        setting = Setting(store=Path(folder) / "store", threads=1, progress=False)
        record = widened(conduct(plan, setting=setting).record)
        dear = [built(record, setting, Path(folder) / turn) for turn in ("first", "again")]
    sys.exit(any(dear))


def built(record: Record, setting: Setting, out: Path) -> bool:
    """Builds the dashboard and prints what it cost; whether that is too much."""
    begun = time.perf_counter()
    found = gallery(record, setting=setting)
    read = time.perf_counter() - begun
    write(found, out)
    seconds = time.perf_counter() - begun
    sizes = [page.stat().st_size for page in out.rglob("*.html")]
    told = f"{len(sizes)} pages, {sum(sizes) / 1e6:.2f} MB, {seconds:.1f} s, {read:.1f} s of it reading"
    print(f"{out.name}: {told}", flush=True)
    return sum(sizes) > MOST_BYTES or seconds > MOST_SECONDS or len(sizes) != FEATURES + 1


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "builtin")
