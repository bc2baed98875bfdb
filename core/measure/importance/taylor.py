"""Taylor importance: how much the loss would change, to first order, if a feature map were hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import MeasureError
from core.measure.cost.counts import count_cost
from core.measure.importance.criteria import CRITERIA, Criterion, Request, add_by_unit
from core.measure.importance.maps import map_before_pooling
from core.measure.importance.rows import Rows
from core.measure.walk import Replays, batches, example_losses, fitting_batch, replay_for, require_images
from core.records import ImageData, Trace
from core.registry import Row
from core.trace.replay import Replay
from core.trace.sites import ReadSite, read_sites


def taylor(request: Request) -> dict[str, Tensor]:
    """Theta of Molchanov et al. 2017, equation 8: mean over images of |mean over positions of dC/dz z|.

    z is the map after the nonlinearity, taken where it is read: each reader's share of the gradient is had apart and
    they are added, because removal hides the channel from all of them at once. C is one image's own cross-entropy.
    """
    data = require_images(request.data, "Taylor importance")
    normalise, weight = _checked(request.options)
    trace = request.trace
    totals = {group.id: torch.zeros(group.units, dtype=torch.float64) for group in trace.coupled}
    for found in _walk(request, data, averaged=True):
        for name, shares in found.items():
            totals[name] += shares.abs().sum(0)
    scores = {name: total / len(data) for name, total in totals.items()}
    if normalise == "l2":
        scores = {name: values / (values.norm() or 1.0) for name, values in scores.items()}
    if weight:
        macs = macs_per_map(trace)
        scores = {name: values - weight * macs[name] for name, values in scores.items()}
    return scores


def taylor_2019(request: Request) -> dict[str, Tensor]:
    """Theta of Molchanov et al. 2019, equation 8, for a gate on the unit: mean over minibatches of (dE/dgate)^2.

    A gate scales the unit where it is read, so dE/dgate is the sum over readers, channels and positions of dE/dz z.
    E is the mean cross-entropy of ``minibatch`` images that follow one another (the last may be fewer; it counts by its
    share). 1, the default, is the paper's "full gradient" form (FO-FG in its tables): every image squared by itself.
    More is the form without: gradients of several images are averaged first, and cancel. The batch size does not count.
    """
    data, size = require_images(request.data, "Taylor importance"), request.options["minibatch"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise MeasureError(f"minibatch: expected a whole number of images from 1 up, found {size!r}.")
    starts = torch.arange(0, len(data), size)
    counts = (len(data) - starts).clamp(max=size)
    sums = {g.id: torch.zeros(len(starts), g.units, dtype=torch.float64) for g in request.trace.coupled}
    first = 0
    for found in _walk(request, data, averaged=False):
        for name, shares in found.items():
            sums[name].index_add_(0, torch.arange(first, first + len(shares)) // size, shares)
        first += len(next(iter(found.values()), ()))
    weights = (counts.double() / len(data))[:, None]
    return {name: ((total / counts[:, None]).square() * weights).sum(0) for name, total in sums.items()}


def _walk(request: Request, data: ImageData, *, averaged: bool) -> Iterator[dict[str, Tensor]]:
    """``read_contributions`` of one batch after the other, in the order of the images."""
    trace, replays = request.trace, Replays(request.trace)
    order, size = torch.arange(len(data)), fitting_batch(trace, request.batch_size)
    rows: dict[int, Rows] = {}
    for number, (images, labels) in enumerate(batches(data, order, size, trace.module), start=1):
        request.check()
        replay = replay_for(replays, images, "Taylor importance")
        known = rows.setdefault(len(images), Rows(replay, trace.module, images))
        yield read_contributions(replay, trace, images, labels, data, averaged=averaged, rows=known)
        done = min(number * size, len(data))
        request.report(done / len(data), f"Taylor: {done} of {len(data)} images")


def read_contributions(
    replay: Replay,
    trace: Trace,
    images: Tensor,
    labels: Tensor,
    data: ImageData,
    *,
    averaged: bool = True,
    rows: Rows | None = None,
) -> dict[str, Tensor]:
    """Group id -> float64 (images, units): the sum over readers of the mean over positions of dC/dz z, with its sign.

    Not ``averaged``: of the sum over positions. rows: those of ``replay``, where they are known already.

    Pooling and flattening behind the nonlinearity leave the sum of gradient times activation as it is (they are
    homogeneous of degree one), so it is taken where the reader reads; the mean is over the positions of the map itself.
    """
    sites = read_sites(replay.tape, replay.steps, trace.coupled, normed=True)
    read_at = {site.step: site.slot for found in sites.values() for site in found}
    aliases: dict[int, Tensor] = {}
    env: dict[int, Any] = {replay.tape.input: images}
    with torch.enable_grad():
        for index in range(len(replay.steps)):
            slot = read_at.get(index)
            original = None if slot is None else env.get(slot)
            if slot is not None and original is not None:
                alias = original.view_as(original)
                aliases[index] = env[slot] = alias if alias.requires_grad else alias.requires_grad_(True)
            replay.run_step(index, env, {})
            if slot is not None and slot in env:
                env[slot] = original
        losses = example_losses(replay.logits(env), labels, data)
        gradients = _gradients(losses.sum(), aliases)
    products = {index: (gradients[index] * alias.detach()).double() for index, alias in aliases.items()}
    rows, result = rows or Rows(replay, trace.module, images), {}
    makers = {slot: step for step in replay.steps for slot in step.outputs}
    for group in trace.coupled:
        total = torch.zeros(len(images), group.units, dtype=torch.float64)
        for site in sites[group.id]:
            if site.step in products:
                shares = per_unit(rows, products[site.step], site, group.units, "Taylor importance")
                total += shares / map_before_pooling(replay.tape, makers, site).positions if averaged else shares
        result[group.id] = total
    return result


def _gradients(loss: Tensor, aliases: Mapping[int, Tensor]) -> dict[int, Tensor]:
    if not loss.requires_grad:
        return {index: torch.zeros_like(alias) for index, alias in aliases.items()}
    found = torch.autograd.grad(loss, list(aliases.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(aliases, found, strict=True))


def per_unit(rows: Rows, x: Tensor, site: ReadSite, units: int, purpose: str) -> Tensor:
    """Sum of ``x``, shaped like what ``site`` reads, over positions and over each unit's channels: (images, units)."""
    return add_by_unit(units, site.unit_of, rows.split(x, site.slot, site.axis, purpose).sum(1))


def macs_per_map(trace: Trace) -> dict[str, float]:
    """Group id -> millions of multiply-adds per image that its producers spend on one unit."""
    per_layer = count_cost(trace).per_layer
    result = {}
    for group in trace.coupled:
        total = 0.0
        for member in group.by_role("producer"):
            if member.layer in per_layer and not member.tensor.endswith("bias"):
                total += per_layer[member.layer].macs * float((member.unit_of >= 0).double().mean())
        result[group.id] = total / group.units / 1e6
    return result


def _checked(options: Mapping[str, Any]) -> tuple[str, float]:
    normalise, weight = options["normalise"], options["macs_lambda"]
    if normalise not in ("none", "l2"):
        raise MeasureError(f"normalise: expected 'none' or 'l2', found {normalise!r}.")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise MeasureError(f"macs_lambda: expected a number from 0 up (per million MACs), found {weight!r}.")
    return normalise, float(weight)


CRITERIA.add(
    Row(
        "taylor",
        Criterion(taylor, needs_images=True, passes=3, options={"normalise": "none", "macs_lambda": 0.0}),
        "Taylor (first order)",
        "Estimates from one backward pass how much each image's loss would change if the channel were hidden.",
        r"\Theta_i = \frac{1}{N}\sum_{n}\Bigl|\frac{1}{M}\sum_{m}\frac{\partial C_n}{\partial z_{i,m}}\,z_{i,m}\Bigr|",
        "Molchanov, Tyree, Karras, Aila, Kautz 2017, Pruning CNNs for Resource Efficient Inference, arXiv 1611.06440",
    )
)
CRITERIA.add(
    Row(
        "taylor-2019",
        Criterion(taylor_2019, needs_images=True, passes=3, options={"minibatch": 1}),
        "Taylor 2019 (gate, squared)",
        "Puts a gate on each channel and squares how strongly each image's loss answers when the gate moves.",
        r"\Theta_i = \frac{1}{N}\sum_{n}\Bigl(\sum_{m}\frac{\partial C_n}{\partial z_{i,m}}\,z_{i,m}\Bigr)^2",
        "Molchanov, Mallya, Tyree, Frosio, Kautz 2019, Importance Estimation for Neural Network Pruning, "
        "arXiv 1906.10771",
    )
)
