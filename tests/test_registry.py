"""A table behaves; and every row that any table of core holds has the words a person reads."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import core
from core.errors import CoreError, PlanError
from core.registry import Registry, Row, unknown_name


def registries() -> Iterator[tuple[str, Registry]]:
    """(where, table) of every Registry that a module of core holds."""
    seen: set[int] = set()
    for info in sorted(pkgutil.walk_packages(core.__path__, "core."), key=lambda info: info.name):
        for name, value in vars(importlib.import_module(info.name)).items():
            if isinstance(value, Registry) and id(value) not in seen:
                seen.add(id(value))
                yield f"{info.name}.{name}", value


TABLES = list(registries())
ROWS = [pytest.param(where, row, id=f"{table.kind}-{row.name}") for where, table in TABLES for row in table]


def test_there_are_tables() -> None:
    assert TABLES and all(len(table.names()) > 0 for _, table in TABLES)


@pytest.mark.parametrize(("where", "row"), ROWS)
def test_rows_have_the_words_people_read(where: str, row: Row) -> None:
    assert row.title.strip() and row.title[0].upper() == row.title[0], f"{where}: {row.name} needs a title"
    assert len(row.summary.split()) >= 3 and row.summary.rstrip().endswith("."), f"{where}: {row.name}: one sentence"
    assert row.source.strip(), f"{where}: {row.name} cites nothing"
    assert row.name == row.name.strip() and " " not in row.name


def test_order_clash_and_unknown_names() -> None:
    table: Registry[int] = Registry("fruit")
    for number, name in enumerate(["pear", "apple", "plum"]):
        table.add(Row(name, number, name.title(), "A fruit to eat.", source="Orchard"))
    assert table.names() == ["pear", "apple", "plum"] == [row.name for row in table]
    assert table["plum"] == 2 and "apple" in table and "fig" not in table
    with pytest.raises(ValueError, match="two fruit rows are called 'pear'"):
        table.add(Row("pear", 9, "Pear", "Again."))
    with pytest.raises(CoreError, match=r"There is no fruit called 'aple'\. Nearest: apple"):
        table["aple"]


def test_an_unknown_name_far_from_all_lists_what_there_is() -> None:
    error = unknown_name("fruit", "zzzzzz", ["pear", "fig"], PlanError)
    assert isinstance(error, PlanError) and "pear, fig" in str(error)
