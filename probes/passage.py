"""Text to token ids, the scored span and its group; the only module that knows chat templates.

A passage is tokenised once, by stock tokenizers, with exactly one BOS where the tokenizer prepends one. What a template
writes after the last message is dropped, so nothing follows the judged turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from probes.digest import AuditError, digest
from probes.line import Domain, Line

# No template edits, trims or splits on it, and it merges with nothing.
_MARK = "\u2983here\u2984"
# Some templates print today's date, which would make the same chat another passage tomorrow. The macro shadows it.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format.replace('%d', '26').replace('%-d', '26').replace('%b', 'Jul')"
    ".replace('%B', 'July').replace('%m', '07').replace('%Y', '2024').replace('%y', '24').replace('%A', 'Friday')"
    ".replace('%H', '12').replace('%M', '00').replace('%S', '00') }}{%- endmacro +%}"
)

Ids = tuple[int, ...]
Offsets = tuple[tuple[int, int], ...]
Turns = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Passage:
    """One tokenised text and the tokens that are scored.

    Attributes:
        id: digest of the rendered text, the scored characters and the labels; no tokenizer enters it, so both models
            of a pair give a text the same id.
        persona: the persona it speaks of, None for plain text.
        domain: "story", "assistant" or "plain".
        label: 1, 0 or None.
        pair: the contrast pair it belongs to.
        group: the scenario; everything is resampled by it.
        control: the kind of control text it is.
        token_ids: the whole passage, BOS included.
        span: first and one past the last scored token; never empty.
        text: the rendered text that was tokenised, without a prepended BOS.
        offsets: characters of `text` that each token covers, end exclusive; (0, 0) for a prepended BOS.
        turns: role and characters of `text` of every message, in their order; empty where nobody speaks.
    """

    id: str
    persona: str | None
    domain: Domain
    label: int | None
    pair: str | None
    group: str
    control: str | None
    token_ids: Ids
    span: tuple[int, int]
    text: str
    offsets: Offsets
    turns: Turns = ()

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """Who speaks each token: the role of its message, "template" between messages, "text" where nobody speaks."""
        if not self.turns:
            return ("text",) * len(self.token_ids)
        return tuple(
            next((role for role, first, last in self.turns if start < last and end > first), "template")
            for start, end in self.offsets
        )

    @cached_property
    def content(self) -> str:
        """Digest of what a model is given and what is scored of it: a recording is kept under it."""
        return digest([self.id, list(self.token_ids), list(self.span)])


def render(line: Line, tokenizer: Any, template: str | None) -> Passage:
    """Renders and tokenises one line.

    Args:
        line: text or messages with the scored characters.
        tokenizer: a fast Hugging Face tokenizer; it is never changed.
        template: the chat template for messages, whichever model of the pair it came from; plain text needs none.
            Where it refuses a system message, that message is put before the first user's, a blank line between.

    Raises:
        AuditError: for messages without a template, a template that refuses or rewrites them, a slow tokenizer, and a
            span that no token covers.
    """
    return render_all([line], tokenizer, template)[0]


def render_all(lines: Sequence[Line], tokenizer: Any, template: str | None) -> list[Passage]:
    """Renders lines in their order, tokenised as one batch; see `render`."""
    rendered = [_rendered(line, tokenizer, template) for line in lines]
    tokenised = _tokenised([text for text, _ in rendered], tokenizer)
    return [_passage(line, *one, *tokens) for line, one, tokens in zip(lines, rendered, tokenised, strict=True)]


def _passage(line: Line, text: str, span: tuple[int, int], ids: Ids, offsets: Offsets) -> Passage:
    covered = [i for i, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    if not covered:
        raise _unscored(line, f"no token covers {text[slice(*span)]!r}")
    own = (line.persona, line.domain, line.label, line.pair, line.scenario, line.control)
    scored = (covered[0], covered[-1] + 1)
    return Passage(digest([*own, text, list(span)]), *own, ids, scored, text, offsets, _turns(line, text))


def _rendered(line: Line, tokenizer: Any, template: str | None) -> tuple[str, tuple[int, int]]:
    """The text to tokenise and the scored characters in it."""
    if line.messages is None:
        text = line.text or ""
        return text, line.span or (0, len(text))
    if template is None:
        raise AuditError(
            f"There is no chat template anywhere for the messages of scenario {line.scenario!r}",
            "one with either model",
            "Give template = the path of a jinja file in the plan",
        )
    messages = [dict(message) for message in line.messages]
    content = messages[-1]["content"]
    text = _apply(line, messages, tokenizer, template)
    marked = _apply(line, [*messages[:-1], messages[-1] | {"content": _MARK}], tokenizer, template)
    # The mark shows where the last message begins, however often its words occur elsewhere in the chat.
    start = marked.rfind(_MARK)
    if start < 0 or text[:start] != marked[:start]:
        start = max(text.rfind(content), text.rfind(content.strip()))
    whole = (content, content.rstrip(), content.strip(), content.lstrip())
    kept = next((kept for kept in whole if text.startswith(kept, start)), None)
    if start < 0 or not kept:
        raise _unscored(line, "the chat template rewrites the last message")
    shift = start - content.find(kept)
    first, last = line.span or (0, len(content))
    span = (max(first + shift, start), min(last + shift, start + len(kept)))
    if span[0] >= span[1]:
        raise _unscored(line, "the chat template trims the scored span away")
    return text[: start + len(kept)], span


def _turns(line: Line, text: str) -> Turns:
    """Where each message stands in the rendered text; one that the template rewrote stands nowhere."""
    found, position = [], 0
    for message in line.messages or ():
        content = message["content"].strip()
        at = text.find(content, position)
        if content and at >= 0:
            position = at + len(content)
            found.append((message["role"], at, position))
    return tuple(found)


def _apply(line: Line, messages: list[dict[str, str]], tokenizer: Any, template: str) -> str:
    from jinja2 import TemplateError

    shadowed = _FIXED_DATE + template if "strftime_now" in template else template
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, chat_template=shadowed)
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        roles = [message["role"] for message in messages]
        if roles[:2] == ["system", "user"]:
            # Gemma 2 has no system role; what its successor's template does is done for it.
            turn = messages[1] | {"content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
            return _apply(line, [turn, *messages[2:]], tokenizer, template)
        raise AuditError(
            f"The chat template refuses the messages of scenario {line.scenario!r} ({error})",
            f"the roles {', '.join(roles)} to be allowed in this order",
            "Change the messages, or choose another template in the plan",
        ) from error


def _tokenised(texts: Sequence[str], tokenizer: Any) -> list[tuple[Ids, Offsets]]:
    """Ids and offsets with the tokenizer's own prefix once, whether a text brings it along or not."""
    if not tokenizer.is_fast:
        raise AuditError(
            f"The tokenizer {type(tokenizer).__name__} gives no character offsets",
            "a fast tokenizer (tokenizer.json)",
            "Convert it, or take the model's fast tokenizer",
        )
    if not texts:
        return []
    prefix = _prefix(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    out = []
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ahead = prefix if ids[: len(prefix)] != prefix else []
        out.append(((*ahead, *ids), (*((0, 0) for _ in ahead), *map(tuple, offsets))))
    return out


def _prefix(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before plain text: one BOS, for most that have any."""
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(bare)] == bare), [])


def _unscored(line: Line, why: str) -> AuditError:
    return AuditError(
        f"Nothing to score in pair {line.pair!r} of scenario {line.scenario!r}: {why}",
        "a span that survives rendering",
        "Move the span, or choose another template in the plan",
    )
