"""What a recording reads and in which order: a function of the passages and the settings, never of earlier work.

Passages with the same tokens and the same kept positions are one item, read once. Items stand longest first; runs of
them make the shards, runs of a shard make the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from probes.activations import Pooling
from probes.passage import Passage

SHARD_PASSAGES, SHARD_TOKENS = 256, 2048
"""Rows a shard holds where each passage has one, and where each token has; an interruption costs one shard."""


@dataclass(frozen=True)
class Item:
    """One distinct thing to read."""

    token_ids: tuple[int, ...]
    keep: tuple[int, ...]
    """Positions to pool, or to keep one by one; ascending."""
    passage: str
    """Id of the first passage that asked for it, for messages."""

    def rows(self, pooling: Pooling) -> int:
        """Rows the item gives."""
        return len(self.keep) if pooling == "tokens" else 1


@dataclass(frozen=True)
class Layout:
    """Which passages want which items."""

    items: tuple[Item, ...]
    """Distinct, longest first."""
    passages: tuple[str, ...]
    """Ids in the order asked for, repeats included."""
    item_of: tuple[int, ...]
    """For each passage the index of its item."""

    @classmethod
    def of(cls, passages: Sequence[Passage], keep: Iterable[Sequence[int]]) -> Layout:
        """Lays out passages, each with the positions to keep; a passage with none gives no row."""
        distinct: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {}
        wanted = []
        for passage, kept in zip(passages, keep, strict=True):
            wanted.append((passage.token_ids, tuple(kept)))
            distinct.setdefault(wanted[-1], passage.id)
        order = sorted((pair for pair in distinct if pair[1]), key=lambda pair: (-len(pair[0]), pair))
        place = {pair: index for index, pair in enumerate(order)}
        rows = [(passage.id, place[pair]) for passage, pair in zip(passages, wanted, strict=True) if pair in place]
        items = tuple(Item(ids, kept, distinct[ids, kept]) for ids, kept in order)
        return cls(items, tuple(name for name, _ in rows), tuple(index for _, index in rows))

    def shards(self, pooling: Pooling) -> list[tuple[Item, ...]]:
        """The items in runs of a fixed number of rows."""
        return runs(self.items, shard_rows(pooling), lambda size, _, item: size + item.rows(pooling))

    def settings(self, pooling: Pooling) -> dict[str, Any]:
        """All that `row_order` needs, as JSON."""
        return {
            "pooling": pooling,
            "passages": list(self.passages),
            "item_of": list(self.item_of),
            "keep": [list(item.keep) for item in self.items] if pooling == "tokens" else None,
        }


def shard_rows(pooling: Pooling) -> int:
    """Rows a shard holds (one item's rows at least)."""
    return SHARD_TOKENS if pooling == "tokens" else SHARD_PASSAGES


def row_order(settings: dict[str, Any]) -> tuple[tuple[str, ...], Int[np.ndarray, " row"]]:
    """Ids of the result's rows, and for each the row of the concatenated shards that it is."""
    keep, item_of = settings["keep"], settings["item_of"]
    if keep is None:
        return tuple(settings["passages"]), np.asarray(item_of, dtype=np.int64)
    starts = np.cumsum([0, *map(len, keep)])
    named = list(zip(settings["passages"], item_of, strict=True))
    ids = tuple(f"{name}:{token}" for name, item in named for token in keep[item])
    order = [starts[item] + np.arange(len(keep[item])) for _, item in named]
    return ids, np.concatenate([np.zeros(0, dtype=np.int64), *order])


def runs(items: Sequence[Item], room: int, grow: Callable[[int, int, Item], int]) -> list[tuple[Item, ...]]:
    """Cuts the items, in order, into runs whose size stays within the room; a run has one item at least.

    Args:
        grow: the size of a run with one more item, from its size, its number of items and that item.
    """
    cut: list[list[Item]] = []
    size = 0
    for item in items:
        grown = grow(size, len(cut[-1]), item) if cut else room + 1
        if grown <= room:
            cut[-1].append(item)
            size = grown
        else:
            cut.append([item])
            size = grow(0, 0, item)
    return [tuple(run) for run in cut]


def batches(items: Sequence[Item], token_budget: int) -> list[tuple[Item, ...]]:
    """Runs whose padded tokens (number x longest) stay within the budget."""
    return runs(
        items,
        token_budget,
        lambda size, count, item: (count + 1) * max(len(item.token_ids), size // count if count else 0),
    )


def spread(lengths: Sequence[int], limit: int | None) -> list[tuple[int, ...]]:
    """Positions to keep in passages of these lengths: never the first, at most `limit` in all, evenly shared.

    Example:
        >>> spread([3, 9], 6)
        [(1, 2), (1, 3, 6, 8)]
    """
    free = [max(length - 1, 0) for length in lengths]
    if limit is None or sum(free) <= limit:
        return [tuple(range(1, n + 1)) for n in free]
    low, high = 0, max(free)
    while low < high:  # the largest share that fits when passages with fewer tokens give all they have
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(n, middle) for n in free) <= limit else (low, middle - 1)
    shares = [min(n, low) for n in free]
    longer = [i for i, n in enumerate(free) if n > low]
    for i in np.linspace(0, len(longer) - 1, limit - sum(shares)).round().astype(int):
        shares[longer[i]] += 1
    return [
        tuple(int(t) for t in 1 + np.linspace(0, n - 1, share).round().astype(int))
        if share > 1
        else (1 + n // 2,) * share
        for n, share in zip(free, shares, strict=True)
    ]
