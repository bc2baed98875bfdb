"""One measurement of bench_papers.py, in a process of its own: a network, a way to prune it, a budget of MACs.

Writes JSON: accuracy on the report images before and after a short fine-tune, each with its interval and paired with
the dense network; MACs as Prunescope counts them; seconds; peak memory; each rebuilt layer's error against the one
before it was rebuilt. Nothing is chosen on the report images.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.apply import reestimate_batchnorm
from core.apply.finetune import finetune_model
from core.apply.front_to_back import LayerStory
from core.evaluate import compare_models
from core.load import load_data, load_model
from core.measure.cost import count_cost
from core.recipes import RECIPES, run_recipe
from core.records import ImageData, LoadedModel
from core.trace import trace_channels

SHARED = Path(__file__).resolve().parents[3] / "shared"
DEMO_DATA = {"demo/digits-resnet": "digits", "demo/digits-vgg": "digits", "demo/shapes-cnn": "shapes"}
PEER_MAY = 1.01  # times the budget: half of all channels inside of a ResNet-56's blocks leave 50.2 % of its MACs
PEERS = ("peer-l1", "peer-l2", "peer-fpgm", "peer-taylor")
# Recipes that train while they prune, kept short enough for a bench on one thread; the paper's courses are far longer.
SHORTER: dict[str, dict[str, dict[str, int]]] = {
    "cifar/resnet20": {"sfp": {"epochs": 4}, "taylor-iterative": {"updates": 5}},
    "cifar/resnet56": {"sfp": {"epochs": 2}, "taylor-iterative": {"updates": 2, "per_step": 32}},
}
HELD_OUT = 932  # of the CIFAR training images: for choices; the dense network has learned them, so none is reported


def load(name: str, calibration: int = 10**9) -> tuple[LoadedModel, ImageData]:
    """A network and images in three parts, at most ``calibration`` of the first and half as many of the second. For
    CIFAR the report part is ../shared's 300 genuine test images."""
    loaded, data = _demo(name) if name in DEMO_DATA else _cifar(name)
    few = {"calibration": calibration, "selection": calibration // 2}
    return loaded, replace(data, parts={part: at[: few.get(part)] for part, at in data.parts.items()})


def _demo(name: str) -> tuple[LoadedModel, ImageData]:
    return load_model(name), load_data(DEMO_DATA[name])


def _cifar(name: str) -> tuple[LoadedModel, ImageData]:
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


def prune(
    loaded: LoadedModel, data: ImageData, method: str, macs: float, seed: int
) -> tuple[nn.Module, tuple[LayerStory, ...]]:
    """The pruned network, and its layers' stories where it was rebuilt front to back."""
    if method in RECIPES:
        options = SHORTER.get(loaded.source, {}).get(method, {})
        outcome = run_recipe(method, loaded, data, {"macs": macs}, seed=seed, options=options)
        return outcome.module, outcome.stories
    kind, _, renewed = method.partition("+")
    module = peer(kind, loaded, data, macs)
    if renewed:
        module = reestimate_batchnorm(module, loaded.example, data.calibration)
    return module, ()


def peer(kind: str, loaded: LoadedModel, data: ImageData, macs: float) -> nn.Module:
    """Torch-Pruning: the least uniform ratio whose MACs, by our count, are within the budget. Only inside of blocks:
    where it also prunes what shortcuts tie together, at such ratios, its networks fall to guessing."""
    import torch_pruning as tp

    trace = trace_channels(loaded.module, loaded.example)
    limit = PEER_MAY * macs * count_cost(trace).macs
    tied = [layer for group in trace.coupled if len(group.by_role("producer")) > 1 for layer in group.layers]

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
        keep += [module.get_submodule(name) for name in tied]
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


def measure(
    network: str, method: str, macs: float, epochs: int, seed: int, images: int, course: float
) -> dict[str, Any]:
    loaded, data = load(network, images)
    dense = count_cost(trace_channels(loaded.module, loaded.example))
    began, cpu = time.perf_counter(), time.process_time()
    module, stories = prune(loaded, data, method, macs, seed)
    found: dict[str, Any] = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    cost = count_cost(trace_channels(module, loaded.example))
    found.update(
        macs=cost.macs / dense.macs,
        params=cost.params / dense.params,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        comparison=_compared(loaded.module, module, data.report),
        calibration=len(data.calibration),
        layers=[[story.layer, story.raw_error, story.rebuilt_error] for story in stories],
    )
    if (epochs or course) and not method.endswith("+bn"):  # training takes the statistics anew anyway
        began, cpu = time.perf_counter(), time.process_time()
        how = {"seconds": course} if course else {"epochs": epochs}
        taught: dict[str, Any] = {"teacher": loaded.module, "keep": data.selection}  # as on the page Recover
        tuned = finetune_model(module, data.calibration, seed=seed, **taught, **how).module
        found["finetuned"] = _compared(loaded.module, tuned, data.report)
        found.update(
            finetune_epochs=epochs,
            finetune_seconds=time.perf_counter() - began,
            finetune_cpu_seconds=time.process_time() - cpu,
        )
    return found


def _compared(dense: nn.Module, other: nn.Module, images: ImageData) -> dict[str, Any]:
    found = compare_models(dense, other, images).to_dict()
    for side in ("a", "b"):
        del found[side]["per_class"]  # the table is long enough
    return found


def work(arguments: Sequence[str]) -> None:
    """Measure and write; what goes wrong is written too. Runs in a process of its own."""
    network, method, macs, epochs, seed, threads, images, course, out = arguments
    torch.set_num_threads(int(threads))
    try:
        with torch.random.fork_rng():
            found = measure(network, method, float(macs), int(epochs), int(seed), int(images), float(course))
    except Exception as error:  # a peer may fail in any way, and the table says how
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    Path(out).write_text(json.dumps(_plain(found)), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, Tensor) else value
