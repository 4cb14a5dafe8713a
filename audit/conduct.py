"""Conducts a plan: loads the pair, records, compares, judges, and gives a record."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audit import plan as plans
from audit import record as records
from audit.organisms.card import PREFIX, folder, texts_of
from audit.plan import Plan
from audit.record import Check, Data, Excluded, Record, Run, Side, run_id, seal
from audit.shelf import BUILTIN, Shelf, computing
from audit.verdict import judge_all
from probes.digest import AuditError, digest
from probes.persona import Library, Persona
from probes.persona import read as read_personas

if TYPE_CHECKING:
    from audit.comparisons.table import Comparison
    from audit.diagnosis import Doctor
    from audit.label_test import Explainer
    from audit.measurement import Measured, Measurement
    from audit.scores import Scores
    from audit.texts import Texts
    from probes.direction import Direction
    from probes.model import Subject

Model = str | tuple[Any, Any]
"""A reference, or a model in memory with its tokenizer."""
IN_MEMORY = "memory"
_OWN_THREADS: dict[str, int] = {}
"""How many torch takes by itself, known where this module is the first to load it."""


@dataclass(frozen=True)
class Setting:
    """What is not part of the question: where things are kept and how the machine is used.

    Attributes:
        store: folder of recordings; None is `$PERSONA_AUDIT_STORE`, else the platform's cache folder.
        threads: torch's threads; None leaves them.
        allow_pickle: accept pickled weights.
        offline: never ask a hub.
        strict: an undecided persona exits 3.
        progress: show progress bars.
    """

    store: Path | None = None
    threads: int | None = None
    allow_pickle: bool = False
    offline: bool = False
    strict: bool = False
    progress: bool = True


class Conducted(NamedTuple):
    """A record, base's directions by `persona.site`, and the scores that a later audit is paired with."""

    record: Record
    directions: Mapping[str, Direction]
    scores: tuple[Scores, ...] = ()


def audit(
    plan: Plan | Path | str | None = None,
    *,
    base: Model | None = None,
    post: Model | None = None,
    personas: Sequence[Path | str] | None = None,
    setting: Setting = Setting(),
    explainer: Explainer | None = None,
) -> Record:
    """Audits one pair; writes nothing but recordings.

    Args:
        plan: a plan, the path of one, or None for the default.
        base: replaces the plan's base: a reference, or (model, tokenizer).
        post: the same for post.
        personas: persona folders, or files of statements, in place of the plan's.
        setting: where things are kept and how the machine is used.
        explainer: says on which tokens a feature fires, in place of learned rules (comparison `features`).

    Raises:
        AuditError: the pair is refused, or something cannot be read or written.
    """
    return conduct(plan, base=base, post=post, personas=personas, setting=setting, explainer=explainer).record


def conduct(
    plan: Plan | Path | str | None = None,
    *,
    base: Model | None = None,
    post: Model | None = None,
    personas: Sequence[Path | str] | None = None,
    setting: Setting = Setting(),
    explainer: Explainer | None = None,
    library: Library | None = None,
) -> Conducted:
    """`audit` with the fitted directions and the scores. Other arguments and errors as there.

    `library` is what `libraries` gave for this pair, by whoever reads the personas once for many.
    """
    started, begun = datetime.now(UTC), time.perf_counter()
    effective, models = _effective(plan, base, post, personas)
    library = library or libraries(effective)
    shelf, key, told = Shelf(store_folder(setting)), None, []
    if explainer is None and all(isinstance(ref, str) for ref in models.values()):
        told = [setting.threads or _threads(), setting.strict, setting.allow_pickle]
        key = shelf.key(effective, library, told)
        held = shelf.get(key) if key else None
        if held is not None:
            return Conducted(_again(held[0], effective, started, begun), *held[1:])
    with ExitStack() as open_models:
        measurement = _loaded(effective, models, library, setting, open_models)
        if explainer is not None:
            measurement = measurement.explained(explainer)
        measured = measurement(library.personas)
        record = _sealed(library, measurement, measured, setting, started, begun)
        made = Conducted(record, measured.directions, tuple(measured.scores.values()))
    # One that was written to meanwhile is not what the key says.
    if key and key == shelf.key(effective, library, told):
        shelf.put(key, *made)
    return made


def doctor(
    plan: Plan | Path | str | None = None,
    *,
    base: Model | None = None,
    post: Model | None = None,
    personas: Sequence[Path | str] | None = None,
    setting: Setting = Setting(),
) -> Doctor:
    """Proves the pair before a number is computed. Arguments and errors as for `audit`."""
    from audit.calibration.detectable import detectable
    from audit.diagnosis import Doctor, prove
    from audit.workload import forecast

    outline = _without_weights(_effective(plan, base, post, personas), setting)
    if outline is not None:
        return outline
    with ExitStack() as open_models:
        _, ready = prepared(plan, base, post, personas, setting, open_models)
        draws = getattr(ready.comparisons.get("probe_transfer"), "permutations", ready.plan.draws.permutations)
        parts = ready.texts, ready.recorder, ready.sites
        proved = prove(*parts, lambda: forecast(*parts, draws))
        return Doctor((*proved.checks, detectable(ready.texts, ready.recorder.base.d_model, ready.plan)))


def _without_weights(given: tuple[Plan, dict[str, Model]], setting: Setting) -> Doctor | None:
    """What configuration, tokenizer and texts say where base's folder holds no weights; None where it does."""
    from audit.diagnosis import same_shape
    from audit.outline import examined, outlined

    plan, models = given
    folders = [ref if isinstance(ref, str) and not ref.startswith(PREFIX) else None for ref in models.values()]
    outline, other = (outlined(ref) if ref else None for ref in folders)
    if outline is None or other is None:
        # One that has weights is loaded, and the other is refused for having none.
        return None
    same_shape(outline, other)
    if setting.threads is not None:
        import torch

        torch.set_num_threads(setting.threads)
    return examined(outline, plan, libraries(plan))


def prepared(
    plan: Plan | Path | str | None,
    base: Model | None,
    post: Model | None,
    personas: Sequence[Path | str] | None,
    setting: Setting,
    open_models: ExitStack,
) -> tuple[Library, Measurement]:
    """Both models loaded and every text tokenised, nothing measured: whatever can be refused is refused here.

    `open_models` closes the models; other arguments and errors as for `audit`.
    """
    effective, models = _effective(plan, base, post, personas)
    library = libraries(effective)
    return library, _loaded(effective, models, library, setting, open_models)


def _loaded(
    effective: Plan, models: Mapping[str, Model], library: Library, setting: Setting, open_models: ExitStack
) -> Measurement:
    fresh, comparisons = "torch" not in sys.modules, _comparisons(effective)
    import torch

    if fresh:
        _OWN_THREADS["torch"] = torch.get_num_threads()

    from audit.controls import load_direction
    from audit.diagnosis import same_dtype, same_shape
    from audit.measurement import Measurement
    from audit.pair import Recorder
    from audit.texts import agree
    from probes.direction import Direction
    from probes.model import load
    from probes.site import sites
    from probes.store import Store

    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    own = getattr(comparisons.get("probe_transfer"), "direction", None)
    if own:
        # Whether there is such a file is known before two models are loaded.
        Direction.load(Path(own))
    loaded: dict[str, Subject] = {}
    for name, ref in models.items():
        where = str(folder(ref)) if isinstance(ref, str) and ref.startswith(PREFIX) else ref
        pair, pickled, offline = effective.pair, setting.allow_pickle, setting.offline
        opened = load(where, dtype=pair.dtype, device=pair.device, allow_pickle=pickled, offline=offline)
        loaded[name] = open_models.enter_context(opened)
    same_shape(loaded["base"], loaded["post"])
    same_dtype(loaded["base"], loaded["post"])
    places = sites(effective.sites.stream, effective.sites.layers, loaded["base"].n_layers)
    if own:
        load_direction(own, places, loaded["base"].d_model)
    texts = agree(library.personas, library.plain, loaded["base"], loaded["post"], effective.pair.template)
    store, pooling = Store(store_folder(setting)), effective.sites.pooling
    recorder = Recorder(loaded["base"], loaded["post"], texts.plain, pooling, store, setting.progress)
    return Measurement(effective, comparisons, texts, recorder, places)


def store_folder(setting: Setting) -> Path:
    """Where recordings are kept."""
    from platformdirs import user_cache_path

    if setting.store is not None:
        return setting.store
    named = os.environ.get("PERSONA_AUDIT_STORE")
    return Path(named) if named else user_cache_path("persona-audit")


def libraries(plan: Plan) -> Library:
    """The personas and plain lines that a plan names, as much of them as its effort reads.

    Raises:
        AuditError: a folder is missing or malformed, two define one persona, or `personas.only` names nobody.
    """
    home = texts_of(plan.pair.base, plan.pair.post)
    found = [read_personas(home if path == "builtin" else Path(path)) for path in plan.personas.paths]
    by_name: dict[str, Persona] = {}
    source: dict[str, str] = {}
    for path, library in zip(plan.personas.paths, found, strict=True):
        for persona in library.personas:
            if persona.name in by_name:
                both = f"'{persona.name}' is defined in {source[persona.name]} and in {path}"
                raise AuditError(both, "one folder or file for each persona", "Leave one out, or rename the persona")
            by_name[persona.name], source[persona.name] = persona, path
    unknown = [name for name in plan.personas.only if name not in by_name]
    if unknown:
        raise AuditError(
            f"personas.only names {', '.join(unknown)}", f"some of: {', '.join(sorted(by_name))}", "Mend the name"
        )
    chosen = tuple(by_name[name] for name in sorted(by_name) if not plan.personas.only or name in plan.personas.only)
    if not chosen:
        raise AuditError(
            f"{', '.join(plan.personas.paths)} holds no persona", "NAME.jsonl with NAME.toml", "Name another folder"
        )
    pairs, scenarios = plan.draws.pairs, plan.draws.scenarios
    if pairs and scenarios:
        chosen = tuple(persona.part(pairs, scenarios) for persona in chosen)
    plain = tuple(line for library in found for line in library.plain)
    # A folder of one's own seldom brings neutral text: the shipped lines serve the maps and covariances then.
    return Library(chosen, plain or read_personas(home).plain)


def _effective(
    plan: Plan | Path | str | None, base: Model | None, post: Model | None, personas: Sequence[Path | str] | None
) -> tuple[Plan, dict[str, Model]]:
    """The plan with what the caller says instead, and the two models; one in memory is called so in the plan."""
    read = plan if isinstance(plan, Plan) else plans.read_plan(plan)
    named = {name: IN_MEMORY if isinstance(ref, tuple) else ref for name, ref in (("base", base), ("post", post))}
    folders = None if personas is None else [str(path) for path in personas]
    effective = plans.override(read, base=named["base"], post=named["post"], personas=folders)
    models: dict[str, Model] = {"base": effective.pair.base, "post": effective.pair.post}
    models |= {name: ref for name, ref in (("base", base), ("post", post)) if isinstance(ref, tuple)}
    return effective, models


def _comparisons(plan: Plan) -> dict[str, Comparison]:
    """The plan's comparisons, made before a model is loaded: a misspelt setting then costs no more than a second."""
    from audit.comparisons.table import build, settings

    common = {
        "bootstrap": plan.draws.bootstrap, "permutations": plan.draws.permutations,
        "logistic_null": plan.draws.logistic_null,
        "random_maps": plan.draws.random_maps, "margin": (plan.margins.carried, plan.margins.not_carried),
        "fidelity": plan.margins.fidelity,
    }  # fmt: skip
    for name, own in plan.comparisons.items():
        known = [f"comparisons.{name}.{key}" for key in settings(name)] or [f"comparisons.{name} = {{}}"]
        if "margin" in own:
            do = "Write both into [margins]"
            raise AuditError(f"plan has comparisons.{name}.margin", "margins.carried and margins.not_carried", do)
        for key in sorted(set(own) - set(settings(name))):
            raise plans.unknown_key(f"comparisons.{name}.{key}", known, "plan")
    return {name: build(name, common, _with_bundled(own, plan)) for name, own in plan.comparisons.items()}


def _with_bundled(own: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """A comparison's settings with the folders of SAEs that come with organisms: "builtin", or organism:NAME."""
    found = dict(own)
    for key, side in (("dictionary", plan.pair.base), ("ceiling", plan.pair.post)):
        ref = side if own.get(key) == BUILTIN else own.get(key)
        if own.get(key) == BUILTIN and not side.startswith(PREFIX):
            expected = "a folder, or RELEASE:SAE_ID: only the organisms bring SAEs along"
            raise AuditError(f"plan has {key} = '{BUILTIN}' for {side}", expected, "Name an SAE")
        if isinstance(ref, str) and ref.startswith(PREFIX):
            home = folder(ref)
            # A checkpoint of a series brings no SAE along: it is read without a ceiling.
            lacking = key == "ceiling" and own[key] == BUILTIN and not list(home.glob("sae-*"))
            found[key] = None if lacking else str(home)
    return found


def _again(record: Record, plan: Plan, started: datetime, begun: float) -> Record:
    """A kept record as the answer of another run."""
    run = {
        "id": run_id(plan, started), "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun, 2), "kept_from": record.run.kept_from or record.run.id,
    }  # fmt: skip
    return record.model_copy(update={"run": record.run.model_copy(update=run)})


def _sealed(
    library: Library,
    measurement: Measurement,
    measured: Measured,
    setting: Setting,
    started: datetime,
    begun: float,
) -> Record:
    import torch

    from audit.diagnosis import examine

    plan, texts, recorder = measurement.plan, measurement.texts, measurement.recorder
    alarms = {persona.name: persona.alarm for persona in library.personas}
    judgement = judge_all(measured.findings, alarms, plan.margins, plan.family, setting.strict)
    sides = {
        name: Side(
            ref=ref, weights=subject.weights, revision=subject.revision, tokenizer=subject.tokenizer_digest,
            template=texts.template_from if texts.template else None, dtype=subject.dtype,
        )
        for name, ref, subject in (("base", plan.pair.base, recorder.base), ("post", plan.pair.post, recorder.post))
    }  # fmt: skip
    checks = tuple(Check(**vars(check)) for check in examine(texts, recorder))
    excluded = tuple(Excluded(pair=one.pair, reason=one.reason) for one in texts.excluded)
    template = None if texts.template is None else digest(texts.template)
    pair = records.Pair(**sides, template=template, ids=texts.ids, excluded=excluded, doctor=checks)
    run = Run(
        id=run_id(plan, started), started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - begun, 2), threads=torch.get_num_threads(),
        packages={"python": platform.python_version(), **computing()},
        host={"machine": platform.machine(), "system": platform.system(), "device": str(recorder.base.device)},
    )  # fmt: skip
    return seal(run, plan, pair, _data(library, texts, measured), measured.findings, judgement)


def _data(library: Library, texts: Texts, measured: Measured) -> list[Data]:
    """What was judged, by persona and domain, with what its words alone give away."""
    from audit.texts import judged

    told = {f.persona: f.details.get("text", {}) for f in measured.findings if f.comparison == "probe_transfer"}
    out = []
    for persona in library.personas:
        for domain in ("story", "assistant"):
            mine = judged(texts.passages[persona.name], domain)
            words = told.get(persona.name, {})
            baseline = words[domain]["auroc"] if isinstance(words, dict) and domain in words else None
            kept = measured.scores.get(persona.name) if domain == "assistant" else None
            out.append(Data(
                persona=persona.name, domain=domain, digest=digest([asdict(line) for line in persona.domain(domain)]),
                n_pairs=len({p.pair for p in mine}), n_groups=len({p.group for p in mine}), text_baseline=baseline,
                scores=kept and kept.digest,
            ))  # fmt: skip
    return out


def _threads() -> int | None:
    """Those that somebody set for torch in this process; None for as many as it takes by itself, or would."""
    found = torch.get_num_threads() if (torch := sys.modules.get("torch")) else None
    return None if found == _OWN_THREADS.get("torch") else found


