"""Subject × passages × sites → Activations or Moments: streamed, remembered, resumable.

What is recorded is a function of the passages and the settings (`probes.layout`), never of what was recorded before:
shards that an interrupted run, or another process, left behind are the very ones this run would have made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probes.activations import Activations, Pooling, RowWriter
from probes.digest import AuditError, digest
from probes.layout import Item, Layout, batches, row_order, shard_rows, spread
from probes.moments import Moments
from probes.passage import Passage
from probes.reader import NotFinite, Reader, Recipe
from probes.site import Site
from probes.store import Store

if TYPE_CHECKING:
    from probes.model import Subject

__all__ = [
    "NotFinite",
    "load_moments",
    "load_recording",
    "moments_key",
    "record",
    "record_moments",
    "record_tokens",
    "recording_key",
    "token_key",
]

FORMAT = 1
"""Part of every key: to be raised when what a recording holds, or how, changes."""
BUDGET_CPU, BUDGET_ACCELERATOR = 2048, 16384
"""Padded tokens a batch holds: on a CPU more only costs cache, an accelerator wants to be filled."""
MAP_ABOVE = 64 * 2**20
"""Bytes of activations above which a stored recording comes back as a memory map instead of in memory."""


def record(
    subject: Subject,
    passages: Sequence[Passage],
    sites: Sequence[Site],
    *,
    pooling: Pooling = "span_mean",
    store: Store | None = None,
    surprisal: bool = False,
    token_budget: int | None = None,
    progress: bool = True,
) -> Activations:
    """Pooled activations of the scored spans, a row a passage in the order given.

    With a store the recording is remembered, an interrupted one is taken up at its last whole shard, and memory does
    not grow with the number of passages: shards go to disk, and a large result comes back as a memory map.

    Args:
        subject: the model; its hooks, mode and weights are as before afterwards, also after an error.
        passages: what to read.
        sites: where; may be empty when only the surprisal is wanted.
        pooling: "tokens" gives a row per token of the span, with ids "passage:token".
        store: where to remember; None keeps everything in memory.
        surprisal: also the mean −log p (nats per token, log-softmax in float32) of the span given what precedes it.
        token_budget: padded tokens a batch; None is 2,048 on a CPU and 16,384 elsewhere. It moves float32 activations
            by 1e-6 and is no part of the key.
        progress: show a bar over passages.

    Raises:
        NotFinite: the model gave NaN or infinity.
        AuditError: the store cannot be written; a passage has no token its surprisal could be taken of.
    """
    if surprisal:
        _refuse_unpredicted(passages)
    layout = Layout.of(passages, [range(*passage.span) for passage in passages])
    key = store and recording_key(subject.weights, subject.dtype, passages, sites, pooling, surprisal)
    recipe = _recipe(subject, sites, pooling, surprisal, token_budget)
    return _remembered(subject, layout, recipe, key, store, progress)


def record_tokens(
    subject: Subject,
    passages: Sequence[Passage],
    sites: Sequence[Site],
    *,
    limit: int | None = None,
    store: Store | None = None,
    token_budget: int | None = None,
    progress: bool = True,
) -> Activations:
    """Activations of all tokens but the first of each passage, a row each, with ids "passage:token".

    The first token (the BOS where there is one) serves models as a resting place for attention; its norm is hundreds of
    times that of the others and would own every covariance. Which rows come back depends on the passages alone, so two
    models give the same ones.

    Args:
        limit: at most this many rows, shared evenly among the passages and spread evenly within each; None is all.
    """
    keep = spread([len(passage.token_ids) for passage in passages], limit)
    layout = Layout.of(passages, keep)
    key = store and token_key(subject.weights, subject.dtype, passages, sites, limit)
    recipe = _recipe(subject, sites, "tokens", False, token_budget)
    return _remembered(subject, layout, recipe, key, store, progress)


def record_moments(
    subject: Subject,
    passages: Sequence[Passage],
    sites: Sequence[Site],
    *,
    store: Store | None = None,
    token_budget: int | None = None,
    progress: bool = True,
) -> dict[Site, Moments]:
    """Moments of all tokens but the first of each passage, at several sites from one pass; no row is ever kept."""
    keys: dict[Site, str] = {}
    if store is not None:
        weights = subject.weights
        keys = {site: moments_key(weights, subject.dtype, passages, site) for site in sites}
    known = {site: load_moments(store, key) for site, key in keys.items() if store is not None}
    found = {site: moments for site, moments in known.items() if moments is not None}
    wanted = tuple(site for site in dict.fromkeys(sites) if site not in found)
    if wanted:
        # Not on Apple's accelerator, which has no float64.
        device = "cpu" if subject.device.type == "mps" else subject.device
        fresh = {site: Moments.empty(subject.d_model, device) for site in wanted}
        recipe = _recipe(subject, wanted, "tokens", False, token_budget)
        every = Layout.of(passages, spread([len(passage.token_ids) for passage in passages], None))
        # A passage given twice counts twice.
        items = [every.items[index] for index in sorted(every.item_of)]
        with _bar(len(items), progress) as bar, Reader(subject, recipe) as read:
            cut = batches(items, recipe.token_budget)
            for batch, part in zip(cut, read(cut), strict=True):
                for site, rows in zip(wanted, part["values"].unbind(1), strict=True):
                    fresh[site].update(rows)
                bar.update(len(batch))
        for site, moments in fresh.items():
            found[site] = Moments(moments.count, moments.mean.cpu(), moments.scatter.cpu())
            if store is not None:
                kept = {"mean": found[site].mean, "scatter": found[site].scatter}
                store.put_fit(keys[site], kept, {"count": moments.count})
    return {site: found[site] for site in sites}


def recording_key(
    weights: str,
    dtype: str,
    passages: Sequence[Passage],
    sites: Sequence[Site],
    pooling: Pooling = "span_mean",
    surprisal: bool = False,
) -> str:
    """The store's key of what `record` would return; the model itself is not needed.

    Args:
        weights: `Subject.weights`, the digest of the weights.
        dtype: `Subject.dtype`.
    """
    return _key(weights, dtype, sites, ["spans", pooling, surprisal, shard_rows(pooling)], passages)


def token_key(
    weights: str, dtype: str, passages: Sequence[Passage], sites: Sequence[Site], limit: int | None = None
) -> str:
    """The store's key of what `record_tokens` would return."""
    return _key(weights, dtype, sites, ["tokens", limit, shard_rows("tokens")], passages)


def moments_key(weights: str, dtype: str, passages: Sequence[Passage], site: Site) -> str:
    """The store's key of one site's moments."""
    return _key(weights, dtype, [site], ["moments"], passages)


def load_recording(store: Store, key: str) -> Activations | None:
    """What was recorded under the key, rows in the order the passages were given; needs no model.

    Returns None where the recording is not complete, or a shard of it is missing, truncated or altered.
    """
    manifest = store.manifest(key)
    if manifest is None or manifest.get("format") != FORMAT:
        return None
    shards = (store.shard(key, index, mark) for index, mark in enumerate(manifest["shards"]))
    size = 4 * len(manifest["sites"]) * manifest["d_model"] * row_order(manifest)[1].size
    with store.scratch(key) if size > MAP_ABOVE else contextlib.nullcontext() as file:
        return _gather(manifest, shards, file)


def load_moments(store: Store, key: str) -> Moments | None:
    """What `record_moments` put under the key, or None."""
    fit = store.get_fit(key)
    return None if fit is None else Moments(fit[1]["count"], fit[0]["mean"], fit[0]["scatter"])


def _key(weights: str, dtype: str, sites: Sequence[Site], what: list[Any], passages: Sequence[Passage]) -> str:
    # One digest a passage: the key of a corpus is then made without a second copy of the corpus in memory.
    texts: list[Any] = [passage.content for passage in passages]
    names: list[Any] = [str(site) for site in sites]
    return digest([FORMAT, weights, dtype, names, what, texts])


def _refuse_unpredicted(passages: Sequence[Passage]) -> None:
    for passage in passages:
        if passage.span[1] <= 1:
            raise AuditError(
                found=f"The span of passage {passage.id} is the first token of its text",
                expected="at least one token with something before it",
                do="Lengthen the text, or use a tokenizer that begins with a BOS",
            )


def _recipe(subject: Subject, sites: Sequence[Site], pooling: Pooling, surprisal: bool, budget: int | None) -> Recipe:
    if len(set(sites)) != len(sites):
        raise ValueError("a site is asked for twice")
    if surprisal and pooling == "tokens":
        raise ValueError("surprisal is a number a passage, it has no place beside rows of single tokens")
    if not sites and not surprisal:
        raise ValueError("no site to record")
    if budget is None:
        budget = BUDGET_CPU if subject.device.type == "cpu" else BUDGET_ACCELERATOR
    return Recipe(tuple(sites), pooling, surprisal, budget, subject.d_model)


def _remembered(
    subject: Subject, layout: Layout, recipe: Recipe, key: str | None, store: Store | None, progress: bool
) -> Activations:
    if store is None or key is None:
        with _bar(len(layout.items), progress) as bar, Reader(subject, recipe) as read:
            found = _gather(_settings(layout, recipe), _shards(layout.shards(recipe.pooling), recipe, read, bar), None)
    else:
        found = load_recording(store, key)
        if found is None:
            _complete(subject, layout, recipe, key, store, progress)
            found = load_recording(store, key)
    if found is None:
        raise AuditError(
            found="The recording was altered while it was made",
            expected="a store that nothing else writes to",
            do="Run again, or choose another with --store DIR",
        )
    return found


def _complete(subject: Subject, layout: Layout, recipe: Recipe, key: str, store: Store, progress: bool) -> None:
    """Records the shards that are missing or damaged, then writes the manifest."""
    shards = layout.shards(recipe.pooling)
    with store.lock(key), _bar(len(layout.items), progress) as bar, Reader(subject, recipe) as read:
        known = dict(enumerate((store.manifest(key) or {}).get("shards", [])))
        marks: dict[int, str] = {}
        for index, run in enumerate(shards):
            mark = store.sound(key, index, known.get(index))
            if mark is not None:
                marks[index] = mark
                bar.update(len(run))
        missing = [index for index in range(len(shards)) if index not in marks]
        for index, shard in zip(missing, _shards([shards[i] for i in missing], recipe, read, bar), strict=True):
            marks[index] = store.put_shard(key, index, shard)
        store.put_manifest(key, [marks[index] for index in range(len(shards))], _settings(layout, recipe))


def _settings(layout: Layout, recipe: Recipe) -> dict[str, Any]:
    """All that is needed to read the recording back without passages or model, as JSON."""
    sites = [str(site) for site in recipe.sites]
    own = {"format": FORMAT, "sites": sites, "d_model": recipe.d_model, "surprisal": recipe.surprisal}
    return {**layout.settings(recipe.pooling), **own}


def _shards(runs: Sequence[Sequence[Item]], recipe: Recipe, read: Reader, bar: Any) -> Iterator[dict[str, Tensor]]:
    """The shards of these runs, one after another; the next is being read while one is written."""
    cut = [batches(run, recipe.token_budget) for run in runs]
    read_parts = read(chain.from_iterable(cut))
    for run in cut:
        parts = []
        for batch in run:
            parts.append({name: tensor.cpu() for name, tensor in next(read_parts).items()})
            bar.update(len(batch))
        yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _gather(settings: dict[str, Any], shards: Iterable[dict[str, Tensor] | None], file: Any) -> Activations | None:
    """Brings shards into the order of the passages; None where one of them is None."""
    ids, order = row_order(settings)
    sites = tuple(Site.parse(text) for text in settings["sites"])
    writer = RowWriter((len(ids), len(sites), settings["d_model"]), file)
    surprisal = torch.empty(len(ids), dtype=torch.float64) if settings["surprisal"] else None
    target = np.argsort(order, kind="stable")
    source, start = order[target], 0
    for tensors in shards:
        if tensors is None:
            return None
        stop = start + len(tensors["values"])
        part = slice(*np.searchsorted(source, [start, stop]))
        rows = torch.from_numpy(source[part] - start)
        writer.put(target[part], tensors["values"][rows])
        if surprisal is not None:
            surprisal[torch.from_numpy(target[part])] = tensors["surprisal"][rows]
        start = stop
    return Activations(writer.tensor(), sites, ids, surprisal)


def _bar(total: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="passage", desc="recording", leave=False, disable=not progress)
