"""What several pages' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.keep.store import open_store
from pages.components import ladder, work
from tests.pages.stand_in import Jobs


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
