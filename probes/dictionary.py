"""Sparse autoencoders through SAELens: loaded, checked against a subject, trained, and encoded sparsely.

The only module that knows SAELens. What an SAE reads (hook, layer, width, normalisation, BOS) is taken from its own
metadata; what does not fit the subject is refused with both values.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.codes import Codes
from probes.digest import AuditError, digest
from probes.site import Site

if TYPE_CHECKING:
    from probes.model import Subject

BUDGET = 2**24
"""Activations that are dense at a time while rows are encoded: 64 MiB."""
HF_BLOCK = "model.layers."
PICKLED = (".pt", ".pth", ".bin", ".pkl", ".npz")
FITTING = "none", "layer_norm", "constant_norm_rescale"
"""Normalisations that an SAE brings along; others are folded into its weights or cannot be known."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A sparse autoencoder and the place that it reads.

    Attributes:
        sae: as SAELens loads it, in float32 on the CPU.
        site: what it reads.
        name: as it was asked for.
    """

    sae: Any
    site: Site
    name: str

    @property
    def d_model(self) -> int:
        """Width of the rows that it reads."""
        return int(self.sae.cfg.d_in)

    @property
    def width(self) -> int:
        """Latents."""
        return int(self.sae.cfg.d_sae)

    @property
    def reconstructs(self) -> bool:
        """Whether what it decodes stands for what it read; a transcoder's does not."""
        return "transcoder" not in self.sae.cfg.architecture()

    @property
    def decoder(self) -> Float[Tensor, "latent d_model"]:
        """What each latent writes."""
        return self.sae.W_dec.detach()

    @cached_property
    def weights(self) -> str:
        """SHA-256 of its architecture and every tensor."""
        tensors: dict[str, Any] = {name: value.detach() for name, value in self.sae.state_dict().items()}
        return digest([self.sae.cfg.architecture(), tensors])

    def read(self, rows: Float[Tensor, "row d_model"]) -> Iterator[tuple[Codes, Float[Tensor, "row d_model"]]]:
        """Codes and reconstructions, as many rows at a time as the budget holds dense."""
        step = max(1, BUDGET // self.width)
        with torch.no_grad():
            for part in rows.split(step):
                dense = self.sae.encode(part.float())
                yield Codes.of(dense), self.sae.decode(dense)

    def encode(self, rows: Float[Tensor, "row d_model"]) -> Codes:
        """Codes of all rows; memory grows with what fires, not with the number of latents."""
        step = max(1, BUDGET // self.width)
        with torch.no_grad():
            return Codes.join(Codes.of(self.sae.encode(part.float())) for part in rows.split(step))

    def reconstructed(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What the dictionary makes of the rows."""
        return torch.cat([made for _, made in self.read(rows)])

    def fitting(self, subject: Subject) -> Dictionary:
        """Itself, where it can read that subject.

        Raises:
            AuditError: another width, a layer that the subject does not have, an SAE of other weights, or of texts that
                begin with a BOS where the subject's do not, or the other way round.
        """
        told = self.sae.cfg.metadata
        if self.d_model != subject.d_model:
            found = f"'{self.name}' reads rows of {self.d_model} dimensions"
            raise AuditError(found, f"{subject.d_model}, the width of {subject.ref}", "Name an SAE of this model")
        if self.site.layer >= subject.n_layers:
            found = f"'{self.name}' reads {self.site}"
            raise AuditError(found, f"layers 0 to {subject.n_layers - 1} of {subject.ref}", "Name an SAE of this model")
        if told.weights and told.weights != subject.weights:
            found = f"'{self.name}' was trained on weights {told.weights[:12]}"
            raise AuditError(found, f"{subject.weights[:12]}, those of {subject.ref}", "Name an SAE of this model")
        begins = _begins_with_bos(subject)
        if told.prepend_bos is not None and bool(told.prepend_bos) != begins:
            ways = "with a BOS", "without one"
            found = f"'{self.name}' was trained on texts {ways[not told.prepend_bos]}"
            raise AuditError(found, f"texts {ways[not begins]}, as {subject.ref} reads them", "Name an SAE trained so")
        return self


def load(ref: str | Path) -> Dictionary:
    """An SAE from a folder of SAELens's format, or "RELEASE:SAE_ID" of its registry.

    Args:
        ref: a folder with cfg.json and sae_weights.safetensors, or a release and an id.

    Raises:
        AuditError: neither, a pickle, a tensor is missing or not finite, or it reads no residual stream.
    """
    folder = Path(ref)
    sae = _local(folder) if folder.is_dir() else _released(str(ref))
    for name, value in sae.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise AuditError(f"{name} of '{ref}' is not finite", "finite weights", "Train or fetch the SAE again")
    normalised = sae.cfg.normalize_activations
    if normalised not in FITTING:
        found = f"'{ref}' expects activations normalised by '{normalised}', a scale that it does not bring along"
        raise AuditError(found, f"one of {', '.join(FITTING)}", "Fold the scale into its weights and save it again")
    told = sae.cfg.metadata
    site = _site(told.hook_name, told.hf_hook_name, ref)
    return Dictionary(sae.float().eval().requires_grad_(False), site, str(ref))


def load_at(ref: str | Path, site: Site) -> tuple[Dictionary, ...]:
    """The SAEs of a folder of SAEs that read one site, by name, at least one; whatever `load` takes as it is.

    Args:
        ref: as for `load`, or a folder whose own folders each hold an SAE: of layers, of seeds.
        site: where they are wanted.

    Raises:
        AuditError: as for `load`, or none reads the site.
    """
    folder = Path(ref)
    inside = sorted(path.parent for path in folder.glob("*/cfg.json")) if folder.is_dir() else []
    inside = [path for path in inside if not path.name.startswith(UNFINISHED)]
    if not inside or (folder / "cfg.json").is_file():
        return (load(ref),)
    sites: dict[Path, Site] = {}
    for path in inside:
        told = json.loads((path / "cfg.json").read_text(encoding="utf-8")).get("metadata") or {}
        sites[path] = _site(told.get("hook_name"), told.get("hf_hook_name"), path)
    found = [path for path, where in sites.items() if where == site]
    if not found:
        known = ", ".join(sorted({str(where) for where in sites.values()}))
        raise AuditError(f"'{ref}' holds SAEs at {known}", f"one at {site}", "Train one there, or name another layer")
    return tuple(load(path) for path in found)


def randomised(
    like: Dictionary, rows: Float[Tensor, "row d_model"], active: int, seed: int, width: int | None = None
) -> Dictionary:
    """A dictionary whose latents are random directions: what fidelity must be held against.

    A top-k SAE with unit decoder rows, the encoder their transpose, centred on the mean of the rows.

    Args:
        like: whose site it has.
        rows: activations at that site.
        active: latents that fire in a row.
        seed: of the directions.
        width: latents; None is as many as `like` has.
    """
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    told = SAEMetadata(hook_name=like.site.hook_name)
    width = width or like.width
    sae = TopKSAE(TopKSAEConfig(d_in=like.d_model, d_sae=width, k=active, metadata=told))
    drawn = torch.randn(width, like.d_model, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(drawn, dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc.zero_()
        sae.b_dec.copy_(rows.double().mean(0))
    return Dictionary(sae.eval().requires_grad_(False), like.site, f"random directions, seed {seed}")


@dataclass(frozen=True)
class Training:
    """How a dictionary is trained, BatchTopK (Bussmann et al. 2024): an SAE is saved as the JumpReLU SAE it becomes.

    Attributes:
        width: latents.
        active: latents that fire in a row, on average over a batch.
        steps: of `batch` rows each; the rows are gone through as often as it takes, in a new order every time.
        batch: rows of a step.
        rate: Adam's peak; it falls to a tenth over the last fifth of the steps.
        seed: of the initial weights and of the orders.
    """

    width: int
    active: int = 16
    steps: int = 4_000
    batch: int = 1_024
    rate: float = 1e-3
    seed: int = 0


def train(
    rows: Float[Tensor, "row d_model"],
    site: Site,
    out: Path,
    how: Training,
    *,
    subject: Subject | None = None,
    progress: bool = True,
) -> Dictionary:
    """Trains a dictionary on rows of one site through SAELens's own steps, and saves it into a folder.

    A run that was interrupted is taken up where it was last saved (`KEEP` steps at most are done again) and ends in the
    same weights: the order of the rows follows from the seed and the number of the step.

    Args:
        rows: activations, e.g. of `record_tokens`; a memory map is read batch by batch.
        site: where they were recorded.
        out: the folder; holds cfg.json and sae_weights.safetensors in the end.
        how: width, sparsity, length and seed.
        subject: whose activations they are; its weights are named in the metadata, and `fitting` asks for them.
        progress: show a bar over steps.

    Raises:
        AuditError: fewer rows than a batch, or rows that are not finite.
    """
    if len(rows) < how.batch:
        found = f"{len(rows)} rows to train '{out}' on"
        raise AuditError(found, f"{how.batch} or more, a batch", "Record more text")
    if not bool(torch.isfinite(rows).all()):
        raise AuditError(f"Rows of {site} are not finite", "finite activations", "Look for overflow in the model")
    trainer = _trainer(rows, site, how, subject)
    kept = out / UNFINISHED
    if (kept / "trainer_state.pt").is_file():
        trainer.sae.load_state_dict(_weights(kept))
        trainer.load_trainer_state(kept)
    _run(trainer, rows, how, kept, progress)
    trainer.set_final_sae_metadata()
    trainer.sae.save_inference_model(str(out))
    shutil.rmtree(kept, ignore_errors=True)
    return load(out)


KEEP = 500
"""Steps after which an unfinished training is saved."""
UNFINISHED = "unfinished"
"""Where, inside the folder of the SAE that it will be."""


def _trainer(rows: Float[Tensor, "row d_model"], site: Site, how: Training, subject: Subject | None) -> Any:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata

    told: dict[str, Any] = {"hook_name": site.hook_name, "training": asdict(how)}
    if subject is not None:
        told |= {"model_name": str(subject.ref), "weights": subject.weights, "prepend_bos": _begins_with_bos(subject)}
    config = BatchTopKTrainingSAEConfig(
        d_in=rows.shape[1], d_sae=how.width, k=how.active, metadata=SAEMetadata(**told)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        sae = BatchTopKTrainingSAE(config)
    with torch.no_grad():
        sae.b_dec.copy_(rows[: 64 * how.batch].double().mean(0))
    samples = how.steps * how.batch
    settings = SAETrainerConfig(
        total_training_samples=samples, train_batch_size_samples=how.batch, lr=how.rate, lr_end=how.rate / 10,
        lr_decay_steps=how.steps // 5, device="cpu", n_checkpoints=0, checkpoint_path=None,
        save_final_checkpoint=False, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    return SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))


def _run(trainer: Any, rows: Float[Tensor, "row d_model"], how: Training, kept: Path, progress: bool) -> None:
    from tqdm.auto import tqdm

    first = trainer.n_training_steps
    with tqdm(total=how.steps, initial=first, unit="step", desc="training", leave=False, disable=not progress) as bar:
        for at in orders(len(rows), how, first):
            trainer.maybe_reset_sparsity()
            trainer.step(rows[at].float())
            trainer.n_training_steps += 1
            bar.update()
            if trainer.n_training_steps % KEEP == 0 and trainer.n_training_steps < how.steps:
                _keep(trainer, kept)


def orders(n: int, how: Training, first: int = 0) -> Iterator[Int[Tensor, " row"]]:
    """Rows of every step from the first on, rising: a memory map is read from front to back.

    Args:
        n: rows there are; they are gone through in rounds, each in an order of its own that the seed gives.
        how: batch, steps and seed.
        first: the step to begin with.
    """
    a_round, dealt, order = n // how.batch, -1, torch.empty(0, dtype=torch.int64)
    for step in range(first, how.steps):
        if step // a_round != dealt:
            dealt = step // a_round
            order = torch.randperm(n, generator=torch.Generator().manual_seed(how.seed * 65_537 + dealt))
        yield order[(step % a_round) * how.batch :][: how.batch].sort().values


def _keep(trainer: Any, kept: Path) -> None:
    """Saves an unfinished training, whole or not at all."""
    fresh = kept.with_name(f"{kept.name}-{os.getpid()}")
    trainer.save_checkpoint(fresh.name, base_path=fresh.parent)
    shutil.rmtree(kept, ignore_errors=True)
    fresh.rename(kept)


def _weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "sae_weights.safetensors")


def _begins_with_bos(subject: Subject) -> bool:
    return subject.tokenizer("a")["input_ids"][:1] == [subject.tokenizer.bos_token_id]


def _local(folder: Path) -> Any:
    from sae_lens import SAE
    from safetensors import SafetensorError, safe_open

    files = sorted(path.name for path in folder.iterdir())
    config, weights = folder / "cfg.json", folder / "sae_weights.safetensors"
    if not (config.is_file() and weights.is_file()):
        pickles = [name for name in files if name.endswith(PICKLED)]
        found = f"'{folder}' holds {', '.join(pickles or files) or 'nothing'}"
        do = "Convert it on a machine that you can lose" if pickles else "Save it with save_inference_model"
        raise AuditError(found, "cfg.json and sae_weights.safetensors, as SAELens saves them", do)
    try:
        with safe_open(weights, "pt") as file:
            missing = {"W_enc", "W_dec"} - set(file.keys())
        if missing:
            found = f"'{weights}' has no {' and no '.join(sorted(missing))}"
            raise AuditError(found, "an encoder and a decoder", "Save the SAE again")
        return SAE.load_from_disk(folder, device="cpu", dtype="float32")
    except (SafetensorError, json.JSONDecodeError, KeyError, RuntimeError, TypeError) as error:
        found = f"'{folder}' cannot be read as an SAE ({type(error).__name__}: {error})"
        raise AuditError(found, "what SAELens saves", "Save the SAE again") from error


def _released(ref: str) -> Any:
    from sae_lens import SAE

    release, colon, name = ref.partition(":")
    if not colon:
        raise AuditError(f"There is no folder '{ref}'", "a folder, or RELEASE:SAE_ID of SAELens", "Name one of these")
    try:
        return SAE.from_pretrained(release, name, device="cpu")
    except (ValueError, OSError) as error:
        found = f"'{ref}' cannot be loaded ({str(error).splitlines()[0]})"
        raise AuditError(found, "a release and an id of SAELens's registry", "Look them up there") from error


def _site(hook: str | None, hf_hook: str | None, ref: str | Path) -> Site:
    """What an SAE reads, from its metadata."""
    if not (hook or hf_hook):
        raise AuditError(f"'{ref}' does not say what it reads", "metadata.hook_name in its cfg.json", "Add it there")
    block = str(hf_hook or hook)
    if block.startswith(HF_BLOCK) and block.removeprefix(HF_BLOCK).isdigit():
        return Site(int(block.removeprefix(HF_BLOCK)), "resid_post")
    try:
        return Site.parse(str(hook or hf_hook))
    except AuditError as error:
        expected = "a residual stream, blocks.N.hook_resid_pre or _post, or an attn_out or mlp_out"
        raise AuditError(f"'{ref}' reads {hook or hf_hook}", expected, "Name an SAE that reads one of these") from error
