"""Directions that read a persona from activations, and their fits: mass-mean, LDA, PCA and logistic regression.

LDA is in `probes.discriminant` and logistic regression in `probes.regression`; both are named here too.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.digest import AuditError
from probes.discriminant import check_fits, contrasts, finite, lda, lda_null, lda_scores, ledoit_wolf, unit
from probes.moments import Moments
from probes.regression import Logistic, choose_strength, logistic
from probes.site import Site

__all__ = [
    "Direction",
    "Logistic",
    "choose_strength",
    "lda",
    "lda_null",
    "lda_scores",
    "ledoit_wolf",
    "logistic",
    "mass_mean",
    "pca",
]

SCHEMA = "persona-audit.direction.1"
LAYER_CONVENTION = "layer counts blocks from 0; resid_post = block output"


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector at a site, with the threshold that tells label 1 from label 0.

    Attributes:
        vector: float64, of norm one, in the unit of the activations; positive = toward label 1.
        offset: threshold on the projection, midway between the class means.
        site: where it reads.
        fit: how it was fitted, for example "lda".
        origin: provenance, text to text.
    """

    vector: Float[Tensor, " d_model"]
    offset: float
    site: Site
    fit: str
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keeps the vector in float64 on the CPU.

        Raises:
            AuditError: if the vector is not one-dimensional, finite and of norm one, or the offset is not finite.
        """
        vector = self.vector.detach().to("cpu", torch.float64).clone()
        norm = float(vector.norm())
        if vector.ndim != 1 or not abs(norm - 1.0) < 1e-5:
            raise AuditError(
                found=f"A direction of shape {tuple(vector.shape)} and norm {norm:g}",
                expected="a vector of norm one",
                do="Fit it on rows whose class means differ",
            )
        if not abs(self.offset) < float("inf"):
            raise AuditError(
                found=f"An offset of {self.offset}", expected="a finite number", do="Fit it on finite rows"
            )
        object.__setattr__(self, "vector", vector / norm)
        object.__setattr__(self, "offset", float(self.offset))
        object.__setattr__(self, "origin", dict(self.origin))

    @classmethod
    def through(
        cls,
        vector: Float[Tensor, " d_model"],
        rows: Float[Tensor, "row d_model"],
        labels: Bool[Tensor, " row"],
        site: Site,
        fit: str,
        origin: Mapping[str, str],
    ) -> Direction:
        """The direction along `vector`, scaled to norm one, its sign and its offset set by the class means of `rows`.

        Args:
            vector: any length but zero; turned round if label 1 lies below label 0 on it, as a principal component may.
            rows: the training rows.
            labels: true for label 1.
            site: where the rows were recorded.
            fit: how the vector was fitted.
            origin: provenance.

        Raises:
            AuditError: if the vector is zero, a class is missing, or a number is not finite.
        """
        rows, along = finite(rows), unit(finite(vector))
        check_fits(labels, torch.ones(1, len(labels)))
        one, zero = float((rows[labels] @ along).mean()), float((rows[~labels] @ along).mean())
        sign = 1.0 if one >= zero else -1.0
        return cls(sign * along, sign * (one + zero) / 2, site, fit, origin)

    def __call__(self, rows: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """Scores `rows @ vector - offset` in float64: above zero reads as label 1."""
        return finite(rows) @ self.vector - self.offset

    def save(self, path: str | Path) -> Path:
        """Writes a safetensors file: one float64 tensor `direction.<hook name>`, the rest as text metadata.

        Raises:
            AuditError: if the file cannot be written.
        """
        from safetensors.torch import save

        metadata = {
            "schema": SCHEMA,
            "site": str(self.site),
            "hook_name": self.site.hook_name,
            "layer": str(self.site.layer),
            "layer_convention": LAYER_CONVENTION,
            "method": self.fit,
            "offset": repr(self.offset),
            "sign": "positive = toward label 1",
            "norm": "1",
            "origin": json.dumps(dict(self.origin), sort_keys=True),
        }
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(save({f"direction.{self.site.hook_name}": self.vector.contiguous()}, metadata))
        except OSError as error:
            raise AuditError(
                found=f"{path} cannot be written ({error.strerror})",
                expected="a writable folder",
                do="Name another path",
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Reads a file written by `save`.

        Raises:
            AuditError: if the file is missing, is no safetensors file, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("schema") != SCHEMA:
                    raise KeyError("schema")
                site = Site.parse(metadata["site"])
                vector = file.get_tensor(f"direction.{site.hook_name}")
                offset, origin = float(metadata["offset"]), json.loads(metadata["origin"])
                return cls(vector, offset, site, metadata["method"], origin)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise AuditError(
                found=f"{path} is not a readable direction ({error.found if isinstance(error, AuditError) else error})",
                expected=f"a safetensors file of schema {SCHEMA}",
                do="Write it with Direction.save",
            ) from error

    def _repr_html_(self) -> str:
        """A table of what the direction is, for notebooks."""
        facts = {"site": str(self.site), "fit": self.fit, "d_model": str(len(self.vector))}
        facts |= {"threshold": f"{self.offset:.4g}", "sign": "positive = toward label 1", **self.origin}
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
        return f"<table><caption>Direction</caption>{cells}</table>"


def mass_mean(
    rows: Float[Tensor, "*batch row d_model"], labels: Bool[Tensor, " row"], weight: Float[Tensor, "fit row"]
) -> Float[Tensor, "*batch fit d_model"]:
    """Unit vectors from the mean of label 0 to the mean of label 1 over each fit's training rows.

    The probe of Marks and Tegmark, arXiv:2310.06824. Where the two means coincide the vector is zero.

    Args:
        rows: activations.
        labels: true for label 1.
        weight: 0/1, the training rows of each fit.

    Raises:
        AuditError: if a fit lacks a class or rows are not finite.
    """
    rows = finite(rows)
    check_fits(labels, weight)
    # Centred first: contrasts sum to zero, but a large common mean would cost digits.
    return unit(contrasts(labels, weight) @ (rows - rows.mean(-2, keepdim=True)))


def pca(moments: Moments, k: int) -> Float[Tensor, "k d_model"]:
    """The first k principal axes of the rows behind `moments`: orthonormal, by falling variance.

    No label enters, so the sign says nothing: each axis is turned so that its largest entry is positive.
    `Direction.through` gives it the sign of the labels.

    Raises:
        AuditError: if k is not between 1 and min(d_model, rows - 1), or the moments are not finite.
    """
    most = min(len(moments.mean), moments.count - 1)
    if not 1 <= k <= most:
        raise AuditError(
            found=f"{k} principal axes of {moments.count} rows in {len(moments.mean)} dimensions",
            expected=f"1 to {most}" if most > 0 else "two rows or more",
            do="Ask for fewer axes or record more rows",
        )
    axes = torch.linalg.eigh(finite(moments.covariance))[1].flip(1)[:, :k].T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * largest.sign()
