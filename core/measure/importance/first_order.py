"""How much the loss would change, to first order, if each unit were hidden: Taylor's terms, in nats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.errors import Cancelled
from core.measure.importance.taylor import read_contributions
from core.measure.walk import Replays, batches, fitting_batch, replay_for, require_images
from core.records import ImageData, Trace

PURPOSE = "A Taylor estimate"


def first_order_changes(
    trace: Trace,
    data: ImageData,
    *,
    batch_size: int = 64,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Tensor]:
    """Prunable group id -> float64 (units, 2): mean over images of |dC/dz . z|, and of -dC/dz . z with its sign.

    z: the unit's map where it is read (all positions, readers and channels of the unit), C: one image's cross-entropy.
    Hiding the unit takes z to 0, so -dC/dz . z is the first-order change of C. data: N x C x H x W with labels.
    The network is left as it was. Raises MeasureError for no images or labels that do not fit, Cancelled when asked to
    stop. Source: Molchanov et al. 2017, arXiv 1611.06440, equations 6 to 8, without the mean over positions.
    """
    data = require_images(data, PURPOSE)
    replays, size = Replays(trace), fitting_batch(trace, batch_size)
    totals = {group.id: torch.zeros(group.units, 2, dtype=torch.float64) for group in trace.prunable}
    seen = 0
    for images, labels in batches(data, torch.arange(len(data)), size, trace.module):
        if cancelled is not None and cancelled():
            raise Cancelled("The Taylor estimate was cancelled.")
        replay = replay_for(replays, images, PURPOSE)
        found = read_contributions(replay, trace, images, labels, data, averaged=False)
        for group_id, total in totals.items():
            total += torch.stack([found[group_id].abs().sum(0), -found[group_id].sum(0)], dim=1)
        seen += len(images)
        if on_progress is not None:
            on_progress(seen / len(data), f"Taylor: {seen} of {len(data)} images")
    return {group_id: total / len(data) for group_id, total in totals.items()}
