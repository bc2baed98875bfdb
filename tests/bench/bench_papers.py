"""The papers' recipes and baselines on equal terms: `make bench-papers`.

Every measurement runs in a process of its own: a network, a way to prune it, a share of the dense MACs. CIFAR
ResNet-20 and -56 need ../shared (weights and images); without it only the demo networks run.

    make bench-papers ARGS="--only cifar/resnet56 --methods cp-lasso cap --budgets 0.5"
    make bench-papers ARGS="--resume"        go on where a run stopped (assets/bench/papers.json)
    make bench-papers ARGS="--write-docs"    also write assets/bench/papers.md and the charts
    make bench-papers ARGS="--finetune 2"    also after so many epochs of fine-tuning each
    make bench-papers ARGS="--seeds 0 1 2"   with several seeds
    make bench-papers ARGS="--course 300 --only cifar/resnet56 --methods chapr-qr --budgets 0.25"
                                             fine-tuned for so many seconds

Exits with an error when a bar is missed for certain. The full run takes hours.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.bench_trace import describe, read, setting, write
from tests.bench.papers_report import bars, course_lines, line, write_docs
from tests.bench.papers_worker import DEMO_DATA, PEERS, SHARED, work

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "assets" / "bench" / "papers.json"  # kept, so that anybody can go on
CIFAR = ("cifar/resnet20", "cifar/resnet56")
BUDGETS = ("0.7", "0.5", "0.35", "0.25")
OURS = (
    "cp-lasso", "chapr-qr", "cap", "balanced-rebuild", "weight-l2", "weight-l2-ls", "first-k", "first-k-ls", "random",
    "random-ls", "taylor-iterative", "sfp",
)  # fmt: skip


def main() -> int:
    options = arguments()
    networks = list(options.only or (*CIFAR, *DEMO_DATA))
    if not (SHARED / "models").is_dir():
        left_out = [name for name in networks if name.startswith("cifar/")]
        if left_out:
            print(f"Left out: {', '.join(left_out)}. Their weights and images are not beside the project (../shared).")
        networks = [name for name in networks if name not in left_out]
    methods = list(options.methods or OURS)
    if not options.methods and importlib.util.find_spec("torch_pruning") is not None:
        methods += peers()
    results = read(options.json) if options.resume or options.report else {}
    results["setting"] = setting(options.threads) if not options.report else results.get("setting", setting(2))
    results.setdefault("networks", {})
    results.setdefault("courses", {})
    if not options.report:
        results["commands"] = [*dict.fromkeys([*results.get("commands", ()), command()])]
    print(describe(results["setting"]), flush=True)
    jobs = itertools.product([] if options.report else networks, options.seeds, options.budgets, methods)
    for network, seed, budget, method in jobs:
        here = (
            results["courses" if options.course else "networks"]
            .setdefault(network, {})
            .setdefault(method, {})
            .setdefault(budget, {})
        )
        if not (options.resume and str(seed) in here):
            here[str(seed)] = run_one(network, method, budget, seed, options)
            write(options.json, results)
        print(line(network, method, budget, here[str(seed)]), flush=True)
    lines, missed = bars(results["networks"])
    lines += course_lines(results["courses"])
    print("\n" + "\n".join(lines))
    if options.write_docs:
        order = [*OURS, *peers()]
        networks = {
            name: {method: found[method] for method in sorted(found, key=order.index)}
            for name, found in results["networks"].items()
        }
        told = [f"{describe(results['setting'])}; written at commit {commit()}. Measured by", "", "```"]
        told += [*results.get("commands", ()), "```"]
        for path in write_docs(networks, lines, told, ROOT / "assets" / "bench"):
            print(f"wrote {path.relative_to(ROOT)}")
    return int(missed)


def peers() -> list[str]:
    return [name for peer in PEERS for name in (peer, f"{peer}+bn")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NETWORK")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="recipes, or peer-l1, peer-l1+bn and the like")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), help="shares of the dense MACs")
    parser.add_argument("--finetune", type=int, default=0, metavar="EPOCHS", help="also fine-tune (default: not)")
    parser.add_argument("--course", type=float, default=0, metavar="SECONDS", help="fine-tune so long, kept apart")
    parser.add_argument("--calibration", type=int, default=10**6, help="calibration images at most (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=float, default=1800, help="seconds one measurement may take (default 1800)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="results (default assets/bench/papers.json)")
    parser.add_argument("--resume", action="store_true", help="keep what the file has, run what it lacks")
    parser.add_argument("--report", action="store_true", help="run nothing: judge what the file has")
    parser.add_argument("--write-docs", action="store_true", help="write assets/bench/papers.md and its charts")
    return parser.parse_args()


def run_one(network: str, method: str, budget: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What the worker found, or why it found nothing. The server that forks it has done nothing but import."""
    os.environ.update(OMP_NUM_THREADS=str(options.threads), PYTHONPATH=str(ROOT))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.bench.papers_worker"])
    with tempfile.TemporaryDirectory(prefix="prunescope-bench-") as folder:
        out = Path(folder) / "result.json"
        values = (network, method, budget, options.finetune, seed, options.threads, options.calibration)
        values = (*values, options.course, out)
        worker = context.Process(target=work, args=([str(value) for value in values],))
        worker.start()
        worker.join(options.limit)
        why = f"ended with code {worker.exitcode}"
        if worker.exitcode is None:
            worker.kill()
            worker.join()
            why = f"stopped after {options.limit:.0f} s"
        return {**(read(out) or {"error": why}), "commit": commit(), "load": round(os.getloadavg()[0], 1)}


def command() -> str:
    """As it can be typed again: paths of files that are only kept here are left out."""
    given, skip = [], False
    for word in sys.argv[1:]:
        if not skip and word != "--json":
            given.append(word)
        skip = word == "--json"
    return f'make bench-papers ARGS="{" ".join(given)}"'


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
