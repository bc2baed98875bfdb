"""What bench_trace.py says of its results: a line per network, the bars, a Markdown table, a chart of both times."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.trace_chart import Point, svg

Entry = Mapping[str, Any]
TOLERANCE = 1e-4
SMALLEST_EFFECT = 1e-3  # below this, masking changed so little that "pruned = masked" would say nothing
TORCHVISION_NETS, TIMM_NETS, TIMM_BAR = 80, 40, 38
MEDIAN_RATIO, MEMORY_MB, COST_MS = 5.0, 200.0, 2.0
TOTALS_S = {"torchvision/densenet201": 2.0, "torchvision/resnet50": 0.25}
COST_MODEL = "torchvision/resnet152"


# --- one network


def failure(ours: Entry) -> str | None:
    """Why this network does not count as ok and exact at every seed; None when it does."""
    if ours.get("error"):
        return str(ours["error"])
    if not ours.get("prunable"):
        return "nothing prunable was found"
    for seed, found in enumerate(ours.get("seeds", ())):
        if found.get("error"):
            return f"seed {seed}: {found['error']}"
        if not found["exact"] <= TOLERANCE and not ours.get("mixing"):
            return f"seed {seed}: pruned differs from masked by {found['exact']:.1e}"
        if not found["finite"] or found["effect"] < SMALLEST_EFFECT:
            return f"seed {seed}: says nothing, masking changed the output by only {found['effect']:.1e}"
        if not found["count_agrees"]:
            return f"seed {seed}: count_cost and the built network disagree on parameters"
    return None if ours.get("seeds") else "no seed was run"


def total_s(ours: Entry, *, verified: bool = True, clock: str = "") -> float | None:
    """Seconds to trace, plan and prune. ``clock``: "" for the wall's, "_cpu" for processor time."""
    prune = ours.get(f"{'prune' if verified else 'prune_unverified'}{clock}_s")
    trace = ours.get(f"trace{clock}_s")
    return None if prune is None or trace is None else trace + prune


def peer_runs(peer: Entry) -> bool:
    return bool(peer.get("ok") and peer.get("forwards"))


def ratio(entry: Entry, *, verified: bool = True, clock: str = "", alone: bool = False) -> float | None:
    """Peer's seconds over ours, where both can do the network. ``alone``: the peer's pruner and step only, which tell
    nobody what hangs together."""
    mine = total_s(entry.get("ours", {}), verified=verified, clock=clock)
    peer = entry.get("peer", {})
    theirs = peer.get(f"{'alone' if alone else 'total'}{clock}_s")
    return theirs / mine if mine and theirs is not None and peer_runs(peer) else None


def worst(ours: Entry, key: str) -> float | None:
    found = [seed[key] for seed in ours.get("seeds", ()) if key in seed]
    return (max if key == "exact" else min)(found) if found else None


def progress_line(name: str, entry: Entry) -> str:
    words = [f"{name:40}"]
    if ours := entry.get("ours"):
        why = failure(ours)
        words.append(
            f"ours {seconds(total_s(ours)):>7} s (unverified {seconds(total_s(ours, verified=False))}) "
            f"error {power(worst(ours, 'exact'))} effect {power(worst(ours, 'effect'))} "
            f"{ours.get('prunable', '-')}/{ours.get('groups', '-')} groups, {share(ours.get('params_left'))} left, "
            f"{number(ours.get('trace_mb'))} MB  {'ok' if why is None else 'FAILED: ' + why[:160]}"
        )
    if peer := entry.get("peer"):
        verdict = "ok" if peer_runs(peer) else "fails: " + str(peer.get("error"))[:120]
        words.append(f"peer {seconds(peer.get('total_s')):>7} s {verdict}")
    if (value := ratio(entry)) is not None:
        words.append(f"ratio {value:.1f}")
    return "  ".join(words)


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def power(value: float | None) -> str:
    return "-" if value is None else f"{value:.0e}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


# --- the bars


def bars(results: Mapping[str, Any]) -> tuple[list[str], bool]:
    """A line per bar, and whether any was missed. A bar whose networks were not run is said to be open, not passed."""
    models: Mapping[str, Entry] = results["models"]
    lines: list[str] = []
    missed = False

    def judge(passed: bool | None, text: str) -> None:
        nonlocal missed
        missed |= passed is False
        lines.append(f"{'PASS' if passed else 'OPEN' if passed is None else 'MISS'}  {text}")

    families = (("torchvision", TORCHVISION_NETS, TORCHVISION_NETS), ("timm", TIMM_NETS, TIMM_BAR))
    for family, size, bar in families:
        run = {name: entry["ours"] for name, entry in models.items() if name.startswith(family) and "ours" in entry}
        bad = {name: why for name, ours in run.items() if (why := failure(ours))}
        done = f"{family}: {len(run) - len(bad)} of {len(run)} run ok and exact within {TOLERANCE:.0e} at every seed"
        enough = len(run) - len(bad) >= bar if len(run) >= size else False if len(bad) > size - bar else None
        judge(enough, f"{done} (bar {bar} of {size})")
        lines += [f"      {name}: {why[:200]}" for name, why in bad.items()]
    _speed(models, judge, lines)
    for name, limit in TOTALS_S.items():
        both = [total_s(models.get(name, {}).get("ours", {}), verified=verified) for verified in (True, False)]
        text = f"{name}: trace + plan + prune {seconds(both[0])} s, without verification {seconds(both[1])} s"
        judge(None if both[0] is None else both[0] < limit, f"{text} (bar {limit} s)")
    took = models.get(COST_MODEL, {}).get("ours", {}).get("cost_ms")
    text = f"count_cost of a changed plan, {COST_MODEL}: {'-' if took is None else f'{took:.2f}'} ms median of 200"
    judge(None if took is None else took < COST_MS, f"{text} (bar {COST_MS:.0f} ms)")
    memory = {
        name: entry["ours"]["trace_mb"] for name, entry in models.items() if entry.get("ours", {}).get("trace_mb")
    }
    most = max(memory, key=lambda name: memory[name], default=None)
    text = "peak extra memory of tracing: " + (f"at most {memory[most]:.0f} MB ({most})" if most else "-")
    judge(memory[most] < MEMORY_MB if most else None, f"{text} (bar {MEMORY_MB:.0f} MB)")
    return lines, missed


def _speed(models: Mapping[str, Entry], judge: Any, lines: list[str]) -> None:
    """Both bars on speed, judged by the clock on the wall with the check that every call makes, for the same work: the
    groups listed, the network pruned.

    Without that check (the peer has none), by processor time (which hardly feels a busy machine), and against the
    peer's pruner alone, whose user sees no groups, stand beside.
    """
    ratios = {name: value for name, entry in models.items() if (value := ratio(entry)) is not None}
    slower = sorted((name for name, value in ratios.items() if value < 1), key=lambda name: ratios[name])
    judge(not slower if ratios else None, f"slower than the peer on {len(slower)} of {len(ratios)} both can do (bar 0)")
    lines += [f"      {name}: {ratios[name]:.2f} of the peer's speed" for name in slower]
    middle = statistics.median(ratios.values()) if ratios else None
    text = f"{number1(middle)} times as fast as the peer at the median (bar {MEDIAN_RATIO:.0f})"
    judge(None if middle is None else middle >= MEDIAN_RATIO, text)
    for words, verified, clock, alone in (
        ("by the wall's clock, without the check", False, "", False),
        ("by processor time", True, "_cpu", False),
        ("by processor time, without the check", False, "_cpu", False),
        ("against the pruner alone, by the wall's clock", True, "", True),
        ("against the pruner alone, by the wall's clock, without the check", False, "", True),
        ("against the pruner alone, by processor time", True, "_cpu", True),
    ):
        every = [ratio(entry, verified=verified, clock=clock, alone=alone) for entry in models.values()]
        if found := [value for value in every if value is not None]:
            less = sum(value < 1 for value in found)
            lines.append(f"      {words}: {statistics.median(found):.1f} times at the median, slower on {less}")
    peers = {name: entry for name, entry in models.items() if "peer" in entry}
    if without := [name for name, e in peers.items() if "ours" in e and peer_runs(e["peer"]) and name not in ratios]:
        lines.append(f"      no time of ours to compare on {', '.join(without)}")
    if peers:
        lines.append(
            f"      the peer prunes and runs {sum(peer_runs(e['peer']) for e in peers.values())} of {len(peers)}"
        )


def number1(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


# --- table


COLUMNS = (
    "network", "ok", "error", "effect", "trace", "prune", "unchecked", "total", "MB", "groups", "parameters left",
    "peer: groups", "peer: pruner", "peer: step", "peer: total", "ratio", "ratio, pruner alone",
)  # fmt: skip


def write_docs(results: Mapping[str, Any], lines: list[str], setting: str, folder: Path) -> list[Path]:
    """The table and the chart; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table, chart = folder / "trace.md", folder / "trace.svg"
    table.write_text(markdown(results["models"], lines, setting), encoding="utf-8")
    chart.write_text(svg(chart_points(results["models"]), list(TOTALS_S)), encoding="utf-8")
    return [table, chart]


def markdown(models: Mapping[str, Entry], lines: list[str], setting: str) -> str:
    text = [
        "# Tracing and pruning, network by network",
        "",
        f"Written by `make bench-trace ARGS=--write-docs`. {setting}.",
        "",
        "Weights are random; every prunable group loses half its units at random. Times are seconds, the median of",
        "three after a warm-up.",
        "",
        "- *error*: the largest difference between pruned and masked network, relative, over the seeds",
        "- *effect*: how much masking changed the output, the smallest over the seeds",
        "- *prune*: the plan, and `prune_model` with the check it always makes (pruned equals masked on one image)",
        "- *unchecked*: the same without that check",
        "- *MB*: how far tracing raised the process's memory",
        "- *peer*: Torch-Pruning: its graph and the list of its groups; its pruner, which builds both again for its",
        "  own use; its pruning step, which checks nothing",
        "- *ratio*: the peer's total over ours, checked; *pruner alone*: without the list of groups",
        "",
        "![Seconds of both, network by network](trace.svg)",
        "",
        "```",
        *lines,
        "```",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|" + "--:|" * (len(COLUMNS) - 2),
        *(_row(name, entry) for name, entry in models.items()),
    ]
    notes = [f"- `{name}`: {why}" for name, entry in models.items() if (why := failure(entry.get("ours", {})))]
    peers = [
        f"- `{name}`: {entry['peer'].get('error', 'does not run')}"
        for name, entry in models.items()
        if "peer" in entry and not peer_runs(entry["peer"])
    ]
    for title, found in (("Where ours falls short", notes), ("Where the peer fails", peers)):
        text += ["", f"## {title}", "", *(found or ["Nowhere."])]
    return "\n".join(text) + "\n"


def _row(name: str, entry: Entry) -> str:
    ours, peer = entry.get("ours", {}), entry.get("peer", {})
    locked = f"{ours.get('prunable', '-')} of {ours.get('groups', '-')}"
    cells = [
        name,
        "yes" if failure(ours) is None else "no",
        power(worst(ours, "exact")),
        power(worst(ours, "effect")),
        seconds(ours.get("trace_s")),
        seconds(ours.get("prune_s")),
        seconds(ours.get("prune_unverified_s")),
        seconds(total_s(ours)),
        number(ours.get("trace_mb")),
        locked,
        share(ours.get("params_left")),
        seconds(peer.get("show_s")),
        seconds(peer.get("build_s")),
        seconds(peer.get("step_s")),
        seconds(peer.get("total_s")) if peer_runs(peer) or not peer else "fails",
        number1(ratio(entry)),
        number1(ratio(entry, alone=True)),
    ]
    return "| " + " | ".join(cells) + " |"


def chart_points(models: Mapping[str, Entry]) -> list[Point]:
    """Every network that ours prunes and the peer was tried on."""
    found = [(name, total_s(entry.get("ours", {})), entry.get("peer", {})) for name, entry in models.items()]
    return [
        Point(name, mine, peer["total_s"] if peer_runs(peer) else None)
        for name, mine, peer in found
        if mine is not None and peer
    ]
