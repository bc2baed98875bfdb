"""What several tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.keep.store import FILE_NAME, open_store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder of its own; what the program keeps lies there and is let go afterwards."""
    folder = tmp_path / "home"
    monkeypatch.setenv("PRUNESCOPE_HOME", str(folder))
    yield folder
    if (folder / FILE_NAME).exists():
        open_store().close()
