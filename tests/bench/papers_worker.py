"""One measurement of bench_papers.py, in a process of its own: a network, a way to prune it, a budget of MACs.

Writes JSON: accuracy on the report images before and after a short fine-tune, each with its interval and paired with
the dense network; MACs as Prunescope counts them; seconds; peak memory. Nothing is chosen on the report images.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.apply import reestimate_batchnorm
from core.apply.finetune import finetune_model
from core.evaluate import compare_models
from core.load import load_data, load_model
from core.measure.cost import count_cost
from core.recipes import RECIPES, run_recipe
from core.records import ImageData, LoadedModel
from core.trace import trace_channels

SHARED = Path(__file__).resolve().parents[3] / "shared"
DEMO_DATA = {"demo/digits-resnet": "digits", "demo/digits-vgg": "digits", "demo/shapes-cnn": "shapes"}
PEERS = ("peer-l1", "peer-l2", "peer-fpgm", "peer-taylor")
HELD_OUT = 932  # of the CIFAR training images: for choices; the dense network has learned them, so none is reported


def load(name: str) -> tuple[LoadedModel, ImageData]:
    """A network and images in three parts. For CIFAR the report part is ../shared's 300 genuine test images."""
    if name in DEMO_DATA:
        return load_model(name), load_data(DEMO_DATA[name])
    weights = SHARED / "models" / f"cifar10_{name.partition('/')[2]}.pt"
    train, test = (load_data(str(SHARED / "data" / "cifar10" / f"{part}.npz")) for part in ("train", "select"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    parts = {
        "calibration": order[HELD_OUT:],
        "selection": order[:HELD_OUT],
        "report": torch.arange(len(train), len(train) + len(test)),
    }
    images, labels = torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels])
    data = ImageData(images, labels, train.classes, "CIFAR-10 beside the project", train.mean, train.std, parts)
    return load_model(name, weights=str(weights)), data


def prune(name: str, loaded: LoadedModel, data: ImageData, macs: float, seed: int) -> tuple[nn.Module, list[Any]]:
    """The pruned network, and its layers' errors where it was rebuilt front to back."""
    if name in RECIPES:
        outcome = run_recipe(name, loaded, data, {"macs": macs}, seed=seed)
        stories = [[s.layer, s.raw_error, s.rebuilt_error] for s in outcome.stories]
        return outcome.module, stories
    kind, _, renewed = name.partition("+")
    module = peer(kind, loaded, data, macs)
    if renewed:
        module = reestimate_batchnorm(module, loaded.example, data.calibration)
    return module, []


def peer(kind: str, loaded: LoadedModel, data: ImageData, macs: float) -> nn.Module:
    """Torch-Pruning: the least uniform ratio whose MACs, by our count, are within the budget."""
    import torch_pruning as tp

    limit = macs * count_cost(trace_channels(loaded.module, loaded.example)).macs

    def importance() -> Any:
        makers: dict[str, Callable[[], Any]] = {
            "peer-l1": lambda: tp.importance.MagnitudeImportance(p=1),
            "peer-l2": lambda: tp.importance.MagnitudeImportance(p=2),
            "peer-fpgm": tp.importance.FPGMImportance,
            "peer-taylor": tp.importance.TaylorImportance,
        }
        return makers[kind]()

    def pruned(ratio: float) -> nn.Module:
        module = _copy(loaded.module)
        keep = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
        pruner = tp.pruner.MetaPruner(
            module, loaded.example, importance=importance(), pruning_ratio=ratio, ignored_layers=keep,
            global_pruning=kind == "peer-fpgm",
        )  # fmt: skip
        if kind == "peer-taylor":
            few = data.calibration.take(torch.arange(128))
            nn.functional.cross_entropy(module(few.images), few.labels).backward()
        pruner.step()
        module.zero_grad(set_to_none=True)
        return module.eval()

    low, high = 0.0, 0.95
    for _ in range(9):
        middle = (low + high) / 2
        if count_cost(trace_channels(pruned(middle), loaded.example)).macs <= limit:
            high = middle
        else:
            low = middle
    return pruned(high)


def _copy(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module).eval()


def measure(name: str, method: str, macs: float, seconds: float, seed: int) -> dict[str, Any]:
    loaded, data = load(name)
    dense = count_cost(trace_channels(loaded.module, loaded.example))
    began, cpu = time.perf_counter(), time.process_time()
    module, stories = prune(method, loaded, data, macs, seed)
    found: dict[str, Any] = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    cost = count_cost(trace_channels(module, loaded.example))
    report = data.report
    found.update(
        macs=cost.macs / dense.macs,
        params=cost.params / dense.params,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        comparison=compare_models(loaded.module, module, report).to_dict(),
        worse_layers=[layer for layer, raw, rebuilt in stories if rebuilt > raw],
        layers=len(stories),
    )
    if seconds:
        tuned = finetune_model(module, data.calibration, seconds=seconds, teacher=loaded.module, seed=seed).module
        found["finetuned"] = compare_models(loaded.module, tuned, report).to_dict()
    return found


def main(arguments: list[str]) -> int:
    name, method, macs, seconds, seed, threads, out = arguments
    torch.set_num_threads(int(threads))
    with torch.random.fork_rng():
        found = measure(name, method, float(macs), float(seconds), int(seed))
    Path(out).write_text(json.dumps(_plain(found)), encoding="utf-8")
    return 0


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, Tensor) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
