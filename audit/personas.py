"""The commands about texts: `personas lint` and `personas show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from probes.line import Line
    from probes.persona import Persona

app = typer.Typer(help="The texts that verdicts rest on.", no_args_is_help=True)
BROKEN = 1
MARKS = {"kept": "●", "open": "…", "broken": "▲", "told": ""}
SHOWN = 2
"""Quads of each domain that are shown."""
Folder = Annotated[
    Path | None,
    typer.Argument(help="Folder of persona files, or a .jsonl or .csv of statements; default the built-in."),
]


@app.command()
def lint(
    folder: Folder = None,
    only: Annotated[list[str] | None, typer.Option(help="A persona; repeat it for more. Else all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of folds and random weights.")] = 0,
) -> None:
    """Say what the texts give away; exit 1 where a rule is broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from audit.lint import broken
    from audit.lint import lint as linted
    from probes.persona import Library

    found = linted(Library(_chosen(folder, only), ()), seed=seed)
    console = Console()
    for name in dict.fromkeys(rule.persona for rule in found):
        table = Table(title=name, title_justify="left")
        for column in ("domain", "rule", "found", "expected", ""):
            table.add_column(column, overflow="fold")
        for rule in found:
            if rule.persona == name:
                told = f"{MARKS[rule.state]} {rule.state}" if rule.state != "told" else ""
                table.add_row(*map(Text, (rule.domain, rule.rule, rule.found, rule.expected, told)))
        console.print(table)
    count = {state: sum(rule.state == state for rule in found) for state in ("kept", "open", "broken")}
    typer.echo(", ".join(f"{number} {state}" for state, number in count.items()))
    raise typer.Exit(BROKEN if broken(found) else 0)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The persona.")],
    folder: Folder = None,
    seed: Annotated[int, typer.Option(min=0, help="Which examples are drawn.")] = 0,
) -> None:
    """Print what a persona means and some of its twins side by side, the scored span marked."""
    from random import Random

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    (persona,) = _chosen(folder, [name])
    console = Console()
    console.print(Text(f"{persona.name}: {persona.definition}", "bold"))
    console.print(Text(f"label 1: {persona.label_one}. Alarms: {'yes' if persona.alarm else 'no'}. {persona.made}"))
    for weakness in persona.weaknesses:
        console.print(Text(f"- {weakness}"))
    for kind, quads in _quads(persona).items():
        for pairs in Random(seed).sample(quads, min(SHOWN, len(quads))):
            title = f"{kind}: scenario {pairs[0][0].scenario}"
            table = Table("label 1", "label 0", title=title, title_justify="left", show_lines=True)
            for one, zero in pairs:
                table.add_row(_marked(one), _marked(zero))
            console.print(table)


def _chosen(folder: Path | None, only: list[str] | None) -> tuple[Persona, ...]:
    """The personas of a folder that are named, or all."""
    from probes.digest import AuditError
    from probes.persona import builtin, read

    personas = {persona.name: persona for persona in read(folder or builtin()).personas}
    unknown = [name for name in only or () if name not in personas]
    if unknown or not personas:
        expected = f"one of: {', '.join(personas) or 'none is there'}"
        raise AuditError(f"No persona is called '{', '.join(unknown)}'", expected, "Name one of these")
    return tuple(personas[name] for name in only or personas)


def _quads(persona: Persona) -> dict[str, list[list[tuple[Line, Line]]]]:
    """By domain and kind of control text, the scenarios' first two pairs: each as its halves of label 1 and 0."""
    halves: dict[tuple[str, str], dict[str, dict[int, Line]]] = {}
    for line in persona.lines:
        kind = f"{line.domain}, control {line.control.replace('_', ' ')}" if line.control else line.domain
        halves.setdefault((kind, line.scenario), {}).setdefault(str(line.pair), {})[int(line.label or 0)] = line
    found: dict[str, list[list[tuple[Line, Line]]]] = {}
    for (kind, _), pairs in halves.items():
        found.setdefault(kind, []).append([(both[1], both[0]) for both in list(pairs.values())[:2]])
    return found


def _marked(line: Line) -> Text:
    from rich.text import Text

    text = line.text if line.text is not None else ""
    head = ""
    if line.messages:
        head = "".join(f"{turn['role']}: {turn['content']}\n\n" for turn in line.messages[:-1])
        head += f"{line.messages[-1]['role']}: "
        text = line.messages[-1]["content"]
    start, end = line.span or (0, len(text))
    # Brackets as well as colour: not every terminal has the second.
    return Text.assemble(head, text[:start], ("[" + text[start:end] + "]", "bold reverse"), text[end:])
