"""How well a scan that was stopped at 30 % of its work ranks the groups: `python tests/bench/bench_ranking.py`.

Spearman's correlations with the whole scan, one per seed, which draws the images that come first: by what the page
shows (how much of each group can go within a limit), and by what is lost at each width and on the mean. The order of a
scan's work was chosen with select.npz and the digits, and one rule of it (what is done with the rest of an effort)
after a look at shapes-cnn; `--part train` are images that were measured only. Every answer comes from one run over all
images.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from scipy.stats import spearmanr

from core.measure.sensitivity import Sensitivity, _batch_size, _chosen_groups, _plan_forks, scan_sensitivity
from core.records import Plan
from core.show.curves import Limit, rank_groups
from tests.bench.bench_measure import FRACTIONS, Case, build
from tests.bench.measure_report import kept
from tests.bench.recorded import Recorded

NETS = ("demo/digits-vgg", "demo/digits-resnet", "demo/shapes-cnn", "cifar/resnet20", "cifar/resnet56")
EFFORT, BAR = 0.3, 0.95
LIMITS = (Limit("accuracy", 0.01), Limit("loss", 0.1))  # what the page starts with


def rank(case: Case, seeds: int) -> None:
    print(f"\n{case.name}: ranking of {len(case.groups)} groups, {len(case.data)} images, at {EFFORT:.0%} of the work; "
          f"seeds 0 to {seeds - 1}", flush=True)  # fmt: skip
    table: dict[str, list[float]] = {}
    forks = _plan_forks(_chosen_groups(case.trace, case.groups), case.scores, FRACTIONS, Plan({}))
    recorded = Recorded(case.trace, case.data, forks, _batch_size(case.trace, None, len(case.data)))
    for seed in range(seeds):
        with recorded.handed_out():
            part, whole = (
                scan_sensitivity(
                    case.trace, case.data, FRACTIONS, case.scores, groups=case.groups, effort=effort, seed=seed
                )
                for effort in (EFFORT, 1.0)
            )
        for what, pair in ranked(case, part, whole).items():
            table.setdefault(what, []).append(agreement(*pair))
    for what, found in table.items():
        middle = statistics.median(found)
        told = (
            ""
            if what.startswith("loss added at")
            else f"   median {middle:.2f}, {'met' if middle >= BAR else 'MISSED'}"
        )
        print(f"  {what:<28} {' '.join(f'{value:.2f}' for value in found)}{told}", flush=True)


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
    right = [[[scan.change(name, f).value for f in widths] for name in case.groups] for scan in (part, whole)]
    found["mean loss added"] = [[statistics.mean(row) for row in rows] for rows in added]
    found["mean accuracy lost"] = [[-statistics.mean(row) for row in rows] for rows in right]
    for place, fraction in enumerate(widths):
        found[f"loss added at {fraction:g}"] = [[row[place] for row in rows] for rows in added]
    return found


def agreement(a: list[float], b: list[float]) -> float:
    """Spearman's correlation; 1 where both hold all groups for alike, 0 where one does."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float(len(set(a)) == len(set(b)))
    return float(spearmanr(a, b).statistic)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS, help=f"default: {' '.join(NETS)}")
    parser.add_argument("--images", type=int, help="per point (default 300)")
    parser.add_argument("--part", default="select", choices=("select", "train"), help="of CIFAR-10")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--write-docs", action="store_true", help="keep what is printed in assets/bench/measure.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.nets:
        case = build(name, asked.images, None, part=asked.part)
        if case is not None:
            with kept("Ranking", name + f", {asked.part}.npz" * name.startswith("cifar/"), wanted=asked.write_docs):
                rank(case, asked.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
