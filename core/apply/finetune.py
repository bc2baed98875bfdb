"""Short training of a pruned network, so that its remaining weights learn to do without what left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.apply.course import Course, EpochLog
from core.apply.resume import identify_run, load_run, save_run
from core.apply.settle import settle_norms
from core.apply.training import Trainer, judge
from core.errors import Cancelled
from core.records import ImageData, fingerprint_state
from core.trace.copies import named_state

DEFAULT_EPOCHS = 10


SETTLE_SHARE = 0.1  # of a course's seconds, at most
CLEARLY = 1.64  # standard errors of the paired difference: one-sided, 95 %


@dataclass(frozen=True)
class FineTuned:
    """``module``: a new network in eval mode. ``epochs``: one log each. ``complete``: the course came to its end.
    ``chosen``: the epoch after which the network was as it is now, 0 for the start; None: the last, none was chosen."""

    module: nn.Module
    epochs: tuple[EpochLog, ...]
    complete: bool
    chosen: int | None = None


def finetune_model(
    module: nn.Module,
    data: ImageData,
    *,
    epochs: int | None = None,
    seconds: float | None = None,
    teacher: nn.Module | None = None,
    keep: ImageData | None = None,
    watch: ImageData | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    lr: float = 3e-3,
    **course: Any,
) -> FineTuned:
    """A NEW network with ``module``'s architecture and trained weights; ``module`` and ``teacher`` are left alone.

    data: images N x C x H x W as the network takes them, with labels; of data in parts the calibration part is learned.
    epochs, seconds: the length (10 epochs when neither is given); a time limit ends with the learning rate at 0 too.
    teacher: the dense network, whose class scores are learned beside the labels (Hinton, Vinyals, Dean 2015, arXiv
    1503.02531). keep: images for choosing; what is given back is the state after an epoch that does best on them (most
    right, then least loss) of those that do clearly better than the start did, else the start: ``module``. watch:
    images whose accuracy is noted after each epoch, for a chart; nothing is chosen by it. device: where to train (None
    = where the network is). lr: the highest learning rate; the teacher's part of the loss counts T^2 = 16 times, so
    that much more throws a good network back. course: optimiser, label_smoothing, teach, temperature, augment,
    batch_size, clip, amp, seed and the other fields of ``Course``. checkpoint: a file that keeps the run after every
    epoch; with ``resume`` a run found there goes on, and ends with the same weights as one that was never stopped.
    Before the first epoch, batch norms are settled (``core.apply.settle``). ``on_progress(share, message, epochs so
    far)``.
    Raises TrainError for a course, images or checkpoint that do not fit, or a loss that is not finite; Cancelled within
    a second of ``cancelled()``, with the FineTuned of the last complete epoch as ``partial``.
    """
    chosen = Course(DEFAULT_EPOCHS if epochs is None and seconds is None else epochs, seconds, lr=lr, **course)
    trainer = Trainer(
        module, data, chosen, teacher=teacher, watch=watch, device=device, on_progress=on_progress, cancelled=cancelled
    )
    store = None if checkpoint is None else Path(checkpoint)
    identity = {} if store is None else _identity(module, trainer, teacher, keep)
    extra = load_run(trainer, store, identity) if store is not None and resume and store.exists() else {}
    best = _Best(trainer, keep)
    last = best.result()
    try:
        if extra or trainer.logs:
            best.take_up(extra)
        else:
            _settle(trainer)
            best.offer()
        last = best.result()
        for _ in trainer.epochs():
            best.offer()
            last = best.result()
            if store is not None:
                save_run(trainer, store, identity, best.stored())
    except Cancelled as stop:
        done = f"after {len(last.epochs)} complete epochs" if last.epochs else "before its first epoch was complete"
        raise Cancelled(f"Fine-tuning was cancelled {done}.", last) from stop
    return replace(last, complete=True)


def _identity(module: nn.Module, trainer: Trainer, teacher: nn.Module | None, keep: ImageData | None) -> dict[str, Any]:
    taught = None if teacher is None else fingerprint_state(teacher.state_dict())
    by = {} if keep is None else {"keep": keep.fingerprint}
    return identify_run(module, trainer.data, trainer.course, teacher=taught, **by)


def _settle(trainer: Trainer) -> None:
    begun, limit = time.perf_counter(), trainer.course.seconds
    with torch.inference_mode(False):
        settled = settle_norms(
            trainer.module, trainer.data.images, check=trainer.stop_if_asked,
            seconds=None if limit is None else SETTLE_SHARE * limit,
        )  # fmt: skip
    if settled:
        trainer.elapsed += time.perf_counter() - begun


class _Best:
    """The state to give back: that which did best on ``keep`` so far; without such images, the latest. Few images may
    flatter a state that is no better: one that is not clearly better than the start's does not take its place."""

    def __init__(self, trainer: Trainer, keep: ImageData | None) -> None:
        self.trainer, self.keep = trainer, keep
        self.module, self.epoch = trainer.finish(), 0
        self.start = torch.zeros(0, dtype=torch.bool)  # which of ``keep`` were right
        self.score = 0.0, 0.0

    def offer(self) -> None:
        """The trainer's network as it stands; looking at it is part of the course's time."""
        trainer = self.trainer
        if self.keep is not None:
            begun = time.perf_counter()
            right, loss = judge(trainer.module, self.keep, trainer.stop_if_asked)
            trainer.elapsed += time.perf_counter() - begun
            score = float(right.sum()), -loss
            if not trainer.logs:
                self.start, self.score = right, score
            elif not (score > self.score and _clearly_more(right, self.start)):
                return
            self.score = score
        if trainer.logs:
            self.module, self.epoch = trainer.finish(), len(trainer.logs)

    def result(self) -> FineTuned:
        return FineTuned(self.module, tuple(self.trainer.logs), False, None if self.keep is None else self.epoch)

    def stored(self) -> dict[str, Tensor]:
        """For a file, where the network to give back is not the trainer's own."""
        if self.keep is None:
            return {}
        told = {"best": torch.tensor([*self.score, self.epoch], dtype=torch.float64), "start": self.start}
        return {**told, **{f"best.{name}": tensor for name, tensor in named_state(self.module).items()}}

    def take_up(self, stored: Mapping[str, Tensor]) -> None:
        self.module, self.epoch = self.trainer.finish(), len(self.trainer.logs)
        if self.keep is not None and "best" in stored:
            right, loss, epoch = stored["best"].tolist()
            self.start, self.score, self.epoch = stored["start"], (right, loss), int(epoch)
            with torch.inference_mode(False), torch.no_grad():
                for name, tensor in named_state(self.module).items():
                    tensor.copy_(stored[f"best.{name}"])


def _clearly_more(right: Tensor, before: Tensor) -> bool:
    gained, lost = int((right & ~before).sum()), int((before & ~right).sum())
    return gained - lost > CLEARLY * (gained + lost) ** 0.5
