"""The law on many random networks, once: `make many-nets` or `python tests/bench/many_nets.py --nets 20000 --seed 0`.

Every block by itself first; then networks drawn with hypothesis in lots of 25. Goes on after a failure. What was done
is kept in build/many-nets/, so that a second call goes on where the first was stopped (--fresh begins again). Failures
print as one line of code each, made small. Exits with an error when there is any.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from tests.random_law import LawBroken, hold_the_law, plainest
from tests.random_nets import Case, blocks_of, cases, singles

ROOT = Path(__file__).resolve().parents[2]
LOT = 25  # hypothesis varies what it drew before: small lots differ more
SUMS = ("nets", "distinct", "with_groups", "groups", "gathers", "locked", "plans", "changed")


def drawn(seed: int, lot: int, size: int) -> list[Case]:
    """``size`` different cases (a few less where hypothesis runs out of new ones); lot -1: every block by itself.

    Small networks come back in other lots, then with other weights, images and units to remove.
    """
    if lot < 0:
        return list(singles())
    found: dict[str, Case] = {}

    @seeded(seed * 1_000_003 + lot)
    @settings(
        max_examples=3 * size, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases())
    def draw(case: Case) -> None:
        if len(found) < size:
            found.setdefault(repr(case.net), case)

    draw()
    return [replace(case, seed=lot * LOT + index) for index, case in enumerate(found.values())]


def run_lot(seed: int, lot: int, size: int) -> dict[str, Any]:
    """One lot: figures, counts of blocks and operators, failures as (kind, message, code)."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sums, blocks, operators = Counter[str](), Counter[str](), Counter[str]()
    worst, failures, chosen = 0.0, [], drawn(seed, lot, size)
    for case in chosen:
        blocks.update(type(block).__name__ for block in blocks_of(case))
        try:
            facts = hold_the_law(case)
        except LawBroken as error:
            failures.append((error.kind, str(error)[:400], repr(case)))
            continue
        sums.update(
            with_groups=facts.prunable > 0, groups=facts.prunable, gathers=facts.gathers, locked=facts.locked,
            plans=facts.plans, changed=facts.changed,
        )  # fmt: skip
        worst = max(worst, facts.worst)
        operators.update(facts.operators.keys())
    return {
        "lot": lot, "sums": {**sums, "nets": len(chosen)},
        "hashes": [crc32(repr(case.net).encode()) for case in chosen],
        "worst": worst, "blocks": dict(blocks), "operators": dict(operators), "failures": failures,
    }  # fmt: skip


def lots(seed: int, nets: int, workers: int, done: set[int]) -> Iterator[dict[str, Any]]:
    wanted = [(seed, lot, min(LOT, nets - lot * LOT)) for lot in range(-1, -(-nets // LOT)) if lot not in done]
    if workers == 1:
        yield from (run_lot(*one) for one in wanted)
        return
    pool: Executor
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(run_lot, *zip(*wanted, strict=True))


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """All lots as one."""
    sums, blocks, operators = Counter[str](), Counter[str](), Counter[str]()
    for result in results:
        sums.update(result["sums"])
        blocks.update(result["blocks"])
        operators.update(result["operators"])
    sums["distinct"] = len({code for result in results for code in result["hashes"]})
    return {
        **{name: sums[name] for name in SUMS},
        "worst_relative_error": max((result["worst"] for result in results), default=0.0),
        "failures": sum(len(result["failures"]) for result in results),
        "blocks": dict(blocks.most_common()),
        "operators_in_nets": dict(operators.most_common()),
    }


def report_failures(results: list[dict[str, Any]], minimise: int) -> None:
    """Most frequent first; the first ``minimise`` of each sort are made small."""
    from tests import random_nets
    from tests.random_blocks import basic, branches, reshaped, tokens, weights, writes

    words = {
        name: value
        for part in (basic, branches, reshaped, tokens, weights, writes, random_nets)
        for name, value in vars(part).items()
    }
    sorts: dict[str, list[tuple[str, str]]] = {}
    for result in results:
        for kind, message, code in result["failures"]:
            sorts.setdefault(kind, []).append((message, code))
    for kind, failures in sorted(sorts.items(), key=lambda item: -len(item[1])):
        print(f"\n== {len(failures)} x {kind}")
        for message, code in failures[: minimise or 5]:
            print(f"  {message.splitlines()[0]}")
            print(f"    hold_the_law({plainest(eval(code, words), kind) if minimise else code})", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--minimise", type=int, default=3, help="failures of each sort to make small; 0: print as drawn"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call has done")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep = ROOT / "build" / "many-nets" / f"seed-{options.seed}.jsonl"
    keep.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        keep.unlink(missing_ok=True)
    results = [json.loads(line) for line in keep.read_text().splitlines()] if keep.exists() else []
    results = [result for result in results if result["lot"] * LOT < options.nets]
    start, fresh = time.perf_counter(), 0
    for result in lots(options.seed, options.nets, options.workers, {result["lot"] for result in results}):
        with keep.open("a") as file:
            file.write(json.dumps(result) + "\n")
        results.append(result)
        fresh += result["sums"]["nets"]
        total, failed = sum(r["sums"]["nets"] for r in results), sum(len(r["failures"]) for r in results)
        pace = 1000 * (time.perf_counter() - start) / fresh
        print(f"{total} of {options.nets} nets, {failed} failures, {pace:.0f} ms each", flush=True)
    summary = summarise(results)
    for name, value in summary.items():
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")
    report_failures(results, options.minimise)
    return int(summary["failures"] > 0)


if __name__ == "__main__":
    sys.exit(main())
