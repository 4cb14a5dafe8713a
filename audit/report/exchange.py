"""Directions for other tools: VectorSet JSON, the public form in which SAEDashboard takes a probe's direction.

`{"vectors": [[...]], "config": {...}}`. A config names one hook, so a set has one site. Thresholds have no place in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.report.folder import text
from probes.digest import AuditError

if TYPE_CHECKING:
    from probes.dictionary import Dictionary
    from probes.direction import Direction
    from probes.site import Site

VectorSet = dict[str, Any]

CONTEXT = 128
"""Tokens of a text that the reading tool takes at a time; its own default."""


def vector_sets(directions: Mapping[str, Direction], model: str, bos: bool) -> dict[str, VectorSet]:
    """Directions as one set a site, by the name of the site, e.g. "L2.resid_post".

    Args:
        directions: by `persona.site`; the vectors are named after the persona, and positive is toward label 1.
        model: how the reading tool finds the model.
        bos: whether texts begin with a BOS.
    """
    found: dict[str, VectorSet] = {}
    for site in dict.fromkeys(direction.site for direction in directions.values()):
        mine = {name: one for name, one in directions.items() if one.site == site}
        names = [name.removesuffix(f".{site}") for name in mine]
        found[str(site)] = _set([one.vector.tolist() for one in mine.values()], names, site, model, bos)
    return found


def latents(dictionary: Dictionary, wanted: Sequence[int], model: str, bos: bool) -> VectorSet:
    """Decoder rows of some latents as a set.

    Args:
        dictionary: whose.
        wanted: which.
        model: how the reading tool finds the model.
        bos: whether texts begin with a BOS.

    Raises:
        AuditError: the dictionary has no such latent.
    """
    for latent in wanted:
        if not 0 <= latent < dictionary.width:
            raise AuditError(f"Latent {latent}", f"0 to {dictionary.width - 1}", "Name one that the dictionary has")
    rows = [dictionary.decoder[latent].tolist() for latent in wanted]
    return _set(rows, [f"latent {latent}" for latent in wanted], dictionary.site, model, bos)


def write(sets: Mapping[str, VectorSet], out: Path) -> list[Path]:
    """Writes each set as SITE.json into a folder, and returns the files.

    Raises:
        AuditError: the folder cannot be written.
    """
    return [text(out / f"{site}.json", json.dumps(one, allow_nan=False) + "\n") for site, one in sets.items()]


def _set(vectors: Sequence[Sequence[float]], names: Sequence[str], site: Site, model: str, bos: bool) -> VectorSet:
    # Nine digits hold a float32.
    rounded = [[float(f"{value:.9g}") for value in vector] for vector in vectors]
    config = {
        "d_in": len(rounded[0]) if rounded else 0, "d_vectors": len(rounded), "vector_names": list(names),
        "model_name": model, "hook_name": site.hook_name, "hook_layer": site.layer, "hook_head_index": None,
        "prepend_bos": bos, "context_size": CONTEXT, "dataset_path": "", "dtype": "float32", "device": "cpu",
        "model_from_pretrained_kwargs": {},
    }  # fmt: skip
    return {"vectors": rounded, "config": config}
