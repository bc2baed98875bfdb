"""model.torchscript.pt: for C++ and older programs (LibTorch); PyTorch itself recommends torch.export by now."""

from __future__ import annotations

import copy
import warnings
import zipfile
from pathlib import Path

import torch
from torch.utils._pytree import tree_flatten

from core.errors import ExportError
from core.export.source import Source
from core.trace.modes import evaluating

FILE = "model.torchscript.pt"
ONE_SIZE = "its trace takes no other batch size than the one it was made with."


def write_torchscript(source: Source, path: Path) -> None:
    """Traced in eval mode. Raises ExportError when the trace does not take other batch sizes or computes otherwise."""
    module = copy.deepcopy(source.module).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    images = torch.randn(3, *source.example.shape[1:], generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is on its way out, and about sizes that the check below covers
        traced = torch.jit.trace(module, source.example, strict=False, check_trace=False)
        with evaluating(source.module):
            expected = next(leaf for leaf in tree_flatten(source.module(images))[0] if isinstance(leaf, torch.Tensor))
        try:
            found = next(leaf for leaf in tree_flatten(traced(images))[0] if isinstance(leaf, torch.Tensor))
        except RuntimeError as error:
            raise ExportError(ONE_SIZE) from error
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
            raise ExportError(ONE_SIZE)
        torch.jit.save(traced, path)
    _forget_sources(path)


def _forget_sources(path: Path) -> None:
    """Drop the debugging notes: they name files of this machine and nothing reads them."""
    slim = path.with_name(f"{path.name}.slim")
    try:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(slim, "w", zipfile.ZIP_STORED) as new:
            for info in old.infolist():
                if not info.filename.endswith(".debug_pkl"):
                    new.writestr(info, old.read(info))
        slim.replace(path)
    finally:
        slim.unlink(missing_ok=True)
