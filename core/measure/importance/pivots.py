"""Importance by subset selection: columns of sampled intermediate results, ordered by pivoted QR.

Reconstructed from the abstract of CHaPR (Zhang, Davoodi, Hu 2019, arXiv 1908.03266): only that could be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import MeasureError
from core.measure.importance.criteria import CRITERIA, Criterion, Request, add_by_unit
from core.measure.walk import Replays, batches, replay_for, require_images
from core.records import Group, ImageData
from core.registry import Row
from core.solvers.pivoted_qr import pivot_scores, pivoted_qr
from core.trace.replay import Replay
from core.trace.sites import ReadSite, read_sites

LEAST_ROWS, ROWS_PER_UNIT = 2048, 8
MEMORY_BYTES = 2**29  # sampled matrices held at once; more groups than that take another walk through the images


@dataclass(frozen=True)
class Sample:
    """Rows to draw at one place: which image, and where in it and which output, as shares in 0..1."""

    images: Tensor
    position: Tensor
    output: Tensor


def qr(request: Request) -> dict[str, Tensor]:
    """|R_ii| at each unit's pivot; column i of Z is what unit i adds to its readers' outputs (after CHaPR).

    Layers that read the same trunk are stacked into one Z: the joint selection.
    """
    return _score(request, contributions=True)


def qr_activation(request: Request) -> dict[str, Tensor]:
    """|R_ii| at each unit's pivot; column i of Z holds unit i's activations as its readers see them (sibling form)."""
    return _score(request, contributions=False)


def _score(request: Request, contributions: bool) -> dict[str, Tensor]:
    data = require_images(request.data, "Pivoted QR")
    rows = request.options["rows"]
    if rows is not None and (not isinstance(rows, int) or rows < 1):
        raise MeasureError(f"rows: expected a whole number from 1 up or None, found {rows!r}.")
    groups = request.trace.coupled
    wanted = {group.id: rows or max(ROWS_PER_UNIT * group.units, LEAST_ROWS) for group in groups}
    scores: dict[str, Tensor] = {}
    for chunk in _chunks(groups, wanted):
        matrices = sample_matrices(request, data, chunk, wanted, contributions)
        for group in chunk:
            request.check()
            Z = matrices.pop(group.id)
            finite = bool(torch.isfinite(Z).all())
            scores[group.id] = pivot_scores(*pivoted_qr(Z)) if finite else torch.full((group.units,), float("nan"))
            request.report(len(scores) / len(groups), f"Pivoted QR: {group.name}")
    return scores


def _chunks(groups: Sequence[Group], rows: Mapping[str, int]) -> Iterator[list[Group]]:
    chunk: list[Group] = []
    used = 0
    for group in groups:
        size = 8 * rows[group.id] * group.units
        if chunk and used + size > MEMORY_BYTES:
            yield chunk
            chunk, used = [], 0
        chunk.append(group)
        used += size
    if chunk:
        yield chunk


def sample_matrices(
    request: Request, data: ImageData, groups: Sequence[Group], rows: Mapping[str, int], contributions: bool
) -> dict[str, Tensor]:
    """Group id -> float64 Z, (about ``rows[id]``, units); the layers that read a group share one matrix.

    With ``contributions`` a row is one output of one reader at one sampled position and Z[row, i] what unit i adds to
    it; each reader gets rows in proportion to its outputs. Without, a row holds the activations at such a position;
    a unit that is read as several features fills several rows.
    """
    replays, trace = Replays(request.trace), request.trace
    parts: dict[str, list[Tensor]] = {group.id: [torch.zeros(0, group.units, dtype=torch.float64)] for group in groups}
    samples: dict[tuple[str, int], Sample] = {}
    first = 0
    for images, _ in batches(data, torch.arange(len(data)), request.batch_size, trace.module):
        request.check()
        replay = replay_for(replays, images, "Pivoted QR")
        sites = read_sites(replay.tape, replay.steps, groups)
        if not samples:
            samples = _draw(request, replay, groups, sites, rows, len(data), contributions)
        by_step: dict[int, list[tuple[Group, int, ReadSite]]] = {}
        for group in groups:
            for place, site in enumerate(sites[group.id]):
                if (group.id, place) in samples:
                    by_step.setdefault(site.step, []).append((group, place, site))
        env: dict[int, Any] = {replay.tape.input: images}
        with torch.inference_mode():
            for index in range(max(by_step, default=-1) + 1):
                for group, place, site in by_step.get(index, ()):
                    sample = _within(samples[group.id, place], first, len(images))
                    x = replay.value(site.slot, env, {})
                    read = contribution_rows if contributions else activation_rows
                    parts[group.id].append(read(replay, site, group.units, x, sample, len(images)))
                replay.run_step(index, env, {})
        first += len(images)
    return {name: torch.cat(found) for name, found in parts.items()}


def _draw(
    request: Request,
    replay: Replay,
    groups: Sequence[Group],
    sites: Mapping[str, tuple[ReadSite, ...]],
    rows: Mapping[str, int],
    images: int,
    contributions: bool,
) -> dict[tuple[str, int], Sample]:
    samples = {}
    for group in groups:
        places = list(enumerate(sites[group.id]))
        if not contributions:  # readers of one tensor see the same activations
            places = list({site.slot: (place, site) for place, site in reversed(places)}.values())[::-1]
        shares = [_outputs(replay, site) if contributions else 1 for _, site in places]
        numbers = request.numbers(group.id)
        for (place, site), share in zip(places, shares, strict=True):
            count = max(1, round(rows[group.id] * share / sum(shares)))
            if not contributions:
                count = -(-count // int(_features(site.unit_of, group.units).shape[1]))
            turns = torch.randperm(images, generator=numbers)[torch.arange(count) % images]
            position, output = torch.rand(2, count, generator=numbers, dtype=torch.float64)
            samples[group.id, place] = Sample(turns, position, output)
    return samples


def _within(sample: Sample, first: int, count: int) -> Sample:
    """The rows of images ``first`` to ``first + count``, numbered from 0."""
    here = (sample.images >= first) & (sample.images < first + count)
    return Sample(sample.images[here] - first, sample.position[here], sample.output[here])


def _outputs(replay: Replay, site: ReadSite) -> int:
    step = replay.steps[site.step]
    return replay.tape.shapes[step.outputs[0]][site.axis]


def contribution_rows(replay: Replay, site: ReadSite, units: int, x: Tensor, sample: Sample, images: int) -> Tensor:
    """(rows, units): what each unit adds to one output of the reading layer, bias left out. x: the tensor it reads."""
    step = replay.steps[site.step]
    weight = replay.state[site.weight].movedim(site.dim, 1)
    weight = weight.reshape(*weight.shape[:2], -1)  # (outputs, channels, kernel positions)
    output = (sample.output * len(weight)).long().to(x.device)
    convolves = step.name == "convolution"
    patches = _patches(replay, site, x, sample) if convolves else _tokens(x, sample, images)[:, None]
    products = torch.einsum("rkc,rck->rc", patches.double(), weight[output].double())
    return add_by_unit(units, site.unit_of, products)


def _tokens(x: Tensor, sample: Sample, images: int) -> Tensor:
    """Sampled rows of what a linear layer reads: (rows, channels)."""
    rows = x.reshape(images, -1, x.shape[-1])
    return rows[sample.images.to(x.device), (sample.position * rows.shape[1]).long().to(x.device)]


def _patches(replay: Replay, site: ReadSite, x: Tensor, sample: Sample) -> Tensor:
    """What a convolution reads for one output position a row: (rows, kernel positions, channels), 0 in padding."""
    step = replay.steps[site.step]
    stride, padding, dilation, transposed = step.args[3], step.args[4], step.args[5], bool(step.args[6])
    spatial = x.shape[2:]
    kernel = replay.state[site.weight].shape[-len(spatial) :]
    outputs = replay.tape.shapes[step.outputs[0]][2:]
    rest = (sample.position * torch.tensor(outputs).prod()).long()
    flat = torch.zeros(len(rest), 1, dtype=torch.int64)
    inside = torch.ones(len(rest), 1, dtype=torch.bool)
    scale = 1
    for axis in reversed(range(len(spatial))):
        at, rest = rest % outputs[axis], rest // outputs[axis]
        s, p, d = (values[axis if len(values) > 1 else 0] for values in (stride, padding, dilation))
        taps = torch.arange(kernel[axis]) * d
        where = at[:, None] + p - taps if transposed else at[:, None] * s - p + taps
        valid = (where % s == 0) if transposed else torch.ones_like(where, dtype=torch.bool)
        where = where // s if transposed else where
        valid &= (where >= 0) & (where < spatial[axis])
        flat = (where.clamp(0, spatial[axis] - 1)[:, :, None] * scale + flat[:, None, :]).flatten(1)
        inside = (valid[:, :, None] & inside[:, None, :]).flatten(1)
        scale *= spatial[axis]
    found = x.flatten(2)[sample.images[:, None].to(x.device), :, flat.to(x.device)]
    return found * inside[:, :, None].to(found)


def activation_rows(replay: Replay, site: ReadSite, units: int, x: Tensor, sample: Sample, images: int) -> Tensor:
    """(rows x features per unit, units): the activations at one sampled position per row."""
    features = _features(site.unit_of, units)
    if site.axis == 1:
        maps = x.flatten(2)
        found = maps[sample.images.to(x.device), :, (sample.position * maps.shape[2]).long().to(x.device)]
    else:
        found = _tokens(x, sample, images)
    found = torch.nn.functional.pad(found.double().cpu(), (0, 1))  # index -1: a unit with fewer features
    return found[:, features.T].flatten(0, 1)


def _features(unit_of: Tensor, units: int) -> Tensor:
    """int64 (units, most features of a unit): where each unit's features lie, -1 for none."""
    places = [(unit_of == unit).nonzero().flatten() for unit in range(units)]
    return torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)


CRITERIA.add(
    Row(
        "qr",
        Criterion(qr, needs_images=True, options={"rows": None}),
        "Pivoted QR of contributions",
        "Keeps the channels whose contributions to the next layers cannot be made from those already kept.",
        r"Z P = Q R,\quad Z_{(s,o),i} = \langle X_i[s], W_i[o]\rangle,\quad \Theta_{p_k} = |R_{kk}|",
        "Zhang, Davoodi, Hu 2019, CHaPR, arXiv 1908.03266 (reconstructed from the abstract)",
    )
)
CRITERIA.add(
    Row(
        "qr-activation",
        Criterion(qr_activation, needs_images=True, options={"rows": None}),
        "Pivoted QR of activations",
        "Keeps the channels whose activations cannot be made from those of the channels already kept.",
        r"Z P = Q R,\quad Z_{s,i} = x_i[s],\quad \Theta_{p_k} = |R_{kk}|",
        "Zhang, Davoodi, Hu 2019, CHaPR, arXiv 1908.03266 (reconstructed from the abstract, sibling form)",
    )
)
