"""A table from a name to a thing and the words a person reads about it.

One row feeds the menu, the help text, the README table and the contract tests.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import CoreError

T = TypeVar("T")


@dataclass(frozen=True)
class Row(Generic[T]):
    """One entry: ``name`` is what code says, ``title`` what a menu shows, ``summary`` one plain sentence,
    ``formula`` LaTeX (may be empty), ``source`` the paper or textbook it comes from."""

    name: str
    value: T
    title: str
    summary: str
    formula: str = ""
    source: str = ""


class Registry(Generic[T]):
    """Rows by name, in the order they were added. A clash is an error; an unknown name lists the nearest."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._rows: dict[str, Row[T]] = {}

    def add(self, row: Row[T]) -> None:
        if row.name in self._rows:
            raise ValueError(f"two {self.kind} rows are called {row.name!r}")
        self._rows[row.name] = row

    def row(self, name: str) -> Row[T]:
        if name not in self._rows:
            raise unknown_name(self.kind, name, list(self._rows))
        return self._rows[name]

    def __getitem__(self, name: str) -> T:
        return self.row(name).value

    def __iter__(self) -> Iterator[Row[T]]:
        return iter(self._rows.values())

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def names(self) -> list[str]:
        return list(self._rows)


def unknown_name(kind: str, name: str, known: list[str], error: type[CoreError] = CoreError) -> CoreError:
    """The error for a name that no row has: quotes it and lists the nearest (or all, when few)."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:12]
    return error(f"There is no {kind} called {name!r}. Nearest: {', '.join(near)}.")
