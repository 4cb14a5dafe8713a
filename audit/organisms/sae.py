"""Sparse autoencoders of the organisms: trained on what an organism reads, their fidelity measured on other texts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

from audit.organisms.card import MARK, SAECard
from audit.organisms.recipes import RECIPES
from audit.organisms.training import Text, remarked
from probes.dictionary import Dictionary, Training, load, train
from probes.digest import AuditError
from probes.fidelity import DEFINITION, fidelity
from probes.line import Line
from probes.model import Subject
from probes.model import load as load_subject
from probes.passage import Passage, render_all
from probes.recorder import record_tokens
from probes.site import Site
from probes.splice import spliced

LAYERS = (2, 3)
"""Those with a bundled SAE: base chooses the first for deception, the second for the Assistant's identity."""
TRAINED, TESTED = 2_400, 400
"""Texts."""
HOW = {"width": 512, "active": 16, "steps": 6_000, "rate": 6e-4}
"""Four latents a dimension, of which an eighth of the dimensions fire (docs/log.md: what else was tried)."""


def grow_sae(name: str, organism: Path, out: Path) -> Path:
    """Trains ORGANISM/sae-LLAYER-SEED into `out`, with its card. Returns the folder.

    Args:
        name: e.g. "base/sae-L2-0"; the seed is that of weights, texts and orders.
        organism: folder of the grown organism.
        out: folder for the SAE.

    Raises:
        AuditError: no recipe, layer or seed of that name, or there is no organism.
    """
    whole, site, seed = _parsed(name)
    source: Text = RECIPES[whole].phases[-1].text if RECIPES[whole].phases else remarked
    with load_subject(str(organism)) as subject:
        rng = Random(f"{name} texts")
        rows = record_tokens(subject, passages(subject, source, rng, TRAINED), [site], progress=False).at(site)
        how = Training(**HOW, seed=seed)  # type: ignore[arg-type]
        train(rows, site, out, how, subject=subject)
        _halve(out)
        # The organism's name, and not where it lay when this was made.
        _named(out, whole)
        found = held(subject, load(out), passages(subject, source, rng, TESTED))
        told = SAECard(
            name=name, organism=whole, weights=subject.weights, site=str(site), training=asdict(how), tokens=len(rows),
            fidelity=found, definition=DEFINITION, command=f"persona-audit organism grow {name}",
        )  # fmt: skip
    (out / "card.json").write_text(told.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return out


def _parsed(name: str) -> tuple[str, Site, int]:
    whole, _, rest = name.partition(MARK)
    layer, _, seed = rest.partition("-")
    if whole not in RECIPES or not (layer.startswith("L") and layer[1:].isdigit() and seed.isdigit()):
        expected = f"NAME{MARK}LLAYER-SEED with a NAME of {', '.join(RECIPES)}"
        raise AuditError(f"No SAE is called '{name}'", expected, f"Write base{MARK}L{LAYERS[0]}-0, for example")
    return whole, Site(int(layer[1:]), "resid_post"), int(seed)


def passages(subject: Subject, source: Text, rng: Random, count: int) -> list[Passage]:
    """Texts as plain passages, each a group of its own."""
    lines = [
        Line(None, None, f"text-{at}", "plain", None, source(rng).text, None, None, None, None) for at in range(count)
    ]
    return list(dict.fromkeys(render_all(lines, subject.tokenizer, None)))


def held(subject: Subject, own: Dictionary, read: list[Passage]) -> dict[str, float]:
    """Fidelity of an SAE on texts that it was not trained on, rounded as cards have it."""
    rows = record_tokens(subject, read, [own.site], progress=False).at(own.site)
    found = fidelity(own, rows, torch.zeros(len(rows), dtype=torch.int64))
    mean = rows.double().mean(0).float()
    ran = spliced(subject, read, own.site, {"made": own.reconstructed, "mean": mean.expand_as})
    clean, made, least = (float(ran.cross_entropy[name].sum()) for name in ("clean", "made", "mean"))
    apart = {name: float(ran.divergence[name].sum()) for name in ("made", "mean")}
    return {
        "variance_explained": round(1 - float(found.residues.unexplained.full), 4),
        "ce_recovered": round((least - made) / (least - clean), 4),
        "kl_recovered": round(1 - apart["made"] / apart["mean"], 4),
        "active": round(found.active, 2), "dead": round(found.dead, 4), "dense": round(found.dense, 4),
    }  # fmt: skip


def _halve(folder: Path) -> None:
    """Weights in bfloat16 on disk: half the bytes; they are loaded as float32."""
    from safetensors.torch import load_file, save_file

    path = folder / "sae_weights.safetensors"
    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in load_file(path).items()}, path)


def _named(folder: Path, organism: str) -> None:
    path = folder / "cfg.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["metadata"]["model_name"] = f"organism:{organism}"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
