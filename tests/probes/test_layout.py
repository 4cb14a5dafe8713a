"""Layout: what is read, and in which order, depends on the passages alone."""

from __future__ import annotations

import numpy as np
import pytest

from probes.layout import Layout, batches, row_order, spread
from tests.probes.texts import passages


@pytest.mark.parametrize("limit", [0, 1, 3, 7, 20, 63, 64, 1000, None])
def test_rows_are_shared_evenly(limit: int | None) -> None:
    lengths = [1, 2, 5, 30, 31]
    kept = spread(lengths, limit)
    total = sum(max(n - 1, 0) for n in lengths)
    assert sum(map(len, kept)) == (total if limit is None else min(limit, total))
    for length, positions in zip(lengths, kept, strict=True):
        assert list(positions) == sorted(set(positions)) and all(0 < p < length for p in positions)
    full = [len(positions) < length - 1 for length, positions in zip(lengths, kept, strict=True)]
    short = [len(positions) for positions, cut in zip(kept, full, strict=True) if cut]
    assert not short or max(short) - min(short) <= 1


def test_every_item_is_in_one_batch_of_one_shard_and_the_budget_holds() -> None:
    texts = passages(300)
    layout = Layout.of(texts, [range(*text.span) for text in texts])
    shards = layout.shards("span_mean")
    assert [len(shard) for shard in shards] == [256, 44]
    read = [item for shard in shards for batch in batches(shard, 200) for item in batch]
    assert read == list(layout.items)
    lengths = [len(item.token_ids) for item in read]
    assert lengths == sorted(lengths, reverse=True)
    for shard in shards:
        for batch in batches(shard, 200):
            assert len(batch) == 1 or len(batch) * max(len(item.token_ids) for item in batch) <= 200


def test_the_items_do_not_depend_on_the_order_of_the_passages() -> None:
    texts = passages(30)
    one = Layout.of(texts, [range(*text.span) for text in texts])
    other = Layout.of(texts[::-1], [range(*text.span) for text in texts[::-1]])
    assert one.items == other.items and one.item_of == other.item_of[::-1]


def test_row_order_names_every_token_row() -> None:
    first, second = passages(2)
    layout = Layout.of([first, second, first], [(1, 3), (2,), (1, 3)])
    ids, order = row_order(layout.settings("tokens"))
    assert ids == (f"{first.id}:1", f"{first.id}:3", f"{second.id}:2", f"{first.id}:1", f"{first.id}:3")
    rows = [(item.passage, token) for item in layout.items for token in item.keep]
    assert [f"{name}:{token}" for name, token in (rows[i] for i in order)] == list(ids)
    assert row_order(Layout.of([], []).settings("tokens")) == ((), pytest.approx(np.zeros(0)))
