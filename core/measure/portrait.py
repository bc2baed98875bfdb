"""One unit of one group, looked at closely: its filters, its mean activation map, the images that excite it most, and
where in those images it looks.

A unit's activation map is what the layers that read it see, behind the nonlinearity and before pooling: the mean of its
channels where it has several. Excitement is the mean, or the peak, of that map on an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import Cancelled, MeasureError
from core.measure.importance.activations import FeatureMap, feature_maps
from core.measure.importance.rows import Rows
from core.measure.walk import Replays, batches, fitting_batch, replay_for, require_images
from core.records import Group, ImageData, Member, Trace
from core.trace.copies import named_state
from core.trace.graph import needed_steps
from core.trace.replay import Replay

TITLE = "A channel's portrait"
MOST_INPUTS = 256  # kernels shown of one filter, the largest
MAP_EDGE, LOOK_EDGE = 56, 112  # finer maps are averaged down to this
STEPS = 16
MISSES = 0.05  # of the excitement: an attribution that leaves out more is made again with twice the points


@dataclass(frozen=True)
class Filter:
    """The weights by which a layer makes the unit. kernels: float32, (inputs, height, width), (inputs, 1, 1) for linear
    layers; ``inputs``: the input channel of each, ascending; ``of``: how many inputs there are, when only the largest
    are here. ``rows``: how many rows of the weight the unit has; the one with the largest norm is shown."""

    layer: str
    tensor: str
    kernels: Tensor
    inputs: tuple[int, ...]
    of: int
    rows: int


@dataclass(frozen=True)
class Excited:
    """An image that excites the unit. image: index into the data. value: the excitement. activation: float32, (h, w),
    None where the unit has no places in space. looked_at: float32, (H, W), the attribution of ``value`` to the image's
    pixels, colours added up. missing: |sum of the attribution - (value - value on the baseline)|, in units of value."""

    image: int
    value: float
    activation: Tensor | None
    looked_at: Tensor
    missing: float


@dataclass(frozen=True)
class Portrait:
    """See the module. place: the layer that reads the map. size: the map's own (height, width), None where the unit
    has no places in space. mean_map: float64 (h, w), over all images. images: indices that were looked at; means,
    peaks: float64, the unit's excitement on each. by_mean, by_peak: the images that excite it most, strongest first."""

    group: str
    unit: int
    place: str
    size: tuple[int, int] | None
    mean_map: Tensor | None
    filters: tuple[Filter, ...]
    images: Tensor
    means: Tensor
    peaks: Tensor
    by_mean: tuple[Excited, ...]
    by_peak: tuple[Excited, ...]


def places(trace: Trace, group: Group) -> tuple[str, ...]:
    """Layers that read ``group``, one for each distinct map that it has, in network order; () when none reads it."""
    return tuple(_maps(trace.tape, needed_steps(trace.tape), group))


def portray(
    trace: Trace,
    data: ImageData,
    group_id: str,
    unit: int,
    *,
    place: str | None = None,
    top: int = 5,
    steps: int = STEPS,
    batch_size: int = 32,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Portrait:
    """Look at ``unit`` of a group on ``data``. place: one of ``places``; None = the last.

    What it looks at: Integrated Gradients (Sundararajan, Taly, Yan 2017, arXiv 1703.01365, equation 1) of the
    excitement itself, by captum.attr.IntegratedGradients, from the mean colour (0 after normalisation) in half of
    ``steps`` Gauss-Legendre points, in all of them where the half misses more than MISSES of the excitement. Unlike a
    plain gradient it adds up: to the excitement minus that of an even grey. Equal inputs give equal results; the
    network is neither hooked nor changed.
    Raises PlanError for an unknown group, MeasureError for an unknown unit or place, or when images share rows, and
    Cancelled.
    """
    group, chosen = trace.group(group_id), require_images(data, TITLE)
    if chosen.images.dim() != 4:
        found = " x ".join(map(str, chosen.images.shape[1:]))
        raise MeasureError(f"{TITLE} is drawn on images of channels x height x width; {data.name} has {found}.")
    if not 0 <= unit < group.units:
        raise MeasureError(f"{group.name} has channels 0 to {group.units - 1}; found {unit}. Choose one of these.")
    known = places(trace, group)
    if not known:
        raise MeasureError(f"No layer that is known reads the channels of {group.name}, so they have no map to show.")
    if place is not None and place not in known:
        raise MeasureError(f"{group.name} is read by {', '.join(known)}; found {place!r}. Choose one of these.")
    eye = _Eye(trace, group, unit, place or known[-1], on_progress, cancelled)
    mean_map, means, peaks, size = eye.survey(chosen, batch_size)
    rankings = [torch.argsort(values, descending=True, stable=True)[:top] for values in (means, peaks)]
    shown = list(dict.fromkeys(torch.cat(rankings).tolist()))
    maps, looks = eye.activations(chosen, shown), eye.attributions(chosen, rankings, steps)
    lists = []
    for peak, (ranking, values) in enumerate(zip(rankings, (means, peaks), strict=True)):
        lists.append(tuple(Excited(i, float(values[i]), maps[i], *looks[bool(peak), i]) for i in ranking.tolist()))
    images = torch.arange(len(chosen))
    filters = unit_filters(trace, group, unit)
    return Portrait(group_id, unit, eye.place, size, mean_map, filters, images, means, peaks, *lists)


def unit_filters(trace: Trace, group: Group, unit: int) -> tuple[Filter, ...]:
    """The weights that make ``unit``, a Filter per layer that makes it, in network order."""
    state = named_state(trace.module)
    found = []
    for member in group.by_role("producer"):
        weight = state[member.tensor].detach()
        rows = (member.unit_of == unit).nonzero().flatten()
        if weight.dim() < 2 or member.dim > 1 or not len(rows):
            continue
        candidates = weight.movedim(member.dim, 0)[rows.to(weight.device)].flatten(1).float().cpu()
        kernels = weight.movedim(member.dim, 0)[int(rows[candidates.norm(dim=1).argmax()])].float().cpu()
        kernels = kernels.reshape(len(kernels), *(kernels.shape[1:] if kernels.dim() == 3 else (-1, 1)))
        largest = kernels.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:MOST_INPUTS].sort().values
        inputs = tuple(largest.tolist())
        found.append(Filter(member.layer, member.tensor, kernels[largest], inputs, len(kernels), len(rows)))
    return tuple(found)


def narrowed(trace: Trace, group: Group, module: Any, tape: Any, masks: Mapping[tuple[str, int], Tensor]) -> Trace:
    """A trace to portray a pruned network with: ``group`` alone, its units under their old numbers.

    module, tape: the pruned network and its recorded pass. masks: (state name, dimension) -> bool, what stays there.
    """

    def cut(member: Member) -> Member:
        mask = masks.get((member.tensor, member.dim))
        return member if mask is None else replace(member, unit_of=member.unit_of[mask])

    left = replace(group, members=tuple(cut(member) for member in group.members))
    return replace(trace, module=module, tape=tape, groups=(left,))


def _maps(tape: Any, steps: Any, group: Group) -> dict[str, FeatureMap]:
    """The first layer that reads each distinct map -> the map. Of a layer that runs more than once, the last run's."""
    found: dict[str, FeatureMap] = {}
    seen: set[tuple[int, int]] = set()
    for layer in group.consumers:
        members = tuple(member for member in group.members if member.role == "consumer" and member.layer == layer)
        read = feature_maps(tape, steps, [replace(group, members=members)])[group.id]
        if read and (read[-1].slot, read[-1].axis) not in seen:
            seen.add((read[-1].slot, read[-1].axis))
            found[layer] = read[-1]
    return found


class _Eye:
    """Sees one unit in one place, for any number of images."""

    def __init__(self, trace: Trace, group: Group, unit: int, place: str, report: Any, cancelled: Any) -> None:
        self.trace, self.group, self.unit, self.place = trace, group, unit, place
        self.on_progress, self.cancelled = report, cancelled
        self.replays = Replays(trace)
        self.known: dict[int, tuple[Rows, FeatureMap, int]] = {}

    def check(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("Looking at the channel was cancelled.")

    def report(self, fraction: float, message: str) -> None:
        self.check()
        if self.on_progress is not None:
            self.on_progress(fraction, message)

    def see(self, images: Tensor) -> tuple[Tensor, tuple[int, int] | None]:
        """The unit on every image, (images, positions), and how the positions lie in space. Keeps gradients."""
        self.check()
        replay = replay_for(self.replays, images, TITLE)
        rows, read, stop = self._place(replay, images)
        env = replay.run({replay.tape.input: images}, 0, stop)
        x = replay.value(read.slot, env, {})
        here = (read.unit_of == self.unit).nonzero().flatten().to(x.device)
        found = rows.split(x, read.slot, read.axis, TITLE)[..., here].mean(-1)
        size = _size(tuple(x.shape), read.axis, len(images))
        if size is not None and size[0] * size[1] == found.shape[1] - 1:
            found = found[:, 1:]  # a class token stands in front of the patches
        return found, size

    def _place(self, replay: Replay, images: Tensor) -> tuple[Rows, FeatureMap, int]:
        if len(images) not in self.known:
            read = _maps(replay.tape, replay.steps, self.group)[self.place]
            makers = {slot: index for index, step in enumerate(replay.steps) for slot in step.outputs}
            rows = Rows(replay, self.trace.module, images.detach())
            self.known[len(images)] = (rows, read, makers.get(read.slot, -1) + 1)
        return self.known[len(images)]

    def survey(self, data: ImageData, batch_size: int) -> tuple[Tensor | None, Tensor, Tensor, tuple[int, int] | None]:
        """Mean map, and the mean and the peak of every image, float64."""
        total, means, peaks, size, done = torch.zeros(()), [], [], None, 0
        with torch.inference_mode():
            for images, _ in batches(data, torch.arange(len(data)), batch_size, self.trace.module):
                found, size = self.see(images)
                found = found.double().cpu()
                total, done = total + found.sum(0), done + len(found)
                means.append(found.mean(1))
                peaks.append(found.amax(1))
                self.report(0.5 * done / len(data), f"{done} of {len(data)} images seen")
        mean_map = None if size is None else smaller((total / done).reshape(size), MAP_EDGE)
        return mean_map, torch.cat(means), torch.cat(peaks), size

    def activations(self, data: ImageData, indices: list[int]) -> dict[int, Tensor | None]:
        with torch.inference_mode():
            ((images, _),) = batches(data, torch.tensor(indices), len(indices), self.trace.module)
            found, size = self.see(images)
        if size is None:
            return dict.fromkeys(indices)
        return {i: smaller(one.reshape(size).cpu(), MAP_EDGE) for i, one in zip(indices, found, strict=True)}

    def attributions(
        self, data: ImageData, rankings: list[Tensor], steps: int
    ) -> dict[tuple[bool, int], tuple[Tensor, float]]:
        """(by peak?, image) -> its attribution and what that misses: half the points first, all where that is much."""
        few = fitting_batch(self.trace, len(rankings[0]))
        result: dict[tuple[bool, int], tuple[Tensor, float]] = {}
        for points, span in ((max(1, steps // 2), (0.5, 0.3)), (steps, (0.8, 0.2))):
            left = [
                (bool(peak), part)
                for peak, ranking in enumerate(rankings)
                for part in _unsure(result, bool(peak), ranking).split(few)
                if len(part)
            ]
            for number, (peak, part) in enumerate(left):
                ((images, _),) = batches(data, part, len(part), self.trace.module)
                here = (span[0] + span[1] * number / len(left), span[1] / len(left))
                found, missing = self._integrate(images, peak, points, here)
                for i, one, share in zip(part.tolist(), found, missing.tolist(), strict=True):
                    result[peak, i] = (smaller(one.sum(0).cpu(), LOOK_EDGE), float(share))
        return result

    def _integrate(self, images: Tensor, peak: bool, steps: int, span: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Attributions shaped like ``images``, and what each misses. span: progress at first, and what it adds."""
        calls = 0

        def excitement(images: Tensor) -> Tensor:
            nonlocal calls
            found, _ = self.see(images)
            calls += 1
            self.report(span[0] + span[1] * min(1.0, calls / (steps + 2)), "Seeing where it looks")
            return found.amax(1) if peak else found.mean(1)

        with torch.enable_grad():
            found, missing = (
                _captum()
                .IntegratedGradients(excitement)
                .attribute(
                    images,
                    n_steps=steps,
                    method="gausslegendre",
                    internal_batch_size=len(images),
                    return_convergence_delta=True,
                )
            )
        with torch.inference_mode():
            value = excitement(images).abs().clamp_min(1e-12)
        return found.detach(), missing.detach().abs() / value


def _unsure(found: Mapping[tuple[bool, int], tuple[Tensor, float]], peak: bool, ranking: Tensor) -> Tensor:
    """The images of ``ranking`` that have no attribution yet, or one that misses much."""
    done = [(peak, i) in found and found[peak, i][1] <= MISSES for i in ranking.tolist()]
    return ranking[~torch.tensor(done, dtype=torch.bool)]


def _size(shape: tuple[int, ...], axis: int, images: int) -> tuple[int, int] | None:
    """(height, width) of what is read; None where its rows are no image: vectors, windows, anything folded."""
    if shape[0] != images or len(shape) not in (3, 4):
        return None
    if len(shape) == 4:
        return {1: shape[2:], 3: shape[1:3]}.get(axis % 4)
    if axis % 3 != 2:
        return None
    for tokens in (shape[1], shape[1] - 1):  # patches in a square, with or without a class token in front
        edge = round(tokens**0.5)
        if edge > 1 and edge * edge == tokens:
            return edge, edge
    return None


def smaller(picture: Tensor, edge: int) -> Tensor:
    """``picture`` (h, w) averaged down to at most ``edge`` a side."""
    height, width = (min(edge, size) for size in picture.shape)
    return picture if (height, width) == picture.shape else F.adaptive_avg_pool2d(picture[None], (height, width))[0]


def _captum() -> Any:
    """Captum's attributions; loaded when first asked for, because that takes a second."""
    try:
        import captum.attr
    except ImportError as error:
        raise MeasureError(f"A channel's portrait needs the package captum: pip install captum. ({error})") from error
    return captum.attr
