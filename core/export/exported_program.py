"""model.pt2: the network as a program that PyTorch runs without its Python classes (torch.export)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

FILE = "model.pt2"


def write_exported_program(module: nn.Module, example: Tensor, path: Path, recipe: Mapping[str, Any]) -> None:
    """Any batch size from 1 up; the other sizes as in ``example``, 1 x C x H x W."""
    program = export_program(module, example)
    # torch.export.save insists on its own suffix.
    named = path.with_name(f"{path.name}.pt2")
    try:
        torch.export.save(program, named)
        named.replace(path)
    finally:
        named.unlink(missing_ok=True)


def export_program(module: nn.Module, example: Tensor) -> Any:
    """``module`` in eval mode as a torch.export program with a free batch size."""
    sample = torch.cat([example, example])  # a batch of 1 would be taken for a constant
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about internals of the exporter, nothing a caller could act on
        batch = torch.export.Dim("batch", min=1)
        return torch.export.export(copy.deepcopy(module).eval(), (sample,), dynamic_shapes=({0: batch},))


def run_exported_program(directory: Path, batches: list[Tensor]) -> list[Tensor]:
    """Outputs of the reloaded program for each batch."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.load(directory / FILE).module()
        return [first_tensor(program(batch)) for batch in batches]


def first_tensor(result: Any) -> Tensor:
    found: Tensor = next(leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor))
    return found
