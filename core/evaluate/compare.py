"""Two networks on the same images: the difference is known better than either accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from core.evaluate.metrics import ask, summarise
from core.records import Accuracy, ImageData
from core.solvers.intervals import paired_interval as paired_interval


@dataclass(frozen=True)
class Comparison:
    """Network b against network a on the same images.

    ``difference``: accuracy of b minus accuracy of a, with its paired 95 % interval. ``lost``: images only a gets
    right; ``gained``: only b. ``flipped``: images with different answers, right or wrong. ``p_value``: McNemar's exact
    test of "equally often right".
    """

    a: Accuracy
    b: Accuracy
    difference: float
    low: float
    high: float
    lost: int
    gained: int
    flipped: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        points = [f"{100 * value:+.1f}" for value in (self.difference, self.low, self.high)]
        return f"{points[0]} points [{points[1]}, {points[2]}] on {self.a.images} images, {self.flipped} changed"


@dataclass(frozen=True)
class Paired:
    """Right and wrong on the same images; fields as in ``Comparison``."""

    difference: float
    low: float
    high: float
    lost: int
    gained: int
    p_value: float


def pair_answers(right_a: Tensor, right_b: Tensor) -> Paired:
    """What two rows of right (True) and wrong answers to the same images say. bool, (N,) each, N at least 1.

    McNemar (1947), exact form: of the images that only one gets right, each side has half if both are equally good.
    """
    lost, gained = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    low, high = paired_interval(lost, gained, len(right_a))
    from scipy.stats import binomtest  # half a second, which many processes need not wait for

    p_value = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return Paired((gained - lost) / len(right_a), low, high, lost, gained, p_value)


def compare_models(
    a: nn.Module,
    b: nn.Module,
    data: ImageData,
    *,
    batch_size: int = 128,
    limit: int | None = None,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Comparison:
    """Both networks on the same images of ``data``. Arguments and errors as in ``evaluate_model``."""

    def half(start: float) -> Callable[..., None] | None:
        if on_progress is None:
            return None
        return lambda fraction, message, partial=None: on_progress(start + fraction / 2, message, None)

    first = ask(a, data, batch_size=batch_size, limit=limit, on_progress=half(0.0), cancelled=cancelled)
    second = ask(b, data, batch_size=batch_size, limit=limit, on_progress=half(0.5), cancelled=cancelled)
    asked = first.predicted >= 0
    right_a, right_b = ((x.predicted == data.labels)[asked] for x in (first, second))
    pair = pair_answers(right_a, right_b)
    flipped = int((first.predicted != second.predicted).sum())
    return Comparison(
        summarise(first, data), summarise(second, data), pair.difference, pair.low, pair.high,
        pair.lost, pair.gained, flipped, pair.p_value,
    )  # fmt: skip
