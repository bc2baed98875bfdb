"""Training while pruning, and training after it: `python tests/bench/bench_sfp.py [sfp|finetune] [epochs] [seeds]`;
both without arguments.

- sfp (default 10 epochs, 3 seeds): the digits VGG from scratch, with 40 % of the filters of every convolution silenced
  softly, against dense training with the same schedule and the same seeds. Bar: the mean accuracy on the report part
  within 0.5 points of the dense one's. What is measured is the pruned network, and that it equals the silenced one.
- finetune: CIFAR ResNet-56 (../shared) at a quarter of its multiply-adds, rebuilt by least squares on train.npz, then
  fine-tuned there for 5 minutes with the dense network as teacher. Bar: 86 % on select.npz. The time is that of two
  cores of their own; on a busy machine give epochs instead: `finetune 6`.

Nothing is chosen by the images that are reported.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import nn

from core.apply import finetune_model, prune_model, reconstruct_model
from core.apply.soft import reset_weights, train_softly
from core.apply.surgery import max_relative_error
from core.evaluate import evaluate_model
from core.load import load_data, load_model
from core.measure.cost import count_cost
from core.measure.importance import score_channels
from core.plan import plan_uniform
from core.records import ImageData, Plan, Trace
from core.trace import trace_channels

SHARED = Path(__file__).parents[2].parent / "shared"
RATE, POINTS = 0.4, 0.5
MACS, SECONDS, ENOUGH = 0.25, 300.0, 0.86


def soft_against_dense(epochs: int = 10, seeds: int = 3) -> bool:
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
    learned = replace(load_data(str(SHARED / "data/cifar10/train.npz")), parts={})
    select = load_data(str(SHARED / "data/cifar10/select.npz"))
    trace = trace_channels(loaded.module, loaded.example)
    plan = quarter(trace, learned)
    begun = time.process_time()
    rebuilt = reconstruct_model(loaded.module, trace, plan, learned, "least-squares")
    report("dense", loaded.module, select, 0.0)
    report("rebuilt by least squares", rebuilt, select, time.process_time() - begun)
    begun, clock = time.process_time(), time.perf_counter()
    length = {"seconds": SECONDS} if epochs is None else {"epochs": epochs}
    net = finetune_model(rebuilt, learned, teacher=loaded.module, batch_size=64, lr=0.02, **length)
    value = report(f"fine-tuned, {len(net.epochs)} epochs", net.module, select, time.process_time() - begun)
    share = count_cost(trace, plan).macs / count_cost(trace).macs
    print(
        f"ResNet-56 at {share:.3f} of its MACs, {time.perf_counter() - clock:.0f} s of fine-tuning on "
        f"{torch.get_num_threads()} threads: bar {ENOUGH:.0%} on {len(select)} images: "
        f"{'met' if value >= ENOUGH else 'MISSED'}"
    )
    return value >= ENOUGH


def quarter(trace: Trace, data: ImageData) -> Plan:
    """The smallest uniform removal that leaves a quarter of the multiply-adds."""
    scores = score_channels(trace, data.take(torch.arange(256)), "weight-l2")
    whole = count_cost(trace).macs
    plans = (plan_uniform(trace, scores, step / 100) for step in range(100))
    return next(plan for plan in plans if count_cost(trace, plan).macs <= MACS * whole)


def report(name: str, module: nn.Module, data: ImageData, cpu_seconds: float) -> float:
    accuracy = evaluate_model(module, data)
    print(f"{name}: {accuracy}, {cpu_seconds:.0f} CPU s", flush=True)
    return accuracy.value


def main(what: str = "", *numbers: str) -> int:
    runs = {"sfp": soft_against_dense, "finetune": finetuned_to_a_quarter}
    return int(not all([run(*map(int, numbers)) for name, run in runs.items() if what in ("", name)]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
