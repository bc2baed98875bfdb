"""Criteria that look at activations: how strong, how varied, how often zero, how much they tell about the class.

An activation is taken behind the nonlinearity, as the layers that read it see it, before any pooling between. A unit's
score is the mean of its channels' figures, over every distinct feature map that it is read in; 0 where none reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from core.errors import MeasureError
from core.measure.importance.criteria import CRITERIA, Criterion, Request, add_by_unit, chunks
from core.measure.importance.maps import FeatureMap, feature_maps
from core.measure.importance.rows import Rows
from core.measure.walk import FORWARD_BYTES, Replays, batches, fitting_batch, replay_for, require_images
from core.records import Group
from core.registry import Row
from core.trace.graph import needed_steps
from core.trace.replay import Replay

PIECE_VALUES = 1 << 21  # activations turned to float64 at a time
MEMORY_BYTES = 1 << 29  # values per image and channel kept at once; more than that takes another walk


class Statistic(Protocol):
    """A figure per channel, gathered batch by batch."""

    def add(self, rows: Tensor) -> None:
        """rows: (images or rows, positions, channels), in the network's own type."""

    def result(self) -> Tensor:
        """float64, (channels,)."""


def _pieces(rows: Tensor) -> Iterator[Tensor]:
    """``rows`` in float64, a few at a time."""
    size = max(1, PIECE_VALUES // max(1, rows[0].numel()))
    for piece in rows.split(size):
        yield piece.double()


class MeanSize:
    """Mean of |activation|."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, rows: Tensor) -> None:
        for piece in _pieces(rows):
            self.total = self.total + piece.abs().sum((0, 1))
            self.count += piece.shape[:2].numel()

    def result(self) -> Tensor:
        return torch.as_tensor(self.total) / self.count


class Spread:
    """Standard deviation, 1/n inside; moments are merged as Chan, Golub, LeVeque 1979 do, so nothing cancels."""

    def __init__(self) -> None:
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.count = 0

    def add(self, rows: Tensor) -> None:
        for piece in _pieces(rows):
            more = piece.shape[:2].numel()
            mean = piece.mean((0, 1))
            apart, count = mean - self.mean, self.count + more
            self.squares = self.squares + (piece - mean).square().sum((0, 1)) + apart**2 * (self.count * more / count)
            self.mean = self.mean + apart * (more / count)
            self.count = count

    def result(self) -> Tensor:
        return (torch.as_tensor(self.squares) / self.count).sqrt()


class ShareNotZero:
    """1 - APoZ: the share of activations that are not exactly zero."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, rows: Tensor) -> None:
        for piece in _pieces(rows):
            spoiled = piece.sum((0, 1)) * 0  # NaN where an activation is not finite: that is no activity
            self.total = self.total + (piece != 0).double().sum((0, 1)) + spoiled
            self.count += piece.shape[:2].numel()

    def result(self) -> Tensor:
        return torch.as_tensor(self.total) / self.count


class Information:
    """Mutual information of an image's mean activation with its label."""

    def __init__(self, labels: Tensor, bins: int) -> None:
        self.labels, self.bins = labels, bins
        self.means = torch.empty(0, 0)
        self.count = 0

    def add(self, rows: Tensor) -> None:
        if not self.count:
            # In one piece from the start: a list of small tensors, each made between two large ones, keeps the
            # allocator from giving the large ones back (8 GB for ResNet-50 and 256 images).
            self.means = torch.empty(len(self.labels), rows.shape[2], dtype=torch.float64)
        for piece in _pieces(rows):
            self.means[self.count : self.count + len(piece)] = piece.mean(1)
            self.count += len(piece)

    def result(self) -> Tensor:
        return binned_information(self.means[: self.count], self.labels, self.bins)


def binned_information(values: Tensor, labels: Tensor, bins: int) -> Tensor:
    """Plug-in mutual information in nats of each column of ``values`` (N, channels) with ``labels`` (int64, N).

    I = sum over cells of p(b, y) log(p(b, y) / (p(b) p(y))), p being shares of the N images. A column is cut into
    ``bins`` bins of equal frequency: the lower edge of bin k is the value of rank floor(k N / bins); equal values share
    a bin, so the zeros of a sparse channel stay together. NaN for a column that is not finite.
    No correction for bias: chance alone adds about (bins in use - 1)(classes - 1) / 2N, the same for all columns
    without ties, and never more for a column with ties.
    """
    count, channels = values.shape
    labels = labels.cpu().unique(return_inverse=True)[1]
    classes = int(labels.max()) + 1
    ordered = values.sort(0).values
    bin_of = torch.zeros(values.shape, dtype=torch.int64)
    for cut in range(1, bins):
        bin_of += values >= ordered[cut * count // bins]
    cell = (torch.arange(channels) * bins + bin_of) * classes + labels[:, None]
    joint = torch.bincount(cell.flatten(), minlength=channels * bins * classes).double() / count
    joint = joint.reshape(channels, bins, classes)
    apart = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    terms = torch.where(joint > 0, joint * (joint / torch.where(joint > 0, apart, 1.0)).log(), 0.0)
    return torch.where(values.isfinite().all(0), terms.sum((1, 2)), float("nan"))


def activation_mean(request: Request) -> dict[str, Tensor]:
    """Mean |a| over images and positions (Molchanov et al. 2017, section 2.2; there a >= 0)."""
    return _score(request, "Activation mean", lambda: MeanSize())


def activation_sd(request: Request) -> dict[str, Tensor]:
    """Standard deviation of a over images and positions (Molchanov et al. 2017, section 2.2)."""
    return _score(request, "Activation spread", lambda: Spread())


def apoz(request: Request) -> dict[str, Tensor]:
    """1 - average percentage of zeros (Hu et al. 2016, arXiv 1607.03250, equation 1), so that higher = keep."""
    return _score(request, "APoZ", lambda: ShareNotZero())


def mutual_information(request: Request) -> dict[str, Tensor]:
    """Information that an image's mean activation gives about its label, in nats: see ``binned_information``.

    Molchanov et al. 2017, section 2.2, quantise activations likewise; their bins are not stated.
    """
    data, bins = require_images(request.data, "Mutual information"), request.options["bins"]
    if isinstance(bins, bool) or not isinstance(bins, int) or not 2 <= bins <= 256:
        raise MeasureError(f"bins: expected a whole number from 2 to 256, found {bins!r}.")
    return _score(request, "Mutual information", lambda: Information(data.labels, bins), kept_bytes=8 * len(data))


def _score(request: Request, title: str, statistic: Callable[[], Statistic], kept_bytes: int = 0) -> dict[str, Tensor]:
    """Every group's scores. kept_bytes: what a statistic holds on to per channel."""
    data = require_images(request.data, title)
    trace, replays, done = request.trace, Replays(request.trace), 0
    rows: dict[int, Rows] = {}
    scores: dict[str, Tensor] = {}
    read = feature_maps(trace.tape, needed_steps(trace.tape), trace.coupled)
    walks = list(
        chunks(trace.coupled, lambda one: kept_bytes * sum(len(m.unit_of) for m in read[one.id]), MEMORY_BYTES)
    )
    for chunk in walks:
        gathered: list[Statistic] = []
        size = fitting_batch(trace, request.batch_size, FORWARD_BYTES)
        for images, _ in batches(data, torch.arange(len(data)), size, trace.module):
            request.check()
            replay = replay_for(replays, images, title)
            known = rows.setdefault(len(images), Rows(replay, trace.module, images))
            maps = feature_maps(replay.tape, replay.steps, chunk)
            places = list(dict.fromkeys((read.slot, read.axis) for found in maps.values() for read in found))
            gathered = gathered or [statistic() for _ in places]
            _look(replay, known, images, dict(zip(places, gathered, strict=True)), title)
            done += len(images)
            request.report(done / len(data) / len(walks), f"{title}: {done % len(data) or len(data)} images")
        by_place = {place: one.result().cpu() for place, one in zip(places, gathered, strict=True)}
        for group in chunk:
            scores[group.id] = _mean_by_unit(group, maps[group.id], by_place)
    return scores


def _look(
    replay: Replay, rows: Rows, images: Tensor, statistics: Mapping[tuple[int, int], Statistic], title: str
) -> None:
    """One forward pass as far as the last wanted map; each goes to its statistic as soon as it is there."""
    makers = {slot: index for index, step in enumerate(replay.steps) for slot in step.outputs}
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place in statistics:
        wanted.setdefault(makers.get(place[0], -1), []).append(place)
    env: dict[int, Any] = {replay.tape.input: images}
    with torch.inference_mode():
        for index in range(-1, max(wanted, default=-1) + 1):
            if index >= 0:
                replay.run_step(index, env, {})
            for slot, axis in wanted.get(index, ()):
                x = replay.value(slot, env, {})
                statistics[slot, axis].add(rows.split(x, slot, axis, title))


def _mean_by_unit(group: Group, maps: Sequence[FeatureMap], by_place: Mapping[tuple[int, int], Tensor]) -> Tensor:
    total, count = torch.zeros(group.units, dtype=torch.float64), torch.zeros(group.units, dtype=torch.float64)
    for read in maps:
        values = by_place[read.slot, read.axis]
        total += add_by_unit(group.units, read.unit_of, values)
        count += add_by_unit(group.units, read.unit_of, torch.ones_like(values))
    return total / count.clamp(min=1)


CRITERIA.add(
    Row(
        "activation-mean",
        Criterion(activation_mean, needs_images=True),
        "Activation mean",
        "A channel that is mostly near zero passes little on: the mean size of its activations, where they are read.",
        r"\Theta_i = \frac{1}{NM}\sum_{n,m}\lvert a_{n,i,m} \rvert",
        "Molchanov, Tyree, Karras, Aila, Kautz 2017, Pruning CNNs for Resource Efficient Inference, arXiv 1611.06440",
    )
)
CRITERIA.add(
    Row(
        "activation-sd",
        Criterion(activation_sd, needs_images=True),
        "Activation spread",
        "A channel that is always the same tells nothing about the image: the standard deviation of its activations.",
        r"\Theta_i = \sqrt{\tfrac{1}{NM}\sum_{n,m}(a_{n,i,m} - \bar a_i)^2}",
        "Molchanov, Tyree, Karras, Aila, Kautz 2017, Pruning CNNs for Resource Efficient Inference, arXiv 1611.06440",
    )
)
CRITERIA.add(
    Row(
        "apoz",
        Criterion(apoz, needs_images=True),
        "Active share (1 - APoZ)",
        "How often the channel is not exactly zero; it says nothing where no ReLU makes zeros (then all score 1).",
        r"\Theta_i = 1 - \tfrac{1}{NM}\sum_{n,m}[\,a_{n,i,m} = 0\,]",
        "Hu, Peng, Tai, Tang 2016, Network Trimming, arXiv 1607.03250",
    )
)
CRITERIA.add(
    Row(
        "mutual-information",
        Criterion(mutual_information, needs_images=True, options={"bins": 8}),
        "Mutual information with the class",
        "How much the channel's mean activation on an image tells about the image's class, in nats.",
        r"\Theta_i = \sum_{b,y} p(b,y)\,\log\frac{p(b,y)}{p(b)\,p(y)},\quad b = \mathrm{bin}(\bar a_{n,i})",
        "Molchanov, Tyree, Karras, Aila, Kautz 2017, arXiv 1611.06440; plug-in estimate, bins of equal frequency",
    )
)
