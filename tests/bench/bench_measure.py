"""What a sensitivity scan costs, beside the naive way: `make bench-measure` (ARGS="cifar/resnet56 --threads 1").

The naive way builds a pruned copy for every point and evaluates all images with it, in batches of 128
(`--evaluation-batch`): with our own surgery, unchecked; with Torch-Pruning where it is installed; and with masks, at
full width. All do the same points on the same images in one run, and in turns: between its batches the scan waits for
the naive points that are due, so that other work on the machine hits all alike. The values must be equal. The lower
bound is the arithmetic of the partial re-runs at the best rate at which this machine does the dense network's
convolutions and products alone, each for the second time in a row, on one thread, taken in the same turns. Times are
wall clock and, for machines that are shared, CPU time.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
from torch import nn

from core.apply import mask_model, prune_model
from core.load import load_data, load_model
from core.measure.forks import Fork, ForkEngine
from core.measure.importance import score_channels
from core.measure.sensitivity import Sensitivity, _batch_size, _chosen_groups, _plan_forks, scan_sensitivity
from core.records import ImageData, Plan, Scores, Trace
from core.trace import trace_channels
from core.trace.modes import thread_count
from tests.bench.measure_report import kept

SHARED = Path(__file__).parents[3] / "shared"
NETS = ("demo/digits-vgg", "demo/digits-resnet", "cifar/resnet20", "cifar/resnet56", "torchvision/resnet50")
FRACTIONS = tuple(round(0.1 * step, 1) for step in range(1, 10))
BATCH = 128
PEER = "Torch-Pruning"  # may differ: behind a shortcut that pads with zeros it removes other channels
RATES = 24  # samples of the machine's rate
TIMES_FASTER = {"cifar/resnet56": 4.0, "torchvision/resnet50": 3.0}
WITHIN_BOUND, TIMES_SOONER = 1.5, 20.0
Job = Callable[[], None]
Seconds = tuple[float, float]  # of wall clock, of CPU


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


@dataclass
class Naive:
    """What one naive way did: its times, point by point, its answers, and the share of all points that it did."""

    times: Times = field(default_factory=Times)
    found: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    share: float = 1.0

    def whole(self) -> tuple[float, float]:
        """Seconds of wall clock and of CPU for all points."""
        return sum(self.times.wall) / self.share, sum(self.times.cpu) / self.share


@dataclass
class Case:
    """One network with its images; ``images`` and ``groups`` cut a case short."""

    name: str
    trace: Trace
    data: ImageData
    scores: Scores
    groups: list[str]


def build(
    name: str, images: int | None, groups: int | None, *, inside: bool = False, part: str = "select"
) -> Case | None:
    """None, with the reason printed, when its test material is missing. inside: only groups of a single producer.
    part: of CIFAR-10, select or train."""
    weights = None
    if name.startswith("cifar/"):
        weights = SHARED / "models" / f"cifar10_{name.removeprefix('cifar/')}.pt"
        pictures = SHARED / "data" / "cifar10" / f"{part}.npz"
        if not weights.exists() or not pictures.exists():
            print(f"{name}: skipped, ../shared with CIFAR-10 and its networks is not here")
            return None
        data = load_data(str(pictures))
    elif name.startswith("demo/"):
        data = load_data("shapes" if "shapes" in name else "digits").selection
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


def evaluate(module: nn.Module, data: ImageData, batch: int) -> tuple[int, float]:
    """(answers right, mean cross-entropy)."""
    correct, loss = 0, 0.0
    with torch.inference_mode():
        for images, labels in zip(data.images.split(batch), data.labels.split(batch), strict=True):
            logits = module(images)
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
    return correct, loss / len(data)


def naive_jobs(case: Case, way: Callable[..., nn.Module], every: int, took: Naive, batch: int) -> list[Job]:
    """A job for each so-many-th point: the answers of a copy built for that point alone."""
    forks = _plan_forks(_chosen_groups(case.trace, case.groups), case.scores, FRACTIONS, Plan({}))

    def job(fork: Fork) -> None:
        with took.times.running():
            copy = way(case.trace.module, case.trace, Plan({fork.group.id: fork.kept}))
            took.found[fork.group.id, len(fork.kept)] = evaluate(copy, case.data, batch)

    chosen = forks[every // 2 :: every] or forks[:1]
    took.share = len(chosen) / len(forks)
    return [partial(job, fork) for fork in chosen]


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


def scan(case: Case, jobs: Sequence[Job]) -> tuple[Sensitivity, Seconds, Seconds]:
    """One whole scan with ``jobs`` done in turns with it. Gives its curves, its own seconds (wall clock, CPU), and its
    seconds until every group had a curve."""
    began, away = (time.perf_counter(), time.process_time()), [0.0, 0.0]
    waiting, threads = list(jobs), torch.get_num_threads()
    told: list[Seconds] = []

    def own() -> Seconds:
        return time.perf_counter() - began[0] - away[0], time.process_time() - began[1] - away[1]

    def watch(done: float, _: str = "", partial: Sensitivity | None = None) -> None:
        if partial is None and done < 1:
            return  # in the middle of a batch other lanes are still at work: they would be timed as the naive way's
        if not told and partial is not None and len(partial.points) == len(case.groups):
            told.append(own())
        while waiting and 1 - done < (len(waiting) - 0.5) / len(jobs):
            wall, cpu = time.perf_counter(), time.process_time()
            with thread_count(threads):  # the scan's own thread has one, the others being its lanes
                waiting.pop(0)()
            away[0] += time.perf_counter() - wall
            away[1] += time.process_time() - cpu

    found = scan_sensitivity(
        case.trace, case.data, FRACTIONS, case.scores, groups=case.groups, on_progress=watch,
        model_fingerprint="bench", data_fingerprint="bench",
    )  # fmt: skip
    watch(1.0)
    return found, own(), told[0]


def compare(found: Sensitivity, expected: dict[tuple[str, int], tuple[int, float]], images: int) -> tuple[int, float]:
    """(points with another number of right answers, largest difference of the losses, relative where they exceed 1)."""
    points = {(name, point.kept): point for name, points in found.points.items() for point in points}
    wrong, worst = 0, 0.0
    for key, (correct, loss) in expected.items():
        wrong += round(points[key].accuracy * images) != correct
        worst = max(worst, abs(points[key].loss - loss) / max(1.0, loss))
    return wrong, worst


class LowerBound:
    """``work``: multiply-adds of all partial re-runs and one dense pass. ``sample`` takes the machine's rate."""

    def __init__(self, case: Case) -> None:
        batch = _batch_size(case.trace, None, len(case.data))
        images = case.data.images[:batch]
        forks = _plan_forks(_chosen_groups(case.trace, case.groups), case.scores, FRACTIONS, Plan({}))
        engine = ForkEngine(case.trace, forks, narrow=True)
        forked = engine._on(images)
        program, macs = forked.program, forked.runs.dense_macs
        self.macs = sum(macs)
        self.work = (sum(engine.macs(images).values()) + self.macs / batch) * len(case.data)
        self.calls: list[tuple[Callable[..., object], list[object], dict[str, torch.Tensor]]] = []
        self.seconds: list[float] = []
        with torch.inference_mode():
            env = program.begin(images)
            for index, line in enumerate(program.lines):
                if macs[index]:
                    args = line.args.copy()
                    for place, slot in line.refs:
                        args[place] = env[slot] if env[slot].is_mkldnn else env[slot].clone()
                    plus = {} if line.plus is None else {"plus": env[line.plus].clone()}
                    self.calls.append((line.op, args, plus))
                line.run(env, 0)
        self.sample()
        self.seconds.clear()

    @torch.inference_mode()
    def sample(self) -> None:
        took = 0.0
        with thread_count(1):  # where processor time is least: threads inside of a call wait for each other
            for op, args, named in self.calls:
                op(*args, **named)  # so that nothing has to come from afar
                began = time.thread_time()  # the process's would count threads that still spin after the job before
                op(*args, **named)
                took += time.thread_time() - began
        self.seconds.append(took)

    @property
    def rate(self) -> float:
        """Multiply-adds per second, the best that was seen: a bound is not for ordinary moments."""
        return self.macs / min(self.seconds)


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


def mixed(rows: Sequence[Sequence[Job]]) -> list[Job]:
    """All rows in one, each spread evenly."""
    placed = [((at + 0.5) / len(row), number, job) for number, row in enumerate(rows) for at, job in enumerate(row)]
    return [job for _, _, job in sorted(placed, key=lambda one: one[:2])]


def bench(case: Case, threads: int, every: int, batch: int) -> bool:
    torch.set_num_threads(threads)
    print(f"\n{case.name}: {len(case.groups)} groups x {len(FRACTIONS)} fractions x {len(case.data)} images, "
          f"{threads} thread{'s' if threads > 1 else ''}, load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    bound = LowerBound(case)
    took = {name: Naive() for name in ways()}
    rows = [naive_jobs(case, way, every * fewer, took[name], batch) for name, (way, fewer) in ways().items()]
    found, ours, first = scan(case, mixed([*rows, [bound.sample] * RATES]))
    print(f"  scan                        {ours[0]:9.2f} s wall {ours[1]:9.2f} s CPU", flush=True)
    equal = True
    for name, one in took.items():
        whole = one.whole()
        wrong, worst = compare(found, one.found, len(case.data))
        equal &= name == PEER or (wrong == 0 and worst < 1e-5)
        print(f"  {name:<16} {one.share:4.0%} of it {whole[0]:9.2f} s wall {whole[1]:9.2f} s CPU, as whole;  "
              f"naive / scan {whole[0] / ours[0]:.2f}x wall, {whole[1] / ours[1]:.2f}x CPU")  # fmt: skip
        print(f"                              {wrong} of {len(one.found)} counts differ, losses within {worst:.1e}")
    least = bound.work / bound.rate
    print(f"  lower bound                             {least:9.2f} s CPU at {bound.rate / 1e9:.1f} GMAC/s")
    print(f"  scan / bound {ours[1] / least:.2f};  naive / bound, which no scan by such re-runs can exceed: "
          + ", ".join(f"{name} {one.whole()[1] / least:.2f}" for name, one in took.items()))  # fmt: skip
    whole = took["pruned copies"].whole()[1]
    print(f"  first curves of all groups  {first[0]:9.2f} s wall {first[1]:9.2f} s CPU, {whole / first[1]:.0f} times "
          f"sooner (CPU) than the naive way ends; load {os.getloadavg()[0]:.1f}")  # fmt: skip
    wanted = TIMES_FASTER.get(case.name)
    bars = {"equal values": equal, f"within {WITHIN_BOUND:g} of the bound": ours[1] / least <= WITHIN_BOUND,
            f"first curves {TIMES_SOONER:g} times sooner": whole / first[1] >= TIMES_SOONER}  # fmt: skip
    if wanted is not None:
        bars[f"{wanted:g} times faster than pruned copies"] = whole / ours[1] >= wanted
    told = (f"{name} {'met' if met else 'MISSED'}" for name, met in bars.items())
    print(f"  bars, by CPU: {'; '.join(told)}", flush=True)
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS, help=f"default: {' '.join(NETS)}")
    parser.add_argument("--images", type=int, help="per point (default 300, for 224 pixels 16)")
    parser.add_argument("--groups", type=int, help="only so many, spread over the network")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--evaluation-batch", type=int, default=BATCH, help=f"of the naive ways (default {BATCH})")
    parser.add_argument("--every", type=int, default=1, help="naive way on each so-many-th point only")
    parser.add_argument("--inside", action="store_true", help="only groups inside blocks, not those across shortcuts")
    parser.add_argument("--write-docs", action="store_true", help="keep what is printed in assets/bench/measure.md")
    asked = parser.parse_args()
    good = True
    for name in asked.nets:
        case = build(name, asked.images, asked.groups, inside=asked.inside)
        if case is not None:
            for threads in asked.threads:
                title = f"{name}, {threads} thread{'s' * (threads > 1)}"
                if asked.evaluation_batch != BATCH:
                    title += f", naive ways in batches of {asked.evaluation_batch}"
                with kept("Scan", title, wanted=asked.write_docs):
                    good &= bench(case, threads, asked.every, asked.evaluation_batch)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
