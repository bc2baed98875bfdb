"""What several pages' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.keep.store import open_store
from pages.components import ladder, work
from tests.pages.stand_in import Jobs


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages wait for their network here, however busy the machine."""
    monkeypatch.setattr(work, "PATIENCE_S", 60.0)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """A home folder of its own and no worker: see ``Jobs``."""
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    work._parsed.clear()
    found = Jobs()
    for module in (work, ladder):
        monkeypatch.setattr(module, "open_jobs", lambda: found)
    yield found
    open_store().close()
    work._parsed.clear()
