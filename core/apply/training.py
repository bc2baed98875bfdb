"""The training loop that fine-tuning, soft pruning and iterative pruning share: one network, one course, in epochs.

Every random number of an epoch comes from (seed, epoch), so that a run that was stopped and taken up again goes on as
if it had not been stopped, and the program's own random state stays as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply.augment import augment_images, way_to_augment
from core.apply.course import Course, EpochLog
from core.errors import Cancelled, TrainError
from core.measure.walk import first_tensor
from core.records import ImageData
from core.trace.copies import copy_with, named_state
from core.trace.modes import evaluating

TELL_EVERY_S, LISTEN_EVERY_S = 0.25, 0.1
Progress = Callable[..., None]
Stop = Callable[[], bool]


class Trainer:
    """A copy of a network on its way through a course. ``module`` is the copy, in train mode until ``finish``."""

    def __init__(
        self,
        module: nn.Module,
        data: ImageData,
        course: Course,
        *,
        teacher: nn.Module | None = None,
        watch: ImageData | None = None,
        device: torch.device | str | None = None,
        on_progress: Progress | None = None,
        cancelled: Stop | None = None,
    ) -> None:
        self.data = images_to_learn(data, course.batch_size)
        self.course, self.watch = course, watch
        self.on_progress, self.cancelled = on_progress, cancelled
        self.home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        self.device = torch.device(device) if device is not None else self.home
        self.augment = way_to_augment(course.augment, self.data.images)
        self.module = private_copy(module).to(self.device).train()
        self.teacher = None if teacher is None else private_copy(teacher).to(self.device).eval().requires_grad_(False)
        self.layouts = {name: tensor.is_contiguous() for name, tensor in named_state(module).items()}
        self.labels = int(self.data.labels.min()), int(self.data.labels.max())
        self._check_images()
        self.logs: list[EpochLog] = []
        self.elapsed = 0.0
        self._optimise()
        self.half = torch.bfloat16
        self.scaler = torch.amp.GradScaler("cuda", enabled=False)
        if self.device.type == "cuda" and course.amp and not torch.cuda.is_bf16_supported(including_emulation=False):
            self.half, self.scaler = torch.float16, torch.amp.GradScaler("cuda")

    def _optimise(self) -> None:
        course = self.course
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise TrainError("Expected weights that can be trained; every parameter of this network is frozen.")
        self.optimiser: torch.optim.Optimizer
        if course.optimiser == "adamw":
            self.optimiser = torch.optim.AdamW(self.parameters, course.lr, weight_decay=course.weight_decay)
        else:
            nesterov = course.momentum > 0
            self.optimiser = torch.optim.SGD(
                self.parameters, course.lr, course.momentum, weight_decay=course.weight_decay, nesterov=nesterov
            )

    def _check_images(self) -> None:
        """Raises TrainError when the network does not take the images, or gives no class scores for them."""
        try:
            with evaluating(self.module), torch.random.fork_rng([]):
                scores = first_tensor(self.module(self._given(self.data.images[:1])))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            size = " x ".join(map(str, self.data.images.shape[1:]))
            raise TrainError(
                f"{type(self.module).__name__} does not take images of {size}: {reason} Choose images with the "
                "channels and size the network was made for."
            ) from error
        self._check(scores, 1)

    def _given(self, images: Tensor) -> Tensor:
        """``images`` as the network takes them: its device, its type, contiguous."""
        return images.to(self.device, next(self.module.parameters()).dtype).contiguous()

    def swap(self, module: nn.Module, memory: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on with ``module`` (taken over, not copied) and a new optimiser that remembers ``memory``: name of what it
        remembers ("momentum_buffer") -> state name -> values."""
        before = self.optimiser.state
        counts = [entry["step"] for entry in before.values() if "step" in entry]

        with torch.inference_mode(False):
            self.module = module.to(self.device).train()
            self._optimise()
            trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
            for name, parameter in trained.items():
                for key, values in memory.items():
                    self.optimiser.state[parameter][key] = torch.empty_like(parameter).copy_(values[name].detach())
                if memory and counts:
                    self.optimiser.state[parameter]["step"] = counts[0].clone()

    @property
    def batches(self) -> int:
        """Steps of one epoch; batches differ in size by one image at most."""
        return math.ceil(len(self.data) / self.course.batch_size)

    def epochs(self) -> Iterator[EpochLog]:
        """Train; gives the log of each epoch when it is over, with ``module`` as it stands then.

        Raises TrainError when the loss is no longer a number, Cancelled (without partial) when asked to stop.
        """
        while self.share() < 1.0:
            with self.running():
                log = self._epoch(len(self.logs) + 1)
            self.logs.append(log)
            self._tell(0, log.loss, log.images_per_second)
            yield log

    def share(self, steps: int = 0) -> float:
        """How much of the course has passed, in 0..1, ``steps`` into the epoch that runs."""
        course, found = self.course, 0.0
        if course.epochs is not None:
            found = (len(self.logs) + steps / self.batches) / course.epochs
        if course.seconds is not None:
            found = max(found, self.elapsed / course.seconds)
        return min(1.0, found)

    def _epoch(self, number: int) -> EpochLog:
        generator = numbers(self.course.seed, number)
        order = torch.randperm(len(self.data), generator=generator)
        begun, before, told = time.perf_counter(), self.elapsed, 0.0
        total, seen = torch.zeros((), dtype=torch.float64), 0
        self.seed_layers(generator)
        for step, chosen in enumerate(order.tensor_split(self.batches)):
            share = self.share(step)
            if share >= 1.0:
                break  # the time is up
            self.stop_if_asked()
            loss = self.step(*self.batch(chosen, generator), self.course.rate(share))
            total, seen = total + loss.double().cpu() * len(chosen), seen + len(chosen)
            now = time.perf_counter()
            self.elapsed = before + now - begun
            if now - told > TELL_EVERY_S:
                told = now
                self._tell(step + 1, self._finite(total, seen, number), seen / (now - begun))
        value = self._finite(total, seen, number)
        speed = seen / max(1e-9, time.perf_counter() - begun)
        watched = accuracy_of(self.module, self.watch, self.stop_if_asked) if self.watch is not None else None
        self.elapsed = before + time.perf_counter() - begun
        return EpochLog(number, value, self.optimiser.param_groups[0]["lr"], seen, speed, self.elapsed, watched)

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(images, labels) at ``chosen`` (int64), augmented, on the device that trains."""
        images = augment_images(self.data.images[chosen].to(self.device), self.augment, generator)
        return self._given(images), self.data.labels[chosen].to(self.device)

    def step(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        """One step of the optimiser at rate ``lr``; the loss before it, detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", self.half, enabled=self.course.amp and self.device.type == "cuda"):
            loss = self.loss(first_tensor(self.module(images)), images, labels)
        self.scaler.scale(loss).backward()
        if self.course.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.parameters, self.course.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach()

    def loss(self, scores: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """(1 - teach) cross-entropy + teach T^2 KL(teacher || network), both at temperature T; without a teacher the
        cross-entropy alone. scores: (N, classes)."""
        course = self.course
        self._check(scores, len(images))
        scores = scores.float()
        if self.teacher is None or course.teach == 0:
            return F.cross_entropy(scores, labels, label_smoothing=course.label_smoothing)
        with torch.no_grad():
            known = F.log_softmax(first_tensor(self.teacher(images)).float() / course.temperature, 1)
        said = F.log_softmax(scores / course.temperature, 1)
        told = F.kl_div(said, known, reduction="batchmean", log_target=True) * course.temperature**2
        if course.teach == 1:
            return told
        labelled = F.cross_entropy(scores, labels, label_smoothing=course.label_smoothing)
        return (1 - course.teach) * labelled + course.teach * told

    @contextmanager
    def running(self) -> Iterator[None]:
        """Gradients on, the random state lent and given back, and an ear for a wish to stop inside long steps."""
        devices = [self.device] if self.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if self.device.type == "cuda":
                stack.enter_context(torch.backends.cudnn.flags(benchmark=False, deterministic=True))
            elif self.cancelled is not None:
                stack.enter_context(listening(self.stop_if_asked))
            self.stop_if_asked()
            yield

    def seed_layers(self, generator: torch.Generator) -> None:
        """Fix what layers draw themselves (dropout), on the device that trains; ``running`` gives the state back."""
        seed = int(torch.randint(1 << 62, (), generator=generator))
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def stop_if_asked(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("Training was cancelled.")

    def _check(self, scores: Tensor, images: int) -> None:
        """Raises TrainError unless ``scores`` holds one score per class and image, for every label."""
        if scores.dim() != 2 or len(scores) != images:
            found = " x ".join(map(str, scores.shape))
            raise TrainError(f"Expected one score per image and class from the network; found an output of {found}.")
        if self.labels[0] < 0 or self.labels[1] >= scores.shape[1]:
            raise TrainError(
                f"{self.data.name} has labels from {self.labels[0]} to {self.labels[1]}, but the network has "
                f"{scores.shape[1]} outputs (0 to {scores.shape[1] - 1}). Choose images of the network's own classes."
            )

    def _finite(self, total: Tensor, seen: int, epoch: int) -> float:
        mean = float(total) / max(1, seen)
        if not math.isfinite(mean):
            raise TrainError(
                f"The loss stopped being a number in epoch {epoch}. Train with a lower learning rate than "
                f"{self.course.lr:g}, or bound the gradient with clip=."
            )
        return mean

    def _tell(self, steps: int, loss: float, speed: float) -> None:
        if self.on_progress is None:
            return
        epoch = len(self.logs) + (steps > 0)
        share = self.share(steps)
        left = self.elapsed * (1 - share) / max(share, 1e-9)
        of = "" if self.course.epochs is None else f" of {self.course.epochs}"
        message = f"Epoch {epoch}{of}: loss {loss:.3f}, {speed:.0f} images/s, {left:.0f} s left"
        self.on_progress(share, message, tuple(self.logs))

    def finish(self) -> nn.Module:
        """A copy of ``module`` as it stands: in eval mode, without gradients, where and laid out as it came."""

        def laid_out(name: str, tensor: Tensor) -> Tensor:
            last = tensor.dim() == 4 and not self.layouts.get(name, True)
            return tensor.to(self.home).clone(memory_format=torch.channels_last if last else torch.contiguous_format)

        with torch.inference_mode(False):
            return copy_with(self.module, laid_out).eval()


def images_to_learn(data: ImageData, batch_size: int = 2) -> ImageData:
    """The calibration part where there are parts, else all images. Raises TrainError when they are fewer than two."""
    learned = data.calibration if data.parts else data
    if len(learned) < 2:
        raise TrainError(f"Training needs at least two images; {learned.name} has {len(learned)}. Load more images.")
    return learned


def private_copy(module: nn.Module) -> nn.Module:
    """A copy whose tensors are its own and may have gradients, also when the caller is in inference mode.

    All contiguous. Channels last would be a tenth faster on a CPU, but there the backward pass of a strided 1 x 1
    convolution with few channels writes beyond its memory (PyTorch 2.13; 4 channels to 8, stride 2).
    """
    with torch.inference_mode(False):
        return copy_with(module, lambda _, tensor: tensor.clone(memory_format=torch.contiguous_format))


def numbers(seed: int, epoch: int) -> torch.Generator:
    """Random numbers of one epoch."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))


@contextmanager
def listening(check: Callable[[], None]) -> Iterator[None]:
    """Calls ``check`` a few times a second while a forward or backward pass runs, at the operators that keep a tensor
    for the gradient: on a CPU one step of a large network takes longer than a person waits for a button."""
    last = time.perf_counter()

    def ask(tensor: Any) -> Any:
        nonlocal last
        now = time.perf_counter()
        if now - last > LISTEN_EVERY_S:
            last = now
            check()
        return tensor.detach()  # the tensor itself would hold its own history in a circle

    with torch.autograd.graph.saved_tensors_hooks(ask, ask):
        yield


def judge(module: nn.Module, data: ImageData, check: Callable[[], None], batch_size: int = 256) -> tuple[Tensor, float]:
    """Which of ``data`` a network answers right, bool (N,), and its mean cross-entropy; its modes are as before
    afterwards."""
    reference = next(module.parameters())
    right, loss = [torch.zeros(0, dtype=torch.bool)], 0.0
    with evaluating(module):
        for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
            check()
            scores = first_tensor(module(images.to(reference.device, reference.dtype))).float().cpu()
            right.append(scores.argmax(1) == labels)
            known = labels.where(labels < scores.shape[1], -100)  # a label beyond the classes counts as wrong alone
            loss += float(F.cross_entropy(scores, known, reduction="sum"))
    return torch.cat(right), loss / max(1, len(data))


def accuracy_of(module: nn.Module, data: ImageData, check: Callable[[], None]) -> float:
    """Share of ``data`` that ``module`` answers right; its modes are as before afterwards."""
    return int(judge(module, data, check)[0].sum()) / max(1, len(data))
