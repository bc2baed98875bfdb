"""Scripts, styles and messages of the browser's components.

A v2 component takes one text and nothing is built, so its files are joined into one module, behind those that several
components share (assets/parts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pages.components import session

ASSETS = Path(__file__).parents[2] / "assets"
SHARED = ("make.js", "picture.js")


def script(folder: str, names: Sequence[str], shared: Sequence[str] = SHARED) -> str:
    """The files ``names`` of assets/``folder``, in this order, as one module."""
    files = [*(ASSETS / "parts" / name for name in shared), *(ASSETS / folder / name for name in names)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def style(folder: str) -> str:
    """assets/``folder``'s style sheet, called as the folder."""
    return (ASSETS / folder / f"{folder}.css").read_text(encoding="utf-8")


def heard(key: str, event: str) -> Any:
    """The last message of this name from the component with this key; None before the first."""
    return (session.widget_value(key) or {}).get(event)


def forward(key: str, event: str, to: Callable[[Any], None] | None, part: str | None = None) -> Callable[[], None]:
    """Streamlit's callback without arguments for a callback that takes the message, or one ``part`` of it."""

    def call() -> None:
        message = heard(key, event)
        if to and message:
            to(message[part] if part else message)

    return call
