"""Images through the tape, a batch at a time: what criteria and scans share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from core.errors import MeasureError, TraceError
from core.records import ImageData, Trace
from core.trace.graph import Tape, record_tape
from core.trace.replay import Replay, needed_steps

BACKWARD_BYTES = 1 << 29  # small enough that a cancel between two batches comes soon
FORWARD_BYTES = 2 << 30


class Replays:
    """The tape of a network for every batch size asked for; a recorded pass knows its batch size in its views."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.known: dict[tuple[int, ...], Replay] = {}

    def of(self, images: Tensor) -> Replay:
        """A Replay for inputs shaped like ``images``, N x C x H x W. Raises TraceError when there can be none."""
        shape = tuple(images.shape)
        if shape not in self.known:
            self.known[shape] = Replay(self.tape(images), self.trace.module)
        return self.known[shape]

    def tape(self, images: Tensor) -> Tape:
        """The tape alone, recorded anew for every shape but the traced one. Raises TraceError as ``of``."""
        if tuple(images.shape) == tuple(self.trace.example.shape):
            return self.trace.tape
        with torch.inference_mode(False):  # there, composite operators would stay whole and write through views
            return record_tape(self.trace.module, images)


def require_images(data: ImageData | None, purpose: str) -> ImageData:
    """``data`` itself. Raises MeasureError when there is none or it is empty."""
    if data is None:
        raise MeasureError(f"{purpose} needs images; none were given. Pass some, for example the calibration part.")
    if len(data) == 0 or len(data.images) == 0:
        raise MeasureError(f"{purpose} needs at least one image; {data.name} has 0 images. Choose data with images.")
    return data


def batches(data: ImageData, order: Tensor, batch_size: int, module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) in ``order`` (int64 indices), as the network's own dtype and device."""
    if batch_size < 1:
        raise MeasureError(f"batch_size: expected 1 or more, found {batch_size}.")
    reference = next(iter(module.parameters()), torch.zeros(()))
    for chosen in order.split(batch_size):
        yield data.images[chosen].to(reference.device, reference.dtype), data.labels[chosen].to(reference.device)


def fitting_batch(trace: Trace, most: int, limit_bytes: int = BACKWARD_BYTES) -> int:
    """How many images, at most ``most``, a backward pass may take at once: it keeps every step's result in memory. With
    FORWARD_BYTES, a forward pass, which keeps about a tenth of them."""
    shapes, state = trace.tape.shapes, trace.tape.state
    steps = [step for step in needed_steps(trace.tape) if any(slot not in state for slot in step.reads)]
    per_image = 4 * sum(math.prod(shapes[slot]) for step in steps for slot in step.outputs)
    return max(1, min(most, limit_bytes // max(1, per_image)))


def example_losses(logits: Tensor, labels: Tensor, data: ImageData) -> Tensor:
    """Each image's cross-entropy, float64, (N,). Raises MeasureError when the outputs cannot be class scores."""
    if logits.dim() != 2 or len(logits) != len(labels):
        found = " x ".join(str(size) for size in logits.shape)
        raise MeasureError(f"Expected one score per image and class from the network; found an output of {found}.")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise MeasureError(
            f"{data.name} has labels up to {int(labels.max())}, but the network has {logits.shape[1]} outputs "
            f"(0 to {logits.shape[1] - 1}). Choose images of the network's own classes."
        )
    return F.cross_entropy(logits.double(), labels, reduction="none")


def first_tensor(result: Any) -> Tensor:
    """The first tensor of a network's result: the class scores of a classifier."""
    leaves = tree_flatten(dict(result) if isinstance(result, Mapping) else result)[0]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            return leaf
    raise MeasureError("The network returns no tensor, so there are no class scores to measure.")


def replay_for(replays: Replays, images: Tensor, purpose: str) -> Replay:
    """``replays.of(images)``, with an error that says what cannot be measured."""
    try:
        return replays.of(images)
    except TraceError as error:
        raise MeasureError(f"{purpose} cannot be measured here. {error}") from error
