"""Batch norm statistics of a pruned network, taken again from calibration images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from core.apply.walk import Walk, calibration_batches
from core.errors import Cancelled
from core.records import ImageData
from core.trace.graph import Step

NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm"}


def reestimate_batchnorm(
    module: nn.Module,
    example: Tensor,
    data: ImageData,
    changed: Mapping[str, object] | set[str] | None = None,
    *,
    images: int = 512,
    batch_size: int = 64,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> nn.Module:
    """Set running means and variances of ``module`` (changed in place: pass a copy) to those of calibration images.

    Front to back: each layer's statistics are taken over all images together, with the layers before it already
    renewed. That is what one training-mode pass over all images as a single batch would store. changed: state names
    that differ from the trained network; only batch norms behind them are renewed (None = all).
    Raises PruneError when the images do not fit, Cancelled when asked to stop.
    """
    walk = Walk(module, example, calibration_batches(module, example, data, images, batch_size))
    behind: set[int] = set()  # slots that a change has reached
    with torch.inference_mode():
        for index, step in enumerate(walk.steps):
            if cancelled is not None and cancelled():
                raise Cancelled("Re-estimating batch norm was cancelled.")
            names = {walk.replay.tape.state.get(slot) for slot in step.reads}
            if changed is None or behind.intersection(step.reads) or names.intersection(changed):
                behind.update(step.outputs)
                if step.name in NORMS and not (changed is not None and not behind.intersection(step.reads)):
                    _renew(walk, step)
            walk.run(index)
            if on_progress is not None:
                on_progress((index + 1) / len(walk.steps), "Re-estimating batch norm")
    return walk.finish(module)


def _renew(walk: Walk, step: Step) -> None:
    mean_name, var_name = (walk.name(value) for value in step.args[3:5])
    if mean_name is None or var_name is None:
        return
    batches = walk.values(step.args[0].slot)
    total = square = torch.zeros(batches[0].shape[1], dtype=torch.float64, device=batches[0].device)
    count = 0
    axes = [axis for axis in range(batches[0].dim()) if axis != 1]
    for x in batches:
        count += x.numel() // x.shape[1]
        total = total + x.double().sum(axes)
    mean = total / count
    shape = [-1 if axis == 1 else 1 for axis in range(batches[0].dim())]
    for x in batches:
        square = square + (x.double() - mean.reshape(shape)).square().sum(axes)
    old = walk.state(mean_name)
    walk.edits[mean_name] = mean.to(old)
    walk.edits[var_name] = (square / max(1, count - 1)).to(old)
