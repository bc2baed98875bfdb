"""What was counted so far: of the network a scan starts from, and of every fork."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.records import CurvePoint
from core.solvers.intervals import wilson


@dataclass(frozen=True)
class Tally:
    """Over the first ``images`` images: answers right, summed cross-entropy and divergence from the start's answers,
    images only the start (``lost``), only the fork (``gained``) gets right; the start's cross-entropy."""

    images: int = 0
    correct: int = 0
    loss: float = 0.0
    kl: float = 0.0
    lost: int = 0
    gained: int = 0
    start_loss: float = 0.0

    def plus(self, answers: Answers, start: Answers, position: int) -> Tally:
        """With the images of a batch that are not counted yet. position: the batch's first image among all."""
        if self.images >= position + len(answers.right):
            return self
        new = slice(max(0, self.images - position), None)
        right, before = answers.right[new], start.right[new]
        return Tally(
            self.images + len(right),
            self.correct + int(right.sum()),
            self.loss + float(answers.loss[new].sum()),
            self.kl + (float(answers.divergence(start)[new].sum()) if answers is not start else 0.0),
            self.lost + int((before & ~right).sum()),
            self.gained + int((right & ~before).sum()),
            self.start_loss + float(start.loss[new].sum()),
        )

    def point(self, kept: int, units: int) -> CurvePoint:
        low, high = wilson(self.correct, self.images)
        return CurvePoint(
            (units - kept) / units if units else 0.0, kept, self.correct / self.images, low, high,
            self.loss / self.images, self.images, self.kl / self.images, self.lost, self.gained,
            self.start_loss / self.images,
        )  # fmt: skip

    @staticmethod
    def of(point: CurvePoint, start: CurvePoint) -> Tally | None:
        """The counts behind a stored point; None when it was stored without the paired ones. start: its scan's."""
        before = start.loss if point.start_loss is None and point.images == start.images else point.start_loss
        if point.kl is None or point.lost is None or point.gained is None or before is None:
            return None
        right = round(point.accuracy * point.images)
        loss, kl, start_loss = (value * point.images for value in (point.loss, point.kl, before))
        return Tally(point.images, right, loss, kl, point.lost, point.gained, start_loss)


class Answers:
    """One network's answers to a batch. logits: (N, classes); labels: (N,)."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.right = logits.argmax(1) == labels
        self.chances = F.log_softmax(logits.double(), 1)
        self.loss = -self.chances.gather(1, labels[:, None]).squeeze(1)

    def divergence(self, start: Answers) -> Tensor:
        """Kullback-Leibler divergence from ``start``'s class probabilities, in nats: (N,), float64."""
        terms = start.chances.exp() * (start.chances - self.chances)
        return torch.where(start.chances.isneginf(), torch.zeros_like(terms), terms).sum(1).clamp_min(0.0)
