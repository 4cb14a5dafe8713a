"""What sham fine-tunes of the same base come to, read from their records: the null of `novelty`.

A pair of a model with itself has no difference to train a crosscoder on. Fine-tunes that add nothing have one: what
their crosscoders call new, in any seed of any of them, is what training again brings by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audit.estimate import Estimate, range_level
from audit.finding import Finding
from audit.pair import MODELS, Recorder
from probes.digest import AuditError

TOLERATED = 0.01
"""Share of firing by which post may exceed the shams' largest seed."""


class Sham(NamedTuple):
    """Shares of firing and counts of latents over all seeds of all shams, as a finding of `novelty` has them."""

    headline: Estimate
    shares: Mapping[str, Mapping[str, Estimate | None]]
    latents: Mapping[str, Mapping[str, Estimate | None]]


def shams(paths: Sequence[str], name: str, given: Mapping[str, Any], recorder: Recorder) -> Sham:
    """The same finding in the records of sham fine-tunes, their seeds taken together.

    Args:
        paths: records, each a record.json or its folder; one at least.
        name: of the finding.
        given: the settings that theirs must equal.
        recorder: whose base they must share, and whose post none of them may be.

    Raises:
        AuditError: one cannot be read, is of another base, of this very post, of another definition or other settings,
            or two are of one fine-tune.
    """
    found: dict[str, Finding] = {}
    for path in paths:
        post, finding = _sham(path, name, given, recorder)
        if post in found:
            expected, do = "another fine-tune each", "Leave one out"
            raise AuditError(f"Two shams are one fine-tune ('{path}')", expected, do)
        found[post] = finding
    headlines = [finding.headline for finding in found.values()]
    headline, details = _together(headlines), [finding.details for finding in found.values()]
    if headline is None:
        raise AuditError(f"A sham of {', '.join(paths)} has no headline", "a measured one", "Audit it again")
    return Sham(headline, _tables(details, "shares"), _tables(details, "latents"))


def against(sham: Sham | None, headline: Estimate, shares: Mapping[str, Mapping[str, Any]], new: Sequence[str]) -> Any:
    """Whether post has more of its own than any seed of any sham, beyond what is tolerated, as details of a finding."""
    if sham is None:
        return {"null": None, "beyond_null": None, "beyond_null_by_text": None}
    return {
        "null": {"shares": sham.shares, "latents": sham.latents}, "beyond_null": _beyond(headline, sham.headline),
        "beyond_null_by_text": {
            text: {kind: _beyond(each[kind], sham.shares[text][kind]) for kind in new} for text, each in shares.items()
        },
    }  # fmt: skip


def _beyond(ours: Estimate | None, theirs: Estimate | None) -> bool | None:
    return None if ours is None or theirs is None or theirs.high is None else ours.value > theirs.high + TOLERATED


def _tables(details: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[str, Estimate | None]]:
    first: Mapping[str, Mapping[str, Any]] = details[0][name]
    return {
        row: {column: _together([one[name][row][column] for one in details]) for column in columns}
        for row, columns in first.items()
    }


def _together(found: Sequence[Estimate | None]) -> Estimate | None:
    """Mean and range over the seeds of all; one alone stays as it is."""
    if len(found) == 1:
        return found[0]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    seeds = sum(one.n_groups for one in known)
    return known[0].model_copy(update={
        "value": sum(one.value * one.n_groups for one in known) / seeds,
        "low": min(one.low for one in known if one.low is not None),
        "high": max(one.high for one in known if one.high is not None),
        "level": range_level(seeds), "n": sum(one.n for one in known), "n_groups": seeds,
        "method": f"mean and range over the seeds of {len(known)} shams",
    })  # fmt: skip


def _sham(path: str, name: str, given: Mapping[str, Any], recorder: Recorder) -> tuple[str, Finding]:
    """A sham's weights and its finding."""
    file = Path(path) if Path(path).suffix == ".json" else Path(path) / "record.json"
    do = "Audit a sham fine-tune of this base with the same plan, and name its record"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        sides = {side: record["pair"][side]["weights"] for side in MODELS}
        sham = next(Finding.model_validate_json(json.dumps(one)) for one in record["findings"] if one["id"] == name)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        found = f"comparisons.novelty.null = '{path}' cannot be used ({type(error).__name__})"
        raise AuditError(found, f"a record that holds {name}", do) from error
    told: Any = sham.details.get("settings") or {}
    wanted = {"definition": 1, "status": "measured", "base": recorder.base.weights, **given}
    found = {"definition": sham.definition, "status": sham.status, "base": sides["base"], **told}
    for key, value in wanted.items():
        if found.get(key) != value:
            raise AuditError(f"The sham of '{path}' has {key} = {found.get(key)!r}", f"{value!r}, as here", do)
    if sides["post"] == recorder.post.weights:
        raise AuditError(f"The sham of '{path}' is this very post", "another fine-tune of its base", do)
    return sides["post"], sham
