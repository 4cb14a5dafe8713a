"""The features of a record, or of a plan, with what there is to see of each: texts, tokens, neighbours.

A record's models are loaded again and must be the ones it was made with; a plan's two feature comparisons are run. What
the comparisons read lies in the store already, and is not read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from audit import record as records
from audit.conduct import IN_MEMORY, Model, Setting, prepared
from audit.plan import Plan, plan_of, read_plan
from audit.record import Record
from probes.digest import AuditError

if TYPE_CHECKING:
    from audit.finding import Finding
    from audit.measurement import Measurement
    from probes.dictionary import Dictionary
    from probes.direction import Direction
    from probes.examples import Show
    from probes.features import Feature, Seen
    from probes.passage import Passage

FEATURES = "features"
ASKED = ("feature_transfer", FEATURES)
TOKENS = 15_000
"""Tokens that examples are from, about, of each persona and domain, and of plain text."""


@dataclass(frozen=True, eq=False)
class Wing:
    """The features of one dictionary.

    Attributes:
        site: what it reads, e.g. "L2.resid_post".
        layer: the block of that site, from 0.
        name: the SAE as it was asked for.
        weights: its digest.
        width: its latents.
        architecture: as SAELens calls it.
        texts: passages and tokens that the examples are from, by persona and domain.
        features: in the order of the findings.
    """

    site: str
    layer: int
    name: str
    weights: str
    width: int
    architecture: str
    texts: Mapping[str, tuple[int, int]]
    features: tuple[Feature, ...]


@dataclass(frozen=True, eq=False)
class Gallery:
    """Everything that a dashboard shows.

    Attributes:
        base: reference, weights, revision, dtype, and whether its texts begin with a BOS.
        post: the same.
        source: what the findings are from, by name and digest: a record, or a plan.
        findings: every persona's.
        wings: one for each site at which features were found.
        directions: base's, by `persona.site`.
    """

    base: Mapping[str, Any]
    post: Mapping[str, Any]
    source: tuple[str, str]
    findings: tuple[Finding, ...]
    wings: tuple[Wing, ...]
    directions: Mapping[str, Direction]


class Told(NamedTuple):
    """What the features are read from: findings, directions, and where both are from."""

    findings: Sequence[Finding]
    directions: Mapping[str, Direction]
    source: tuple[str, str]


def gallery(
    source: Path | str | Plan | Record,
    *,
    base: Model | None = None,
    post: Model | None = None,
    setting: Setting | None = None,
    show: Show | None = None,
) -> Gallery:
    """The gallery of a record or of a plan.

    Args:
        source: a record.json or the folder that holds one; a plan in TOML; or either, read.
        base: replaces the plan's base: a reference, or (model, tokenizer). It must be the one of a record.
        post: the same for post.
        setting: where things are kept and how the machine is used; None is the default.
        show: how much of each feature is shown; None is the default.

    Raises:
        AuditError: there are no features to show, the models or texts are not those of the record, or something cannot
            be loaded.
    """
    asked = _asked(source)
    record = asked if isinstance(asked, Record) else None
    if record is not None:
        _refuse_featureless(record.findings, f"record {record.digest[:12]}")
    plan = asked.plan if isinstance(asked, Record) else _with_features(asked)
    for name, ref, given in (("base", plan.pair.base, base), ("post", plan.pair.post, post)):
        if ref == IN_MEMORY and given is None:
            do = f"Give {name}=(model, tokenizer) to audit.gallery.gallery"
            raise AuditError(f"{name} was a model in memory", "the same model", do)
    with ExitStack() as open_models:
        library, ready = prepared(plan, base, post, None, setting or Setting(), open_models)
        if record is not None:
            _refuse_other(record, ready)
            told = Told(record.findings, _directions(source), ("record", record.digest))
        else:
            told = Told(*ready(library.personas)[:2], ("plan", ready.plan.digest))
            _refuse_featureless(told.findings, "the plan's features")
        return _shown(told, ready, show)


def recorded(source: Path | str) -> Path | None:
    """The folder of a record, named by itself or by its record.json; None for a plan."""
    path = Path(source)
    if path.is_dir():
        return path
    return path.parent if path.suffix == ".json" else None


def _asked(source: Path | str | Plan | Record) -> Plan | Record:
    if isinstance(source, Plan | Record):
        return source
    return records.read(source) if recorded(source) else read_plan(source)


def _with_features(plan: Plan) -> Plan:
    """The plan with its two feature comparisons and no other; one that it lacks reads the other's dictionary."""
    own = {name: plan.comparisons.get(name, {}) for name in ASKED}
    named = next(({"dictionary": some["dictionary"]} for some in own.values() if "dictionary" in some), {})
    return plan_of({**plan.model_dump(), "comparisons": {name: named | some for name, some in own.items()}})


def _refuse_featureless(findings: Sequence[Finding], where: str) -> None:
    mine = [finding for finding in findings if finding.comparison == FEATURES]
    if not mine:
        do = "Run again with comparisons.features, or give the plan in place of the record"
        raise AuditError(f"{where} has no features comparison", "findings of comparisons.features", do)
    if not any(_latents([finding]) for finding in mine):
        why = next((finding.reason for finding in mine if finding.reason), "it lists none")
        found = f"{where} has no feature to show: {why.removesuffix('.')}"
        raise AuditError(found, "a features comparison that was measured", "Mend this first")


def _refuse_other(record: Record, ready: Measurement) -> None:
    """The record must have been made with these very models, on these very texts."""
    pairs = (record.pair.base, ready.recorder.base), (record.pair.post, ready.recorder.post)
    for told, subject in pairs:
        _refuse_changed(f"'{told.ref}'", subject.weights, told.weights)
    _refuse_changed("the passages' token ids", ready.texts.ids, record.pair.ids)


def _refuse_changed(what: str, today: str, told: str) -> None:
    if today != told:
        do = "Bring it back as it was, or run the audit again"
        raise AuditError(f"{what} has digest {today[:12]} today", f"{told[:12]}, as in the record", do)


def _directions(source: Path | str | Plan | Record) -> dict[str, Direction]:
    """Base's directions that lie beside the record."""
    from probes.direction import Direction

    home = None if isinstance(source, Plan | Record) else recorded(source)
    files = sorted((home / "directions").glob("*.safetensors")) if home else []
    return {path.stem: Direction.load(path) for path in files}


def _latents(findings: Sequence[Finding]) -> list[int]:
    """Every listed latent once, in the order of the findings."""
    tables = [finding.details.get(FEATURES) for finding in findings if finding.comparison == FEATURES]
    rows = [row for table in tables if isinstance(table, list) for row in table if isinstance(row, dict)]
    return list(dict.fromkeys(int(row["latent"]) for row in rows))  # pyright: ignore


def _shown(told: Told, ready: Measurement, show: Show | None) -> Gallery:
    recorder, plan = ready.recorder, ready.plan
    base, post = (
        {"ref": ref, "weights": one.weights, "revision": one.revision, "dtype": one.dtype, "bos": _begins(ready)}
        for one, ref in ((recorder.base, plan.pair.base), (recorder.post, plan.pair.post))
    )
    by_site: dict[str, list[Finding]] = {}
    for finding in told.findings:
        if _latents([finding]):
            by_site.setdefault(finding.site, []).append(finding)
    wings = tuple(_wing(site, mine, ready, show) for site, mine in by_site.items())
    return Gallery(base, post, told.source, tuple(told.findings), wings, told.directions)


def _wing(site: str, findings: Sequence[Finding], ready: Measurement, show: Show | None) -> Wing:
    """The features that some personas have at one site."""
    from probes.dictionary import load_at
    from probes.features import SHOWN, features
    from probes.site import Site

    recorder, comparison = ready.recorder, ready.comparisons[FEATURES]
    # Of several SAEs at the site the comparison reads the first.
    dictionary = load_at(str(getattr(comparison, "dictionary", None)), Site.parse(site))[0].fitting(recorder.base)
    for finding in findings:
        told = finding.details.get("dictionary")
        if isinstance(told, dict):
            _refuse_changed(f"the SAE '{dictionary.name}'", dictionary.weights, str(told.get("weights")))
    personas = [finding.persona for finding in findings]
    seen = _seen(personas, ready, dictionary, int(getattr(comparison, "rows", TOKENS)))
    subjects = {"base": recorder.base, "post": recorder.post}
    found = features(seen, _latents(findings), dictionary, subjects, show or SHOWN)
    return Wing(
        site, dictionary.site.layer, dictionary.name, dictionary.weights, dictionary.width,
        dictionary.sae.cfg.architecture(), _texts(seen), tuple(found),
    )  # fmt: skip


def _begins(ready: Measurement) -> bool:
    passages = (*ready.texts.plain, *(one for some in ready.texts.passages.values() for one in some))
    return passages[0].token_ids[0] == ready.recorder.base.tokenizer.bos_token_id


def _texts(seen: Seen) -> dict[str, tuple[int, int]]:
    """Passages and tokens by persona and domain."""
    found: dict[str, tuple[int, int]] = {}
    for passage in seen.tokens.passages:
        kind = f"{passage.persona}, {passage.domain}" if passage.persona else passage.domain
        texts, tokens = found.get(kind, (0, 0))
        found[kind] = texts + 1, tokens + len(passage.token_ids) - 1
    return found


def _seen(personas: Sequence[str], ready: Measurement, dictionary: Dictionary, limit: int) -> Seen:
    """What both models make of some whole texts of these personas, and of plain text."""
    from audit.encoded import within
    from audit.pair import DOMAINS, MODELS
    from audit.texts import judged
    from probes.codes import Codes
    from probes.features import Seen
    from probes.tokens import Tokens

    # What the comparison read is recorded already, under the key of exactly these passages.
    read: list[Sequence[Passage]] = [
        within(judged(ready.texts.passages[persona], domain), limit)
        for persona in personas for domain in DOMAINS
    ]  # fmt: skip
    read.append(sample(ready.texts.plain, TOKENS))
    shown: list[Passage] = []
    names: list[str] = []
    codes: dict[str, list[Codes]] = {model: [] for model in MODELS}
    for passages in read:
        some = sample(passages, TOKENS)
        rows = ready.recorder.token_values(passages, dictionary.site)
        at = {name: row for row, name in reversed(list(enumerate(rows["base"].passages)))}
        kept = [f"{passage.id}:{token}" for passage in some for token in range(1, len(passage.token_ids))]
        shown, names = [*shown, *some], [*names, *kept]
        for model in MODELS:
            codes[model].append(dictionary.encode(rows[model].at(dictionary.site)[[at[name] for name in kept]]))
    return Seen({model: Codes.join(parts) for model, parts in codes.items()}, Tokens.of(shown, names))


def sample(passages: Sequence[Passage], limit: int) -> tuple[Passage, ...]:
    """Some passages, each once, of about so many tokens: a contrast pair of every scenario, then another of each.

    They keep their order; pairs that only some scenarios get are spaced evenly; one pair is there at least.
    """
    known = tuple(dict.fromkeys(passages))
    pairs: dict[tuple[str, str], list[Passage]] = {}
    for passage in known:
        pairs.setdefault((passage.group, str(passage.pair or passage.id)), []).append(passage)
    rounds: dict[int, list[list[Passage]]] = {}
    seen: dict[str, int] = {}
    for (group, _), pair in pairs.items():
        seen[group] = seen.get(group, -1) + 1
        rounds.setdefault(seen[group], []).append(pair)
    taken: set[Passage] = set()
    for some in rounds.values():
        size = sum(len(passage.token_ids) - 1 for pair in some for passage in pair)
        fit = len(some) if size <= limit else max(int(len(some) * limit / size), 0 if taken else 1)
        taken.update(passage for at in np.linspace(0, len(some) - 1, fit).round().astype(int) for passage in some[at])
        limit -= size
        if limit <= 0:
            break
    return tuple(passage for passage in known if passage in taken)
