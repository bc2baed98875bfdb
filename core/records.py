"""The records that stages hand to each other. All frozen; what holds a tensor never changes it.

Conventions, stated once: a multiply-add is 1 MAC, counted per image. ``removed_fraction`` is the share of a group's
units that leave, in 0..1. Accuracy is a share in 0..1. Times are milliseconds (``_ms``), sizes bytes (``size_bytes``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core.errors import CoreError, PlanError

if TYPE_CHECKING:
    from core.trace.graph import Tape
    from core.trace.layout import Layout
    from core.trace.rules import Flow
    from core.trace.written import WrittenWidth

PARTS = ("calibration", "selection", "report")


def fingerprint_state(state: Mapping[str, Tensor]) -> str:
    """16 hex digits that change with any name, shape, dtype or value of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode with one example input (1 x C x H x W, float32).

    ``source`` is the string it was asked for by; ``weights`` where its weights came from (None = random);
    ``data`` the data source that suits it (None when unknown); ``classes`` the names of its outputs, when known.
    """

    module: nn.Module
    example: Tensor
    name: str
    source: str
    weights: str | None = None
    data: str | None = None
    classes: tuple[str, ...] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Identifies these weights in this architecture; stored measurements carry it."""
        return fingerprint_state(self.module.state_dict())


@dataclass(frozen=True)
class ImageData:
    """Images with labels, and three disjoint parts of them.

    images: float32, N x C x H x W, normalised: (value in 0..1 - mean) / std per channel. labels: int64, N.
    ``parts`` maps "calibration", "selection" and "report" to index tensors into ``images``. ``identity``: for images
    that are made by rule, what fixes them all; it stands for their values, whose last bits differ between processors.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    identity: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def calibration(self) -> ImageData:
        """For statistics and fine-tuning. Networks trained here learned these images."""
        return self.part("calibration")

    @property
    def selection(self) -> ImageData:
        """For every choice: curves, ratios, searches."""
        return self.part("selection")

    @property
    def report(self) -> ImageData:
        """For final figures only; nothing is chosen by it."""
        return self.part("report")

    def part(self, name: str) -> ImageData:
        """One of PARTS as its own data. Raises CoreError when these images are one part already."""
        if name not in self.parts:
            raise CoreError(
                f"{self.name} has no part {name!r}: it is one part already. Load without split= to get all three."
            )
        return self.take(self.parts[name], f"{self.name} ({name})")

    def take(self, indices: Tensor, name: str | None = None) -> ImageData:
        """The images at ``indices`` (int64), in that order, without parts."""
        identity = self.identity and f"{self.identity} {fingerprint_state({'taken': indices})}"
        images, labels = self.images[indices], self.labels[indices]
        return ImageData(images, labels, self.classes, name or self.name, self.mean, self.std, identity=identity)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the images, their order or their labels."""
        if self.identity:
            return hashlib.sha256(self.identity.encode()).hexdigest()[:16]
        return fingerprint_state({"images": self.images, "labels": self.labels})


@dataclass(frozen=True)
class Member:
    """One dimension of one weight or buffer that a group reaches.

    unit_of: int64, one entry per position along ``dim`` of state entry ``tensor``: the index of the group's unit that
    lives there, or -1 when the position belongs to another group or to none.
    """

    layer: str
    tensor: str
    dim: int
    role: str  # "producer": makes the channels; "follower": passes them on one by one; "consumer": reads and mixes them
    unit_of: Tensor


@dataclass(frozen=True)
class Group:
    """Units that are born in the same layers and can only leave everywhere at once.

    ``layers``: the producers, in network order. ``units``: how many may leave one by one (a unit may be several
    channels). ``reason``: why not prunable, None when it is. ``gather_of``: set when the group is one consumer's own
    choice of input channels, made by an index select in front of it: the id of the (first) group it selects from.
    ``mixing``: a normalisation runs over these channels, so the network that lost some differs from the masked one.
    """

    id: str
    name: str
    layers: tuple[str, ...]
    units: int
    prunable: bool
    reason: str | None
    members: tuple[Member, ...]
    gather_of: str | None = None
    mixing: bool = False

    def by_role(self, role: str) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == role)

    @property
    def consumers(self) -> tuple[str, ...]:
        """Layers that read the group's channels, in network order, each once."""
        return tuple(dict.fromkeys(member.layer for member in self.by_role("consumer")))


@dataclass(frozen=True)
class Trace:
    """What one forward pass told: the tape of operators, and the groups of channels that hang together.

    ``groups``: coupled groups in network order, then gathers. ``unknown``: operator name -> how often it ran, for
    operators without a rule; the channels they touch are locked. ``flow``, ``layout``: the labels of every tensor on
    the tape, and the places of every unit, as arrays. ``norms``: weights that are stored as (direction, length).
    ``written``: widths that modules keep as numbers of their own.
    """

    module: nn.Module
    groups: tuple[Group, ...]
    unknown: Mapping[str, int]
    tape: Tape
    example: Tensor
    flow: Flow = field(repr=False)
    layout: Layout = field(repr=False)
    norms: tuple[tuple[str, str], ...] = ()
    written: tuple[WrittenWidth, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Group]:
        return {group.id: group for group in self.groups}

    def group(self, group_id: str) -> Group:
        if group_id not in self.by_id:
            from core.registry import unknown_name

            raise unknown_name("group", group_id, list(self.by_id), PlanError)
        return self.by_id[group_id]

    @cached_property
    def coupled(self) -> tuple[Group, ...]:
        """The groups of channels that hang together, in network order: all but the gathers."""
        return tuple(group for group in self.groups if group.gather_of is None)

    @cached_property
    def gathers(self) -> tuple[Group, ...]:
        """The choices that single consumers have among channels they share, in network order."""
        return tuple(group for group in self.groups if group.gather_of is not None)

    @cached_property
    def prunable(self) -> tuple[Group, ...]:
        """The coupled groups whose units may leave, in network order."""
        return tuple(group for group in self.coupled if group.prunable)


@dataclass(frozen=True)
class Plan:
    """Which units each group keeps. Groups that are not named keep all. ``kept``: sorted unit indices by group id.

    ``origin`` says in words how the plan was made ("uniform 50 %, weight-l2"); it is not part of equality or ``key``.
    """

    kept: Mapping[str, tuple[int, ...]]
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", {name: tuple(sorted(units)) for name, units in sorted(self.kept.items())})
        for name, units in self.kept.items():
            if not units or units[0] < 0 or len(set(units)) != len(units):
                raise PlanError(f"Group {name}: a plan keeps at least one unit, each named once; found {units[:8]}.")

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """16 hex digits of the content: two plans that keep the same have the same key."""
        return hashlib.sha256(json.dumps(self.kept, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return self._json

    @cached_property  # a large network's takes milliseconds, and a page asks for it a dozen times
    def _json(self) -> str:
        return json.dumps({"kept": self.kept, "origin": self.origin}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Raises PlanError when the text is not a plan."""
        try:
            data = json.loads(text)
            kept = {str(name): tuple(int(unit) for unit in units) for name, units in data["kept"].items()}
            return Plan(kept, str(data.get("origin", "")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            found = text[:60]
            raise PlanError(f"Expected a plan: JSON with a 'kept' table of unit lists. Found {found!r}.") from error


@dataclass(frozen=True)
class LayerCost:
    """One layer's share: multiply-adds per image, parameters, and its channels in and out."""

    macs: int
    params: int
    in_channels: int
    out_channels: int


@dataclass(frozen=True)
class Cost:
    """Exact by arithmetic. ``size_bytes``: parameters and buffers as stored. ``uncounted``: operator -> times seen,
    for operators that multiply but have no counting rule."""

    macs: int
    params: int
    size_bytes: int
    per_layer: Mapping[str, LayerCost]
    uncounted: Mapping[str, int]


@dataclass(frozen=True)
class Scores:
    """One importance score per unit and group; higher = keep. ``scores[group_id]``: float64 tensor, (units,)."""

    criterion: str
    scores: Mapping[str, Tensor]
    images_used: int = 0

    def ranking(self, group_id: str) -> list[int]:
        """Unit indices from most to least important; ties by lower index first."""
        return torch.argsort(self.scores[group_id], descending=True, stable=True).tolist()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``Scores.from_dict`` gives the same scores back."""
        return {
            "criterion": self.criterion,
            "images_used": self.images_used,
            "scores": {name: values.tolist() for name, values in self.scores.items()},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Scores:
        scores = {name: torch.tensor(values, dtype=torch.float64) for name, values in data["scores"].items()}
        return Scores(data["criterion"], scores, data["images_used"])


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose largest output is the label, with its 95 % Wilson interval and the mean cross-entropy."""

    value: float
    low: float
    high: float
    loss: float
    correct: int
    images: int
    per_class: tuple[float, ...] = ()  # share right per class; NaN for a class without images
    data: str = ""

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] on {self.images} images"


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of ``batch`` images: median with first and third quartile, in milliseconds.

    ``way``: "eager", "compiled" or "onnx". ``dtype``: the numbers of weights and images, "float32" and the like.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    batch: int
    threads: int
    device: str
    measured: bool = True  # False: predicted from a table
    way: str = "eager"
    dtype: str = "float32"


@dataclass(frozen=True)
class CurvePoint:
    """What one group's removal costs: all else dense.

    ``kl``: mean Kullback-Leibler divergence from the dense network's class probabilities, in nats. ``lost``,
    ``gained``: images that only the dense network, only this one gets right. ``start_loss``: the dense network's loss
    on the same images. None in scans stored without them.
    """

    removed_fraction: float
    kept: int
    accuracy: float
    low: float
    high: float
    loss: float
    images: int
    kl: float | None = None
    lost: int | None = None
    gained: int | None = None
    start_loss: float | None = None


def sorted_points(points: Iterable[CurvePoint]) -> tuple[CurvePoint, ...]:
    return tuple(sorted(points, key=lambda point: point.removed_fraction))
