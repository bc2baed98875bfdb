"""What every criterion costs, and how well it guesses the oracle: `python tests/bench/bench_criteria.py`.

On CIFAR ResNet-20 and ResNet-56 with genuine CIFAR-10 images (300 by default, none of which the networks were trained
on): seconds per criterion by the clock, and of the processor, which other work on the machine moves less; on one thread
unless OMP_NUM_THREADS says more. Then the table of Molchanov et al. 2017 on
ResNet-20's prunable maps: Spearman's rank correlation of each criterion with the oracle (the true change of the loss
when one map alone is hidden, absolute as in the paper and signed), as the mean over layers, over all layers with scores
as they are, and over all layers after dividing each layer's by their L2 norm. Writes both as JSON (--out).

ResNet-56's oracle takes many minutes; --oracle-56 includes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from core.load import load_data, load_model
from core.measure.importance import list_criteria, score_channels
from core.measure.importance.agreement import compare_criteria
from core.records import ImageData, Scores, Trace
from core.trace import trace_channels
from tests.bench.measure_report import kept

SHARED = Path(__file__).resolve().parents[3] / "shared"
IMAGES, WEIGHTS = SHARED / "data/cifar10/select.npz", "models/cifar10_{}.pt"
COLUMNS = ("within", "overall", "scaled")


def load_trace(net: str) -> Trace:
    loaded = load_model(f"cifar/{net}", weights=str(SHARED / WEIGHTS.format(net)))
    return trace_channels(loaded.module, loaded.example)


def timed(trace: Trace, data: ImageData, criteria: list[str]) -> tuple[dict[str, dict[str, float]], dict[str, Scores]]:
    """(wall and processor seconds, scores) of each criterion; the first images warm the machine up, uncounted."""
    score_channels(trace, data.take(torch.arange(8)), "taylor")
    seconds: dict[str, dict[str, float]] = {}
    found: dict[str, Scores] = {}
    for name in criteria:
        wall, processor = time.perf_counter(), time.process_time()
        found[name] = score_channels(trace, data, name)
        seconds[name] = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(f"  {name:<20} {seconds[name]['wall']:8.2f} s {seconds[name]['processor']:8.2f} s CPU", flush=True)
    return seconds, found


def correlations(trace: Trace, found: dict[str, Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """Kind of oracle -> criterion -> the three correlations with it."""
    signed = found["oracle"]
    kinds = {
        "absolute": Scores("oracle", {name: values.abs() for name, values in signed.scores.items()}),
        "signed": signed,
    }
    rest = {name: scores for name, scores in found.items() if name != "oracle"}
    table = {}
    for kind, oracle in kinds.items():
        agreement = compare_criteria(trace, {**rest, "oracle": oracle})
        pairs = {name: agreement.between(name, "oracle") for name in rest}
        table[kind] = {name: dict(zip(COLUMNS, pair, strict=True)) for name, pair in pairs.items()}
    return table


def show(table: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"\n{'Spearman with the oracle':<24}{'absolute change':^30}{'signed change':^30}")
    print(f"{'':<24}" + 2 * "".join(f"{name:>10}" for name in ("per layer", "all", "all, L2")))
    rows = sorted(table["absolute"], key=lambda name: -table["absolute"][name]["within"])
    for name in rows:
        cells = [table[kind][name][column] for kind in ("absolute", "signed") for column in COLUMNS]
        print(f"{name:<24}" + "".join(f"{cell:>10.2f}" for cell in cells))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--nets", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--criteria", nargs="+", default=[row.name for row in list_criteria()])
    parser.add_argument("--oracle-56", action="store_true", help="time the oracle on ResNet-56 too")
    parser.add_argument("--write-docs", action="store_true", help="keep what is printed in assets/bench/measure.md")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    chosen = parser.parse_args()
    if not IMAGES.exists():
        print(f"Skipped: {IMAGES.name} is not there. This benchmark needs genuine CIFAR-10 images and networks.")
        return 0
    with kept("Criteria", ", ".join(chosen.nets), wanted=chosen.write_docs):
        result = measure(chosen)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Times of all networks asked for, and the table of correlations."""
    data = load_data(str(IMAGES), limit=chosen.images)
    result: dict[str, Any] = {"images": len(data), "threads": torch.get_num_threads(), "seconds": {}}
    for net in chosen.nets:
        trace = load_trace(net)
        print(f"{net}: {len(data)} images, {sum(group.units for group in trace.prunable)} prunable maps", flush=True)
        names = [name for name in chosen.criteria if name != "oracle" or net == "resnet20" or chosen.oracle_56]
        result["seconds"][net], found = timed(trace, data, names)
        if net == "resnet20" and "oracle" in found and len(found) > 1:
            result["spearman"] = correlations(trace, found)
    if "spearman" in result:
        show(result["spearman"])
    return result


if __name__ == "__main__":
    sys.exit(main())
