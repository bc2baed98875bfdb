"""How often a network is right, with the interval that the number of images allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from core.errors import Cancelled, MeasureError
from core.records import Accuracy, ImageData
from core.solvers.intervals import wilson
from core.trace.modes import evaluating

ORDER_SEED = 0  # images are visited in one fixed random order, so that a part of them stands for all
Progress = Callable[..., None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Answers:
    """What a network said to each image, in the order of the data it was asked about.

    predicted: int64, (N,), -1 where it was not asked. loss: float64, (N,), cross-entropy in nats.
    """

    predicted: Tensor
    loss: Tensor


def evaluate_model(
    module: nn.Module,
    data: ImageData,
    *,
    batch_size: int = 128,
    limit: int | None = None,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> Accuracy:
    """Accuracy of ``module`` on ``data`` with its 95 % Wilson interval, per class, and the mean cross-entropy.

    images: N x C x H x W as the network takes them; its first output tensor holds the class scores, (N, classes).
    limit: at most that many images, always the same random ones. After each batch ``on_progress(fraction, message,
    partial)`` gets the Accuracy so far. The module is in eval mode meanwhile and as before afterwards.
    Raises MeasureError for no images, images the network does not take, or labels it has no output for; Cancelled
    (with the partial Accuracy) when ``cancelled()`` says so.
    """
    answers = ask(module, data, batch_size=batch_size, limit=limit, on_progress=on_progress, cancelled=cancelled)
    return summarise(answers, data)


def ask(
    module: nn.Module,
    data: ImageData,
    *,
    batch_size: int = 128,
    limit: int | None = None,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> Answers:
    """The answers behind ``evaluate_model``; same arguments, same errors."""
    order = _order(data, limit)
    reference = next(iter(module.parameters()), torch.zeros(()))
    predicted = torch.full((len(data),), -1)
    loss = torch.full((len(data),), float("nan"), dtype=torch.float64)
    answers = Answers(predicted, loss)
    begin = time.perf_counter()
    with evaluating(module):
        for done, chosen in enumerate(batches := order.split(max(1, batch_size)), start=1):
            if cancelled is not None and cancelled():
                partial = summarise(answers, data) if done > 1 else None
                raise Cancelled("Measuring accuracy was cancelled.", partial)
            scores = class_scores(module, data.images[chosen].to(reference.device, reference.dtype)).cpu()
            labels = data.labels[chosen]
            _check_scores(scores, labels, data)
            predicted[chosen] = scores.argmax(1)
            loss[chosen] = F.cross_entropy(scores.double(), labels, reduction="none")
            if on_progress is not None:
                left = (time.perf_counter() - begin) * (len(batches) - done) / done
                message = f"Measured {int((predicted >= 0).sum())} of {len(order)} images, {left:.0f} s left"
                on_progress(done / len(batches), message, summarise(answers, data))
    return answers


def _order(data: ImageData, limit: int | None) -> Tensor:
    count = len(data)
    if not count:
        raise MeasureError(f"Expected at least one image to measure accuracy on; {data.name} has none. Load images.")
    if limit is not None and limit < 1:
        raise MeasureError(f"limit: expected 1 image or more, found {limit}.")
    return torch.randperm(count, generator=torch.Generator().manual_seed(ORDER_SEED))[:limit]


def class_scores(module: nn.Module, images: Tensor) -> Tensor:
    """The first tensor that ``module`` returns for ``images``; MeasureError when it does not take them."""
    try:
        result = module(images)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MeasureError(
            f"{type(module).__name__} does not take images of {size_text(images)}: {reason} "
            "Choose images with the channels and size the network was made for."
        ) from error
    tensors = [leaf for leaf in tree_flatten(dict(result) if isinstance(result, dict) else result)[0]]
    first = next((leaf for leaf in tensors if isinstance(leaf, Tensor)), None)
    if first is None or first.dim() != 2:
        found = "no tensor" if first is None else size_text(first) + " per image"
        raise MeasureError(f"Expected one score per class and image from {type(module).__name__}; found {found}.")
    return first


def size_text(images: Tensor) -> str:
    """ "3 x 32 x 32" for a batch of such images."""
    return " x ".join(str(size) for size in images.shape[1:])


def _check_scores(scores: Tensor, labels: Tensor, data: ImageData) -> None:
    if int(labels.max()) >= scores.shape[1] or int(labels.min()) < 0:
        raise MeasureError(
            f"{data.name} has labels from {int(labels.min())} to {int(labels.max())}, but the network has only "
            f"{scores.shape[1]} outputs (0 to {scores.shape[1] - 1}). Choose images of the network's own classes."
        )


def summarise(answers: Answers, data: ImageData) -> Accuracy:
    """The Accuracy over those images of ``data`` that have an answer (at least one)."""
    asked = answers.predicted >= 0
    labels, right = data.labels[asked], (answers.predicted == data.labels)[asked]
    classes = max(len(data.classes), int(labels.max()) + 1)
    seen = torch.bincount(labels, minlength=classes).double()
    per_class = torch.bincount(labels[right], minlength=classes).double() / seen  # 0 / 0 is NaN: a class without images
    images, correct = len(labels), int(right.sum())
    low, high = wilson(correct, images)
    loss = float(answers.loss[asked].mean())
    return Accuracy(correct / images, low, high, loss, correct, images, tuple(per_class.tolist()), data.name)
