"""model.pt2: the network as a program that PyTorch runs without its Python classes (torch.export)."""

from __future__ import annotations

from pathlib import Path

from core.export.source import Source, save_program

FILE = "model.pt2"


def write_exported_program(source: Source, path: Path) -> None:
    """Any batch size from 1 up; the other sizes as in the example, 1 x C x H x W."""
    named = path.with_name(f"{path.name}.pt2")  # torch.export.save insists on its own suffix
    try:
        save_program(source.program, named)
        named.replace(path)
    finally:
        named.unlink(missing_ok=True)
