"""What both models are read on: every text tokenised once, as the two tokenizers agree on it.

Where they disagree on a passage its whole contrast pair is counted out and named; where they agree on none the pair is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from probes.digest import AuditError, digest
from probes.line import Line
from probes.passage import Passage, render_all
from probes.persona import Persona


class Tokenized(Protocol):
    """What turns texts into ids: a loaded model, or one that is known by its configuration and tokenizer alone."""

    @property
    def tokenizer(self) -> Any:
        """A fast Hugging Face tokenizer."""
        ...

    @property
    def template(self) -> str | None:
        """Its own chat template."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens that it has room for."""
        ...

    @property
    def tokenizer_digest(self) -> str:
        """What turns text into ids."""
        ...


@dataclass(frozen=True)
class Excluded:
    """A contrast pair that was counted out, or a plain text, which goes by its scenario and has no persona."""

    pair: str
    reason: str
    persona: str | None = None


@dataclass(frozen=True, eq=False)
class Texts:
    """Every persona's passages as both tokenizers agree on them."""

    passages: dict[str, tuple[Passage, ...]]
    plain: tuple[Passage, ...]
    excluded: tuple[Excluded, ...]
    template: str | None
    template_from: str
    """Who the chat template was taken from: base, post, or a file."""

    @property
    def ids(self) -> str:
        """Digest of every token id of every passage: what "the same text in both models" means."""
        everything = (*(p for name in sorted(self.passages) for p in self.passages[name]), *self.plain)
        return digest([[list(passage.token_ids), list(passage.span)] for passage in everything])

    def named(self, message: str) -> str:
        """A message in which a passage is called by its pair and scenario, as its file has them, and not by its id."""

        def name(match: re.Match[str]) -> str:
            everything = (*self.plain, *(passage for some in self.passages.values() for passage in some))
            for passage in everything:
                if passage.id == match[1]:
                    own = f"pair {passage.pair!r}" if passage.pair else "the plain text"
                    return f"{own} of scenario {passage.group!r}"
            return match[0]

        return re.sub(r"passage ([0-9a-f]{64})", name, message)


def judged(passages: Sequence[Passage], domain: str) -> list[Passage]:
    """The passages of one domain that a persona is judged by: its control texts stand beside them."""
    return [passage for passage in passages if passage.domain == domain and passage.control is None]


def template_of(base: Tokenized, post: Tokenized, choice: str) -> tuple[str | None, str]:
    """The one chat template both models are read under, and who it came from.

    Args:
        choice: "auto" (base's own, else post's), "base", "post", or the path of a jinja file.

    Raises:
        AuditError: the named side has none, or the file cannot be read.
    """
    own = {"base": base.template, "post": post.template}
    if choice == "auto":
        name = "base" if own["base"] is not None else "post"
        return own[name], name
    if choice in own:
        if own[choice] is None:
            raise AuditError(
                f"{choice} has no chat template", "one, as the plan's pair.template says", "Set it to 'auto'"
            )
        return own[choice], choice
    try:
        return Path(choice).read_text(encoding="utf-8"), choice
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise AuditError(
            f"pair.template = '{choice}' cannot be read ({reason})",
            "auto, base, post or a jinja file",
            "Mend the path or the file",
        ) from error


def agree(
    personas: Sequence[Persona], plain: Sequence[Line], base: Tokenized, post: Tokenized, template: str = "auto"
) -> Texts:
    """Tokenises everything once, and counts out what the two tokenizers do not agree on.

    Raises:
        AuditError: no passage is tokenised alike, or there are chats and no template anywhere.
    """
    text, origin = template_of(base, post, template)
    other = None if base.tokenizer_digest == post.tokenizer_digest else post
    room = min((model.context for model in (base, post) if model.context), default=None)
    reason = "the two tokenizers split it differently"
    excluded: list[Excluded] = []
    passages: dict[str, tuple[Passage, ...]] = {}
    for persona in personas:
        ours = render_all(persona.lines, base.tokenizer, text)
        apart = {str(passage.pair) for passage in _differing(persona.lines, ours, other, text)}
        excluded += [Excluded(pair, reason, persona.name) for pair in sorted(apart)]
        long = {str(passage.pair) for passage in _too_long(ours, room)} - apart
        why = f"longer than {room} tokens, the models' room"
        excluded += [Excluded(pair, why, persona.name) for pair in sorted(long)]
        passages[persona.name] = tuple(passage for passage in ours if passage.pair not in apart | long)
        if not passages[persona.name]:
            raise AuditError(
                f"base and post split every passage of '{persona.name}' differently",
                "two models with one tokenizer", "Audit models of one family",
            )  # fmt: skip
    readable = [line for line in plain if line.messages is None or text is not None]
    neutral = render_all(readable, base.tokenizer, text)
    differ = dict.fromkeys(_differing(readable, neutral, other, text))
    excluded += [Excluded(passage.group, f"plain text: {reason}") for passage in differ]
    # Of plain texts there are enough: one that is too long is passed over.
    out = {*differ, *_too_long(neutral, room)}
    kept = tuple(passage for passage in dict.fromkeys(neutral) if passage not in out)
    return Texts(passages, kept, tuple(excluded), text, origin)


def _too_long(passages: Sequence[Passage], room: int | None) -> list[Passage]:
    """Those for which the models have no positions."""
    return [passage for passage in passages if room is not None and len(passage.token_ids) > room]


def _differing(
    lines: Sequence[Line], ours: Sequence[Passage], other: Tokenized | None, template: str | None
) -> list[Passage]:
    """Those of our passages that the other model's tokenizer, where it has one of its own, splits otherwise."""
    if other is None:
        return []
    theirs = render_all(lines, other.tokenizer, template)
    return [our for our, their in zip(ours, theirs, strict=True) if our.token_ids != their.token_ids]
