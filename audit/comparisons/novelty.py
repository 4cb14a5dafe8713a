"""Does post write anything into its activations that base does not? A crosscoder over both, held against a sham.

Crosscoders of several seeds are trained on the same tokens in both models: plain text, the persona's stories and its
Assistant turns. A latent is post's own where it writes into post alone and latent scaling finds little of it in base.
One that writes into both, but another thing into post, is turned. How often such latents fire, and how much of what
sets the predictions apart they carry, is told beside the same of sham fine-tunes: training a crosscoder again changes
more than many a fine-tune. It annotates; no verdict rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.comparisons.feature_transfer import predicted
from audit.estimate import Estimate, drawn, estimate, range_level
from audit.finding import Finding
from audit.pair import MODELS, Model, Pair, Recorder
from audit.resampling import grouped
from audit.sham import against, shams
from probes.codes import Codes
from probes.crosscoder import Crosscoder, Kinds, Scaling, kinds, latent_scaling, train_crosscoder
from probes.dictionary import Dictionary, Training, load_at
from probes.digest import AuditError, digest
from probes.fidelity import ordinary
from probes.matching import directions_like, explained
from probes.passage import Passage
from probes.recorder import record_tokens
from probes.site import Site
from probes.splice import Edit
from probes.tokens import Tokens

Text = Literal["plain", "story", "assistant"]
TEXTS: tuple[Text, ...] = get_args(Text)
NEW = "post_only", "turned"
"""Kinds of latents that write into post what base has not there."""
KEY = "novelty/crosscoder 1"
FIRING = "share of firing"
LISTED, WORDS, CONTROLS, BINS = 20, 5, 100, 20


class Rows(NamedTuple):
    """The same tokens in both models, those left out whose activations are outliers in either.

    Attributes:
        base: base's activations.
        post: post's.
        tokens: what the rows are.
        group: scenario of each row.
        outliers: share of tokens that were left out.
    """

    base: Float[Tensor, "row d_model"]
    post: Float[Tensor, "row d_model"]
    tokens: Tokens
    group: Int[Tensor, " row"]
    outliers: float

    def of(self, text: Text) -> Bool[Tensor, " row"]:
        """Rows of one kind of text."""
        return torch.tensor([passage.domain == text for passage in self.tokens.passages])[self.tokens.passage]


class Trained(NamedTuple):
    """One seed: the crosscoder, what it finds in the rows, and what its latents are."""

    crosscoder: Crosscoder
    codes: Codes
    scaling: Scaling
    kind: Kinds


@dataclass(frozen=True)
class Novelty:
    """Settings of the comparison.

    Attributes:
        dictionary: base's SAE, a folder or RELEASE:SAE_ID; of a folder of SAEs the one at the persona's site.
        null: records of audits of sham fine-tunes of the same base, one or a list, each a record.json or its folder.
        latents: of a crosscoder, for each dimension.
        active: latents that fire in a row.
        steps: of training.
        batch: rows of a step.
        seeds: crosscoders, 3 or more.
        rows: tokens of each kind of text, at most.
        texts: Assistant texts whose predictions are compared, at most.
    """

    dictionary: str | None = None
    null: str | list[str] | None = None
    latents: int = 4
    active: int = 16
    steps: int = 1_000
    batch: int = 1_024
    seeds: int = 3
    rows: int = 20_000
    texts: int = 50

    name = "novelty"

    def __post_init__(self) -> None:
        """Refuses to tell a spread from fewer than three seeds."""
        if self.seeds < 3:
            do = "Leave it out for its default"
            raise AuditError(f"plan has comparisons.novelty.seeds = {self.seeds}", "3 or more", do)

    def __call__(self, pair: Pair, rng: np.random.Generator) -> Finding:
        """The finding at the site: post-only latents' share of firing in Assistant text; the sham's as its control."""
        recorder, persona = pair.recorder, pair.persona.name
        if not isinstance(recorder, Recorder):
            return Finding.not_measured(persona, self.name, str(pair.site), "there is no model behind the activations")
        own = load_at(self.dictionary, pair.site)[0].fitting(recorder.base) if self.dictionary else None
        site = own.site if own else pair.site
        if recorder.base.weights == recorder.post.weights:
            why = "base and post have the same weights: no latent could be post's own, and no seed says by how much"
            return Finding.not_measured(persona, self.name, str(site), why)
        texts, seeds = (recorder.plain, pair.story.passages, pair.assistant.passages), range(self.seeds)
        given = {
            "width": self.latents * recorder.base.d_model, "active": self.active, "steps": self.steps,
            "batch": self.batch, "seeds": self.seeds, "rows": self.rows,
            "tokens": digest([[passage.content for passage in some] for some in texts]),
        }  # fmt: skip
        named = [self.null] if isinstance(self.null, str) else self.null
        sham = shams(named, f"{persona}/{self.name}/{site}", given, recorder) if named else None
        rows = gathered(texts, recorder, site, self.rows)
        if len(rows.base) < 4 * self.batch:
            why = f"{len(rows.base)} rows to train a crosscoder on; {4 * self.batch} are needed, four batches"
            return Finding.not_measured(persona, self.name, str(site), why)
        hows = [Training(given["width"], self.active, self.steps, self.batch, seed=s) for s in seeds]
        found = [_trained(rows, recorder, [str(site), self.rows, given["tokens"]], how) for how in hows]
        details = told(found, rows, own, rng)
        headline = details["shares"]["assistant"]["post_only"]
        if headline is None:
            return Finding.not_measured(persona, self.name, str(site), "fewer than two Assistant scenarios hold firing")
        details |= {"settings": given, "dictionary": own and {"weights": own.weights, "width": own.width}}
        details["not_measured"] = {} if own else {"base_r2": "no SAE of base is named (comparisons.novelty.dictionary)"}
        details["kl"] = closed(found, rows, recorder, predicted(pair.assistant.passages, self.texts), site)
        details |= against(sham, headline, details["shares"], NEW)
        if sham is None:
            details["not_measured"]["null"] = "no record of a sham fine-tune is named (comparisons.novelty.null)"
        return Finding(
            id=f"{persona}/{self.name}/{site}", persona=persona, comparison=self.name, site=str(site),
            status="measured", headline=headline, control=sham and sham.headline, details=details,
        )  # fmt: skip


def gathered(texts: Sequence[Sequence[Passage]], recorder: Recorder, site: Site, limit: int) -> Rows:
    """Token rows of both models, at most `limit` of each kind of text, spread evenly over its passages."""
    parts: dict[Model, list[Tensor]] = {model: [] for model in MODELS}
    names: list[str] = []
    for passages in texts:
        for model in MODELS:
            subject, show = getattr(recorder, model), recorder.progress
            read = record_tokens(subject, passages, [site], limit=limit, store=recorder.store, progress=show)
            parts[model].append(read.at(site).float())
            names += read.passages if model == "base" else ()
    base, post = (torch.cat(parts[model]) for model in MODELS)
    kept = ordinary(base) & ordinary(post)
    tokens = Tokens.of([passage for some in texts for passage in some], names).rows(kept)
    group = grouped([f"{passage.domain} {passage.group}" for passage in tokens.passages])[1][tokens.passage]
    return Rows(base[kept], post[kept], tokens, group, float((~kept).double().mean()))


def _trained(rows: Rows, recorder: Recorder, given: Sequence[Any], how: Training) -> Trained:
    """One seed's crosscoder, remembered by the two models, the rows and the settings."""
    models = [recorder.base.weights, recorder.post.weights, recorder.base.dtype]
    made = recorder.remember(
        [KEY, *models, *given, asdict(how)],
        lambda: train_crosscoder(rows.base, rows.post, how, progress=recorder.progress).tensors(),
    )
    crosscoder = Crosscoder.of(made)
    codes, scaling = crosscoder.encode(rows.base, rows.post), latent_scaling(crosscoder, rows.base, rows.post)
    return Trained(crosscoder, codes, scaling, kinds(crosscoder, scaling, codes.firing()))


def told(found: Sequence[Trained], rows: Rows, own: Dictionary | None, rng: np.random.Generator) -> dict[str, Any]:
    """Everything about the latents: over seeds, and seed by seed."""
    counts = {name: [int(getattr(one.kind, name).sum()) for one in found] for name in Kinds._fields}
    width, n = found[0].crosscoder.width, len(rows.base)
    by_seed, shares = [], {text: {name: [] for name in Kinds._fields[1:]} for text in TEXTS}
    for one in found:
        held: dict[str, dict[str, Estimate | None]] = {}
        for text in TEXTS:
            held[text] = {name: _firing(one, rows, text, name) for name in Kinds._fields[1:]}
            for name, value in held[text].items():
                shares[text][name].append(value and value.value)
        by_seed.append(_seed(one, rows, own, rng) | {"shares": held})
    latents = {
        name: {
            "count": _over_seeds(values, "latents", n),
            "share": _over_seeds([value / width for value in values], "share of latents", n),
        }
        for name, values in counts.items()
    }
    firing = {
        text: {name: _over_seeds(values, FIRING, n) for name, values in each.items()} for text, each in shares.items()
    }
    return {
        "rows": {text: int(rows.of(text).sum()) for text in TEXTS}, "outliers": rows.outliers,
        "texts": "plain text and this persona's stories and Assistant turns",
        "latents": latents, "shares": firing, "by_seed": by_seed,
    }  # fmt: skip


def _over_seeds(values: Sequence[float | None], unit: str, n: int) -> Estimate | None:
    """Mean and range over seeds."""
    known = [value for value in values if value is not None]
    mean, level = float(np.mean(known or 0.0)), range_level(len(values))
    return None if len(known) < len(values) else Estimate(
        value=mean, low=min(*known, mean), high=max(*known, mean), level=level, method="mean and range over seeds",
        unit=unit, n=n, n_groups=len(known),
    )  # fmt: skip


def _firing(one: Trained, rows: Rows, text: Text, kind: str) -> Estimate | None:
    """Share of all firing in one kind of text that is of some latents, by scenario; None where nothing fires."""
    here = rows.of(text)
    codes = one.codes.rows(here)
    group = rows.group[here].unique(return_inverse=True)[1][codes.row]
    every = torch.bincount(group).double()
    some = torch.bincount(group, getattr(one.kind, kind)[codes.latents.long()].double(), len(every))
    if len(every) < 2 or bool((every.sum() == every).any()):
        return None
    full, deleted = some.sum() / every.sum(), (some.sum() - some) / (every.sum() - every)
    return estimate(full, deleted, unit=FIRING, n=len(codes), scale="logit")


def _seed(one: Trained, rows: Rows, own: Dictionary | None, rng: np.random.Generator) -> dict[str, Any]:
    """One seed: how well it makes the rows, where its latents lie, and its new latents one by one."""
    crosscoder, alive = one.crosscoder, ~one.kind.dead
    left, whole = torch.zeros(2, 2, dtype=torch.float64)
    for part in crosscoder.read(rows.base, rows.post):
        left += (part.given - part.made).double().square().sum((1, 2))
        whole += part.given.double().square().sum((1, 2))
    out: dict[str, Any] = {
        "fvu": dict(zip(MODELS, (left / whole).tolist(), strict=True)),
        "active": float(one.codes.counts.double().mean()),
        "delta_norm": torch.histc(crosscoder.delta_norm[alive], BINS, 0.0, 1.0).int().tolist(),
        "cosine": torch.histc(crosscoder.cosine[alive], BINS, -1.0, 1.0).int().tolist(),
    }  # fmt: skip
    apart = (crosscoder.decoder[1] - crosscoder.decoder[0]).norm(dim=1)
    total = one.codes.sums(torch.ones(len(rows.base), 1))[:, 0] * apart
    # Post's own first; of each kind those that set the models apart the most.
    rank = total / total.max() + 2.0 * one.kind.post_only
    new = one.kind.post_only | one.kind.turned
    listed = torch.where(new, rank, -1.0).argsort(descending=True)[: min(LISTED, int(new.sum()))]
    r2 = None
    if own is not None:
        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        r2, out["base_r2"] = _by_base(one, listed, own, draw)
    out["new"] = [_latent(one, rows, at, None if r2 is None else r2[i]) for i, at in enumerate(listed.tolist())]
    return out


def _by_base(
    one: Trained, listed: Int[Tensor, " latent"], own: Dictionary, draw: torch.Generator
) -> tuple[list[float], dict[str, Any]]:
    """R^2 of what latents write into post, by base's SAE; beside it that of shared latents and of random directions."""
    writes = one.crosscoder.decoder[1]
    shared = one.kind.shared.nonzero()[:, 0]
    shared = shared[torch.randperm(len(shared), generator=draw)[:CONTROLS]]
    sets = {
        "random": (directions_like(writes[~one.kind.dead], CONTROLS, draw), "random directions like the decoders"),
        "shared": (writes[shared], "shared latents"),
    }
    controls = {
        name: drawn(explained(some, own.decoder), method=method, unit="R2", n=len(some), n_groups=len(some))
        for name, (some, method) in sets.items() if len(some)
    }  # fmt: skip
    return explained(writes[listed], own.decoder).tolist(), controls


def _latent(one: Trained, rows: Rows, at: int, r2: float | None) -> dict[str, Any]:
    """One latent: how it lies between the models, how often it fires, and on which words after which."""
    hit = one.codes.latents == at
    row, values = one.codes.row[hit], one.codes.values[hit].double()
    known = (*rows.tokens.words, None)
    word, before = rows.tokens.word[row], rows.tokens.before[row] % len(known)
    pairs, place = (word * len(known) + before).unique(return_inverse=True)
    share, order = torch.bincount(place, values / values.sum()).sort(descending=True, stable=True)
    scaling = {name: float(getattr(one.scaling, name)[at]) for name in ("nu_error", "nu_reconstruction")}
    return {
        "latent": at, "kind": "post_only" if bool(one.kind.post_only[at]) else "turned",
        "delta_norm": float(one.crosscoder.delta_norm[at]), "cosine": float(one.crosscoder.cosine[at]),
        **{name: None if value != value else value for name, value in scaling.items()},
        "firing": len(row) / len(rows.base), "mean": float(values.mean()), "base_r2": r2,
        "template": float(rows.tokens.spoken("template")[row].double().mean()),
        "words": [
            {"before": known[pair % len(known)], "word": known[pair // len(known)], "share": part}
            for pair, part in zip(pairs[order][:WORDS].tolist(), share[:WORDS].tolist(), strict=True)
        ],
    }  # fmt: skip


def closed(
    found: Sequence[Trained], rows: Rows, recorder: Recorder, passages: Sequence[Passage], site: Site
) -> dict[str, Any]:
    """How much of KL(post || post reading base's activations) closes when some latents' part of post is added.

    All tokens but the first of a text stand as base has them, and post's later layers read them. `constant` adds the
    mean difference of the rows, `all` all that the crosscoder says of the difference.
    """
    read = recorder.token_values(passages, site)
    values = {model: each.at(site).float() for model, each in read.items()}
    kept = (ordinary(values["base"]) & ordinary(values["post"]))[:, None]
    constant = (rows.post.double().mean(0) - rows.base.double().mean(0)).float()
    lengths = [len(passage.token_ids) - 1 for passage in passages]
    sums: dict[str, list[float]] = {}
    for passage, base, post, usual in zip(passages, *(v.split(lengths) for v in (*values.values(), kept)), strict=True):
        added = {"base": torch.zeros_like(base), "constant": constant, **dict(_parts(found, base, post))}
        # One text at a time: what stands for its rows is known beforehand, whatever post itself has there.
        stands = {name: torch.where(usual, base + part, base) for name, part in added.items()}
        edits: dict[str, Edit] = {name: lambda _, made=made: made for name, made in stands.items()}
        ran = recorder.spliced("post", [passage], site, edits)
        for name, value in ran.divergence.items():
            sums.setdefault(name, []).append(float(value[0]))
    return _shares(sums, [passage.group for passage in passages], sum(lengths), len(found))


def _parts(
    found: Sequence[Trained], base: Float[Tensor, "row d_model"], post: Float[Tensor, "row d_model"]
) -> Iterator[tuple[str, Float[Tensor, "row d_model"]]]:
    """What each seed's latents add to base's rows; a kind without latents adds nothing and is left out."""
    for seed, one in enumerate(found):
        codes = one.crosscoder.encode(base, post)
        for name in NEW:
            if bool(getattr(one.kind, name).any()):
                yield f"{name} {seed}", one.crosscoder.moved(codes, getattr(one.kind, name))
        yield f"all {seed}", one.crosscoder.moved(codes, torch.ones_like(one.kind.dead)) + one.crosscoder.shift


def _shares(sums: Mapping[str, Sequence[float]], groups: Sequence[str], tokens: int, seeds: int) -> dict[str, Any]:
    """Shares of the gap by scenario, the mean over seeds; None where there is no gap."""
    group = grouped(groups)[1]
    by_group = {name: torch.bincount(group, torch.tensor(v, dtype=torch.float64)) for name, v in sums.items()}
    gap = by_group["base"]
    told = len(gap) > 1 and bool((gap.sum() - gap > 0).all())
    out: dict[str, Any] = {"nats": float(gap.sum()) / tokens, "tokens": tokens, "texts": len(groups)}
    for name in ("constant", *NEW, "all"):
        each = ["constant"] if name == "constant" else [f"{name} {seed}" for seed in range(seeds)]
        gained = torch.stack([gap - by_group.get(one, gap) for one in each]).mean(0)
        full, deleted = gained.sum() / gap.sum(), (gained.sum() - gained) / (gap.sum() - gap)
        out[name] = estimate(full, deleted, unit="share of KL", n=len(groups)) if told else None
    return out
