"""What a latent fires on, said as a rule about the text, and how well such a rule foretells where it fires.

A rule is learned from counts, without a language model: a class of words, of words before them, a place in the text, a
label of the persona.
It is scored by detection, (share of firing tokens that it names + share of silent tokens that it does not name) / 2.
The silent tokens are hard ones: for every token that fires one of the same word where one is silent, and any other for
the rest. Where a word is silent as often as it fires, knowing the word is worth nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.digest import AuditError
from probes.tokens import Tokens

SPAN, END = "the scored span", "the end of the scored span"
SHOWN = 6
"""Words that a rule's text names before it counts the rest."""


@dataclass(frozen=True)
class Rule:
    """Tokens of some words, after some words, at some place, in passages of one label; None leaves a part open.

    Attributes:
        words: tokens as they stand in the text.
        after: the tokens before them.
        place: `SPAN`, `END` or a role.
        label: 1 or 0.
    """

    words: tuple[str, ...] | None = None
    after: tuple[str, ...] | None = None
    place: str | None = None
    label: int | None = None

    def __str__(self) -> str:
        """E.g. "in the scored span; label 1; a word of: lied, no; after: she, he"."""
        parts = [] if self.place is None else ["in " + (self.place if self.place in (SPAN, END) else f"{self.place}'s")]
        parts += [] if self.label is None else [f"label {self.label}"]
        parts += [] if self.words is None else [f"a word of: {_listed(self.words)}"]
        parts += [] if self.after is None else [f"after: {_listed(self.after)}"]
        return "; ".join(parts) or "anywhere"

    def names(self, tokens: Tokens, labels: Bool[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """The rows that the rule names, under these labels."""
        named = _at(tokens, self.place)
        if self.label is not None:
            named = named & (labels == bool(self.label))
        for wanted, word in ((self.words, tokens.word), (self.after, tokens.before)):
            if wanted is not None:
                # One more entry, for rows that nothing stands before: index -1.
                known = torch.tensor([*(name in set(wanted) for name in tokens.words), False])
                named = named & known[word]
        return named

    @classmethod
    def parsed(cls, content: object, where: str) -> Rule:
        """A rule from JSON: {"words": [...], "after": [...], "place": ..., "label": ...}, every key optional.

        Raises:
            AuditError: something else.
        """
        known = {"words": "a list of strings", "after": "a list of strings", "place": "a string", "label": "0 or 1"}
        if not isinstance(content, dict) or not content or not set(content) <= set(known):
            expected = f"an object with some of {', '.join(known)}"
            raise AuditError(f"{where} holds {json.dumps(content)[:80]}", expected, "Mend the file")
        for key, value in content.items():
            words = isinstance(value, list) and all(isinstance(word, str) for word in value)
            fits = words if key in ("words", "after") else isinstance(value, str) if key == "place" else value in (0, 1)
            if not fits:
                raise AuditError(f"{where} has {key} = {json.dumps(value)[:80]}", known[key], "Mend the file")
        words, after = (None if key not in content else tuple(content[key]) for key in ("words", "after"))
        return cls(words, after, content.get("place"), content.get("label"))


class Detection(NamedTuple):
    """Weights by group: of firing tokens and those of them that were named, of silent ones and those named wrongly."""

    firing: Float[Tensor, " group"]
    hit: Float[Tensor, " group"]
    silent: Float[Tensor, " group"]
    missed: Float[Tensor, " group"]

    def balanced(self) -> tuple[Tensor, Tensor]:
        """Balanced accuracy on all groups, and with each left out; NaN where nothing fires or nothing is silent."""
        whole = [part.sum() for part in self]
        without = [every - part for every, part in zip(whole, self, strict=True)]
        full, deleted = (0.5 * (hit / firing + 1 - missed / silent) for firing, hit, silent, missed in (whole, without))
        return full, deleted


def hard(fires: Bool[Tensor, " row"], word: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """Weights of the silent rows that stand against the firing ones, as many in all; 0 on the firing ones.

    min(firing, silent) of each word, shared among its silent rows; what is then still wanting, among all silent rows.
    """
    n_words = int(word.max()) + 1
    firing, silent = (torch.bincount(word[mark], minlength=n_words).double() for mark in (fires, ~fires))
    matched = torch.minimum(firing, silent)
    rest = (firing.sum() - matched.sum()) / silent.sum().clamp(min=1)
    return (~fires) * ((matched / silent.clamp(min=1))[word] + rest)


def detection(
    fires: Bool[Tensor, " row"],
    named: Bool[Tensor, " row"],
    weights: Float[Tensor, " row"],
    group: Int[Tensor, " row"],
    n_groups: int,
) -> Detection:
    """How a prediction fares against where a latent fires.

    Args:
        fires: where the latent fires.
        named: where it is said to.
        weights: of the silent rows, by `hard`.
        group: each row's group, from 0.
        n_groups: how many there are.
    """
    each = torch.stack([fires.double(), (fires & named).double(), weights, weights * named])
    return Detection(*torch.zeros(4, n_groups, dtype=torch.float64).index_add_(1, group, each))


def learned(fires: Bool[Tensor, " row"], tokens: Tokens, labels: Bool[Tensor, " row"]) -> Rule:
    """The rule of one label that best foretells these rows: every place, with its words and without; the shorter first.

    Args:
        fires: where the latent fires, some rows and not all.
        tokens: the rows.
        labels: True in passages of label 1.
    """
    weights, n = hard(fires, tokens.word), fires.double().sum()
    gain = torch.where(fires, 1 / n, -weights / weights.sum())
    best, most = Rule(label=1), -torch.inf
    for place in (None, SPAN, END, *tokens.roles):
        at = _at(tokens, place)
        for label in (1, 0):
            here = at & (labels == bool(label))
            for words, after in _classes(fires, here, tokens):
                named = here if words is None else here & words[tokens.word]
                named = named if after is None else named & after[tokens.before]
                value = float(gain[named].sum())
                # A longer rule must say more than rounding does.
                if value > most + 1e-9:
                    told = (None if which is None else _of(which, tokens) for which in (words, after))
                    best, most = Rule(*told, place=place, label=label), value
    return best


Class = Bool[Tensor, " word_and_none"]


def _classes(
    fires: Bool[Tensor, " row"], here: Bool[Tensor, " row"], tokens: Tokens
) -> Iterator[tuple[Class | None, Class | None]]:
    """Classes of words, and of words before, to try on the rows here; the shorter first."""
    yield None, None
    words, after = (_often(fires[here], index[here], tokens) for index in (tokens.word, tokens.before))
    yield words, None
    yield None, after
    # Words that fire here oftener than others, then those before which most of them do, and once more the other way.
    some = _enriched(fires[here], tokens.word[here], tokens)
    inside = here & some[tokens.word]
    ahead = _often(fires[inside], tokens.before[inside], tokens)
    inside = here & ahead[tokens.before]
    yield _often(fires[inside], tokens.word[inside], tokens), ahead


def _often(fires: Bool[Tensor, " row"], index: Int[Tensor, " row"], tokens: Tokens) -> Class:
    """Words that fire more often than not."""
    seen, fired = _counts(fires, index, tokens)
    # One more silence than was seen: a word that occurred once has shown nothing.
    return (2 * fired > seen + 1) & _real(tokens)


def _enriched(fires: Bool[Tensor, " row"], index: Int[Tensor, " row"], tokens: Tokens) -> Class:
    """Words that fire oftener than twice the rate of all."""
    seen, fired = _counts(fires, index, tokens)
    return (fired * len(fires) > 2 * (seen + 1) * fires.sum()) & _real(tokens)


def _counts(fires: Bool[Tensor, " row"], index: Int[Tensor, " row"], tokens: Tokens) -> tuple[Tensor, Tensor]:
    n_words = len(tokens.words)
    place = torch.where(index < 0, n_words, index)
    return torch.bincount(place, minlength=n_words + 1), torch.bincount(place[fires], minlength=n_words + 1)


def _real(tokens: Tokens) -> Class:
    """All words, and not the last entry, which stands for none."""
    return torch.arange(len(tokens.words) + 1) < len(tokens.words)


def _of(which: Class, tokens: Tokens) -> tuple[str, ...]:
    return tuple(word for word, kept in zip(tokens.words, which.tolist(), strict=False) if kept)


def _listed(words: tuple[str, ...]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(word.strip() or repr(word) for word in words[:SHOWN]) + more


def _at(tokens: Tokens, place: str | None) -> Bool[Tensor, " row"]:
    if place is None:
        return torch.ones(len(tokens), dtype=torch.bool)
    if place in (SPAN, END):
        return tokens.scored if place == SPAN else tokens.final
    return tokens.spoken(place)


def rules(content: object, where: str) -> dict[int, Rule]:
    """Rules by latent, from JSON of the form {"17": {"words": [...], "place": ..., "label": ...}}.

    Raises:
        AuditError: something else.
    """
    if not isinstance(content, dict) or not all(str(key).isdigit() for key in content):
        raise AuditError(f"{where} is no object of latents", '{"17": {"label": 1}}', "Mend the file")
    return {int(key): Rule.parsed(value, f"{where}, latent {key},") for key, value in content.items()}

