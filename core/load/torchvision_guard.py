"""The one door to torchvision (and to timm, which imports it).

A torchvision wheel beside a CPU-only torch cannot load its compiled operators, and then fails at import with "operator
torchvision::nms does not exist", because its Python code registers shape functions for two operators nobody declared.
Declaring them first, with torchvision's own signatures, lets the import pass; classification models never call them.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

import torch

from core.errors import LoadError

SIGNATURES = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a Library takes its operators along when it is collected


def _declare_missing() -> None:
    missing = [name for name in SIGNATURES if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(SIGNATURES[name])
        _declared.append(library)


@cache
def import_torchvision() -> ModuleType:
    """The torchvision package, importable beside any build of torch."""
    try:
        import torchvision
    except RuntimeError:
        # Only now is it known that the compiled operators are absent: a wheel that has them declares them itself.
        _declare_missing()
        import torchvision
    return torchvision


def has_timm() -> bool:
    return importlib.util.find_spec("timm") is not None


@cache
def import_timm() -> ModuleType:
    """The timm package. Raises LoadError, with the command that installs it, when it is absent."""
    if not has_timm():
        raise LoadError('timm/... needs the optional package timm, which is not installed: pip install "timm>=1.0,<2".')
    import_torchvision()
    import timm

    return timm
