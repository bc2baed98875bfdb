"""Short training of a pruned network, so that its remaining weights learn to do without what left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.apply.course import Course, EpochLog
from core.apply.resume import identify_run, load_run, save_run
from core.apply.training import Trainer
from core.errors import Cancelled
from core.records import ImageData, fingerprint_state

DEFAULT_EPOCHS = 10


@dataclass(frozen=True)
class FineTuned:
    """``module``: a new network in eval mode. ``epochs``: one log each. ``complete``: the course came to its end."""

    module: nn.Module
    epochs: tuple[EpochLog, ...]
    complete: bool


def finetune_model(
    module: nn.Module,
    data: ImageData,
    *,
    epochs: int | None = None,
    seconds: float | None = None,
    teacher: nn.Module | None = None,
    watch: ImageData | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    **course: Any,
) -> FineTuned:
    """A NEW network with ``module``'s architecture and trained weights; ``module`` and ``teacher`` are left alone.

    data: images N x C x H x W as the network takes them, with labels; of data in parts the calibration part is learned.
    epochs, seconds: the length (10 epochs when neither is given); a time limit ends with the learning rate at 0 too.
    teacher: the dense network, whose class scores are learned beside the labels (Hinton, Vinyals, Dean 2015, arXiv
    1503.02531). watch: images whose accuracy is noted after each epoch, for a chart; nothing is chosen by it. device:
    where to train (None = where the network is). course: lr, optimiser, label_smoothing, teach, temperature, augment,
    batch_size, clip, amp, seed and the other fields of ``Course``. checkpoint: a file that keeps the run after every
    epoch; with ``resume`` a run found there goes on, and ends with the same weights as one that was never stopped.
    ``on_progress(share, message, epochs so far)``.
    Raises TrainError for a course, images or checkpoint that do not fit, or a loss that is not finite; Cancelled within
    a second of ``cancelled()``, with the FineTuned of the last complete epoch as ``partial``.
    """
    chosen = Course(DEFAULT_EPOCHS if epochs is None and seconds is None else epochs, seconds, **course)
    trainer = Trainer(
        module, data, chosen, teacher=teacher, watch=watch, device=device, on_progress=on_progress, cancelled=cancelled
    )
    store = None if checkpoint is None else Path(checkpoint)
    identity = {}
    if store is not None:
        taught = None if teacher is None else fingerprint_state(teacher.state_dict())
        identity = identify_run(module, trainer.data, chosen, teacher=taught)
        if resume and store.exists():
            load_run(trainer, store, identity)
    last = FineTuned(trainer.finish(), tuple(trainer.logs), False)
    try:
        for _ in trainer.epochs():
            last = FineTuned(trainer.finish(), tuple(trainer.logs), False)
            if store is not None:
                save_run(trainer, store, identity)
    except Cancelled as stop:
        done = f"after {len(last.epochs)} complete epochs" if last.epochs else "before its first epoch was complete"
        raise Cancelled(f"Fine-tuning was cancelled {done}.", last) from stop
    return FineTuned(last.module, last.epochs, True)
