"""How a network is trained, as a record; and what is told of every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.errors import TrainError
from core.registry import unknown_name

OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "steps", "constant")
STEPS = ((0.8, 0.008), (0.6, 0.04), (0.3, 0.2))  # (share of the course, factor): He et al. 2018, 60/120/160 of 200


@dataclass(frozen=True)
class Course:
    """How a network is trained. Two runs of one course on one network and the same images give the same weights.

    epochs, seconds: at least one of them; with both, whichever ends first. lr: the highest learning rate; ``schedule``:
    "cosine" falls to 0 along half a cosine, "steps" is divided by 5 at 30, 60 and 80 % of the course, "constant" stays.
    With ``seconds`` the share of the time that has passed takes the place of the share of the steps. warmup: share of
    the course in which the rate rises from 0. teach: weight of the teacher's answers against the labels', in 0..1.
    temperature: that both networks' class scores are divided by before they are compared (Hinton, Vinyals, Dean 2015,
    arXiv 1503.02531, section 2). clip: largest L2 norm of the gradient (None = as it is). augment: see
    ``core.apply.augment``. amp: mixed precision on a GPU; has no effect on a CPU.
    """

    epochs: int | None = None
    seconds: float | None = None
    lr: float = 0.02
    optimiser: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    teach: float = 0.9
    temperature: float = 4.0
    augment: str = "auto"
    batch_size: int = 128
    clip: float | None = None
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs is None and self.seconds is None:
            raise TrainError("Expected a length: epochs= or seconds=. Found neither.")
        for name, table in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in table:
                raise unknown_name(name, str(getattr(self, name)), list(table), TrainError)
        least: dict[str, float] = {"epochs": 1, "batch_size": 2, "seconds": 1e-3, "lr": 0.0, "temperature": 1e-3,
                                   "momentum": 0.0, "weight_decay": 0.0, "clip": 1e-12}  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < math.inf:
                raise TrainError(f"{name}: expected a number from {low:g} up, found {value}.")
        for name in ("label_smoothing", "teach", "warmup"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise TrainError(f"{name}: expected a share in 0..1, found {getattr(self, name)}.")

    def rate(self, share: float) -> float:
        """The learning rate when ``share`` (0..1) of the course has passed."""
        rising = min(1.0, share / self.warmup) if self.warmup > 0 else 1.0
        if self.schedule == "cosine":
            return self.lr * rising * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        if self.schedule == "steps":
            return self.lr * rising * next((factor for start, factor in STEPS if share >= start), 1.0)
        return self.lr * rising


@dataclass(frozen=True)
class EpochLog:
    """One epoch: mean loss over its images, learning rate at its end, images per second, seconds since the start of the
    course, and the accuracy on the images that were only watched (share; None when none were)."""

    epoch: int
    loss: float
    lr: float
    images: int
    images_per_second: float
    seconds: float
    watched: float | None = None
