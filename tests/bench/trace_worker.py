"""One network, ours or the peer's part, in a process of its own: `python tests/bench/trace_worker.py NAME OUT.json`.

Written for bench_trace.py, which starts it with `--part ours` or `--part peer`. ``NAME`` is ``torchvision/...`` or
``timm/...``. What is known is written to ``OUT.json`` after every step, so that a process that is stopped or killed
leaves what it had.

Only core's public verbs are used. The weights are random everywhere (a zero head or a layer scale of 1e-6 would make
any two networks equal), and every result says by how much masking changed the output ("effect").
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import importlib.metadata
import json
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor, nn

from core import CoreError, Plan, Trace, count_cost, mask_model, prune_model, trace_channels
from core.load.torchvision_guard import import_timm, import_torchvision
from tests.zoo import outputs, random_plan, randomise, settle

REMOVED = 0.5
REPEATS = 3
ONCE_ABOVE_S = 20.0  # a first call this long is the figure; shorter ones are a warm-up
TOO_LARGE = 1e6  # random networks without normalisation drift: beyond this their batch norms are settled first
COST_PLANS = 200
COST_MODEL = "torchvision/resnet152"
ROOTS = [nn.modules.conv._ConvNd, nn.Linear]  # the peer's default


def build(name: str) -> nn.Module:
    """The network with random weights, in eval mode."""
    family, _, short = name.partition("/")
    torch.manual_seed(0)
    if family == "timm":
        module = import_timm().create_model(short, pretrained=False)
    else:
        slow = {"init_weights": False} if short in ("googlenet", "inception_v3") else {}  # minutes of scipy otherwise
        module = import_torchvision().models.get_model(short, **slow)
    randomise(module, seed=0)
    return module.eval()


def example_of(name: str) -> Tensor:
    side = 299 if name == "torchvision/inception_v3" else 224
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def settle_if_wild(module: nn.Module, example: Tensor) -> bool:
    """Whether the outputs overflowed or nearly so, and the batch norms' statistics were therefore set by data."""
    found = outputs(module, example)
    if all(bool(torch.isfinite(leaf).all()) and float(leaf.abs().max()) < TOO_LARGE for leaf in found):
        return False
    settle(module, torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(2)))
    return True


# --- measuring


def resident_mb(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (the high-water mark) of this process, in MB (10^6 bytes)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {field} in /proc/self/status")


def extra_memory_mb(work: Callable[[], object]) -> float | None:
    """How far ``work`` raised this process's resident memory above where it stood; None where Linux is not below.

    What the heap holds back from earlier work is given back first: it would hide as much.
    """
    gc.collect()
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = resident_mb("VmRSS")
    except OSError:
        work()
        return None
    work()
    return resident_mb("VmHWM") - before


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of processor time over all threads: the second hardly feels what else is running."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], Any]) -> tuple[Took, Any]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu), result


def median_of(runs: list[Took], word: str) -> dict[str, float]:
    """``{word}_s`` and ``{word}_cpu_s``."""
    return {
        f"{word}_s": statistics.median(run.wall_s for run in runs),
        f"{word}_cpu_s": statistics.median(run.cpu_s for run in runs),
    }


def repeated(work: Callable[[], object], word: str) -> dict[str, float]:
    """One warm-up, then the median of three; a warm-up that takes very long is itself the figure."""
    first = timed(work)[0]
    return median_of([first] if first.wall_s > ONCE_ABOVE_S else [timed(work)[0] for _ in range(REPEATS)], word)


def relative(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest |found - expected| over the largest |expected|; infinite for other shapes or NaN."""
    if [leaf.shape for leaf in found] != [leaf.shape for leaf in expected]:
        return float("inf")
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        value = float((a - b).abs().max()) / (float(b.abs().max()) or 1.0)
        worst = max(worst, value if value == value else float("inf"))
    return worst


# --- ours


def warm_engine() -> float | None:
    """Trace a tiny network, so that modules imported on first use count for no model. MB that this took."""
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    return extra_memory_mb(lambda: trace_channels(tiny, torch.zeros(1, 3, 4, 4)))


def ours(name: str, seeds: int, note: Callable[..., None]) -> None:
    note(first_use_mb=warm_engine())
    module, example = build(name), example_of(name)
    note(settled=settle_if_wild(module, example))
    kept: list[Trace] = []
    note(trace_mb=extra_memory_mb(lambda: kept.append(trace_channels(module, example))))
    trace = kept[0]
    if not trace.prunable:  # all its channels are normalised together: asked for, such groups leave; judged by running
        trace = trace_channels(module, example, mixing=True)
    note(mixing=any(group.mixing for group in trace.prunable))
    dense, plan = count_cost(trace), random_plan(trace, REMOVED, seed=0)
    pruned = count_cost(trace, plan)
    note(
        groups=len(trace.coupled),
        gathers=len(trace.gathers),
        prunable=len(trace.prunable),
        unknown=dict(trace.unknown),
        reasons=sorted({group.reason for group in trace.coupled if group.reason})[:12],
        params=dense.params,
        params_left=pruned.params / dense.params,
        macs_left=pruned.macs / dense.macs,
    )
    note(**repeated(lambda: trace_channels(module, example), "trace"))
    half = partial(random_plan, trace, REMOVED, 0)
    note(**repeated(lambda: prune_model(module, trace, half(), verify=False), "prune_unverified"))
    try:
        note(**repeated(lambda: prune_model(module, trace, half()), "prune"), verified=True)
    except CoreError as error:
        note(verified=False, error=f"{type(error).__name__}: {error}")
    note(seeds=[judge(module, trace, random_plan(trace, REMOVED, seed), example.shape) for seed in range(seeds)])
    if name == COST_MODEL:
        note(cost_ms=cost_ms(trace))


def judge(module: nn.Module, trace: Trace, plan: Plan, shape: tuple[int, ...]) -> dict[str, Any]:
    """Pruned against masked on an image the engine has not seen, and what masking changed at all."""
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1234))
    try:
        before = outputs(module, image)
        masked = outputs(mask_model(module, trace, plan), image)
        small = prune_model(module, trace, plan, verify=False)
        after = outputs(small, image)
    except Exception as error:  # the bench must go on, whatever a network does
        return {"error": brief(error)}
    left = sum(p.numel() for p in small.parameters())
    return {
        "exact": relative(after, masked),
        "effect": relative(masked, before),
        "finite": all(bool(torch.isfinite(leaf).all()) for leaf in masked),
        "params": left,
        "count_agrees": left == count_cost(trace, plan).params,
    }


def cost_ms(trace: Trace) -> float:
    """Median milliseconds of ``count_cost`` over plans that all differ."""
    plans = [random_plan(trace, REMOVED, seed) for seed in range(COST_PLANS + 1)]
    times = []
    for plan in plans:
        start = time.perf_counter()
        count_cost(trace, plan)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])  # the first prepares what the others reuse


# --- the peer


def peer(name: str, note: Callable[..., None]) -> None:
    """Torch-Pruning by its own standard recipe: what hangs together (graph and groups, which a trace of ours shows),
    then the pruner, which finds that out for itself again, and its step, in place."""
    import torch_pruning as tp

    module, example = build(name), example_of(name)
    note(version=importlib.metadata.version("torch-pruning"))
    note(settled=settle_if_wild(module, example))
    shapes = [leaf.shape for leaf in outputs(module, example)]
    runs: list[tuple[Took, Took, Took]] = []
    while len(runs) < 1 + REPEATS and not (runs and sum(took.wall_s for took in runs[0]) > ONCE_ABOVE_S):
        victim = copy.deepcopy(module)
        shown = timed(partial(all_groups, tp, victim, example, shapes[0][-1]))[0]
        built, pruner = timed(partial(recipe, tp, victim, example, shapes[0][-1]))
        runs.append((shown, built, timed(pruner.step)[0]))
    counted = runs[1:] or runs
    for word, parts in (("show", [0]), ("build", [1]), ("step", [2]), ("alone", [1, 2]), ("total", [0, 1, 2])):
        sums = [Took(sum(run[at].wall_s for at in parts), sum(run[at].cpu_s for at in parts)) for run in counted]
        note(**median_of(sums, word))
    note(ok=True)
    left, dense = (sum(p.numel() for p in net.parameters()) for net in (victim, module))
    note(params_left=left / dense)
    found = outputs(victim, example)
    fits = [leaf.shape for leaf in found] == shapes and all(bool(torch.isfinite(leaf).all()) for leaf in found)
    note(forwards=fits, **({} if fits else {"error": "runs, but its output has another shape or is no number"}))


def all_groups(tp: Any, module: nn.Module, example: Tensor, classes: int) -> list[Any]:
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=example)
    return list(graph.get_all_groups(ignored_layers=classifiers(module, classes), root_module_types=ROOTS))


def recipe(tp: Any, module: nn.Module, example: Tensor, classes: int) -> Any:
    return tp.pruner.MagnitudePruner(
        module,
        example,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=REMOVED,
        ignored_layers=classifiers(module, classes),
    )


def classifiers(module: nn.Module, classes: int) -> list[nn.Module]:
    return [layer for layer in module.modules() if _width(layer) == classes]


def _width(layer: nn.Module) -> int | None:
    """Outputs of a linear layer or a 1 x 1 convolution: what may be the final classifier."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) else None


# --- the process


def bound_memory(limit_gb: float) -> None:
    """Asking for more is an error of the one who asks, not the end of everything else on this machine."""
    with suppress(ImportError, OSError, ValueError):  # not everywhere, and never above what the system allows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(limit_gb * 1e9), resource.getrlimit(resource.RLIMIT_AS)[1]))


def brief(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=("ours", "peer"), default="ours")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-gb", type=float, default=16)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # deprecations inside the peer and the model collections; nothing is judged by them
    torch.set_num_threads(options.threads)
    bound_memory(options.memory_gb)
    known: dict[str, Any] = {"threads": options.threads, "load": os.getloadavg()[0], "at": time.time()}

    def note(**facts: Any) -> None:
        known.update(facts)
        options.out.write_text(json.dumps(known), encoding="utf-8")

    try:
        if options.part == "ours":
            ours(options.name, options.seeds, note)
        else:
            peer(options.name, note)
        note(finished=True)
    except Exception as error:  # what fails, and how, is a result
        note(error=brief(error), finished=True)


if __name__ == "__main__":
    main()
