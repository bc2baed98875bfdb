"""What error is left when units leave and the layers that read them are solved anew: a curve per group, from one walk.

Curves "as cut" say little about a network that is rebuilt afterwards. Here a group's curve is the residual of CaP's
greedy order, for every number of units kept at once; it is weighted by how strongly the network's outputs answer to
each output of the reading layers, so that all groups' curves are in one unit and may be compared and added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.measure.importance.compensation import ROWS_PER_INPUT
from core.measure.importance.criteria import Request
from core.measure.importance.moments import Reading, score_by_readings
from core.measure.walk import Replays, batches, first_tensor, fitting_batch, replay_for, require_images
from core.records import Group, ImageData, Trace
from core.solvers.greedy import Design, forward_greedy
from core.trace.replay import Replay
from core.trace.sites import read_sites

PURPOSE = "Foretelling what rebuilding leaves"
GAIN_IMAGES = 64  # for the outputs' answers: squares of a random combination of outputs, over all positions


@dataclass(frozen=True)
class Residuals:
    """``left[group_id]``: units + 1 numbers, the error left when 0, 1, ... units are kept, chosen by ``order``: about
    the square by which the network's outputs change. ``images``: how many were read."""

    left: Mapping[str, tuple[float, ...]]
    order: Mapping[str, tuple[int, ...]]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        left, order = ({name: list(row) for name, row in rows.items()} for rows in (self.left, self.order))
        return {"left": left, "order": order, "images": self.images}


def measure_residuals(
    trace: Trace,
    data: ImageData,
    groups: Sequence[Group] | None = None,
    *,
    seed: int = 0,
    batch_size: int = 64,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Residuals:
    """Curves of ``groups`` (None: all that may lose units, gathers too) on calibration images; labels do not count.

    L(S) = sum over readers of tr(F (W Sigma W^T - W Sigma[:, S] Sigma[S, S]^-1 Sigma[S, :] W^T)), F diagonal: how much
    the network's outputs answer to each output of the reader (``output_gains``). Sources: the order and L for F = 1:
    Xie et al. 2021, arXiv 2108.13728; slopes as weights: Hassibi and Stork 1993, "Second order derivatives for network
    pruning". Raises MeasureError for images that do not fit, Cancelled.
    """
    data = require_images(data, PURPOSE)
    chosen = tuple(groups) if groups is not None else tuple(g for g in trace.groups if g.prunable)
    few = replace(trace, groups=chosen)
    tell = on_progress or (lambda *_: None)
    request = Request(few, data, seed, batch_size, {"positions": None}, None, cancelled)
    gains = output_gains(request, chosen)
    tell(0.1, f"{PURPOSE}: outputs' answers are known")
    left: dict[str, tuple[float, ...]] = {}
    orders: dict[str, tuple[int, ...]] = {}

    def solve(group: Group, readings: list[Reading]) -> Tensor:
        order, residual = forward_greedy([_design(reading, gains) for reading in readings], group.units)
        orders[group.id], left[group.id] = tuple(order.tolist()), tuple(residual.tolist())
        return residual[1:]

    scored = replace(request, on_progress=lambda share, message: tell(0.1 + 0.9 * share, message))
    score_by_readings(scored, PURPOSE, solve, rows_per_input=ROWS_PER_INPUT)
    for group in chosen:  # nothing reads it, or only zeros: all may go
        left.setdefault(group.id, (0.0,) * (group.units + 1))
        orders.setdefault(group.id, tuple(range(group.units)))
    return Residuals(left, orders, len(data))


def _design(reading: Reading, gains: Mapping[str, Tensor]) -> Design:
    """Outputs scaled by how much they matter. Where a reader is known by some outputs' sums only, by their mean."""
    gain = gains[reading.weight]
    if len(gain) == len(reading.W):
        return Design(reading.W * gain.sqrt()[:, None], reading.covariance, reading.unit_of)
    read = min(len(gain), len(reading.means))
    return Design(reading.W, reading.covariance, reading.unit_of, float(gain.sum()) / read)


def output_gains(request: Request, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Reader's weight -> float64 (its outputs,): how strongly the network's outputs answer to an error there.

    With g the slope of v . outputs at each position, v random with unit variance and no part along (1, ..., 1), which
    no decision depends on: errors that are independent from position to position count sum g^2, errors that are alike
    everywhere (sum g)^2. Real ones lie between: the geometric mean of the two, each averaged over images, is taken.
    """
    data = require_images(request.data, PURPOSE)
    few = data.take(torch.arange(min(GAIN_IMAGES, len(data))))
    replays, sums = Replays(request.trace), dict[str, Tensor]()
    size = fitting_batch(request.trace, min(32, request.batch_size))
    numbers = request.numbers("mixture of outputs")
    for images, _ in batches(few, torch.arange(len(few)), size, request.trace.module):
        request.check()
        replay = replay_for(replays, images, PURPOSE)
        for weight, found in _slopes(replay, images, groups, numbers).items():
            alone, together = found.square().sum((0, 1)), found.sum(1).square().sum(0)
            sums[weight] = sums.get(weight, 0.0) + torch.stack([alone, together])
    return {weight: found.prod(0).sqrt() / len(few) for weight, found in sums.items()}


def _slopes(replay: Replay, images: Tensor, groups: Sequence[Group], numbers: torch.Generator) -> dict[str, Tensor]:
    """Reader's weight -> float64 (images, positions, outputs); uses of one weight stand as more positions."""
    by_group = read_sites(replay.tape, replay.steps, groups, normed=True)
    sites = {site.step: site for found in by_group.values() for site in found}
    env: dict[int, Any] = {replay.tape.input: images}
    probes: dict[int, Tensor] = {}
    with torch.enable_grad():
        for index, step in enumerate(replay.steps):
            replay.run_step(index, env, {})
            slot = step.outputs[0] if step.outputs else -1
            if index in sites and slot in env:
                probes[index] = torch.zeros_like(env[slot], requires_grad=True)
                env[slot] = env[slot] + probes[index]
        outputs = first_tensor(replay.output(env))
        v = torch.randn(outputs.shape, generator=numbers).to(outputs)
        if v.dim() > 1:
            v = v - v.mean(1, keepdim=True)
        mixed, inputs = (outputs * v).sum(), list(probes.values())
        slopes = torch.autograd.grad(mixed, inputs, allow_unused=True, materialize_grads=True)
    result: dict[str, Tensor] = {}
    for index, slope in zip(probes, slopes, strict=True):
        site = sites[index]
        found = slope.detach().double().cpu().movedim(1 if site.axis == 1 else -1, -1)
        found = found.reshape(len(images), -1, found.shape[-1])
        result[site.weight] = torch.cat([result[site.weight], found], 1) if site.weight in result else found
    return result
