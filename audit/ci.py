"""The commands of the gate, `check`, `series` and `baseline`: arguments in, exit code out."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from audit.options import AllowPickle, Device, Offline, Store, Threads, planned, safe, set_up
from audit.scores import signed

if TYPE_CHECKING:
    from audit.conduct import Conducted
    from audit.gate import Failing, Gate

baseline = typer.Typer(help="Accepted findings, which later checkpoints are held against.", no_args_is_help=True)
FAILED = 3
SHOWN = 1
"""What `baseline update` answers where it shows changes and accepts none."""

RecordPath = Annotated[Path, typer.Argument(help="Folder of a run, which holds record.json and scores.json.")]
BaselineFile = Annotated[Path, typer.Argument(help="File of a baseline.")]
Held = Annotated[
    Path | None,
    typer.Option("--baseline", help="Accepted findings; without them base's own readings are the reference."),
]
Waived = Annotated[Path | None, typer.Option("--waivers", help="File of regressions accepted until a date.")]
FailOn = Annotated[
    str | None, typer.Option(help="What fails; default not_measured,not_comparable,regression,expired.")
]


def check(
    plan: Annotated[Path, typer.Argument(help="Plan in TOML.")],
    post: Annotated[
        list[str] | None, typer.Option(help="The checkpoint, spelled as for run; repeat it for more. Else the plan's.")
    ] = None,
    baseline: Held = None,
    waivers: Waived = None,
    fail_on: FailOn = None,
    out: Annotated[Path | None, typer.Option(help="Folder for records, reports, junit.xml and summary.md.")] = None,
    store: Store = None,
    device: Device = None,
    threads: Threads = None,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
) -> None:
    """Hold checkpoints to a baseline: exit 0 passes, 1 is worse, 3 has no answer."""
    from audit.checking import check as checked
    from audit.gate import FAIL_ON, Terms
    from audit.record import run_id
    from audit.report.folder import OUT

    failing, started = _failing(fail_on) or FAIL_ON, datetime.now(UTC)
    target = out or OUT / f"{started:%Y%m%dT%H%M%S}-check"
    try:
        chosen = planned(plan, None, device)
        target = out or OUT / run_id(chosen, started)
        _sweep(target)
        terms = Terms(*_accepted(baseline, waivers), fail_on=failing)
        gate, audits = checked(chosen, post or (), terms, set_up(store, threads, allow_pickle, offline))
        _write(audits, target, many=len(post or ()) > 1)
    except Exception as error:  # a check that crashes leaves a report that says so, and never an older one
        _tell(_crashed(error, post), target, started)
        raise typer.Exit(FAILED) from error
    _tell(gate, target, started)
    raise typer.Exit(gate.exit)


def series(
    plan: Annotated[Path, typer.Argument(help="Plan in TOML.")],
    checkpoints: Annotated[
        list[str], typer.Argument(help="Folders, hub revisions, or a glob such as 'out/checkpoint-*'.")
    ],
    baseline: Held = None,
    waivers: Waived = None,
    fail_on: FailOn = None,
    out: Annotated[Path | None, typer.Option(help="Folder for series.html and a folder a checkpoint.")] = None,
    store: Store = None,
    device: Device = None,
    threads: Threads = None,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
) -> None:
    """Audit the checkpoints of a training run against one base: trends, and the first that leaves its margins."""
    from audit.gate import FAIL_ON, Terms
    from audit.report.folder import OUT
    from audit.report.series import write
    from audit.series import follow

    failing, started = _failing(fail_on) or FAIL_ON, datetime.now(UTC)
    target = out or OUT / f"{started:%Y%m%dT%H%M%S}-series"
    try:
        _sweep(target)
        terms = Terms(*_accepted(baseline, waivers), fail_on=failing)
        chosen = planned(plan, None, device)
        found, checked = follow(chosen, checkpoints, terms, set_up(store, threads, allow_pickle, offline))
        _write(checked.audits, target, many=True)
        page = write(found, target)
    except Exception as error:  # as of a check
        _tell(_crashed(error, checkpoints), target, started)
        raise typer.Exit(FAILED) from error
    for one in found.checkpoints:
        verdicts = ", ".join(f"{persona} {verdict}" for persona, verdict in one.verdicts.items()) or "not audited"
        typer.echo(f"{one.step:>10,}  {one.outcome:<14} {one.ref}: {verdicts}")
    for trend in found.trends:
        if trend.moved is not None and trend.p_adjusted is not None and trend.p_adjusted <= 0.05:
            typer.echo(f"trend       {trend.id}: {signed(trend.moved)} over the series")
    first = "no checkpoint fails" if found.first is None else f"the first that fails: {found.first:,}"
    typer.echo(f"{first}. page: {page}")
    _report(checked.gate, target, started)
    raise typer.Exit(checked.gate.exit)


@baseline.command()
def create(
    record: RecordPath, out: Annotated[Path, typer.Option(help="The file to commit.")] = Path("baseline.json")
) -> None:
    """Accept the findings of a run; a file that is there is left alone."""
    from audit.baseline import create as made
    from audit.baseline import shown
    from audit.report.folder import text
    from probes.digest import AuditError

    accepted = made(record)
    if out.exists():
        do = f"see what would change with `persona-audit baseline update {out} {record}`"
        raise AuditError(f"{out} is there already", "a new file", do)
    for line in shown(accepted):
        typer.echo(line)
    typer.echo(text(out, accepted.to_json()))


@baseline.command()
def show(file: BaselineFile) -> None:
    """Print what a baseline holds, and where it came from."""
    from audit.baseline import read_baseline, shown

    for line in shown(read_baseline(file)):
        typer.echo(line)


@baseline.command()
def update(
    file: BaselineFile,
    record: RecordPath,
    accept: Annotated[bool, typer.Option("--accept", help="Write the file; else changes are only shown.")] = False,
) -> None:
    """Show what accepting another run would change, and accept it when told to: exit 1 where it was only shown."""
    from audit.baseline import changes, create, read_baseline
    from audit.report.folder import text

    made = create(record)
    found = list(changes(read_baseline(file), made))
    for line in found:
        typer.echo(line)
    if accept:
        typer.echo(f"accepted: {text(file, made.to_json())}")
    elif found:
        typer.echo(f"{file} is as it was. To accept these changes, add --accept.")
        raise typer.Exit(SHOWN)
    else:
        typer.echo("nothing would change")


def _failing(listed: str | None) -> tuple[Failing, ...] | None:
    """The outcomes that --fail-on names."""
    from audit.gate import Failing

    if listed is None:
        return None
    named = tuple(name.strip().replace("-", "_") for name in listed.split(",") if name.strip())
    known = get_args(Failing)
    wrong = [name for name in named if name not in known]
    if wrong or not named:
        told = f"{', '.join(wrong) or 'nothing'}: expected some of {', '.join(known)}"
        raise typer.BadParameter(told, param_hint="--fail-on")
    return cast("tuple[Failing, ...]", named)


def _crashed(error: Exception, post: list[str] | None) -> Gate:
    """The answer of a check that could not be made; why is said to the shell too."""
    from audit.gate import Gate, not_audited
    from probes.digest import AuditError

    why = str(error) if isinstance(error, AuditError) else f"It ended with {type(error).__name__}: {error}"
    typer.echo(f"persona-audit: {why}", err=True)
    return Gate(suites=(not_audited(", ".join(post or ("plan",)), why),))


def _accepted(baseline: Path | None, waivers: Path | None) -> tuple:
    """The baseline and the waivers that the flags name."""
    from audit.baseline import read_baseline
    from audit.waiver import read_waivers

    held = None if baseline is None else read_baseline(baseline)
    return held, () if waivers is None else read_waivers(waivers)


def _sweep(out: Path) -> None:
    """Removes the reports of an earlier check: a check that is killed must not leave an old answer behind."""
    from audit.report.junit import JUNIT
    from audit.report.series import PAGE
    from audit.report.summary import SUMMARY
    from audit.series import SERIES
    from probes.digest import AuditError

    try:
        for name in (JUNIT, SUMMARY, SERIES, PAGE):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        found = f"{out} cannot be written ({error.strerror})"
        raise AuditError(found, "a folder", "Name another with --out") from error


def _write(audits: tuple[Conducted, ...], out: Path, many: bool) -> None:
    """The folder of each checkpoint; where one was asked for it is the check's own."""
    from audit.report.folder import write

    taken: set[Path] = set()
    for made in audits:
        home = out / safe(made.record.pair.post.ref) if many else out
        while home in taken:
            # a/b and a-b are two checkpoints, and one name.
            home = home.with_name(f"{home.name}-again")
        taken.add(home)
        write(made.record, home, made.directions, made.scores)


def _tell(gate: Gate, out: Path, started: datetime) -> None:
    """Every report of the answer: files, standard output, and what GitHub Actions reads."""
    for suite in gate.suites:
        typer.echo(suite.name)
        for case in suite.cases:
            told = signed(case.change) if case.outcome == "pass" and case.change else case.sentence
            typer.echo(f"  {case.outcome:<14} {case.id}: {told}")
        for note in suite.notes:
            typer.echo(f"  note           {note}")
    _report(gate, out, started)


def _report(gate: Gate, out: Path, started: datetime) -> None:
    """The files of the answer, and what GitHub Actions reads."""
    from audit.report.actions import append_summary, workflow_commands
    from audit.report.folder import tell

    path = tell(gate, out, started.isoformat(timespec="seconds"))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(gate):
            typer.echo(line)
        lost = append_summary(gate, os.environ)
        if lost:
            typer.echo(f"persona-audit: {lost}: no step summary", err=True)
    typer.echo(f"{gate.colour}, exit {gate.exit}. summary: {path}")
