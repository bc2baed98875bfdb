"""Give a pruned network back what its smaller weights can express: rebuild layers that read fewer channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from core.apply.batchnorm import reestimate_batchnorm
from core.apply.front_to_back import rebuild_plan
from core.apply.surgery import kept_positions, prune_model
from core.errors import PruneError
from core.records import ImageData, Plan, Trace
from core.registry import unknown_name

METHODS = ("least-squares", "compensation", "batchnorm")
IMAGES = 1024
ROUNDS = 2  # of least squares that heed the ReLU behind a layer


@dataclass(frozen=True)
class LayerFit:
    """How well a layer's smaller weights give back what the original holds behind it (batch norm, additions and ReLU
    included), before (``raw``) and after: mean squared error over variance."""

    layer: str
    raw_error: float
    rebuilt_error: float
    rows: int


def reconstruct_model(
    module: nn.Module, trace: Trace, plan: Plan, data: ImageData, method: str, **options: Any
) -> nn.Module:
    """A NEW pruned network whose weights are rebuilt from calibration images; ``module`` is left alone.

    method: "least-squares" (inputs from the network as pruned and rebuilt so far, outputs from the original, what a
    shortcut lost made up for by the branch: He, Zhang, Sun 2017, arXiv 1707.06168), "compensation" (closed form on the
    original's input statistics: Xie et al. 2021, arXiv 2108.13728) or "batchnorm" (running statistics of the layers
    behind a change). data: images as the network takes them; labels are not used. options: as in
    ``reconstruct_layers``. Raises PlanError for a plan that does not fit, PruneError for images that do not, Cancelled
    when asked to stop.
    """
    return reconstruct_layers(module, trace, plan, data, method, **options)[0]


def reconstruct_layers(
    module: nn.Module,
    trace: Trace,
    plan: Plan,
    data: ImageData,
    method: str,
    *,
    images: int = IMAGES,
    batch_size: int = 64,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> tuple[nn.Module, tuple[LayerFit, ...]]:
    """``reconstruct_model`` with the errors of every rebuilt layer (none for "batchnorm").

    images: at most that many (fewer when memory is short). options: other fields of ``front_to_back.Settings``: ridge,
    positions, seed, correct_branches, rectify, refit, rescale, blend. Layers with groups, transposed ones and weights
    that are used twice stay as pruned, and a layer keeps its raw weights when they fit better. A shift goes into the
    layer's bias or the mean of the batch norm behind it; with neither, the fit has none.
    """
    if method not in METHODS:
        raise unknown_name("way to rebuild", method, list(METHODS), PruneError)
    read = {name for name, _ in kept_positions(trace, plan, roles=("consumer",))}
    if not read or method == "batchnorm":
        pruned = prune_model(module, trace, plan)
        if not read:
            return pruned, ()
        known: dict[str, Any] = {"images": images, "batch_size": batch_size, "cancelled": cancelled}
        return reestimate_batchnorm(pruned, trace.example, data, read, on_progress=on_progress, **known), ()
    found = rebuild_plan(
        module,
        trace,
        plan,
        data,
        images=images,
        batch_size=batch_size,
        solver=method,
        on_progress=on_progress,
        cancelled=cancelled,
        **{"rectify": ROUNDS, "refit": True, **options},
    )
    by_layer = {s.layer: LayerFit(s.layer, s.raw_error, s.rebuilt_error, s.rows) for s in found.stories}
    return found.module, tuple(by_layer.values())
