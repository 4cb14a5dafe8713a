"""Passages whose tokens are the words of a sentence: for tests that need no tokenizer."""

from __future__ import annotations

from probes.passage import Passage


class Speller:
    """Gives every word an id when it first occurs."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def passage(self, text: str, span: tuple[int, int], label: int, group: str, half: str = "a", **more) -> Passage:
        """A passage with a first token that covers nothing, then a token a word; `span` counts tokens."""
        words = text.split()
        offsets, at = [(0, 0)], 0
        for word in words:
            offsets.append((at, at + len(word)))
            at += len(word) + 1
        ids = tuple(self.ids.setdefault(word, len(self.ids) + 1) for word in words)
        name = f"{group}-{half}-{label}"
        return Passage(
            name, "deception", "assistant", label, f"{group}-{half}", group, None, (0, *ids), span, text,
            tuple(offsets), **more,
        )  # fmt: skip


def rows_of(passages) -> list[str]:
    """Names of every token but each passage's first, as a recording has them."""
    return [f"{passage.id}:{at}" for passage in passages for at in range(1, len(passage.token_ids))]
