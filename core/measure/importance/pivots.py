"""Importance by subset selection: columns of sampled intermediate results, ordered by pivoted QR.

Reconstructed from the abstract of CHaPR (Zhang, Davoodi, Hu 2019, arXiv 1908.03266): only that could be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from core.errors import MeasureError
from core.measure.importance.criteria import CRITERIA, Criterion, Request, add_by_unit, chunks
from core.measure.importance.moments import Visit, visit_sites
from core.measure.importance.patches import Sample, read_rows, reader_weight, tokens
from core.measure.walk import require_images
from core.records import Group, ImageData
from core.registry import Row
from core.solvers.pivoted_qr import Triangle, pivot_scores, pivoted_qr

LEAST_ROWS, ROWS_PER_UNIT = 2048, 8
MEMORY_BYTES = 2**29  # triangles held at once; more groups than that take another walk through the images


def qr(request: Request) -> dict[str, Tensor]:
    """|R_ii| at each unit's pivot; column i of Z is what unit i adds to its readers' outputs (after CHaPR).

    Layers that read the same trunk are stacked into one Z, the joint selection, each divided by the length of its
    outputs in the sampled rows. A gather is scored on its one reader.
    """
    return _score(request, contributions=True)


def qr_activation(request: Request) -> dict[str, Tensor]:
    """|R_ii| at each unit's pivot; column i of Z holds unit i's activations as its readers see them (sibling form).

    Tensors that several layers read count once, each divided by the length of its sampled activations.
    """
    return _score(request, contributions=False)


def _score(request: Request, contributions: bool) -> dict[str, Tensor]:
    data = require_images(request.data, "Pivoted QR")
    rows = request.options["rows"]
    if rows is not None and (not isinstance(rows, int) or rows < 1):
        raise MeasureError(f"rows: expected a whole number from 1 up or None, found {rows!r}.")
    groups = request.trace.groups
    wanted = {group.id: rows or max(ROWS_PER_UNIT * group.units, LEAST_ROWS) for group in groups}
    scores: dict[str, Tensor] = {}
    for chunk in chunks(groups, lambda one: 24 * one.units**2, MEMORY_BYTES):
        triangles: dict[str, dict[int, Triangle]] = {group.id: {} for group in chunk}
        squares: dict[tuple[str, int], float] = {}
        for name, place, Z, lengths in _sampled(request, data, chunk, wanted, contributions):
            squares[name, place] = squares.get((name, place), 0.0) + float(lengths.square().sum())
            if math.isfinite(squares[name, place]) and bool(torch.isfinite(Z).all()):
                triangles[name].setdefault(place, Triangle(Z.shape[1])).add(Z)
            else:
                squares[name, place] = math.nan
        for group in chunk:
            request.check()
            found = triangles.pop(group.id)
            length = {place: value**0.5 or 1.0 for (name, place), value in squares.items() if name == group.id}
            if all(map(math.isfinite, length.values())):
                parts = [found[place].found() / length[place] for place in sorted(found)]
                scores[group.id] = pivot_scores(*pivoted_qr(torch.cat([torch.zeros(0, group.units), *parts])))
            else:
                scores[group.id] = torch.full((group.units,), float("nan"))
            request.report(len(scores) / len(groups), f"Pivoted QR: {group.name}")
    return scores


def sample_matrices(
    request: Request, data: ImageData, groups: Sequence[Group], rows: Mapping[str, int], contributions: bool
) -> dict[str, Tensor]:
    """Group id -> float64 Z, (about ``rows[id]``, units); the layers that read a group share one matrix.

    With ``contributions`` a row is one output of one reader at one sampled position and Z[row, i] what unit i adds to
    it; each reader gets rows in proportion to its outputs. Without, a row holds the activations at such a position;
    a unit that is read as several features fills several rows.
    """
    parts: dict[str, dict[int, list[Tensor]]] = {group.id: {} for group in groups}
    for name, place, Z, _ in _sampled(request, data, groups, rows, contributions):
        parts[name].setdefault(place, []).append(Z)
    none = {group.id: torch.zeros(0, group.units, dtype=torch.float64) for group in groups}
    return {
        name: torch.cat([none[name], *(Z for _, found in sorted(places.items()) for Z in found)])
        for name, places in parts.items()
    }


def _sampled(
    request: Request, data: ImageData, groups: Sequence[Group], rows: Mapping[str, int], contributions: bool
) -> Iterator[tuple[str, int, Tensor, Tensor]]:
    """(group id, place, Z, lengths) of each place where a group is read, batch by batch; lengths: of what the layer
    gives in each of these rows."""
    samples: dict[str, dict[int, Sample]] = {}
    read = contribution_rows if contributions else activation_rows
    for visit in visit_sites(request, data, groups, "Pivoted QR"):
        name, place = visit.group.id, visit.place
        if name not in samples:
            samples[name] = _draw(request, visit, rows[name], len(data), contributions)
        if place in samples[name]:
            yield name, place, *read(visit, samples[name][place].within(visit.first, visit.images))


def _draw(request: Request, visit: Visit, rows: int, images: int, contributions: bool) -> dict[int, Sample]:
    """The rows to read at each of a group's places."""
    units, places = visit.group.units, list(enumerate(visit.sites))
    if not contributions:  # readers of one tensor see the same activations
        places = list({site.slot: (place, site) for place, site in reversed(places)}.values())[::-1]
    shares = [reader_weight(visit.replay, site).shape[0] if contributions else 1 for _, site in places]
    numbers = request.numbers(visit.group.id)
    samples = {}
    for (place, site), share in zip(places, shares, strict=True):
        count = max(1, round(rows * share / sum(shares)))
        if not contributions:
            count = -(-count // int(_features(site.unit_of, units).shape[1]))
        turns = torch.randperm(images, generator=numbers)[torch.arange(count) % images]
        position, output = torch.rand(2, count, generator=numbers, dtype=torch.float64)
        samples[place] = Sample(turns, position, output)
    return samples


def contribution_rows(visit: Visit, sample: Sample) -> tuple[Tensor, Tensor]:
    """(rows, units): what each unit adds to one output of the reading layer; and that output, without bias, (rows,)."""
    weight = reader_weight(visit.replay, visit.site)
    output = (sample.output * len(weight)).long().to(weight.device)
    rows = read_rows(visit.replay, visit.site, visit.x, sample, visit.images)
    products = (rows * weight[output].double().cpu()).sum(2)
    return add_by_unit(visit.group.units, visit.site.unit_of, products), products.sum(1)


def activation_rows(visit: Visit, sample: Sample) -> tuple[Tensor, Tensor]:
    """(rows x features per unit, units): the activations at one sampled position per row; the same again."""
    x, site = visit.x, visit.site
    if site.axis == 1:
        maps = x.flatten(2)
        found = maps[sample.images.to(x.device), :, (sample.position * maps.shape[2]).long().to(x.device)]
    else:
        found = tokens(x, sample, visit.images)
    found = torch.nn.functional.pad(found.double().cpu(), (0, 1))  # index -1: a unit with fewer features
    rows = found[:, _features(site.unit_of, visit.group.units).T].flatten(0, 1)
    return rows, rows


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
