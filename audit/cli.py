"""The command `persona-audit`: arguments in, exit code out; everything else happens elsewhere."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import ci
from audit.options import (
    AllowPickle,
    Base,
    Device,
    Effort,
    Offline,
    Personas,
    PlanFile,
    Post,
    Posts,
    Store,
    Threads,
    planned,
    safe,
    set_up,
)
from audit.personas import app as texts

if TYPE_CHECKING:
    from audit.record import Record

app = typer.Typer(
    help="Does an Assistant's persona still live in representations that its base model had?",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
organism = typer.Typer(help="Small bundled pairs with a planted, stated outcome.", no_args_is_help=True)
app.add_typer(organism, name="organism")
app.add_typer(ci.baseline, name="baseline")
app.add_typer(texts, name="personas")
app.command()(ci.check)
app.command()(ci.series)

REFUSED = 2
FAILED = 3
INTERRUPTED = 130
"""What typer makes of Ctrl-C; no command leaves with it."""


@app.command()
def run(
    plan: PlanFile = None,
    base: Base = None,
    post: Posts = None,
    personas: Personas = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the record and the report.")] = None,
    store: Store = None,
    effort: Effort = None,
    device: Device = None,
    strict: Annotated[bool, typer.Option("--strict", help="An undecided persona exits 3.")] = False,
    threads: Threads = None,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
) -> None:
    """Audit a pair: print a verdict per persona, write the record and the report."""
    from audit.conduct import conduct
    from audit.gate import verdicts_only
    from audit.report.folder import default, tell, write

    chosen = planned(plan, effort, device)
    setting = set_up(store, threads, allow_pickle, offline, strict)
    worst = 0
    for one in post or [chosen.pair.post]:
        record, directions, scores = conduct(chosen, base=base, post=one, personas=personas, setting=setting)
        target = out or default(record)
        target = write(record, target / safe(one) if post and len(post) > 1 else target, directions, scores)
        tell(verdicts_only(record), target, record.run.started)
        _show(record, target)
        worst = max(worst, record.outcome.exit, key=_severity)
    raise typer.Exit(worst)


@app.command()
def doctor(
    plan: PlanFile = None,
    base: Base = None,
    post: Post = None,
    personas: Personas = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for doctor.json; default a new one in persona-audit-out.")
    ] = None,
    store: Store = None,
    effort: Effort = None,
    device: Device = None,
    threads: Threads = None,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
) -> None:
    """Prove a pair before a number is computed."""
    from datetime import UTC, datetime

    from audit.conduct import doctor as examine
    from audit.record import Check, run_id
    from audit.report.folder import OUT, proof
    from probes.digest import AuditError

    chosen = planned(plan, effort, device, base, post, personas)
    target = out or OUT / run_id(chosen, datetime.now(UTC))
    try:
        found = examine(chosen, setting=set_up(store, threads, allow_pickle, offline))
        checks = [Check(**vars(check)) for check in found.checks]
    except AuditError as error:
        # A pair that is refused has failed one check, and whoever reads doctor.json is told which.
        checks = [Check(check="pair", found=error.found, expected=error.expected, do=error.do, ok=False)]
    for check in checks:
        typer.echo(f"{'ok  ' if check.ok else 'MEND'} {check.check}: {check.found}. Expected {check.expected}.")
        if not check.ok:
            typer.echo(f"     {check.do}.")
    typer.echo(proof(checks, target))
    raise typer.Exit(0 if all(check.ok for check in checks) else REFUSED)


@app.command()
def report(
    record: Annotated[Path, typer.Argument(help="record.json, or the folder that holds it.")],
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("report.html"),
) -> None:
    """Render the report of a record again; needs no torch."""
    from audit.record import read
    from audit.report.folder import page

    typer.echo(page(read(record), out))


@app.command()
def features(
    source: Annotated[Path, typer.Argument(help="record.json or the folder that holds it; or a plan in TOML.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the pages; default `features` beside the record, or a new one."),
    ] = None,
    cap: Annotated[float, typer.Option(min=0.1, help="Megabytes of all pages together, at most.")] = 15.0,
    store: Store = None,
    threads: Threads = None,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
) -> None:
    """Write the dashboard of a pair's features: a table, and a page for each with its examples in base and post."""
    from datetime import UTC, datetime

    from audit.gallery import gallery, recorded
    from audit.report.dashboard import refuse_unwritable, write
    from audit.report.exchange import vector_sets
    from audit.report.exchange import write as export
    from audit.report.folder import OUT

    home = recorded(source)
    target = out or (home / "features" if home else OUT / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-features")
    refuse_unwritable(target)
    found = gallery(source, setting=set_up(store, threads, allow_pickle, offline))
    typer.echo(write(found, target, round(cap * 1e6)))
    for path in export(vector_sets(found.directions, found.base["ref"], found.base["bos"]), target / "vectors"):
        typer.echo(path)


@app.command()
def plan(
    file: PlanFile = None, base: Base = None, post: Post = None, personas: Personas = None, effort: Effort = None
) -> None:
    """Print the effective plan, defaults filled in."""
    from audit.plan import to_toml

    typer.echo(to_toml(planned(file, effort, None, base, post, personas)), nl=False)


@app.command()
def calibrate(
    effort: Effort = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the rates and their page.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Growth seeds of each fine-tuned organism; minutes each.")] = 1,
    organism: Annotated[
        list[str] | None, typer.Option(help="Judge this organism (several: repeat it) and plant nothing.")
    ] = None,
    store: Store = None,
) -> None:
    """Measure the audit's own error rates, on planted pairs and on the organisms."""
    from datetime import UTC, datetime

    from audit.calibration.campaign import calibrate as measure
    from audit.report.calibration import write
    from audit.report.folder import OUT

    chosen = planned(None, effort, None)
    target = out or OUT / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-calibration"
    given = organism or ()
    found = measure(chosen, setting=set_up(store, None, False, True), seeds=seeds, organisms=given, out=target)
    if found.cells:
        typer.echo(f"false alarms      {found.false_alarms}")
        typer.echo(f"false changes     {found.false_changes}")
    for cell in found.cells:
        if cell.condition.kind != "nothing":
            where = f"{cell.condition.kind} {cell.condition.effect:g}"
            shape = f"d' {cell.condition.strength:g}, spectrum {cell.condition.spectrum:g}"
            given = ", ".join(f"{name} {count}" for name, count in cell.given.items())
            typer.echo(f"{where:<17} {shape}: expected {cell.expected or 'either'}, given {given}; seen {cell.seen}")
    for one in found.detectable:
        shape = f"d' {one.strength:g}, spectrum {one.spectrum:g}, {one.trials} trials of each size"
        typer.echo(f"detectable        {one.kind} {one}: {shape}")
    for held in found.coverage:
        at = held.condition
        shape = f"{at.groups} groups, width {at.width}, d' {at.strength:g}"
        typer.echo(f"coverage          {held.statistic}, {at.kind} {at.effect:g}, {shape}: {held.held}")
    for one in found.organisms:
        mark = "ok " if one.given == one.expected else "NOT"
        typer.echo(f"{mark} {one.organism} {one.seed} {one.persona}: {one.given}, expected {one.expected}")
    for drawn in found.redrawn:
        typer.echo(f"drawn anew        {drawn.organism} {drawn.seed}: alarms {drawn.alarms}; changes {drawn.changed}")
    typer.echo(write(found, target))
    raise typer.Exit(1 if found.wrong else 0)


@organism.command("list")
def list_organisms() -> None:
    """Name the bundled organisms, what is planted in each and the verdict it must get."""
    from audit.organisms.card import card, names

    for name in names():
        found = card(name)
        verdicts = ", ".join(f"{persona}: {verdict}" for persona, verdict in found.verdicts.items())
        typer.echo(f"organism:{name:<12} {found.planted}" + (f"  [{verdicts}]" if verdicts else ""))


@organism.command()
def card(name: Annotated[str, typer.Argument(help="Name of an organism, or of its SAE: base/sae-L2-0.")]) -> None:
    """Print the card of an organism or of an SAE."""
    from audit.organisms.card import MARK, sae_card
    from audit.organisms.card import card as read

    typer.echo((sae_card if MARK in name else read)(name).model_dump_json(indent=2))


@organism.command()
def grow(
    name: Annotated[str, typer.Argument(help="Organism, SAE of one (base/sae-L2-0), or `world` for persona files.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the checkpoint and its card; default persona-audit-out/organisms/NAME."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and texts.")] = 0,
    base: Annotated[
        Path | None, typer.Option(help="Folder of a grown base, other parents beside it; default the bundled ones.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Grow an organism anew."""
    import torch

    from audit.organisms.card import WORLD
    from audit.organisms.grow import grow as grown
    from audit.organisms.recipes import RECIPES
    from audit.report.folder import OUT
    from probes.digest import AuditError

    if threads:
        torch.set_num_threads(threads)
    target = out or OUT / "organisms" / name
    try:
        if name in (WORLD, *RECIPES):
            # Before the growing, which takes minutes.
            target.mkdir(parents=True, exist_ok=True)
        typer.echo(grown(name, seed=seed, out=target, base=base))
    except OSError as error:
        found = f"{name} cannot be grown into {target} ({error.strerror or error})"
        raise AuditError(found, "a folder that can be written, and a whole base", "Name another with --out") from error


def main() -> None:
    """The entry point: what a user can mend is said in one sentence, never as a traceback."""
    from probes.digest import AuditError

    # A run makes a million tuples that live to its end: to look among them for cycles every 700 costs two seconds.
    gc.set_threshold(10_000)
    try:
        app()
    except AuditError as error:
        typer.echo(f"persona-audit: {error}", err=True)
        sys.exit(REFUSED if sys.argv[1:2] == ["doctor"] else FAILED)
    except (KeyboardInterrupt, SystemExit) as left:
        if isinstance(left, SystemExit) and left.code != INTERRUPTED:
            raise
        typer.echo(
            "persona-audit: interrupted. What was recorded is kept; run the same command again to go on.", err=True
        )
        sys.exit(FAILED)
    finally:
        # Nor are there any to look for on the way out, where it would take most of a second.
        gc.freeze()


def _severity(code: int) -> int:
    """Design 6: error and not measured over alarm over pass."""
    return {0: 0, 1: 1, 3: 2}.get(code, 3)


def _show(record: Record, out: Path) -> None:
    """The one-screen verdict table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{record.pair.base.ref} → {record.pair.post.ref}", title_justify="left", show_lines=True)
    for column in ("persona", "verdict", "because"):
        table.add_column(column, overflow="fold")
    for verdict in record.verdicts:
        kind = f" ({verdict.kind})" if verdict.kind else ""
        table.add_row(Text(verdict.persona), Text(verdict.verdict + kind), Text(verdict.sentence))
    console = Console()
    console.print(table)
    console.print(Text(f"report: {out / 'report.html'}"), soft_wrap=True)


if __name__ == "__main__":
    main()
