"""What a sensitivity scan costs, beside the naive way: `make bench-measure` (ARGS="cifar/resnet56 --threads 1").

The naive way builds a pruned copy for every point and evaluates all images with it, in batches of 128: with our own
surgery, unchecked; with Torch-Pruning where it is installed; and with masks, at full width. All do the same points on
the same images in one run, the scan once before and once after; the values must be equal. The lower bound is the
arithmetic of the partial re-runs at the rate at which this machine does the dense network's convolutions and products
alone, measured in the same run. Times are wall clock and, for machines that are shared, CPU time.

`--ranking`: how well a scan that was stopped at 30 % of its work ranks the groups, as Spearman correlations with the
whole scan: by what the page shows (how much of each group can go within a limit) and by the loss at each width.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from core.apply import mask_model, prune_model
from core.curves import Limit, rank_groups
from core.load import load_data, load_model
from core.measure.forks import ForkEngine
from core.measure.importance import score_channels
from core.measure.sensitivity import Sensitivity, _batch_size, _chosen_groups, _plan_forks, scan_sensitivity
from core.records import ImageData, Plan, Scores, Trace
from core.trace import trace_channels
from tests.bench.measure_report import kept

SHARED = Path(__file__).parents[3] / "shared"
NETS = ("demo/digits-vgg", "demo/digits-resnet", "cifar/resnet20", "cifar/resnet56", "torchvision/resnet50")
FRACTIONS = tuple(round(0.1 * step, 1) for step in range(1, 10))
EVALUATION_BATCH = 128
PEER = "Torch-Pruning"  # may differ: behind a shortcut that pads with zeros it removes other channels
EFFORT = 0.3
TIMES_FASTER = {"cifar/resnet56": 4.0, "torchvision/resnet50": 3.0}
WITHIN_BOUND, TIMES_SOONER = 1.5, 20.0
LIMITS = (Limit("accuracy", 0.01), Limit("loss", 0.1))  # what the page starts with


@dataclass
class Times:
    """Seconds of wall clock and of CPU."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def __str__(self) -> str:
        spread = f" ({min(self.wall):.2f} to {max(self.wall):.2f})" if len(self.wall) > 1 else ""
        return f"{statistics.median(self.wall):8.2f} s wall{spread}, {statistics.median(self.cpu):.2f} s CPU"


@dataclass
class Case:
    """One network with its images; ``images`` and ``groups`` cut a case short."""

    name: str
    trace: Trace
    data: ImageData
    scores: Scores
    groups: list[str]


def build(name: str, images: int | None, groups: int | None, *, inside: bool = False) -> Case | None:
    """None, with the reason printed, when its test material is missing. inside: only groups of a single producer."""
    weights = None
    if name.startswith("cifar/"):
        weights = SHARED / "models" / f"cifar10_{name.removeprefix('cifar/')}.pt"
        pictures = SHARED / "data" / "cifar10" / "select.npz"
        if not weights.exists() or not pictures.exists():
            print(f"{name}: skipped, ../shared with CIFAR-10 and its networks is not here")
            return None
        data = load_data(str(pictures))
    elif name.startswith("demo/"):
        data = load_data("digits").selection
    else:
        generator = torch.Generator().manual_seed(0)
        count = images or 16
        pixels = torch.randn(count, 3, 224, 224, generator=generator)
        labels = torch.randint(0, 1000, (count,), generator=generator)
        data = ImageData(pixels, labels, tuple(map(str, range(1000))), "noise", (0.0,) * 3, (1.0,) * 3)
    loaded = load_model(name, weights=str(weights) if weights else None)
    trace = trace_channels(loaded.module, loaded.example)
    data = data.take(torch.arange(min(len(data), images or 300)))
    chosen = [group.id for group in trace.prunable if not inside or len(group.by_role("producer")) == 1]
    if groups is not None:
        chosen = [chosen[round(place * (len(chosen) - 1) / max(1, groups - 1))] for place in range(groups)]
    return Case(name, trace, data, score_channels(trace, None, "weight-l2"), chosen)


def evaluate(module: nn.Module, data: ImageData) -> tuple[int, float]:
    """(answers right, mean cross-entropy)."""
    correct, loss = 0, 0.0
    with torch.inference_mode():
        for images, labels in zip(
            data.images.split(EVALUATION_BATCH), data.labels.split(EVALUATION_BATCH), strict=True
        ):
            logits = module(images)
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
    return correct, loss / len(data)


def naive(case: Case, way: Callable[..., nn.Module], every: int = 1) -> dict[tuple[str, int], tuple[int, float]]:
    """(group, units kept) -> answers of a copy built for that point alone. every: only each so-many-th point."""
    found = {}
    forks = _plan_forks(_chosen_groups(case.trace, case.groups), case.scores, FRACTIONS, Plan({}))
    for fork in forks[::every]:
        copy = way(case.trace.module, case.trace, Plan({fork.group.id: fork.kept}))
        found[fork.group.id, len(fork.kept)] = evaluate(copy, case.data)
    return found


def pruned(module: nn.Module, trace: Trace, plan: Plan) -> nn.Module:
    return prune_model(module, trace, plan, verify=False)


def by_peer(module: nn.Module, trace: Trace, plan: Plan) -> nn.Module:
    """As ``pruned``, by Torch-Pruning: its dependency graph knows which layers go together."""
    import torch_pruning

    result = copy.deepcopy(module)
    for group_id, left in plan.kept.items():
        group = trace.group(group_id)
        graph = torch_pruning.DependencyGraph().build_dependency(result, example_inputs=trace.example)
        layer = result.get_submodule(group.layers[0])
        prune = torch_pruning.prune_conv_out_channels
        if isinstance(layer, nn.Linear):
            prune = torch_pruning.prune_linear_out_channels
        gone = sorted(set(range(group.units)) - set(left))
        graph.get_pruning_group(layer, prune, idxs=gone).prune()
    return result


def ways() -> dict[str, tuple[Callable[..., nn.Module], int]]:
    """Naive ways, and how many times fewer points each does than the first: they differ by little."""
    found = {"pruned copies": (pruned, 1), "masked copies": (mask_model, 8)}
    if importlib.util.find_spec("torch_pruning") is None:
        print("  Torch-Pruning is not installed: left out")
    else:
        found[PEER] = (by_peer, 8)
    return found


def scan(case: Case, times: Times, first: list[float]) -> Sensitivity:
    """One whole scan. first: seconds until every group had a curve, wall clock and CPU."""
    began, cpu = time.perf_counter(), time.process_time()
    told: list[float] = []

    def watch(_: float, __: str, partial: Sensitivity | None = None) -> None:
        if partial is not None and not told and len(partial.points) == len(case.groups):
            told.extend((time.perf_counter() - began, time.process_time() - cpu))

    with times.running():
        found = scan_sensitivity(
            case.trace, case.data, FRACTIONS, case.scores, groups=case.groups, on_progress=watch,
            model_fingerprint="bench", data_fingerprint="bench",
        )  # fmt: skip
    first[:] = told
    return found


def compare(found: Sensitivity, expected: dict[tuple[str, int], tuple[int, float]], images: int) -> tuple[int, float]:
    """(points with another number of right answers, largest difference of the losses, relative where they exceed 1)."""
    points = {(name, point.kept): point for name, points in found.points.items() for point in points}
    wrong, worst = 0, 0.0
    for key, (correct, loss) in expected.items():
        wrong += round(points[key].accuracy * images) != correct
        worst = max(worst, abs(points[key].loss - loss) / max(1.0, loss))
    return wrong, worst


def lower_bound(case: Case) -> tuple[float, float]:
    """(multiply-adds of all partial re-runs and one dense pass, the machine's multiply-adds per second)."""
    batch = _batch_size(case.trace, None, len(case.data))
    images = case.data.images[:batch]
    engine = ForkEngine(
        case.trace, _plan_forks(_chosen_groups(case.trace, case.groups), case.scores, FRACTIONS, Plan({})), narrow=True
    )
    work = sum(engine.macs(images).values())
    forked = engine._on(images)
    program, macs = forked.program, forked.runs.dense_macs
    with torch.inference_mode():
        env, calls = program.begin(images), []
        for index, line in enumerate(program.lines):
            if macs[index]:
                args = line.args.copy()
                for place, slot in line.refs:
                    args[place] = env[slot] if env[slot].is_mkldnn else env[slot].clone()
                calls.append((line.op, args, {} if line.plus is None else {"plus": env[line.plus].clone()}))
            line.run(env, 0)
        seconds = []
        for _ in range(5):
            began = time.process_time()
            for op, args, named in calls:
                op(*args, **named)
            seconds.append(time.process_time() - began)
    dense = sum(macs) / batch
    return (work + dense) * len(case.data), sum(macs) / statistics.median(seconds[1:])


class PeakMemory(threading.Thread):
    """Watches how far this process grows."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = self.now()
        self.over = threading.Event()

    @staticmethod
    def now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.now())


def ratio(a: Times, b: Times, share: float = 1.0) -> str:
    wall = statistics.median(a.wall) / share / statistics.median(b.wall)
    return f"{wall:.2f}x wall, {statistics.median(a.cpu) / share / statistics.median(b.cpu):.2f}x CPU"


def bench(case: Case, threads: int, every: int, *, once: bool) -> bool:
    torch.set_num_threads(threads)
    print(f"\n{case.name}: {len(case.groups)} groups x {len(FRACTIONS)} fractions x {len(case.data)} images, "
          f"{threads} thread{'s' if threads > 1 else ''}, load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    ours = Times()
    first: list[float] = []
    memory = PeakMemory() if Path("/proc/self/statm").exists() else None
    if memory:
        memory.start()
    work, rate = lower_bound(case)
    found = scan(case, ours, first)
    if memory:
        memory.over.set()
        print(f"  memory over the model and images    {(memory.peak - memory.before) / 2**30:.2f} GiB")
    took: dict[str, tuple[Times, float]] = {}
    equal, points = True, sum(len(points) - 1 for points in found.points.values())
    for name, (way, fewer) in ways().items():
        times = Times()
        with times.running():
            expected = naive(case, way, every * fewer)
        took[name] = times, len(expected) / points
        wrong, worst = compare(found, expected, len(case.data))
        print(f"  values beside {name:<14}        {wrong} of {len(expected)} counts differ, losses within {worst:.1e}")
        equal &= name == PEER or (wrong == 0 and worst < 1e-5)
    again = lower_bound(case)[1]
    if not once:
        scan(case, ours, first)
    bound = work / statistics.median([rate, again])
    print(f"  scan                                {ours}")
    for name, (times, share) in took.items():
        print(f"  {name:<14} {share:5.0%} of points  {times};  naive / scan {ratio(times, ours, share)}")
    print(f"  lower bound                         {bound:8.2f} s CPU at {rate / 1e9:.1f} and {again / 1e9:.1f} GMAC/s; "
          f"scan / bound {statistics.median(ours.cpu) / bound:.2f}")  # fmt: skip
    for name, (times, share) in took.items():
        most = statistics.median(times.cpu) / share / bound
        print(f"  {name:<14} over the bound       {most:8.2f}: re-runs at this rate cannot be faster than that")
    times, share = took["pruned copies"]
    sooner = statistics.median(times.cpu) / share / first[1]
    print(f"  first curves of all groups          {first[0]:8.2f} s wall, {first[1]:.2f} s CPU; "
          f"{sooner:.0f}x sooner (CPU) than the naive one ends; load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    faster = statistics.median(times.cpu) / share / statistics.median(ours.cpu)
    bars = {
        "equal values": equal,
        f"{TIMES_FASTER.get(case.name, 0):g} times faster than pruned copies": faster >= TIMES_FASTER.get(case.name, 0),
        f"within {WITHIN_BOUND:g} of the bound": statistics.median(ours.cpu) / bound <= WITHIN_BOUND,
        f"first curves {TIMES_SOONER:g} times sooner": sooner >= TIMES_SOONER,
    }
    told = (f"{name}: {'met' if met else 'MISSED'}" for name, met in bars.items() if not name.startswith("0 times"))
    print(f"  bars, by CPU time                   {'; '.join(told)}", flush=True)
    return equal


def rank(case: Case, seeds: int) -> None:
    """Prints how a scan that was stopped early ranks the groups, beside the whole one; per seed, which draws the first
    images."""
    print(f"\n{case.name}: ranking of {len(case.groups)} groups, {len(case.data)} images, at {EFFORT:.0%} of the work; "
          f"seeds 0 to {seeds - 1}", flush=True)  # fmt: skip
    table: dict[str, list[str]] = {}
    for seed in range(seeds):
        part, whole = (
            scan_sensitivity(
                case.trace, case.data, FRACTIONS, case.scores, groups=case.groups, effort=effort, seed=seed
            )
            for effort in (EFFORT, 1.0)
        )
        for what, pair in ranked(case, part, whole).items():
            table.setdefault(what, []).append(agreement(*pair))
    for what, found in table.items():
        print(f"  {what:<28} {' '.join(found)}", flush=True)


def ranked(case: Case, part: Sensitivity, whole: Sensitivity) -> dict[str, list[list[float]]]:
    """What the groups can be ranked by: name -> (of the stopped scan, of the whole one), a number per group."""
    found: dict[str, list[list[float]]] = {}
    for limit in LIMITS:
        shares = [{row.room.id: row.share for row in rank_groups(case.trace, scan, limit)} for scan in (part, whole)]
        found[f"share within {limit.amount:g} of {limit.quantity}"] = [
            [rows.get(name, math.nan) for name in case.groups] for rows in shares
        ]
    widths = [fraction for fraction in FRACTIONS if fraction <= 0.8]
    added = [[[scan.loss_added(name, f) for f in widths] for name in case.groups] for scan in (part, whole)]
    found["mean loss added"] = [[statistics.mean(row) for row in rows] for rows in added]
    for place, fraction in enumerate(widths):
        found[f"loss added at {fraction:g}"] = [[row[place] for row in rows] for rows in added]
    return found


def agreement(a: list[float], b: list[float]) -> str:
    """Spearman's correlation, two digits."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return "same" if len(set(a)) == len(set(b)) else "none"
    return f"{spearmanr(a, b).statistic:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS, help=f"default: {' '.join(NETS)}")
    parser.add_argument("--images", type=int, help="per point (default 300, for 224 pixels 16)")
    parser.add_argument("--groups", type=int, help="only so many, spread over the network")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--every", type=int, default=1, help="naive way on each so-many-th point only")
    parser.add_argument("--once", action="store_true", help="no second scan after the naive one")
    parser.add_argument("--inside", action="store_true", help="only groups inside blocks, not those across shortcuts")
    parser.add_argument("--write-docs", action="store_true", help="keep what is printed in assets/bench/measure.md")
    parser.add_argument("--ranking", action="store_true", help="only: what an early stop says of the ranking")
    parser.add_argument("--seeds", type=int, default=3, help="of the ranking")
    asked = parser.parse_args()
    good = True
    for name in asked.nets:
        case = build(name, asked.images, asked.groups, inside=asked.inside)
        if case is not None and asked.ranking:
            with kept("Ranking", name, wanted=asked.write_docs):
                rank(case, asked.seeds)
        elif case is not None:
            for threads in asked.threads:
                with kept("Scan", f"{name}, {threads} thread{'s' * (threads > 1)}", wanted=asked.write_docs):
                    good &= bench(case, threads, asked.every, once=asked.once)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
