"""Train the demo networks again: ``python assets/demos/make_demos.py`` (or ``make demos``). Minutes on two cores.

Each network learns the calibration part of its data only. Within a run nothing is chosen by any measurement: the number
of epochs is fixed, the last weights are kept. The selection accuracy is noted after every fifth epoch for the log; the
report part is looked at once, at the end. The shapes network has few epochs because it should make some mistakes for
people to look at; their number was set on other pictures (another seed of core/load/shapes.py). Writes
<name>.safetensors beside this file, and log.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from core.load import load_data, load_model  # noqa: E402 - the repository root has to be on the path first
from core.records import ImageData  # noqa: E402 - idem


@dataclass(frozen=True)
class Course:
    """How one network is trained; the learning rate falls to 0 along a cosine.

    turn_degrees, shift and zoom (shares of the edge) bound the random distortions; mirror and mix_colours (red, green
    and blue change places) switch theirs on.
    """

    net: str
    data: str
    epochs: int
    batch: int = 64
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    turn_degrees: float = 10.0
    shift: float = 0.08
    zoom: float = 0.1
    mirror: bool = False
    mix_colours: bool = False
    optimizer: str = "sgd"
    seed: int = 0


COURSES = (
    Course("digits-vgg", "digits", epochs=30),
    Course("digits-resnet", "digits", epochs=30),
    Course(
        "shapes-cnn",
        "shapes",
        epochs=26,
        batch=32,
        learning_rate=3e-3,
        weight_decay=0.02,
        turn_degrees=20.0,
        mirror=True,
        mix_colours=True,
        optimizer="adamw",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[course.net for course in COURSES], help="train this one, keep the others")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    log_file = HERE / "log.json"
    log = json.loads(log_file.read_text()) if log_file.exists() else {}
    for course in COURSES:
        if options.only in (None, course.net):
            module, log[course.net] = train(course)
            save_file(
                module.state_dict(), HERE / f"{course.net}.safetensors", {"prunescope.source": f"demo/{course.net}"}
            )
            log_file.write_text(json.dumps(log, indent=1) + "\n")


def train(course: Course) -> tuple[nn.Module, dict[str, object]]:
    """The trained network, in eval mode, and the record of how it came about."""
    started = time.perf_counter()
    torch.manual_seed(course.seed)
    module = load_model(f"demo/{course.net}", weights="random").module
    data = load_data(course.data)
    learned, watched = data.calibration, data.selection
    steps = course.epochs * math.ceil(len(learned) / course.batch)
    optimizer = make_optimizer(module, course)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, selection = [], {}
    for epoch in range(1, course.epochs + 1):
        losses.append(round(run_epoch(module, learned, course, optimizer, schedule), 4))
        if epoch % 5 == 0 or epoch == course.epochs:
            selection[epoch] = round(count_correct(module, watched) / len(watched), 4)
            print(f"{course.net} epoch {epoch}: loss {losses[-1]}, selection {selection[epoch]:.4f}", flush=True)
    report = data.report
    correct = count_correct(module, report)
    low, high = wilson(correct, len(report))
    print(f"{course.net} report: {correct}/{len(report)} = {correct / len(report):.4f} [{low:.4f}, {high:.4f}]")
    return module, {
        "course": asdict(course),
        "images": {"calibration": len(learned), "selection": len(watched), "report": len(report)},
        "parameters": sum(value.numel() for value in module.parameters()),
        "loss_per_epoch": losses,
        "selection_accuracy": selection,
        "report": {
            "correct": correct,
            "accuracy": round(correct / len(report), 4),
            "wilson_95": [round(low, 4), round(high, 4)],
        },
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def make_optimizer(module: nn.Module, course: Course) -> torch.optim.Optimizer:
    if course.optimizer == "adamw":
        return torch.optim.AdamW(module.parameters(), course.learning_rate, weight_decay=course.weight_decay)
    return torch.optim.SGD(
        module.parameters(), course.learning_rate, 0.9, weight_decay=course.weight_decay, nesterov=True
    )


def run_epoch(
    module: nn.Module,
    data: ImageData,
    course: Course,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """One pass over ``data`` in random order; the mean loss."""
    module.train()
    total = 0.0
    for picked in torch.randperm(len(data)).split(course.batch):
        loss = F.cross_entropy(module(distort(data.images[picked], course)), data.labels[picked], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(picked)
    module.eval()
    return total / len(data)


def distort(images: Tensor, course: Course) -> Tensor:
    """Each image turned, zoomed, shifted, perhaps mirrored and recoloured at random. N x C x H x W in and out."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * math.radians(course.turn_degrees)
    scale = 1 + (torch.rand(count) * 2 - 1) * course.zoom
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if course.mirror else torch.ones(count)
    shift = (torch.rand(count, 2) * 2 - 1) * 2 * course.shift
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack(
        [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)], 1
    )
    if course.mix_colours:
        order = torch.rand(count, images.shape[1]).argsort(1)
        images = images[torch.arange(count)[:, None], order]
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@torch.inference_mode()
def count_correct(module: nn.Module, data: ImageData) -> int:
    pairs = zip(data.images.split(256), data.labels.split(256), strict=True)
    return sum(int((module(images).argmax(1) == labels).sum()) for images, labels in pairs)


def wilson(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    share = correct / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


if __name__ == "__main__":
    main()
