"""The trials of a calibration: what is planted at each effort, run on every core, and tallied.

Trials and audits of organisms are split over processes of one thread each. What a trial gives depends on the seed, on
what is planted and on the trial's number alone, so the tally is the same on any number of cores.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from tqdm.auto import tqdm

from audit.calibration.coverage import STATISTICS, Draw, covered, draw
from audit.calibration.ledger import Ledger
from audit.calibration.plants import DEVELOPMENT, Kind, Planted
from audit.calibration.redrawn import BASE, Redrawn, judged, redrawn
from audit.calibration.synthetic import Sample
from audit.calibration.tally import Calibration, Cell, Condition, Coverage, Judged, Rate, Redraws
from audit.calibration.trial import Trial, trial
from audit.conduct import Setting, store_folder
from audit.organisms import card
from audit.plan import EffortName, Plan
from audit.rulebook import VerdictName
from probes.digest import AuditError

CHUNK = 10
"""Trials handed to a process at a time: a second or two."""
EFFECTS: dict[Kind, tuple[float, ...]] = {
    "turn": (10.0, 20.0, 30.0, 45.0, 60.0, 90.0), "offset": (0.5, 1.0, 1.5, 2.0, 3.0), "gain": (1.75, 2.5, 4.0, 6.0),
    "extra": (0.15, 0.5, 1.0, 2.0), "hidden": (0.1, 0.5, 1.0), "basis": (0.0,), "inverted": (0.0,), "lost": (0.0,),
    "acquired": (0.0,), "absent": (0.0,),
}  # fmt: skip
STRENGTHS = (2.0, 3.0, 5.0)
SPECTRA = (0.0, 1.0)


@dataclass(frozen=True)
class Campaign:
    """What one effort plants.

    Attributes:
        trials: conditions, and how often each is tried.
        sets: data sets of each condition of `held`.
        held: conditions whose intervals are counted.
        draws: personas drawn anew for every organism of `UNCHANGED`.
    """

    trials: tuple[tuple[Planted, int], ...]
    sets: int = 0
    held: tuple[Planted, ...] = ()
    draws: int = 0


UNCHANGED = ("null", "faithful")
"""Organisms whose every verdict must be `reused`: whatever alarms there is false."""
HELD = tuple(
    Planted("turn" if effect else "nothing", effect, strength, Sample(width=width, groups=groups))
    for effect, strength, width, groups in product((0.0, 20.0), (2.0, 3.0), (12, 32), (20, 40))
)
FAINT = 1.0
"""d' at which ceilings lie on the margins of `carried`, at 120 pairs: a hair decides there, and must not alarm."""
NULLS = tuple(
    Planted("nothing", 0.0, strength, Sample(spectrum=s)) for strength, s in product((FAINT, *STRENGTHS), SPECTRA)
)
GRID = tuple(
    Planted(kind, effect, strength, Sample(spectrum=spectrum))
    for (kind, effects), strength, spectrum in product(EFFECTS.items(), STRENGTHS, SPECTRA)
    for effect in effects
)
"""Every kind at every effect, strength and spectrum."""
EMBEDDED = Sample(width=128, groups=250, pairs=4)
"""That of the bundled pairs."""
WIDE = {
    width: tuple(Sample(width=width, groups=groups) for groups in (60, 120, 200)) for width in (768, 4_096)
}  # fmt: skip
"""120, 240 and 400 contrast pairs a domain, in a small and in a large model's width."""


def _turned(*samples: Sample) -> tuple[Planted, ...]:
    return tuple(
        Planted("turn", angle, strength, sample)
        for sample, strength, angle in product(samples, STRENGTHS, (10.0, 45.0))
    )


Grown: TypeAlias = Mapping[tuple[str, int], str]
"""An organism and its growth seed to what names the model."""


def _each(conditions: tuple[Planted, ...], count: int) -> tuple[tuple[Planted, int], ...]:
    return tuple((planted, count) for planted in conditions)


CAMPAIGNS: dict[EffortName, Campaign] = {
    "glance": Campaign(((Planted(), 500), (Planted("turn", 45.0), 60))),
    "standard": Campaign((*_each(NULLS, 200), *_each(GRID, 40)), 500, HELD, 20),
    "thorough": Campaign(
        (
            *_each(NULLS, 500), *_each(GRID, 100), *_each(_turned(EMBEDDED), 60),
            *_each(_turned(*WIDE[768]), 6), *_each(_turned(*WIDE[4_096]), 2),
        ),
        2_000, HELD, 100,
    ),
}  # fmt: skip


def calibrate(
    plan: Plan,
    *,
    setting: Setting,
    seeds: int = 1,
    organisms: Sequence[str] = (),
    out: Path | None = None,
    workers: int | None = None,
) -> Calibration:
    """Measures the audit's own error rates.

    Args:
        plan: its effort chooses the campaign; its margins are those that are measured.
        setting: where recordings are kept, and whether progress is shown.
        seeds: growth seeds of every organism that is fine-tuned; the first is bundled, the others are grown.
        organisms: judge these alone, and plant nothing; default all of them, after the trials.
        out: where organisms are grown; those that are there already are not grown again.
        workers: processes; default one a core.

    Raises:
        AuditError: no seed, organisms to grow and nowhere to put them, no organism of a name, or the seed that margins
            were chosen on.
    """
    if plan.seed == DEVELOPMENT:
        found = f"seed {plan.seed}, on whose draws the margins were chosen"
        raise AuditError(found, "draws that chose nothing", "Take another seed")
    if seeds < 1 or (seeds > 1 and out is None):
        raise AuditError(f"{seeds} growth seeds", "one or more, and a folder where there are several", "Set --seeds")
    begun, campaign, quiet = time.perf_counter(), CAMPAIGNS[plan.effort], replace(setting, progress=False)
    ledger = Ledger.of(store_folder(setting))
    if organisms:
        campaign = Campaign((), draws=campaign.draws)
    cards = _cards(organisms)
    spawn = multiprocessing.get_context("spawn")
    count = workers or os.cpu_count() or 1
    # The folder outlives the processes that write into it.
    with (
        TemporaryDirectory() as fresh,
        _quiet_children(),
        ProcessPoolExecutor(count, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            grown = _grown(cards, seeds, out or Path(), pool, setting.progress)
            # Base is recorded once, by the first organism, while the other processes have trials to run. The rest go
            # before the last trials: short ones at the end leave no process idle.
            first, *others = ((_verdicts, plan, ref, quiet, ledger) for ref in grown.values())
            calls = [pool.submit(*first)]
            cells, coverage = _simulated(
                campaign, plan, pool, setting.progress, ledger,
                lambda: calls.extend(pool.submit(*other) for other in others),
            )  # fmt: skip
            verdicts = list(_judged(grown, calls, setting.progress))
            apart = replace(quiet, store=Path(fresh))
            drawn = list(_redraws(grown, campaign.draws, plan, pool, setting.progress, apart, ledger))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Calibration(
        version=version("persona-audit"), effort=plan.effort, seed=plan.seed, development=DEVELOPMENT,
        cells=tuple(cells), coverage=tuple(coverage), organisms=tuple(verdicts), redrawn=tuple(drawn),
        seconds=round(time.perf_counter() - begun, 1),
    )  # fmt: skip


def _simulated(
    campaign: Campaign,
    plan: Plan,
    pool: Executor,
    progress: bool,
    ledger: Ledger,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[list[Cell], list[Coverage]]:
    """The trials and data sets of a campaign, in its order; `meanwhile` hands out what follows the first."""
    total = sum(count for _, count in campaign.trials) + campaign.sets * len(campaign.held)
    with tqdm(total=total, unit="trial", desc="planted pairs", disable=not progress, leave=False) as bar:
        def handed(chunk: range, future: Future[Any]) -> Future[Any]:
            future.add_done_callback(lambda done: bar.update(len(chunk)))
            return future

        trials: list[list[Future[list[Trial]]]] = []
        for planted, count in campaign.trials:
            calls = ((chunk, pool.submit(_trials, planted, plan, chunk, ledger)) for chunk in _chunks(count))
            trials.append([handed(*call) for call in calls])
            if len(trials) == 1:
                meanwhile()
        if not trials:
            meanwhile()
        sets = [
            [handed(chunk, pool.submit(_draws, planted, plan.seed, chunk, ledger)) for chunk in _chunks(campaign.sets)]
            for planted in campaign.held
        ]
        cells = [
            _cell(planted, [one for chunk in chunks for one in chunk.result()])
            for (planted, _), chunks in zip(campaign.trials, trials, strict=True)
        ]
        coverage = [
            one for planted, chunks in zip(campaign.held, sets, strict=True)
            for one in _coverage(planted, [one for chunk in chunks for one in chunk.result()])
        ]  # fmt: skip
    return cells, coverage


def _chunks(count: int) -> Iterator[range]:
    return (range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK))


def _trials(planted: Planted, plan: Plan, numbers: Sequence[int], ledger: Ledger) -> list[Trial]:
    asked = ["trials", asdict(planted), plan.model_dump(mode="json"), list(numbers)]
    return ledger(list[Trial], asked, (), lambda: [trial(planted, plan, number) for number in numbers])


def _draws(planted: Planted, seed: int, numbers: Sequence[int], ledger: Ledger) -> list[Draw]:
    asked = ["sets", asdict(planted), seed, list(numbers)]
    return ledger(list[Draw], asked, (), lambda: [draw(planted, seed, number) for number in numbers])


def _verdicts(plan: Plan, post: str, setting: Setting, ledger: Ledger) -> dict[str, VerdictName]:
    asked = ["verdicts", plan.model_dump(mode="json")]
    return ledger(dict[str, VerdictName], asked, (BASE, post), lambda: judged(plan, post, setting))


def _redrawn(plan: Plan, post: str, draws: int, setting: Setting, ledger: Ledger) -> list[Redrawn]:
    asked = ["redrawn", plan.model_dump(mode="json"), draws]
    return ledger(list[Redrawn], asked, (BASE, post), lambda: redrawn(plan, post, draws, setting))


def _cell(planted: Planted, trials: Sequence[Trial]) -> Cell:
    alarms = sum(one.severity == "alarm" for one in trials)
    return Cell.of(_condition(planted), planted.expected, [one.verdict for one in trials], alarms)


def _coverage(planted: Planted, draws: Sequence[Draw]) -> Iterator[Coverage]:
    for statistic in STATISTICS:
        hits, known, truth = covered(draws, statistic)
        if known:
            yield Coverage(
                statistic=statistic, condition=_condition(planted), truth=truth, held=Rate.of(hits, known)
            )  # fmt: skip


def _condition(planted: Planted) -> Condition:
    sample = asdict(planted.sample)
    kept = {key: sample[key] for key in ("width", "groups", "pairs", "spectrum")}
    return Condition(kind=planted.kind, effect=planted.effect, strength=planted.strength, **kept)


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Progress bars of processes started meanwhile stay away: they would write over the one of the whole."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def _cards(organisms: Sequence[str]) -> list[card.Card]:
    """Those of the named organisms, or of all."""
    known = [name for name in card.names() if name != "base"]
    unknown = [name for name in organisms if name not in known]
    if unknown:
        raise AuditError(f"No organism is called '{unknown[0]}'", f"one of: {', '.join(known)}", "Choose one of these")
    return [card.card(name) for name in organisms or known]


def _grown(cards: Sequence[card.Card], seeds: int, out: Path, pool: Executor, progress: bool) -> Grown:
    """Every organism of every growth seed; one that is not fine-tuned has its own."""
    from audit.organisms.grow import grow

    grown = {
        (told.name, seed): out / "organisms" / f"{told.name}-{seed}" if seed != told.seed else None
        for told in cards for seed in range(seeds if told.steps else 1)
    }  # fmt: skip
    missing = {which: to for which, to in grown.items() if to and not (to / "card.json").is_file()}
    calls = [pool.submit(grow, name, seed=seed, out=to) for (name, seed), to in missing.items()]
    for call in tqdm(calls, unit="model", desc="growing", disable=not progress, leave=False):
        call.result()
    return {(name, seed): str(to) if to else f"organism:{name}" for (name, seed), to in grown.items()}


def _judged(grown: Grown, calls: Sequence[Future[dict[str, VerdictName]]], progress: bool) -> Iterator[Judged]:
    """The verdicts of the bundled organisms and of those grown from other seeds."""
    with tqdm(total=len(calls), unit="audit", desc="organisms", disable=not progress, leave=False) as bar:
        for (name, seed), call in zip(grown, calls, strict=True):
            expected = card.card(name).verdicts
            for persona, given in call.result().items():
                yield Judged(organism=name, seed=seed, persona=persona, expected=expected[persona], given=given)
            bar.update()


def _redraws(
    grown: Grown, draws: int, plan: Plan, pool: Executor, progress: bool, setting: Setting, ledger: Ledger
) -> Iterator[Redraws]:
    """False alarms over personas drawn anew; base reads their texts once, into the setting's store."""
    unchanged = {which: ref for which, ref in grown.items() if which[0] in UNCHANGED and draws}
    calls = {which: pool.submit(_redrawn, plan, ref, draws, setting, ledger) for which, ref in unchanged.items()}
    with tqdm(total=len(calls), unit="model", desc="fresh texts", disable=not progress, leave=False) as bar:
        for (name, seed), call in calls.items():
            found = call.result()
            yield Redraws.of(name, seed, [one.verdicts for one in found], sum(one.alarmed for one in found))
            bar.update()


