"""Whether a feature's label still foretells where it fires: detection on held-out scenarios, and what chance does.

A label is a rule (`probes.rule`) or what an explainer says. Two chances stand beside it. Exchanging the labels of a
pair's halves at random leaves words and places as they are: what then remains is not about the persona. And latents
of random dictionaries, chosen and given rules in the same way, show what any direction in these activations can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.resampling import flips, grouped
from probes.digest import AuditError
from probes.passage import Passage
from probes.rule import Rule, detection, hard, learned
from probes.tokens import Tokens

LEAST = 5
"""Scenarios that a latent must fire in before anything is said of where it fires."""


class Text(NamedTuple):
    """A passage as an explainer is shown it.

    Attributes:
        tokens: what each token covers of the text.
        roles: who speaks it.
        span: first and one past the last scored token.
        label: 1 or 0.
    """

    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    span: tuple[int, int]
    label: int


Explainer = Callable[[int, Text], Sequence[bool]]
"""A latent and a text to the tokens on which it is said to fire, one answer a token."""


class Told(NamedTuple):
    """Rows that a label names, as the passages are labelled and with every label exchanged."""

    named: Bool[Tensor, " row"]
    exchanged: Bool[Tensor, " row"]


class Judgement(NamedTuple):
    """A statistic on all judged scenarios, and with each left out."""

    full: Float[Tensor, ""]
    deleted: Float[Tensor, " group"]


class Exchanged(NamedTuple):
    """Balanced accuracy when each pair's labels are exchanged or not by a fair coin: its mean, exactly, and draws."""

    mean: float
    draws: Float[Tensor, " draw"]


@dataclass(frozen=True, eq=False)
class Bench:
    """Rows that a label is judged on.

    Attributes:
        tokens: the rows.
        swaps: exchanged pairs, draw by draw; pairs in the order of their sorted names.
    """

    tokens: Tokens
    swaps: Bool[Tensor, "draw pair"]

    @classmethod
    def of(cls, tokens: Tokens, draws: int, rng: np.random.Generator) -> Bench:
        """Rows with their null drawn."""
        pairs = sorted({str(passage.pair) for passage in _present(tokens)})
        return cls(tokens, flips(pairs, draws, rng))

    @staticmethod
    def scenarios(tokens: Tokens) -> tuple[str, ...]:
        """The scenarios of some rows, sorted."""
        return tuple(sorted({passage.group for passage in _present(tokens)}))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The judged scenarios, sorted."""
        return self.scenarios(self.tokens)

    @cached_property
    def group(self) -> Int[Tensor, " row"]:
        """Each row's scenario, as an index into `groups`."""
        return grouped([self.tokens.passages[at].group for at in self.tokens.passage.tolist()])[1]

    @cached_property
    def pair(self) -> Int[Tensor, " row"]:
        """Each row's pair, as an index into their sorted names."""
        return grouped([str(self.tokens.passages[at].pair) for at in self.tokens.passage.tolist()])[1]

    def follow(self, rule: Rule) -> Told:
        """What a rule names."""
        labels = labelled(self.tokens)
        return Told(rule.names(self.tokens, labels), rule.names(self.tokens, ~labels))

    def ask(self, explainer: Explainer, latent: int) -> Told:
        """What an explainer names.

        Raises:
            AuditError: it raised, or did not answer with a truth value for every token.
        """
        named, exchanged = (
            torch.cat([_answers(explainer, latent, text) for text in _shown(self.tokens, swapped)])
            for swapped in (False, True)
        )
        at = _starts(self.tokens) + self.tokens.position
        return Told(named[at], exchanged[at])

    def judged(self, fires: Bool[Tensor, " row"], told: Told) -> Judgement:
        """The label's balanced accuracy; `enough` has been asked."""
        weights = hard(fires, self.tokens.word)
        return Judgement(*detection(fires, told.named, weights, self.group, len(self.groups)).balanced())

    def exchanged(self, fires: Bool[Tensor, " row"], told: Told) -> Exchanged:
        """Balanced accuracy with the labels of random pairs exchanged; it is linear in what each pair adds."""
        weights = hard(fires, self.tokens.word)
        # Half of the hits' share less half of the false alarms', row by row.
        each = 0.5 * (fires.double() / fires.sum() - weights / weights.sum())
        zeros = torch.zeros(self.swaps.shape[1], dtype=torch.float64)
        own, other = (zeros.index_add(0, self.pair, each * named) for named in told)
        return Exchanged(0.5 + 0.5 * float((own + other).sum()), 0.5 + own.sum() + self.swaps.double() @ (other - own))

    def enough(self, fires: Bool[Tensor, " row"]) -> str | None:
        """Why nothing can be said of where a latent fires, or None."""
        where = len(self.group[fires].unique())
        if where < LEAST:
            return f"it fires in {where} of the {len(self.groups)} judged scenarios, {LEAST} are needed"
        return "it fires on every judged token" if bool(fires.all()) else None


def rule_of(fires: Bool[Tensor, " row"], tokens: Tokens) -> Rule | str:
    """The rule learned on rows of a few scenarios, or why there is none."""
    if len({tokens.passages[at].group for at in tokens.passage[fires].unique().tolist()}) < LEAST:
        return f"it fires in fewer than {LEAST} of the scenarios that rules are learned on"
    return learned(fires, tokens, labelled(tokens))


def labelled(tokens: Tokens) -> Bool[Tensor, " row"]:
    """True for rows of passages of label 1."""
    return torch.tensor([passage.label == 1 for passage in tokens.passages])[tokens.passage]


def _present(tokens: Tokens) -> list[Passage]:
    return [tokens.passages[at] for at in tokens.passage.unique().tolist()]


def _shown(tokens: Tokens, swapped: bool) -> list[Text]:
    shown = []
    for passage in tokens.passages:
        said = tuple(passage.text[slice(*offsets)] for offsets in passage.offsets)
        shown.append(Text(said, passage.roles, passage.span, int((passage.label == 1) ^ swapped)))
    return shown


def _starts(tokens: Tokens) -> Int[Tensor, " row"]:
    """Where each row's passage begins among the tokens of all passages."""
    ends = torch.tensor([0, *(len(passage.token_ids) for passage in tokens.passages)]).cumsum(0)
    return ends[tokens.passage]


def _answers(explainer: Explainer, latent: int, text: Text) -> Bool[Tensor, " token"]:
    try:
        answers = list(explainer(latent, text))
    except Exception as error:
        found = f"the explainer ended with {type(error).__name__} ({str(error)[:200]})"
        raise AuditError(found, "an answer for every token", "Mend the explainer") from error
    if len(answers) != len(text.tokens) or not all(isinstance(answer, bool | np.bool_) for answer in answers):
        strange = next((repr(one)[:60] for one in answers if not isinstance(one, bool | np.bool_)), "truth values")
        found = f"the explainer gave {len(answers)} answers for {len(text.tokens)} tokens, among them {strange}"
        raise AuditError(found, "True or False for every token", "Mend the explainer")
    return torch.tensor([bool(answer) for answer in answers])
