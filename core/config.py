"""Where Prunescope keeps what must survive a restart."""

from __future__ import annotations

import os
from pathlib import Path

from core.errors import CoreError

HOME_VARIABLE = "PRUNESCOPE_HOME"


def home_folder() -> Path:
    """The folder for stored results and workspaces: $PRUNESCOPE_HOME, else ~/.prunescope.

    It is made when missing, readable by its owner only. Raises CoreError when it cannot be made or written.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    folder = Path(chosen).expanduser() if chosen else Path.home() / ".prunescope"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unusable(folder, "no permission to write there")
    return folder.resolve()


def _unusable(folder: Path, why: str) -> CoreError:
    return CoreError(
        f"Expected a folder to keep results and saved work in. {folder} cannot be used: {why}. "
        f"Set the environment variable {HOME_VARIABLE} to a folder you can write to, and start again."
    )
