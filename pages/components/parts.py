"""Scripts and styles of the browser's components.

A v2 component takes one text and nothing is built, so its files are joined into one module, behind those that several
components share (assets/parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ASSETS = Path(__file__).parents[2] / "assets"
SHARED = ("make.js", "picture.js")


def script(folder: str, names: Sequence[str], shared: Sequence[str] = SHARED) -> str:
    """The files ``names`` of assets/``folder``, in this order, as one module."""
    files = [*(ASSETS / "parts" / name for name in shared), *(ASSETS / folder / name for name in names)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def style(folder: str) -> str:
    """assets/``folder``'s style sheet, called as the folder."""
    return (ASSETS / folder / f"{folder}.css").read_text(encoding="utf-8")
