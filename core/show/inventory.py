"""What is inside a network and its images, as rows and pictures that a page can show as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from core.measure.cost.counts import count_cost
from core.records import Group, ImageData, LayerCost, Plan, Trace

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network: dense, and under a plan.

    ``kind``: "conv 3 x 3", "linear", ... ``group``: the name of the group its output channels belong to, "" when there
    is none. ``reason``: why its outputs are locked, "" when they may leave. ``macs`` per image.
    """

    layer: str
    kind: str
    group: str
    prunable: bool
    reason: str
    dense: LayerCost
    planned: LayerCost


@dataclass(frozen=True)
class Overview:
    """What a trace found. ``locked``: how many units stay put, by reason. ``unknown``: operators without a rule."""

    layers: int
    groups: int
    prunable: int
    channels: int
    prunable_channels: int
    locked: Mapping[str, int]
    unknown: Mapping[str, int]


@dataclass(frozen=True)
class Picture:
    """One image as people see it: ``pixels`` uint8, H x W x 3 (grey repeated), and the name of its class."""

    pixels: NDArray[np.uint8]
    label: str


def layer_rows(trace: Trace, plan: Plan | None = None, *, norms: bool = False) -> list[LayerRow]:
    """The layers with weights, in network order; ``planned`` equals ``dense`` without a plan. ``norms``: list batch
    norms and their like too. Raises PlanError when the plan names a group the trace does not have."""
    dense = count_cost(trace).per_layer
    planned = count_cost(trace, plan).per_layer if plan is not None else dense
    modules = dict(trace.module.named_modules())
    groups = _producing_groups(trace)
    rows = []
    for layer, cost in dense.items():
        module = modules.get(layer)
        if isinstance(module, NORMS) and not norms:
            continue
        group = groups.get(layer)
        name, prunable = (group.name, group.prunable) if group else ("", False)
        reason = (group.reason or "") if group else "its channels follow other layers"
        rows.append(LayerRow(layer, layer_kind(module), name, prunable, reason, cost, planned[layer]))
    return rows


def layer_kind(module: nn.Module | None) -> str:
    """What a layer is, in the field's words: "conv 3 x 3, stride 2", "depthwise 3 x 3", "linear"."""
    if isinstance(module, nn.modules.conv._ConvNd):
        kernel = " x ".join(str(size) for size in module.kernel_size)
        kind = "conv" if module.groups == 1 else "depthwise"
        if 1 < module.groups < module.in_channels:
            kind = f"conv in {module.groups} groups"
        stride = max(int(step) for step in module.stride)
        return f"{kind} {kernel}" + (f", stride {stride}" if stride > 1 else "")
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "batch norm"
    return type(module).__name__ if module is not None else "parameter"


def _producing_groups(trace: Trace) -> dict[str, Group]:
    """Layer -> the group its outputs are in; a follower (depthwise, norm) belongs to the group it passes on."""
    found: dict[str, Group] = {}
    for group in trace.coupled:
        for member in (*group.by_role("producer"), *group.by_role("follower")):
            found.setdefault(member.layer, group)
    return found


def summarise_trace(trace: Trace) -> Overview:
    """How much of the network may leave, and why the rest may not."""
    own = trace.coupled
    locked: dict[str, int] = {}
    for group in own:
        if not group.prunable:
            reason = group.reason or "locked"
            locked[reason] = locked.get(reason, 0) + group.units
    return Overview(
        len(layer_rows(trace)),
        len(own),
        sum(group.prunable for group in own),
        sum(group.units for group in own),
        sum(group.units for group in own if group.prunable),
        locked,
        trace.unknown,
    )


def sample_pictures(data: ImageData, count: int = 20) -> list[Picture]:
    """Images spread evenly over the classes, normalisation undone. Fewer when there are fewer."""
    order = torch.argsort(_turn(data.labels), stable=True)[:count]
    pixels = images_as_pixels(data, order)
    return [
        Picture(image, data.classes[label]) for image, label in zip(pixels, data.labels[order].tolist(), strict=True)
    ]


def images_as_pixels(data: ImageData, indices: torch.Tensor) -> NDArray[np.uint8]:
    """Images as people see them, normalisation undone: uint8, N x H x W x 3 (grey repeated)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    images = (data.images[indices] * std + mean).clamp(0, 1).mul(255).round().byte()
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] != 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    found: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().numpy()
    return found


def _turn(labels: torch.Tensor) -> torch.Tensor:
    """For each image, how many of its class stand before it, so that classes take turns; ties by class."""
    turn = torch.zeros_like(labels)
    for label in labels.unique():
        members = labels == label
        turn[members] = torch.arange(int(members.sum()))
    return turn * (int(labels.max()) + 1) + labels


def class_counts(data: ImageData) -> dict[str, int]:
    """How many images each class has, in the order of the labels."""
    counts = torch.bincount(data.labels, minlength=len(data.classes)).tolist()
    return dict(zip(data.classes, counts, strict=False))


def part_sizes(data: ImageData) -> dict[str, int]:
    """Images in each part ("calibration", "selection", "report")."""
    return {name: len(indices) for name, indices in data.parts.items()}
