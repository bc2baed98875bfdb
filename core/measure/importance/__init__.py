"""What every channel is worth. One file per family of criteria; the table of them feeds every menu."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import CoreError, MeasureError
from core.measure.cost.counts import count_cost
from core.measure.importance import activations as activations
from core.measure.importance import attributed as attributed
from core.measure.importance import compensation as compensation
from core.measure.importance import lasso as lasso
from core.measure.importance import norms as norms
from core.measure.importance import oracle as oracle
from core.measure.importance import pivots as pivots
from core.measure.importance import taylor as taylor
from core.measure.importance.criteria import CRITERIA, Criterion, Progress, Request, Stop
from core.measure.walk import require_images
from core.records import Group, ImageData, Scores, Trace
from core.registry import Row, unknown_name

SCORE_MACS, LEAST_IMAGES = 3e12, 16  # one or two minutes on one thread
__all__ = ["CRITERIA", "Criterion", "affordable_images", "list_criteria", "score_channels"]


def affordable_images(trace: Trace, criterion: str, most: int) -> int:
    """How many images, from LEAST_IMAGES to ``most``, a criterion can look at for about SCORE_MACS multiply-adds: for a
    large network and a criterion of many passes fewer, so that it takes minutes. ``Scores`` tells how many it were."""
    per_image = CRITERIA[criterion].passes * max(1, count_cost(trace).macs)
    return max(min(LEAST_IMAGES, most), min(most, int(SCORE_MACS / per_image)))


def list_criteria() -> list[Row[Criterion]]:
    """Every criterion that can be asked for, with the words for a menu and a help text."""
    return list(CRITERIA)


def score_channels(
    trace: Trace,
    data: ImageData | None,
    criterion: str,
    *,
    seed: int = 0,
    batch_size: int = 64,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
    **options: Any,
) -> Scores:
    """One score per unit for every group, gathers included: float64, (units,), finite, higher = keep.

    data: images N x C x H x W with labels; None where the criterion looks at weights only (``needs_images`` of its
    row). seed fixes every random choice. ``on_progress(fraction, message)``. options: those of the criterion's row.
    Where reading counts, a group that no layer reads (it feeds the output) scores 0.
    The network and the global random state are left as they were. Raises CoreError for an unknown criterion,
    MeasureError for missing images, an unknown option, or scores that are not finite, Cancelled when asked to stop.
    """
    chosen = CRITERIA[criterion]
    for name in options:
        if name not in chosen.options:
            if not chosen.options:
                raise MeasureError(f"{criterion} has no options; found {name!r}.")
            raise unknown_name(f"{criterion} option", name, list(chosen.options), MeasureError)
    if chosen.needs_images:
        data = require_images(data, CRITERIA.row(criterion).title)
    request = Request(trace, data, seed, batch_size, {**chosen.options, **options}, on_progress, cancelled)
    request.check()
    with torch.inference_mode(False):  # gradients can be had also when the caller is in inference mode
        scores = {name: values.double().cpu() for name, values in chosen.score(request).items()}
    scores.update({group.id: _gathered(trace, group, scores) for group in trace.gathers if group.id not in scores})
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise _not_finite(criterion, name)
    request.report(1.0, f"Scored {len(scores)} groups")
    return Scores(criterion, scores, len(data) if chosen.needs_images and data is not None else 0)


def _gathered(trace: Trace, gather: Group, scores: Mapping[str, Tensor]) -> Tensor:
    """Scores of what one consumer reads: those of the channels themselves."""
    return torch.stack([scores[group_id][unit] for group_id, unit in trace.layout.sources(gather)])


def _not_finite(criterion: str, group: str) -> CoreError:
    return MeasureError(
        f"Group {group}: {criterion} gave scores that are not finite. The network's weights or its outputs on these "
        "images overflow or hold NaN; check the weights and the images' normalisation."
    )
