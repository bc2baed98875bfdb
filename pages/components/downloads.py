"""Files to take away, read only when somebody clicks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import streamlit as st

from pages.components import tables


def everything(directory: Path, names: list[str], key: str) -> None:
    """One button for all files as a zip."""
    total = tables.size(sum((directory / name).stat().st_size for name in names))
    together(directory, names, f"Download all ({total})", f"{key}-all", primary=True)


def together(directory: Path, names: list[str], label: str, key: str, *, primary: bool = False) -> None:
    """One button for some files as a zip."""
    st.download_button(
        label,
        lambda: _zipped(directory, names),
        file_name=f"{directory.name}.zip",
        mime="application/zip",
        key=key,
        on_click="ignore",
        type="primary" if primary else "secondary",
        icon=":material/folder_zip:",
    )


def one(directory: Path, name: str, key: str) -> None:
    """A button for one file, with its size."""
    path = directory / name
    st.download_button(
        tables.size(path.stat().st_size),
        lambda: _opened(path),
        file_name=name,
        mime="text/html" if name.endswith(".html") else "application/octet-stream",
        key=f"{key}-{name}",
        on_click="ignore",
        icon=":material/download:",
        width="stretch",
        help=name,
    )


def csv(label: str, text: Callable[[], str], name: str) -> None:
    """A quiet button for a table as CSV, written when it is clicked."""
    st.download_button(
        label,
        lambda: text().encode(),
        file_name=f"{name.replace('/', '-')}.csv",
        mime="text/csv",
        key=f"csv-{name}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _zipped(directory: Path, names: list[str]) -> bytes:
    """Stored, not deflated: weights do not shrink."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.write(directory / name, f"{directory.name}/{name}")
    return file.getvalue()
