"""Tokens at which a latent fires, chosen for display: the strongest, and some of every quarter, with those around them.

An example is chosen by the activations of one model and shown under all that read the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from probes.tokens import Tokens


@dataclass(frozen=True)
class Show:
    """How much of each latent is shown.

    Attributes:
        top: of the strongest tokens of each model, one a group at most: twins would fill the list.
        each: of each quarter of the firing tokens, the same way.
        before: tokens ahead of the one that is shown.
        after: tokens behind it.
        bins: bars of the histogram.
        words: tokens that it promotes, and as many that it suppresses.
        neighbours: latents that write nearly the same.
    """

    top: int = 8
    each: int = 3
    before: int = 14
    after: int = 6
    bins: int = 24
    words: int = 10
    neighbours: int = 8


@dataclass(frozen=True)
class Example:
    """A token with those around it.

    Attributes:
        persona: of its text; None for plain text.
        domain: "story", "assistant" or "plain".
        label: 1, 0, or None for plain text.
        group: the scenario.
        tokens: as they stand in the text, in a row.
        beyond: tokens of the text ahead of these, and behind them.
        peak: which of them was chosen.
        scored: first and one past the last of them that the persona is judged by; equal where none is.
        values: activation of each under each model.
    """

    persona: str | None
    domain: str
    label: int | None
    group: str
    tokens: tuple[str, ...]
    beyond: tuple[int, int]
    peak: int
    scored: tuple[int, int]
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Strip:
    """Examples of one range of activation.

    Attributes:
        model: whose activations chose them.
        kind: "top", or the quarter of the firing tokens that they are from, "1" the strongest to "4" the weakest.
        low: smallest activation in that range.
        high: largest.
        tokens: tokens in it.
        examples: some of them.
        shown: further ones of the strongest, which an earlier strip has.
    """

    model: str
    kind: str
    low: float
    high: float
    tokens: int
    examples: tuple[Example, ...]
    shown: int = 0


@dataclass(frozen=True, eq=False)
class Reel:
    """One latent's activations on some rows under every model, from which examples are cut.

    Attributes:
        values: by model, row by row.
        tokens: the rows: of every passage they hold, all tokens but the first, in a row.
        group: each row's scenario, as a number.
        show: how much is cut.
    """

    values: Mapping[str, Float[Tensor, " row"]]
    tokens: Tokens
    group: Sequence[int]
    show: Show

    def strips(self) -> tuple[Strip, ...]:
        """The strongest tokens of every model, then the quarters of the first model in which the latent fires."""
        falling = {name: _falling(some) for name, some in self.values.items()}
        strips: list[Strip] = []
        known: set[int] = set()
        for name, rows in falling.items():
            top = self._apart(rows, self.show.top, set())
            fresh = [row for row in top if row not in known]
            known.update(top)
            if top:
                strips.append(self._strip(name, "top", top, fresh))
        name, rows = next(((name, rows) for name, rows in falling.items() if rows), ("", []))
        for quarter, some in enumerate(_runs(rows, 4), 1):
            taken: list[int] = []
            for run in _runs(some, self.show.each):
                # From the middle on: the strongest of all are shown already.
                taken += self._apart(run[len(run) // 2 :], 1, {self.group[row] for row in taken})
            if taken:
                strips.append(self._strip(name, str(quarter), some, taken))
        return tuple(strips)

    def _apart(self, rows: Sequence[int], count: int, taken: set[int]) -> list[int]:
        """The first rows of so many groups, and of none that is taken."""
        found, known = [], set(taken)
        for row in rows:
            if len(found) == count:
                break
            if self.group[row] not in known:
                known.add(self.group[row])
                found.append(row)
        return found

    def _strip(self, name: str, kind: str, rows: Sequence[int], taken: Sequence[int]) -> Strip:
        low, high = (float(self.values[name][row]) for row in (rows[-1], rows[0]))
        examples = tuple(self._example(row) for row in taken)
        return Strip(name, kind, low, high, len(rows), examples, len(rows) - len(taken) if kind == "top" else 0)

    def _example(self, row: int) -> Example:
        passage, at = self.tokens.passages[int(self.tokens.passage[row])], int(self.tokens.position[row])
        start = max(1, at - self.show.before)
        stop = min(len(passage.token_ids), at + self.show.after + 1)
        ends = [end for _, end in passage.offsets]
        # From the end of the token before: a tokenizer that keeps no leading spaces would run the words together.
        words = tuple(passage.text[ends[token - 1] : ends[token]] for token in range(start, stop))
        span = (start, start) if passage.label is None else passage.span
        first, last = (min(max(edge, start), stop) - start for edge in span)
        rows = slice(row - at + start, row - at + stop)
        beyond = start - 1, len(passage.token_ids) - stop
        return Example(
            passage.persona, passage.domain, passage.label, passage.group, words, beyond, at - start, (first, last),
            {name: tuple(some[rows].tolist()) for name, some in self.values.items()},
        )  # fmt: skip


def _falling(values: Float[Tensor, " row"]) -> list[int]:
    """The rows that fire, the strongest first, the earlier among equals."""
    rows = (values > 0).nonzero()[:, 0]
    return rows[values[rows].sort(descending=True, stable=True).indices].tolist()


def _runs(rows: Sequence[int], count: int) -> list[Sequence[int]]:
    """The rows in runs of as equal a length as can be."""
    ends = np.linspace(0, len(rows), count + 1).round().astype(int).tolist()
    return [rows[start:stop] for start, stop in zip(ends, ends[1:], strict=False)]
