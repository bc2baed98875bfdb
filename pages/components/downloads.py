"""Files to take away, read only when somebody clicks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import streamlit as st

from pages.components import tables


def buttons(directory: Path, names: list[str], key: str) -> None:
    """One button for everything as a zip, and one per file with its size."""
    total = sum((directory / name).stat().st_size for name in names)
    st.download_button(
        f"Download all ({tables.size(total)})",
        lambda: _zipped(directory, names),
        file_name=f"{directory.name}.zip",
        mime="application/zip",
        key=f"{key}-all",
        on_click="ignore",
        type="primary",
        icon=":material/folder_zip:",
    )
    with st.container(gap=None, key="files"):
        for name in names:
            path = directory / name
            st.download_button(
                f"{name} · {tables.size(path.stat().st_size)}",
                lambda path=path: _opened(path),
                file_name=name,
                mime="application/octet-stream",
                key=f"{key}-{name}",
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
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
