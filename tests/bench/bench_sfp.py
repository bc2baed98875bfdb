"""Training while pruning, and training after it: `python tests/bench/bench_sfp.py [sfp|finetune] [epochs] [seeds]`;
both without arguments.

- sfp (default 8 epochs, 3 seeds): the digits VGG from scratch, with 40 % of the filters of every convolution silenced
  softly, against dense training with the same schedule and the same seeds. Bar: the mean accuracy on the report part
  within 0.5 points of the dense one's. What is measured is the pruned network, and that it equals the silenced one.
- finetune: CIFAR ResNet-56 (../shared) at a quarter of its multiply-adds, made by a recipe without training from
  train.npz, then fine-tuned there for 5 minutes. Bar: 86 % on select.npz. The time is that of two cores of their own;
  on a busy machine give epochs instead: `finetune 9`.

Nothing is chosen by report images; of select.npz the first half chooses widths.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import nn

from core.apply import finetune_model, prune_model
from core.apply.soft import reset_weights, train_softly
from core.apply.surgery import max_relative_error
from core.evaluate import evaluate_model
from core.load import load_data, load_model
from core.measure.cost import count_cost
from core.recipes import run_recipe
from core.records import ImageData
from core.trace import trace_channels

SHARED = Path(__file__).parents[2].parent / "shared"
RATE, POINTS = 0.4, 0.5
RECIPE, MACS, SECONDS, ENOUGH = "chapr-qr", 0.25, 300.0, 0.86


def soft_against_dense(epochs: int = 8, seeds: int = 3) -> bool:
    loaded, data = load_model("demo/digits-vgg", weights="random"), load_data("digits")
    trace = trace_channels(loaded.module, loaded.example)
    dense, soft = [], []
    for seed in range(seeds):
        course = {"epochs": epochs, "lr": 0.05, "batch_size": 64, "seed": seed}
        begun = time.process_time()
        net = finetune_model(reset_weights(loaded.module, seed), data, **course).module
        dense.append(evaluate_model(net, data.report).value)
        between = time.process_time()
        result = train_softly(loaded.module, trace, data, RATE, start="scratch", **course)
        pruned = prune_model(result.module, trace, result.plan)
        soft.append(evaluate_model(pruned, data.report).value)
        took = between - begun, time.process_time() - between
        with torch.no_grad():
            images = data.report.images[:64]
            error = max_relative_error([pruned(images)], [result.module(images)])
        changed = [entry.changed for entry in result.log]
        print(
            f"seed {seed}: dense {100 * dense[-1]:.2f} % ({took[0]:.0f} CPU s), soft {100 * soft[-1]:.2f} % "
            f"({took[1]:.0f} CPU s), pruned against silenced {error:.0e}, newly silenced per epoch {changed}",
            flush=True,
        )
    cost, whole = count_cost(trace, result.plan), count_cost(trace)
    loss = 100 * (statistics.mean(dense) - statistics.mean(soft))
    print(
        f"digits VGG from scratch, {epochs} epochs, {seeds} seeds, {len(data.report)} report images: dense "
        f"{100 * statistics.mean(dense):.2f} %, soft at {RATE:.0%} {100 * statistics.mean(soft):.2f} % with "
        f"{cost.macs / whole.macs:.3f} of the MACs, {cost.params / whole.params:.3f} of the parameters; lost "
        f"{loss:.2f} points, bar {POINTS}: {'met' if loss <= POINTS else 'MISSED'}"
    )
    return loss <= POINTS


def finetuned_to_a_quarter(epochs: int | None = None) -> bool:
    weights = SHARED / "models" / "cifar10_resnet56.pt"
    if not weights.exists():
        print(f"skipped: {weights.name} is not there (it is test material and not shipped)")
        return True
    loaded = load_model("cifar/resnet56", weights=str(weights))
    data = joined(load_data(str(SHARED / "data/cifar10/train.npz")), load_data(str(SHARED / "data/cifar10/select.npz")))
    select = data.take(torch.cat([data.parts["selection"], data.parts["report"]]))
    report("dense", loaded.module, select, 0.0)
    begun = time.process_time()
    made = run_recipe(RECIPE, loaded, data, {"macs": MACS})
    report(f"{RECIPE}, no training", made.module, select, time.process_time() - begun)
    begun, clock = time.process_time(), time.perf_counter()
    length = {"seconds": SECONDS} if epochs is None else {"epochs": epochs}
    net = finetune_model(made.module, data.calibration, **length)
    clock = time.perf_counter() - clock
    value = report(f"fine-tuned, {len(net.epochs)} epochs", net.module, select, time.process_time() - begun)
    trace = trace_channels(loaded.module, loaded.example)
    share = count_cost(trace, made.plan).macs / count_cost(trace).macs
    print(
        f"ResNet-56 at {share:.3f} of its MACs, {clock:.0f} s of fine-tuning on {torch.get_num_threads()} threads: bar "
        f"{ENOUGH:.0%} on {len(select)} images: {'met' if value >= ENOUGH else 'MISSED'}"
    )
    return value >= ENOUGH


def joined(learned: ImageData, held_out: ImageData) -> ImageData:
    """One data set: to learn from all of ``learned``, to choose by and to report the halves of ``held_out``."""
    a, b = len(learned), len(learned) + len(held_out)
    middle = (a + b) // 2
    parts = {"calibration": torch.arange(a), "selection": torch.arange(a, middle), "report": torch.arange(middle, b)}
    images, labels = torch.cat([learned.images, held_out.images]), torch.cat([learned.labels, held_out.labels])
    return ImageData(images, labels, learned.classes, learned.name, learned.mean, learned.std, parts)


def report(name: str, module: nn.Module, data: ImageData, cpu_seconds: float) -> float:
    accuracy = evaluate_model(module, data)
    print(f"{name}: {accuracy}, {cpu_seconds:.0f} CPU s", flush=True)
    return accuracy.value


def main(what: str = "", *numbers: str) -> int:
    runs = {"sfp": soft_against_dense, "finetune": finetuned_to_a_quarter}
    return int(not all([run(*map(int, numbers)) for name, run in runs.items() if what in ("", name)]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
