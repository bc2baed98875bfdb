"""What the layers that read a group see at sampled positions, and its second moments: the ground of several criteria.

One rule for a group that several layers read holds for all of them: their designs are stacked, each divided by the
energy of its layer's outputs (mean square without bias, summed over outputs), so that every reader weighs the same
whatever its scale, and errors of several readers add up. A layer reads channels of other groups too: they stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from core.errors import MeasureError
from core.measure.importance.criteria import Request, add_by_unit
from core.measure.importance.patches import Sample, read_rows, reader_weight
from core.measure.walk import FORWARD_BYTES, Replays, batches, fitting_batch, replay_for, require_images
from core.records import Group, ImageData
from core.solvers.least_squares import Moments
from core.trace.replay import Replay
from core.trace.sites import ReadSite, read_sites

POSITIONS, MOST_ROWS = 10, 20_000
FULL_ENTRIES = 4608  # beyond, second moments of all inputs would take too much memory
SOME_OUTPUTS = 256  # then the units' contributions to so many outputs are taken instead
MEMORY_BYTES = 2**30  # moments held at once (ResNet-50 has so many); more groups take another walk through the images
PIECE_BYTES = 2**26

Done = Callable[[int], None]  # how many images have been read


@dataclass(frozen=True)
class Visit:
    """A walk through the images has come to a place where ``group`` is read. x: the tensor read there; ``images`` of
    them, from number ``first``. place: its number among the group's ``sites``."""

    group: Group
    place: int
    sites: tuple[ReadSite, ...]
    replay: Replay
    x: Tensor
    first: int
    images: int

    @property
    def site(self) -> ReadSite:
        return self.sites[self.place]


def visit_sites(
    request: Request,
    data: ImageData,
    groups: Sequence[Group],
    purpose: str,
    done: Done = lambda _: None,
) -> Iterator[Visit]:
    """Every place where the groups are read, batch by batch, in order of running. ``done`` is called after each."""
    replays, first = Replays(request.trace), 0
    size = fitting_batch(request.trace, request.batch_size, FORWARD_BYTES)
    for images, _ in batches(data, torch.arange(len(data)), size, request.trace.module):
        request.check()
        replay = replay_for(replays, images, purpose)
        sites = read_sites(replay.tape, replay.steps, groups, normed=True)
        by_step: dict[int, list[tuple[Group, int]]] = {}
        for group in groups:
            for place, site in enumerate(sites[group.id]):
                by_step.setdefault(site.step, []).append((group, place))
        env = {replay.tape.input: images}
        for index in range(max(by_step, default=-1) + 1):
            for group, place in by_step.get(index, ()):
                x = replay.value(sites[group.id][place].slot, env, {})
                yield Visit(group, place, sites[group.id], replay, x, first, len(images))
            with torch.inference_mode():
                replay.run_step(index, env, {})
        first += len(images)
        done(first)


@dataclass(frozen=True)
class Reading:
    """One layer that reads a group: outputs y = W x, without bias, and the moments of x over sampled positions.

    weight: its state name. W: (q, p). unit_of: int64 (p,), each input's unit of the group, -1 for other groups'
    channels. second: (p, p), mean x x^T. means: (m, p), mean x. covariance: (p, p), centred. energy: mean ||y||^2. All
    float64.

    Where a layer has more than FULL_ENTRIES inputs, x is what each unit adds to an output (p = units + 1, the last for
    other groups' channels), W a row of ones, and moments are summed over m outputs, at most SOME_OUTPUTS.
    """

    weight: str
    W: Tensor
    unit_of: Tensor
    second: Tensor
    means: Tensor

    @property
    def covariance(self) -> Tensor:
        return self.second - self.means.T @ self.means

    @cached_property
    def energy(self) -> float:
        return float(((self.W @ self.second) * self.W).sum())

    def contribution_gram(self, units: int) -> Tensor:
        """(units, units): entry (u, v) is the mean over positions, summed over outputs, of what u adds times what v
        adds. It follows from the moments of x: E[x x^T] times W^T W entry by entry, summed over the units' inputs."""
        entries = (self.W.T @ self.W).mul_(self.second)
        return add_by_unit(units, self.unit_of, add_by_unit(units, self.unit_of, entries).T)


class _Inputs:
    """Moments of all inputs of one layer."""

    def __init__(self, W: Tensor) -> None:
        self.W, self.moments = W.flatten(1).double().cpu(), Moments(W[0].numel())

    def add(self, rows: Tensor) -> None:
        self.moments.add(rows.flatten(1))

    def reading(self, weight: str, unit_of: Tensor) -> Reading:
        entries = unit_of.repeat_interleave(len(self.moments.sum_x) // len(unit_of))
        return Reading(weight, self.W, entries, self.moments.covariance(centred=False), self.moments.mean_x[None])


class _Contributions:
    """Moments of what the units of one group add to some outputs of a layer with very many inputs."""

    def __init__(self, W: Tensor, unit_of: Tensor, units: int, numbers: torch.Generator) -> None:
        chosen = torch.randperm(len(W), generator=numbers)[:SOME_OUTPUTS].sort().values
        self.W, self.unit_of = W[chosen.to(W.device)].double().cpu(), torch.where(unit_of < 0, units, unit_of)
        self.units, self.rows = units, 0
        self.sums = torch.zeros(len(chosen), units + 1, dtype=torch.float64)
        self.second = torch.zeros(units + 1, units + 1, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        for weight, total in zip(self.W, self.sums, strict=True):
            added = add_by_unit(self.units + 1, self.unit_of, (rows * weight).sum(2))
            total += added.sum(0)
            self.second.addmm_(added.T, added)
        self.rows += len(rows)

    def reading(self, weight: str, unit_of: Tensor) -> Reading:
        del unit_of  # known from the start
        units = torch.cat([torch.arange(self.units), torch.tensor([-1])])
        ones = torch.ones(1, self.units + 1, dtype=torch.float64)
        return Reading(weight, ones, units, self.second / self.rows, self.sums / self.rows)


Key = tuple[int, str, int, str]  # step, weight, dimension; the group where moments are its own


def score_by_readings(
    request: Request, purpose: str, score: Callable[[Group, list[Reading]], Tensor], *, rows_per_input: int = 0
) -> dict[str, Tensor]:
    """``score`` of every group, gathers included: (units,), 0 for a group that no layer reads, NaN where outputs are
    not finite.

    Options used: ``positions`` per image and reader; None: 10, or what gives ``rows_per_input`` rows where that is more
    (up to MOST_ROWS). All readers share one draw of positions. Raises MeasureError for wrong options or images,
    Cancelled.
    """
    data = require_images(request.data, purpose)
    positions = request.options["positions"]
    if positions is not None and (isinstance(positions, bool) or not isinstance(positions, int) or positions < 1):
        raise MeasureError(f"positions: expected a whole number from 1 up or None, found {positions!r}.")
    one, _ = next(batches(data, torch.arange(1), 1, request.trace.module))
    chunks = list(_chunks(replay_for(Replays(request.trace), one, purpose), request.trace.groups))
    scores: dict[str, Tensor] = {}
    for number, chunk in enumerate(chunks):

        def walked(images: int, number: int = number) -> None:
            share = (number + 0.7 * images / len(data)) / len(chunks)
            request.report(share, f"{purpose}: read {images} of {len(data)} images")

        readings = _collect(request, data, chunk, purpose, rows_per_input, walked)
        for place, group in enumerate(chunk, start=1):
            request.check()
            found = [reading for reading in (make() for make in readings.pop(group.id)) if reading.energy != 0]
            finite = all(bool(reading.second.isfinite().all()) for reading in found)
            zero = torch.zeros(group.units, dtype=torch.float64)
            scores[group.id] = zero if not found else score(group, found) if finite else zero + float("nan")
            request.report((number + 0.7 + 0.3 * place / len(chunk)) / len(chunks), f"{purpose}: {group.name}")
    return {group.id: scores[group.id] for group in request.trace.groups}


def _collect(
    request: Request, data: ImageData, groups: Sequence[Group], purpose: str, rows_per_input: int, done: Done
) -> dict[str, list[Callable[[], Reading]]]:
    """Group id -> its readings, each made when it is asked for: together they would take twice the memory."""
    shares = torch.rand(len(data), generator=request.numbers("positions"), dtype=torch.float64)
    sums: dict[Key, _Inputs | _Contributions] = {}
    keys: dict[str, dict[int, Key]] = {group.id: {} for group in groups}
    units: dict[tuple[str, int], Tensor] = {}
    visited: set[Key] = set()

    def batch_done(images: int) -> None:
        visited.clear()
        done(images)

    for visit in visit_sites(request, data, groups, purpose, batch_done):
        key = _key(visit)
        keys[visit.group.id][visit.place] = key
        units[visit.group.id, visit.place] = visit.site.unit_of
        if key in visited:  # moments of a layer's inputs serve every group that it reads
            continue
        visited.add(key)
        if key not in sums:
            sums[key] = _new_sums(visit, request)
        for sample in _samples(visit, shares, request.options["positions"], rows_per_input):
            sums[key].add(read_rows(visit.replay, visit.site, visit.x, sample, visit.images))
    return {
        name: [partial(sums[key].reading, key[1], units[name, place]) for place, key in sorted(found.items())]
        for name, found in keys.items()
    }


def _key(visit: Visit) -> Key:
    """Steps of equal networks have equal numbers, whatever the batch size."""
    site = visit.site
    own = visit.group.id if _entries(visit.replay, site) > FULL_ENTRIES else ""
    return site.step, site.weight, site.dim, own


def _new_sums(visit: Visit, request: Request) -> _Inputs | _Contributions:
    W = reader_weight(visit.replay, visit.site)
    if not _key(visit)[3]:
        return _Inputs(W)
    return _Contributions(W, visit.site.unit_of, visit.group.units, request.numbers(visit.group.id))


def _entries(replay: Replay, site: ReadSite) -> int:
    """Inputs per output position: channels times kernel."""
    weight = replay.state[site.weight]
    return weight.numel() // weight.shape[1 - site.dim]


def _chunks(replay: Replay, groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups whose moments fit in memory together; a layer that several of them read counts once."""
    sites = read_sites(replay.tape, replay.steps, groups, normed=True)
    chunk: list[Group] = []
    known: set[tuple[int, str]] = set()
    used = 0
    for group in sorted(groups, key=lambda group: min((site.step for site in sites[group.id]), default=-1)):
        new = {(site.step, site.weight): _entries(replay, site) for site in sites[group.id]}
        size = sum(8 * min(entries, FULL_ENTRIES) ** 2 for key, entries in new.items() if key not in known)
        if chunk and used + size > MEMORY_BYTES:
            yield chunk
            chunk, used, known = [], 0, set()
        chunk.append(group)
        used += size
        known |= set(new)
    if chunk:
        yield chunk


def _samples(visit: Visit, shares: Tensor, positions: int | None, rows_per_input: int) -> Iterator[Sample]:
    """The rows to read of this batch, in pieces: evenly spread over each image's positions, from a random start.

    Places with equally many positions are read at the same ones.
    """
    area = _area(visit)
    entries = _entries(visit.replay, visit.site)
    if positions is None:
        positions = max(POSITIONS, min(rows_per_input * entries, MOST_ROWS) // len(shares))
    positions = min(positions, area)
    start = shares[visit.first : visit.first + visit.images]
    spread = ((torch.arange(positions) + start[:, None]) / positions).clamp(max=1 - 1e-12).flatten()
    numbers = torch.arange(visit.images).repeat_interleave(positions)
    piece = max(1, PIECE_BYTES // (8 * entries))
    for where, position in zip(numbers.split(piece), spread.split(piece), strict=True):
        yield Sample(where, position, torch.zeros_like(position))


def _area(visit: Visit) -> int:
    """Output positions per image."""
    site, x = visit.site, visit.x
    if site.axis == 1:
        shape = visit.replay.tape.shapes[visit.replay.steps[site.step].outputs[0]]
        return int(torch.Size(shape[2:]).numel())
    return x.numel() // x.shape[-1] // visit.images
