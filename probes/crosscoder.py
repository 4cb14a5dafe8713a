"""One sparse dictionary over both models: which latents write into base, which into post, and which only seem to.

A BatchTopK crosscoder (Lindsey et al. 2024; Minder et al. 2025). Its latents read both models' activations of the same
token and write into each through a decoder of that model's own. The first axis is always base, then post. Rows are
centred and scaled to a mean length of sqrt(d_model), model by model, and everything here is in these units: a model
whose activations are twice as long has no longer decoders for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.codes import Codes
from probes.dictionary import BUDGET, Training, orders
from probes.digest import AuditError

POST_ONLY, BASE_ONLY, SHARED = 0.9, 0.1, (0.4, 0.6)
"""Bounds of the relative decoder norm (Minder et al. 2025)."""
NU_ERROR, NU_RECONSTRUCTION = 0.2, 0.5
"""A latent that writes into post alone is post's own where base has less than this of it (the same)."""
TURNED = 0.75**0.5
"""Decoder cosine below which a latent writes another thing into post than into base: 30 degrees."""


class Read(NamedTuple):
    """What a crosscoder finds in some rows, in its own units.

    Attributes:
        given: the rows, centred and scaled.
        latents: activations, dense.
        made: the reconstruction.
    """

    given: Float[Tensor, "model row d_model"]
    latents: Float[Tensor, "row latent"]
    made: Float[Tensor, "model row d_model"]


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """A trained crosscoder.

    Attributes:
        encoder: what each latent reads.
        bias: added before a latent's threshold.
        decoder: what each latent writes; both models' parts together have length 1, so an activation is the length of
            what it writes.
        offset: written by no latent.
        centre: mean row of each model, as recorded.
        scale: what brings a centred row to a mean length of sqrt(d_model).
        threshold: activations up to it are zero.
    """

    encoder: Float[Tensor, "model d_model latent"]
    bias: Float[Tensor, " latent"]
    decoder: Float[Tensor, "model latent d_model"]
    offset: Float[Tensor, "model d_model"]
    centre: Float[Tensor, "model d_model"]
    scale: Float[Tensor, " model"]
    threshold: Float[Tensor, ""]

    @property
    def d_model(self) -> int:
        """Width of the rows that it reads."""
        return self.centre.shape[1]

    @property
    def width(self) -> int:
        """Latents."""
        return len(self.bias)

    @cached_property
    def delta_norm(self) -> Float[Tensor, " latent"]:
        """((|d_post| - |d_base|) / max(|d_post|, |d_base|) + 1) / 2: 1 writes into post alone, 0 into base alone."""
        base, post = self.decoder.double().norm(dim=-1)
        return ((post - base) / torch.maximum(post, base).clamp_min(1e-300) + 1) / 2

    @cached_property
    def cosine(self) -> Float[Tensor, " latent"]:
        """Cosine of what a latent writes into base with what it writes into post."""
        return torch.cosine_similarity(*self.decoder.double(), dim=1)

    @property
    def shift(self) -> Float[Tensor, " d_model"]:
        """What post has in every row and base has not, as it would be recorded."""
        constant = self.centre + self.offset / self.scale[:, None]
        return constant[1] - constant[0]

    def read(self, base: Float[Tensor, "row d_model"], post: Float[Tensor, "row d_model"]) -> Iterator[Read]:
        """Rows of the same tokens, as many at a time as the budget holds dense."""
        step = max(1, BUDGET // max(self.width, 2 * self.d_model))
        for part in zip(base.split(step), post.split(step), strict=True):
            given = (torch.stack(part).float() - self.centre[:, None]) * self.scale[:, None, None]
            before = torch.einsum("mrd,mdl->rl", given, self.encoder) + self.bias
            latents = torch.where(before > self.threshold, before, 0.0)
            yield Read(given, latents, torch.einsum("rl,mld->mrd", latents, self.decoder) + self.offset[:, None])

    def encode(self, base: Float[Tensor, "row d_model"], post: Float[Tensor, "row d_model"]) -> Codes:
        """Codes of all rows; memory grows with what fires, not with the number of latents."""
        return Codes.join(Codes.of(part.latents) for part in self.read(base, post))

    def moved(self, codes: Codes, chosen: Bool[Tensor, " latent"]) -> Float[Tensor, "row d_model"]:
        """What some latents write into post beyond base, as it would be recorded: sum f (d_post - d_base)."""
        some = chosen.nonzero()[:, 0]
        apart = self.decoder[1, some] / self.scale[1] - self.decoder[0, some] / self.scale[0]
        return codes.of_latents(some) @ apart

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], name: str = "a crosscoder") -> Crosscoder:
        """From what `tensors` gave.

        Raises:
            AuditError: one is missing, of another shape than the others ask for, or not finite.
        """
        known = [field.name for field in fields(cls)]
        if missing := [key for key in known if key not in tensors]:
            raise AuditError(f"{name} has no {' and no '.join(missing)}", f"all of {', '.join(known)}", DO)
        bias, centre = tensors["bias"], tensors["centre"]
        width, d_model = bias.numel(), centre.numel() // 2
        shapes = {
            "encoder": (2, d_model, width), "bias": (width,), "decoder": (2, width, d_model), "offset": (2, d_model),
            "centre": (2, d_model), "scale": (2,), "threshold": (),
        }  # fmt: skip
        for key, shape in shapes.items():
            if tuple(tensors[key].shape) != shape:
                raise AuditError(f"{key} of {name} has shape {tuple(tensors[key].shape)}", f"{shape}", DO)
            if not bool(torch.isfinite(tensors[key]).all()):
                raise AuditError(f"{key} of {name} is not finite", "finite weights", DO)
        return cls(**{key: tensors[key].float() for key in shapes})

    def save(self, path: Path) -> None:
        """Writes it as safetensors."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in self.tensors().items()}, path)

    @classmethod
    def load(cls, path: Path) -> Crosscoder:
        """What `save` wrote.

        Raises:
            AuditError: no such file, no safetensors, or see `of`.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return cls.of(load_file(path), f"'{path}'")
        except (OSError, SafetensorError) as error:
            raise AuditError(f"'{path}' cannot be read as safetensors ({error})", "a crosscoder's file", DO) from error


DO = "Train it again and save it with Crosscoder.save"


SILENT = 100
"""Steps without firing after which a latent counts as dead, and learns from what the living leave over."""
REVIVAL = 1 / 32
"""Weight of that lesson (Gao et al. 2024)."""
SETTLED = 64
"""Batches over which the threshold is taken."""


def train_crosscoder(
    base: Float[Tensor, "row d_model"],
    post: Float[Tensor, "row d_model"],
    how: Training,
    *,
    progress: bool = True,
) -> Crosscoder:
    """Trains a crosscoder on rows of the same tokens; the same weights come out for one seed and thread count.

    Args:
        base: activations of base; a memory map is read batch by batch.
        post: post's, row by row of the same tokens.
        how: width, sparsity, length and seed.
        progress: show a bar over steps.

    Raises:
        AuditError: fewer rows than a batch, not the same rows, or rows that are not finite or do not vary.
    """
    from tqdm.auto import tqdm

    if base.shape != post.shape:
        found = f"base has rows of shape {tuple(base.shape)}, post {tuple(post.shape)}"
        raise AuditError(found, "the same tokens and width in both", "Record both models on the same passages")
    if len(base) < how.batch:
        raise AuditError(f"{len(base)} rows to train a crosscoder on", f"{how.batch} or more, a batch", "Record more")
    both = (base, post)
    centre, scale = (torch.stack(each).float() for each in zip(*map(_centred, both, ("base", "post")), strict=True))

    def batch(at: Int[Tensor, " row"]) -> Float[Tensor, "row both"]:
        rows = torch.stack([rows[at].float() for rows in both], 1)
        return ((rows - centre) * scale[:, None]).flatten(1)

    net, show = _Net(base.shape[1], how), {"unit": "step", "desc": "crosscoder", "leave": False}
    for at in tqdm(orders(len(base), how), total=how.steps, disable=not progress, **show):
        net.step(batch(at))
    least = [net.strengths(batch(at))[2] for at in islice(orders(len(base), how), SETTLED)]
    return net.folded(centre, scale, torch.stack(least).double().mean().float())


class _Net:
    """Weights in training; both models' coordinates stand side by side."""

    def __init__(self, d_model: int, how: Training) -> None:
        rng = torch.Generator().manual_seed(how.seed)
        # Both models begin with one decoder, and the encoder as its transpose: no latent starts as anybody's own.
        drawn = torch.nn.functional.normalize(torch.randn(how.width, d_model, generator=rng), dim=1)
        self.decoder = torch.cat([drawn, drawn], 1).div(2**0.5).requires_grad_()
        self.encoder = self.decoder.detach().T.clone().requires_grad_()
        self.bias = torch.zeros(how.width, requires_grad=True)
        self.offset = torch.zeros(2 * d_model, requires_grad=True)
        self.quiet = torch.zeros(how.width, dtype=torch.int64)
        self.how, self.d_model, self.done = how, d_model, 0
        self.adam = torch.optim.Adam([self.decoder, self.encoder, self.bias, self.offset], lr=how.rate)

    def strengths(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Activations before selection, their strengths, and that of the weakest of the `active * batch` kept.

        The strength of one is the length of what it writes, f sqrt(|d_base|^2 + |d_post|^2): neither a small activation
        with a long decoder nor one that writes into a single model gets by cheaper. The sum of the two lengths would
        count a latent of both models for up to 1.4 times one of a single model that explains as much.
        """
        before = torch.relu(rows @ self.encoder + self.bias)
        strength = before.detach() * self.decoder.detach().norm(dim=1)
        kept = min(self.how.active * len(strength), strength.numel())
        return before, strength, strength.flatten().topk(kept, sorted=False)[0].min()

    def step(self, rows: Tensor) -> None:
        """One of Adam's."""
        last = self.how.steps * 4 // 5
        slope = max(0, self.done - last) / max(1, self.how.steps - last)
        self.adam.param_groups[0]["lr"] = self.how.rate * (1 - 0.9 * slope)
        before, strength, least = self.strengths(rows)
        kept = (strength >= least) & (strength > 0)
        made = (before * kept) @ self.decoder + self.offset
        loss = (rows - made).square().sum(1).mean() / rows.shape[1]
        dead = (self.quiet >= SILENT).nonzero()[:, 0]
        if len(dead):
            loss = loss + REVIVAL * self.left_over((rows - made).detach(), before, strength, dead)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.quiet = torch.where(kept.any(0), 0, self.quiet + 1)
        self.done += 1

    def left_over(self, left: Tensor, before: Tensor, strength: Tensor, dead: Tensor) -> Tensor:
        """Share of what is left over that the dead do not explain either."""
        strongest = strength[:, dead].topk(min(len(dead), max(1, self.d_model // 2)), dim=1)[1]
        some = torch.zeros_like(before[:, dead]).scatter(1, strongest, before[:, dead].gather(1, strongest))
        return (left - some @ self.decoder[dead]).square().sum() / left.square().sum().clamp_min(1e-12)

    def folded(self, centre: Tensor, scale: Tensor, threshold: Tensor) -> Crosscoder:
        """With decoders of length 1: what an activation then is, is its strength."""
        with torch.no_grad():
            length = self.decoder.norm(dim=1).clamp_min(1e-12)
            halves = (self.decoder / length[:, None]).unflatten(1, (2, self.d_model)).transpose(0, 1)
            return Crosscoder(
                (self.encoder * length).unflatten(0, (2, self.d_model)).contiguous(), self.bias * length,
                halves.contiguous(), self.offset.detach().clone().view(2, -1), centre, scale, threshold,
            )  # fmt: skip


def _centred(rows: Float[Tensor, "row d_model"], name: str) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
    """Mean row, and what brings centred rows to a mean length of sqrt(d_model); in two passes, by batch."""
    step = max(1, BUDGET // rows.shape[1])
    centre = torch.stack([part.double().sum(0) for part in rows.split(step)]).sum(0) / len(rows)
    if not bool(torch.isfinite(centre).all()):
        raise AuditError(f"Rows of {name} are not finite", "finite activations", "Look for overflow in the model")
    length = sum(float((part.double() - centre).norm(dim=1).sum()) for part in rows.split(step)) / len(rows)
    if not length > 1e-12 * float(centre.norm()):
        raise AuditError(f"All rows of {name} are alike", "rows that vary", "Look for a site that is constant")
    return centre, torch.tensor(rows.shape[1] ** 0.5 / length, dtype=torch.float64)


class Scaling(NamedTuple):
    """Latent scaling (Minder et al. 2025): how much of a latent, along post's decoder, is in each model.

    b = argmin sum |y - b f d_post|^2 over rows = sum f (y . d_post) / (|d_post|^2 sum f^2). NaN where a latent never
    fires.

    Attributes:
        error: y is what the other latents leave of a model: its error and the latent's own part, e + f d.
        reconstruction: y is the model's whole reconstruction.
    """

    error: Float[Tensor, "model latent"]
    reconstruction: Float[Tensor, "model latent"]

    @property
    def nu_error(self) -> Float[Tensor, " latent"]:
        """Base's over post's: high where base has the latent too and sparsity took it away (shrinkage)."""
        return _over(self.error)

    @property
    def nu_reconstruction(self) -> Float[Tensor, " latent"]:
        """Base's over post's: high where another latent writes the same into base (decoupling)."""
        return _over(self.reconstruction)


def _over(values: Float[Tensor, "model latent"]) -> Float[Tensor, " latent"]:
    """Base over post, NaN where post has nothing of it."""
    return torch.where(values[1] > 0, values[0] / values[1], torch.nan)


def latent_scaling(
    crosscoder: Crosscoder, base: Float[Tensor, "row d_model"], post: Float[Tensor, "row d_model"]
) -> Scaling:
    """Latent scaling of every latent over rows of the same tokens, batch by batch."""
    probe = crosscoder.decoder[1]
    squares = torch.zeros(crosscoder.width, dtype=torch.float64)
    sums = torch.zeros(2, 2, crosscoder.width, dtype=torch.float64)
    for part in crosscoder.read(base, post):
        squares += part.latents.double().square().sum(0)
        for kind, values in enumerate((part.given - part.made, part.made)):
            for model in (0, 1):
                sums[kind, model] += (part.latents * (values[model] @ probe.T)).double().sum(0)
    length = probe.double().square().sum(1)
    energy = squares * length
    own = torch.einsum("mld,ld->ml", crosscoder.decoder.double(), probe.double()) / length
    error, made = torch.where(energy > 0, sums / energy, torch.nan)
    return Scaling(error + own, made)


class Kinds(NamedTuple):
    """What a crosscoder's latents are; one whose relative norm lies between the bounds may be of no kind.

    Attributes:
        dead: never fire on the rows.
        post_only: write into post alone, and latent scaling finds little of them in base.
        base_only: write into base alone.
        shared: write into both with like lengths.
        turned: write into both, but into post another thing than into base. Where post reads a context anew that base
            reads in its own way, one such latent is cheaper than two of a single model, and none is post's alone.
    """

    dead: Bool[Tensor, " latent"]
    post_only: Bool[Tensor, " latent"]
    base_only: Bool[Tensor, " latent"]
    shared: Bool[Tensor, " latent"]
    turned: Bool[Tensor, " latent"]


def kinds(crosscoder: Crosscoder, scaling: Scaling, firing: Float[Tensor, " latent"]) -> Kinds:
    """Kinds of every latent, by its scaling on some rows and the share of these in which it fires."""
    alive, delta = firing > 0, crosscoder.delta_norm
    own = (scaling.nu_error < NU_ERROR) & (scaling.nu_reconstruction < NU_RECONSTRUCTION)
    both = (delta >= BASE_ONLY) & (delta <= POST_ONLY)
    return Kinds(
        ~alive, alive & own & (delta > POST_ONLY), alive & (delta < BASE_ONLY),
        alive & (delta >= SHARED[0]) & (delta <= SHARED[1]), alive & both & (crosscoder.cosine < TURNED),
    )  # fmt: skip
