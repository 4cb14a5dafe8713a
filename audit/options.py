"""Options that several commands have, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audit.conduct import Setting
    from audit.plan import Plan

PlanFile = Annotated[
    Path | None, typer.Argument(help="Plan in TOML; without one the default plan.", show_default=False)
]
Base = Annotated[str | None, typer.Option(help="Folder, hub id with optional @REVISION, or organism:NAME.")]
Post = Annotated[str | None, typer.Option(help="The post-trained model, spelled like --base.")]
Posts = Annotated[
    list[str] | None, typer.Option("--post", help="The post-trained model; repeat it to audit several in one process.")
]
Personas = Annotated[
    list[Path] | None, typer.Option(help="Folder of persona files, or a .jsonl or .csv of statements; repeat for more.")
]
Store = Annotated[
    Path | None, typer.Option(help="Where recordings are kept; default $PERSONA_AUDIT_STORE or the cache folder.")
]
Effort = Annotated[str | None, typer.Option(help="glance, standard or thorough.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads torch may use.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Accept pytorch_model.bin where no safetensors exist.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask a hub.")]


def planned(
    path: Path | None,
    effort: str | None,
    device: str | None,
    base: str | None = None,
    post: str | None = None,
    personas: list[Path] | None = None,
) -> Plan:
    """The plan of a file with what flags say instead."""
    from audit.plan import override, read_plan

    folders = None if personas is None else [str(folder) for folder in personas]
    return override(read_plan(path), base=base, post=post, personas=folders, effort=effort, device=device)


def set_up(store: Path | None, threads: int | None, pickles: bool, offline: bool, strict: bool = False) -> Setting:
    """How the machine is used."""
    from audit.conduct import Setting

    return Setting(store=store, threads=threads, allow_pickle=pickles, offline=offline, strict=strict)


def safe(ref: str) -> str:
    """A model reference as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in ref).strip("-")
