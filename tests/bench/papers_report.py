"""What bench_papers.py says of its results: lines, bars, a Markdown table and a chart of accuracy against MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]
# network -> method -> budget -> seed -> what was found
Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Entry]]]]

# Accuracy lost in points at about half the MACs, as printed in the papers: other weights, other images, other budgets.
PAPERS = {
    "cp-lasso": "ResNet-56, 2x: -1.9 without, -1.0 with fine-tuning (as quoted by the SFP paper)",
    "sfp": "ResNet-56, 52.6 % less: -1.3 (40 %, from scratch, 200 epochs); ResNet-20, 42.2 % less: -1.4",
    "chapr-qr": "VGG-16, 4.29x: about -2.5 top-1 on ImageNet",
}
BARS = {"chapr-qr": 0.91, "cp-lasso": 0.89, "cap": 0.89}  # the first is our best recipe
BAR_NET, BAR_BUDGET, BAR_SECONDS = "cifar/resnet56", "0.5", 180.0
COURSE, COURSE_BAR = ("cifar/resnet56", "0.25"), 0.86
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999", "#b8a800")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 460, 60, 610, 40, 410
CHARTS = {"comparison": "without retraining", "finetuned": "after the same short fine-tune"}
COLUMNS = ("method", "budget", "MACs", "parameters", "accuracy", "difference", "tuned", "worst layer", "seconds",
           "processor", "MB", "commit", "paper (not ours)")  # fmt: skip
TOLD = (
    "One checkpoint, one counter of MACs (a multiply-add is 1), whole channels, the smaller network itself",
    "evaluated. Budgets are shares of the dense MACs that may remain. Nothing is chosen on the images reported.",
    "",
    "- *accuracy*: per cent right with its 95 % Wilson interval; *difference*: against the dense network on the",
    "  same images, paired, first seed; *tuned*: after one epoch on the calibration images as the page Recover",
    "  trains (SGD, cosine from 0.003, the dense network as teacher; the start is kept unless selection images say",
    "  clearly that training helped), the same for all. `sfp` and `taylor-iterative` train while they prune",
    "- *worst layer*: the largest ratio of a rebuilt layer's error to what it was before; above 1 would be a failure",
    "- *seconds*, *processor*: of the whole job, by the wall and by the processor; *MB*: the peak of the process",
    "- *commit*: of the code that was measured",
    "- *paper*: what the paper itself printed, with other weights, images and budgets: **not ours**",
    "- `peer-*`: Torch-Pruning, one uniform ratio (`peer-fpgm`: one threshold for all layers), inside of blocks only:",
    "  at one ratio for everything, shortcuts too, its networks did far worse. It may take 1 % more than the budget",
)
DASHES = ("", "6 4", "2 3")  # one after the other, each with all colours
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .small { font-size: 11px } .title { font-size: 16px }
  .grid { stroke: #8886; stroke-width: .6 } .line { fill: none; stroke-width: 2 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def points(comparison: Entry | None) -> str:
    """Paired difference in points with its 95 % interval."""
    if not comparison:
        return "-"
    values = [100 * comparison[name] for name in ("difference", "low", "high")]
    return f"{values[0]:+.1f} [{values[1]:+.1f}, {values[2]:+.1f}]"


def accuracy(comparison: Entry | None) -> str:
    if not comparison:
        return "-"
    b = comparison["b"]
    return f"{percent(b['value'])} [{percent(b['low'])}, {percent(b['high'])}]"


def worst(found: Entry) -> tuple[float, str] | None:
    """The rebuilt layer that did worst: its error over what it was before, and its name; None where none was rebuilt.
    1 is "no better"; errors below a thousandth of a millionth of the variance are nothing."""
    ratios = [(rebuilt / raw, layer) for layer, raw, rebuilt in found.get("layers", ()) if max(raw, rebuilt) > 1e-9]
    return max(ratios, default=None)


def line(network: str, method: str, budget: str, found: Entry) -> str:
    if found.get("error"):
        return f"{network:20} {method:22} {budget:>5}  fails: {str(found['error'])[:150]}"
    tuned = f"  tuned {accuracy(found['finetuned'])}" if found.get("finetuned") else ""
    told = worst(found)
    worse = f"  worst layer {told[0]:.2f} x" if told else ""
    return (
        f"{network:20} {method:22} {budget:>5}  {accuracy(found['comparison'])} %  {points(found['comparison'])}  "
        f"MACs {percent(found['macs'])} %  {found['seconds']:.0f} s  {found['peak_mb']:.0f} MB{tuned}{worse}"
    )


def measured(seeds: Mapping[str, Entry]) -> list[Entry]:
    """Runs that came to their end, one per seed."""
    return [seeds[seed] for seed in sorted(seeds, key=int) if not seeds[seed].get("error")]


def bars(results: Results) -> tuple[list[str], bool]:
    """Lines that judge what can be judged here; whether any is missed."""
    lines, missed = [], False
    for method, bar in BARS.items():
        runs = measured(results.get(BAR_NET, {}).get(method, {}).get(BAR_BUDGET, {}))
        if not runs:
            lines.append(f"  -   {BAR_NET} {method} at {BAR_BUDGET} of the MACs: not measured")
            continue
        found = runs[0]
        b = found["comparison"]["b"]
        ok = b["value"] >= bar and found["macs"] <= float(BAR_BUDGET)
        missed |= not ok and b["high"] < bar  # few images: missed for certain only when the interval lies below
        lines.append(
            f"  {'ok ' if ok else 'low'} {BAR_NET} {method}: {accuracy(found['comparison'])} % with "
            f"{percent(found['macs'])} % of the MACs (bar {percent(bar)} on other images), {found['calibration']} "
            f"calibration images; {found['seconds']:.0f} s at load {found['load']}, {found['cpu_seconds']:.0f} s of "
            f"processor time (bar {BAR_SECONDS:.0f} s)"
        )
    told, worse = layer_lines(results)
    return [*lines, *told], missed or worse


def course_lines(results: Results) -> list[str]:
    """What a short course with the dense network as teacher brought."""
    found = []
    for network, methods in results.items():
        for method, budgets in methods.items():
            for budget, seeds in budgets.items():
                for run in measured(seeds):
                    bar = COURSE_BAR if (network, budget) == COURSE else None
                    mark = "   " if bar is None else "ok " if run["finetuned"]["b"]["value"] >= bar else "low"
                    wanted = "" if bar is None else f" (bar {percent(bar)} in 300 s)"
                    found.append(
                        f"  {mark} {network} {method} with {percent(run['macs'])} % of the MACs: "
                        f"{accuracy(run['comparison'])} %, after {run['finetune_seconds']:.0f} s of fine-tuning "
                        f"{accuracy(run['finetuned'])} %{wanted}; load {run['load']}"
                    )
    return found


def layer_lines(results: Results) -> tuple[list[str], bool]:
    """Per network the rebuilt layer that did worst: a fit may never leave more error than there was."""
    lines, missed = [], False
    for network, methods in results.items():
        found = [
            (*ratio, method, budget, len(run["layers"]))
            for method, budgets in methods.items()
            for budget, seeds in budgets.items()
            for run in measured(seeds)
            if (ratio := worst(run)) is not None
        ]
        if found:
            ratio, layer, method, budget, _ = max(found)
            layers = sum(entry[-1] for entry in found)
            missed |= ratio > 1
            lines.append(
                f"  {'ok ' if ratio <= 1 else 'NO '} {network}: of {layers} layers rebuilt in {len(found)} runs the "
                f"worst keeps {ratio:.3f} of its error ({layer}, {method} {budget})"
            )
    return lines, missed


def write_docs(results: Results, lines: Sequence[str], setting: Sequence[str], folder: Path) -> list[Path]:
    """The table, and two charts per network; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "papers.md"]
    for network, methods in results.items():
        for part, told in CHARTS.items():
            path = folder / chart_name(network, part)
            path.write_text(chart(f"{network}: accuracy {told}", methods, part), encoding="utf-8")
            paths.append(path)
    paths[0].write_text(markdown(results, lines, setting), encoding="utf-8")
    return paths


def chart_name(network: str, part: str) -> str:
    return f"papers-{network.replace('/', '-')}{'' if part == 'comparison' else '-tuned'}.svg"


def markdown(results: Results, lines: Sequence[str], setting: Sequence[str]) -> str:
    """``setting``: lines that say where, when and how."""
    text = [
        "# Recipes and baselines on equal terms",
        "",
        *setting,
        "",
        *TOLD,
        "",
        "```",
        *lines,
        "```",
    ]
    for network, methods in results.items():
        runs = [run for budgets in methods.values() for seeds in budgets.values() for run in measured(seeds)]
        dense = runs[0]["comparison"]["a"] if runs else None
        told = f"Dense: {percent(dense['value'])} % on {dense['images']} images. " if dense else ""
        counts = sorted({run["calibration"] for run in runs if "calibration" in run})
        told += f"Calibration images: {' or '.join(map(str, counts))}. " if counts else ""
        loads = [run["load"] for run in runs if "load" in run]
        told += f"Load of the machine when a run ended: {min(loads):.0f} to {max(loads):.0f}." if loads else ""
        text += ["", f"## {network}", "", told, ""]
        text += [f"![Accuracy {words}]({chart_name(network, part)})" for part, words in CHARTS.items()]
        text += ["", *_overview(methods)]
        text += ["", f"| {' | '.join(COLUMNS)} |", "|---|" + "--:|" * (len(COLUMNS) - 2) + "---|"]
        for method, budgets in methods.items():
            for budget in sorted(budgets, key=float, reverse=True):
                text.append(_row(method, budget, budgets[budget]))
    return "\n".join(text) + "\n"


def _overview(methods: Mapping[str, Mapping[str, Mapping[str, Entry]]]) -> list[str]:
    """All methods at a glance: accuracy without retraining, and after it where that is another number."""
    budgets = sorted({budget for found in methods.values() for budget in found}, key=float, reverse=True)
    text = ["Per cent right without retraining, and after the short fine-tune where that gives another figure:", ""]
    text += [
        f"| method | {' | '.join(f'{budget} of the MACs' for budget in budgets)} |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for method, found in methods.items():
        cells = []
        for budget in budgets:
            runs = measured(found.get(budget, {}))
            raw, tuned = (
                percent(sum(values) / len(values)) if (values := _values(runs, part)) else "-" for part in CHARTS
            )
            cells.append(raw if tuned in (raw, "-") else f"{raw} → {tuned}")
        text.append(f"| {' | '.join([method, *cells])} |")
    return text


def _values(runs: Sequence[Entry], part: str) -> list[float]:
    return [run[part]["b"]["value"] for run in runs if run.get(part)]


def _row(method: str, budget: str, seeds: Mapping[str, Entry]) -> str:
    runs, paper = measured(seeds), PAPERS.get(method, "")
    if not runs:
        why = next((str(run["error"])[:80] for run in seeds.values()), "not run")
        return "| " + " | ".join([method, budget, "-", "-", f"fails: {why}", *["-"] * 7, paper]) + " |"
    ratios = [found[0] for found in map(worst, runs) if found is not None]
    cells = [
        method,
        budget,
        percent(_mean(runs, "macs")),
        percent(_mean(runs, "params")),
        _seeds(runs, "comparison"),
        points(runs[0]["comparison"]),
        _seeds(runs, "finetuned"),
        f"{max(ratios):.2f}" if ratios else "-",
        f"{_mean(runs, 'seconds'):.0f}",
        f"{_mean(runs, 'cpu_seconds'):.0f}",
        f"{max(run['peak_mb'] for run in runs):.0f}",
        ", ".join(dict.fromkeys(run["commit"] for run in runs)),
        paper,
    ]
    return "| " + " | ".join(cells) + " |"


def _mean(runs: Sequence[Entry], name: str) -> float:
    return sum(float(run[name]) for run in runs) / len(runs)


def _seeds(runs: Sequence[Entry], part: str) -> str:
    """Accuracy of the first seed with its interval, and the mean, least and most of all seeds where there are more."""
    values = _values(runs, part)
    first = accuracy(runs[0].get(part))
    if len(values) < 2:
        return first
    mean = percent(sum(values) / len(values))
    return f"{first}; {len(values)} seeds: {mean} ({percent(min(values))} to {percent(max(values))})"


def chart(title: str, methods: Mapping[str, Mapping[str, Mapping[str, Entry]]], part: str) -> str:
    """Accuracy (up, mean of the seeds) against the share of MACs left (across), a line per method."""
    curves = {
        method: sorted(
            (_mean(runs, "macs"), sum(run[part]["b"]["value"] for run in runs) / len(runs))
            for runs in ([run for run in measured(seeds) if run.get(part)] for seeds in budgets.values())
            if runs
        )
        for method, budgets in methods.items()
    }
    curves = {method: curve for method, curve in curves.items() if curve}
    parts = [f'<text class="title" x="{LEFT}" y="24">{escape(title)}, %</text>']
    for step in range(0, 101, 20):
        y = BOTTOM - (BOTTOM - TOP) * step / 100
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{step}</text>')
        x = LEFT + (RIGHT - LEFT) * step / 100
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{step}</text>')
    parts.append(
        f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{BOTTOM + 40}" text-anchor="middle">MACs left, % of the dense</text>'
    )
    for number, (method, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        drawn = f'class="line" stroke="{colour}" stroke-dasharray="{DASHES[number // len(COLOURS) % len(DASHES)]}"'
        places = [(LEFT + (RIGHT - LEFT) * macs, BOTTOM - (BOTTOM - TOP) * value) for macs, value in curve]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path {drawn} d="M{path}"/>')
        for (x, y), (macs, value) in zip(places, curve, strict=True):
            told = f"{method}: {percent(value)} % with {percent(macs)} % of the MACs"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"><title>{escape(told)}</title></circle>'
            )
        key = TOP + 10 + 18 * number
        parts.append(f'<path {drawn} d="M{RIGHT + 20} {key}h24"/>')
        parts.append(f'<text class="small" x="{RIGHT + 50}" y="{key + 4}">{escape(method)}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}, against MACs, of {len(curves)} ways to prune">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"
