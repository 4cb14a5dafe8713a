"""What a calibration has already counted, kept in the store: one that was stopped goes on from there.

An entry's key holds what is asked, this program's own sources, the libraries, the machine, and the content of the
models; whatever changes an answer asks anew. Answers are JSON, whose numbers come back bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter

from audit.shelf import Shelf, keep
from probes.digest import digest

T = TypeVar("T")


@dataclass(frozen=True)
class Ledger:
    """The entries of one store.

    Attributes:
        store: its folder.
        program: digest of sources, libraries and machine.
    """

    store: Path
    program: str

    @classmethod
    def of(cls, store: Path) -> Self:
        """Takes the store's folder, and reads this program's own sources."""
        return cls(store, Shelf(store).program())

    def __call__(self, kind: type[T], asked: Sequence[Any], models: Sequence[str], make: Callable[[], T]) -> T:
        """The answer to `asked`, as it was given before or as `make` gives it.

        Args:
            kind: of the answer, in JSON and back.
            asked: what it depends on besides the program, as JSON.
            models: references; where one is no local file the answer is made each time.
            make: finds it.
        """
        contents = [Shelf(self.store).contents(ref) for ref in models]
        if None in contents:
            return make()
        adapter = TypeAdapter(kind)
        path = self.store / "calibration" / f"{digest([self.program, contents, *asked])}.json"
        with suppress(OSError, ValueError):
            return adapter.validate_json(path.read_bytes())
        found = make()
        keep(path, adapter.dump_json(found))
        return found
