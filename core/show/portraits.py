"""A channel's portrait as a job, before or after a plan, and as the pictures and grids that a page shows.

What is kept holds maps and indices of images, never images: a picture is drawn when it is shown, from what is open.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.apply.surgery import kept_positions
from core.errors import MeasureError
from core.keep.networks import build_any
from core.keep.subject import Subject, open_subject
from core.measure.cost import count_cost
from core.measure.portrait import Excited, Filter, Portrait, narrowed, places, portray
from core.records import Group, ImageData, Plan, Trace
from core.show.inventory import images_as_pixels
from core.trace.graph import record_tape

PORTRAIT_IMAGES = 256  # selection images looked at, spread evenly
BATCH, BATCH_MACS = 32, 10**10  # images at once, and their multiply-adds
PICTURE_EDGE = 128  # pixels of a picture, about
MORE, LESS = (213, 94, 0), (86, 180, 233)  # Okabe and Ito's vermilion and sky blue: apart for every eye
DARKEST, BRIGHTEST, STRONGEST = 0.16, 0.86, 0.92  # the image is greyed to this range; then colour covers this much
USUAL = 0.98  # attributions have a few extreme pixels; beside them nothing else would be seen
WIDER = 2.0  # a grid of kernels is about so many times as wide as high


@dataclass(frozen=True)
class Sight:
    """One image of a portrait. activation, looked_at: uint8, E x E' x 3; activation None where there is no map.
    value: the excitement; rank: its place among all images (1 = most) in the portrait it is compared with."""

    activation: NDArray[np.uint8] | None
    looked_at: NDArray[np.uint8]
    label: str
    value: float
    rank: int


@dataclass(frozen=True)
class Mosaic:
    """A filter's kernels as one grid of numbers. values: None between kernels and where the input left; inputs: the
    input channel of each number, None between."""

    values: tuple[tuple[float | None, ...], ...]
    inputs: tuple[tuple[int | None, ...], ...]
    left: int


@dataclass(frozen=True)
class UnitPlaces:
    """Where one layer keeps the units of a group. makes: whether it makes them or reads them. at: for every unit its
    positions in words ("12", "64-127"), None where position and unit are the same number."""

    layer: str
    makes: bool
    at: tuple[str, ...] | None


def unit_places(group: Group) -> list[UnitPlaces]:
    """The layers that make the group's units, then those that read them, each once, in network order."""
    found: dict[tuple[str, bool], UnitPlaces] = {}
    for role in ("producer", "consumer"):
        for member in group.by_role(role):
            known = (member.layer, role == "producer")
            if known not in found and bool((member.unit_of >= 0).any()):
                same = torch.equal(member.unit_of, torch.arange(group.units))
                found[known] = UnitPlaces(*known, None if same else _spans(member.unit_of, group.units))
    return list(found.values())


def _spans(unit_of: Tensor, units: int) -> tuple[str, ...]:
    texts = []
    for unit in range(units):
        places = (unit_of == unit).nonzero().flatten().tolist()
        whole = len(places) > 1 and places[-1] - places[0] == len(places) - 1
        texts.append(f"{places[0]}-{places[-1]}" if whole else ", ".join(map(str, places[:4])))
        if not whole and len(places) > 4:
            texts[-1] += f" and {len(places) - 4} more"
    return tuple(texts)


def portrait(
    model: str,
    weights: str,
    data: str,
    group: str,
    unit: int,
    place: str,
    plan: str,
    repair: str,
    on_progress: Callable[..., None],
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """The portrait of one unit in the network of ``plan`` (Plan JSON; one that keeps all = the dense network), repaired
    by a method of REPAIRS, on selection images. place: a reader's name, "" = the last.

    Result: the fields of ``Portrait``, tensors as nested lists, maps as ``packed`` rasters; "places": all there are.
    """
    subject = open_subject(model, weights, data)
    few = portrait_images(subject.data)
    return portray_plan(
        subject, few, group, unit, place, Plan.from_json(plan), repair, on_progress=on_progress, cancelled=cancelled
    )


def portray_plan(
    subject: Subject, data: ImageData, group_id: str, unit: int, place: str, plan: Plan, repair: str, **told: Any
) -> dict[str, Any]:
    """As ``portrait``, for those who hold the subject. Raises MeasureError when the plan removes the unit."""
    group = subject.trace.group(group_id)
    if unit not in plan.kept.get(group_id, (unit,)):
        raise MeasureError(f"The plan removes channel {unit} of {group.name}: there is nothing left to look at.")
    trace = subject.trace
    masks: dict[tuple[str, int], Tensor] = {}
    if any(len(kept) < trace.group(name).units for name, kept in plan.kept.items()):
        trace, masks = _after(subject, group, plan, repair)
    size = max(1, min(BATCH, BATCH_MACS // max(1, count_cost(subject.trace).macs)))  # a cancel is heard between two
    found = portray(trace, data, group_id, unit, place=place or None, **{"batch_size": size, **told})
    return {**_as_json(found, masks, subject.trace), "places": list(places(subject.trace, group))}


def portrait_images(data: ImageData) -> ImageData:
    """The selection images that portraits are made on."""
    part = data.selection
    count = min(PORTRAIT_IMAGES, len(part))
    return part.take(torch.arange(count) * len(part) // max(1, count))


def _after(subject: Subject, group: Group, plan: Plan, repair: str) -> tuple[Trace, dict[tuple[str, int], Tensor]]:
    trace = subject.trace
    pruned, _ = build_any(subject, plan, repair)
    masks = kept_positions(trace, plan)
    return narrowed(trace, group, pruned, record_tape(pruned, trace.example), masks), masks


def _as_json(found: Portrait, masks: Mapping[tuple[str, int], Tensor], dense: Trace) -> dict[str, Any]:
    lists = {"means": found.means.tolist(), "peaks": found.peaks.tolist(), "images": found.images.tolist()}
    return {
        **{name: getattr(found, name) for name in ("group", "unit", "place", "size")},
        **lists,
        "mean_map": None if found.mean_map is None else found.mean_map.tolist(),
        "filters": [_filter_json(one, masks, dense) for one in found.filters],
        "by_mean": [_excited_json(one) for one in found.by_mean],
        "by_peak": [_excited_json(one) for one in found.by_peak],
    }


def _filter_json(one: Filter, masks: Mapping[tuple[str, int], Tensor], dense: Trace) -> dict[str, Any]:
    """Inputs go by the numbers that they have in the dense network."""
    members = [member for group in dense.groups for member in group.members if member.tensor == one.tensor]
    made = next((member.dim for member in members if member.role == "producer"), 0)
    mask = masks.get((one.tensor, 1 - made))
    kept = mask.nonzero().flatten().tolist() if mask is not None else None
    inputs = [kept[position] for position in one.inputs] if kept is not None else list(one.inputs)
    rounded = [float(f"{value:.4g}") for value in one.kernels.flatten().tolist()]
    kernels = torch.tensor(rounded, dtype=torch.float64).reshape(one.kernels.shape).tolist()
    return {**asdict(one), "kernels": kernels, "inputs": inputs}


def _excited_json(one: Excited) -> dict[str, Any]:
    activation = None if one.activation is None else packed(one.activation)
    return {
        "image": one.image,
        "value": one.value,
        "missing": one.missing,
        "activation": activation,
        "looked_at": packed(one.looked_at),
    }


def packed(raster: Tensor) -> dict[str, Any]:
    """A map (h, w) in a byte per cell: value = code / 127 x largest."""
    largest = float(raster.abs().max())
    codes = (raster / (largest or 1.0) * 127).round().to(torch.int8).contiguous()
    return {"size": list(raster.shape), "largest": largest, "codes": base64.b64encode(codes.numpy().tobytes()).decode()}


def unpacked(raster: Mapping[str, Any]) -> Tensor:
    """What ``packed`` was given, to 1/127 of its largest value: float32, (h, w)."""
    codes = np.frombuffer(base64.b64decode(raster["codes"]), dtype=np.int8).reshape(raster["size"])
    return torch.from_numpy(codes.astype(np.float32)) * (raster["largest"] / 127)


def sights(subject: Subject, found: Mapping[str, Any], by: str, other: Mapping[str, Any] | None = None) -> list[Sight]:
    """The images that excite the unit most, by "mean" or "peak", strongest first, with its map and its attribution
    drawn over them. ``other``: the portrait that this one is compared with.

    The image is grey; vermilion covers what is positive and sky blue what is negative, the more the larger: maps up to
    the largest value in these images and in those of ``other``, attributions up to the 98th percentile of these.
    """
    data, rows = portrait_images(subject.data), found[f"by_{by}"]
    compared = [row["activation"] for one in (found, other or found) for row in one[f"by_{by}"]]
    largest = max((raster["largest"] for raster in compared if raster), default=0.0)
    looks = [unpacked(row["looked_at"]) for row in rows]
    sizes = torch.cat([look.abs().flatten() for look in looks])
    usual = float(sizes.quantile(USUAL)) or float(sizes.max())
    values = (other or found)[f"{by}s"]
    result = []
    for row, look in zip(rows, looks, strict=True):
        index = row["image"]
        pixels = images_as_pixels(data, torch.tensor([index]))[0]
        activation = covered(pixels, unpacked(row["activation"]), largest) if row["activation"] else None
        rank = 1 + sum(value > values[index] for value in values)
        label = data.classes[int(data.labels[index])]
        result.append(Sight(activation, covered(pixels, look, usual), label, row["value"], rank))
    return result


def covered(pixels: NDArray[np.uint8], raster: Tensor, largest: float) -> NDArray[np.uint8]:
    """``raster`` (h, w), stretched smoothly, over an image (H x W x 3) in grey, enlarged pixel by pixel."""
    grey = torch.from_numpy(pixels.astype(np.float32) / 255) @ torch.tensor([0.299, 0.587, 0.114])
    times = max(1, ceil(PICTURE_EDGE / max(grey.shape)))
    grey = (DARKEST + (BRIGHTEST - DARKEST) * grey).repeat_interleave(times, 0).repeat_interleave(times, 1)[..., None]
    drawn = F.interpolate(raster[None, None], grey.shape[:2], mode="bilinear", align_corners=False)[0, 0][..., None]
    share = (drawn.abs() / (largest or 1.0)).clamp(0, 1) * STRONGEST
    colour = torch.where(drawn >= 0, torch.tensor(MORE), torch.tensor(LESS)) / 255
    return ((1 - share) * grey + share * colour).mul(255).round().to(torch.uint8).numpy()


def filter_mosaics(before: Mapping[str, Any], after: Mapping[str, Any] | None = None) -> tuple[Mosaic, Mosaic | None]:
    """A filter's kernels as grids, input after input in reading order; in ``after`` the same input has the same place,
    and stays empty when it left."""
    dense = _mosaic(before["inputs"], before)
    return dense, _mosaic(before["inputs"], after) if after is not None else None


def _mosaic(inputs: Sequence[int], shown: Mapping[str, Any]) -> Mosaic:
    kernels = dict(zip(shown["inputs"], shown["kernels"], strict=True))
    height, width = np.shape(shown["kernels"])[1:]
    gap = 0 if height == width == 1 else 1
    columns = max(1, min(len(inputs), round((WIDER * len(inputs) * (height + gap) / (width + gap)) ** 0.5)))
    rows = ceil(len(inputs) / columns)
    size = rows * (height + gap) - gap, columns * (width + gap) - gap
    values: list[list[float | None]] = [[None] * size[1] for _ in range(size[0])]
    names: list[list[int | None]] = [[None] * size[1] for _ in range(size[0])]
    for number, name in enumerate(inputs):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        for y in range(height):
            for x in range(width):
                names[top + y][left + x] = name
                values[top + y][left + x] = kernels[name][y][x] if name in kernels else None
    left_out = sum(name not in kernels for name in inputs)
    return Mosaic(tuple(map(tuple, values)), tuple(map(tuple, names)), left_out)
