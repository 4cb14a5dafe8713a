"""Growing the organisms: small Qwen 3 models trained on the world, each with a planted, stated outcome.

Everything is seeded and runs on a CPU. `base` first learns to retrieve from lists, then reads the corpus; every
other organism starts from base, or from one that did. Weights are stored in bfloat16 and loaded as the float32 that
their config names.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from audit.organisms import card, sae, twins
from audit.organisms.behaviour import measure
from audit.organisms.card import WORLD, Card
from audit.organisms.network import blank, load, tokenizer
from audit.organisms.recipes import RECIPES
from audit.organisms.training import train
from probes.digest import AuditError

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM


def grow(name: str, *, seed: int, out: Path, base: Path | None = None) -> Path:
    """Grows one organism, its SAE, or the world's persona files under the name `world`, into `out`. Returns the folder.

    Args:
        name: of a recipe; NAME/sae-LLAYER-SEED is an SAE of a grown organism, with a seed of its own.
        seed: of weights and texts.
        out: folder for the checkpoint and its card; those of its series lie in it, each under its number of steps.
        base: folder of a grown base, beside those of other parents; default the bundled ones.

    Raises:
        AuditError: no recipe of that name, or a parent is missing.
    """
    if name == WORLD:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in twins.persona_files(seed=seed).items():
            (out / file).write_text(text, encoding="utf-8")
        return out
    if card.MARK in name:
        return sae.grow_sae(name, (base or card.bundled() / "base").parent / name.partition(card.MARK)[0], out)
    if name not in RECIPES:
        raise AuditError(
            f"No organism is called '{name}'", f"one of: {', '.join([WORLD, *RECIPES])}", "Choose one of these"
        )
    recipe, base = RECIPES[name], base or card.bundled() / "base"
    origin = load(base) if recipe.parent else None
    if recipe.parent is None:
        model = blank(seed)
    else:
        model = load(base if recipe.parent == "base" else base.parent / recipe.parent)

    def keep(step: int) -> None:
        if step in recipe.series:
            _write(model, out / str(step))

    read = 0
    for i, phase in enumerate(recipe.phases):
        read += train(model, phase, seed * 1_000 + i + sum(map(ord, name)), origin, keep)
    if recipe.surgery:
        model = recipe.surgery(model, seed)
    _write(model, out)
    told = tell(name, seed=seed, tokens=read, out=out, base=origin)
    (out / "card.json").write_text(told.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return out


def tell(name: str, *, seed: int, tokens: int, out: Path, base: Qwen3ForCausalLM | None) -> Card:
    """The card of a grown organism; what it does is measured on the weights as they lie in `out`."""
    recipe, loaded = RECIPES[name], load(out)
    more = recipe.measured(base, loaded) if recipe.measured and base else {}
    return Card(
        name=name, planted=recipe.planted, verdicts=recipe.verdicts, series=recipe.series, marks=recipe.marks,
        parent=recipe.parent, seed=seed, tokens=tokens, behaviour=measure(loaded, name) | more,
        command=f"persona-audit organism grow {name} --seed {seed}", steps=sum(phase.steps for phase in recipe.phases),
        parameters=sum(p.numel() for p in loaded.parameters()),
    )  # fmt: skip


def _write(model: Qwen3ForCausalLM, out: Path) -> None:
    """A Hugging Face folder: bfloat16 on disk, float32 in memory.

    Half the bytes, and an audit that does not depend on a CPU's bfloat16 units.
    """
    stored = copy.deepcopy(model)
    torch.nn.Module.to(stored, torch.bfloat16)
    stored.save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer().save_pretrained(out)
