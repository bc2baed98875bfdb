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
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999", "#b8a800")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 460, 60, 610, 40, 410
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .small { font-size: 11px } .title { font-size: 16px }
  .grid { stroke: #8886; stroke-width: .6 } .line { fill: none; stroke-width: 2 } .peer { stroke-dasharray: 5 4 }
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


def bars(results: Results) -> tuple[list[str], bool]:
    """Lines that judge what can be judged here; whether any is missed."""
    lines, missed = [], False
    for method, bar in BARS.items():
        found = results.get(BAR_NET, {}).get(method, {}).get(BAR_BUDGET)
        if not found or found.get("error"):
            lines.append(f"  -   {BAR_NET} {method} at {BAR_BUDGET} of the MACs: not measured")
            continue
        b = found["comparison"]["b"]
        ok = b["value"] >= bar and found["macs"] <= float(BAR_BUDGET)
        missed |= not ok and b["high"] < bar  # few images: missed for certain only when the interval lies below
        lines.append(
            f"  {'ok ' if ok else 'low'} {BAR_NET} {method}: {accuracy(found['comparison'])} % with "
            f"{percent(found['macs'])} % of the MACs (bar {percent(bar)} on other images); "
            f"{found['seconds']:.0f} s, {found['cpu_seconds']:.0f} s of processor time (bar {BAR_SECONDS:.0f})"
        )
    worse = [
        f"{network} {method} {budget}: {', '.join(found['worse_layers'])}"
        for network, methods in results.items()
        for method, budgets in methods.items()
        for budget, found in budgets.items()
        if found.get("worse_layers")
    ]
    missed |= bool(worse)
    lines.append(f"  {'ok ' if not worse else 'NO '} layers that rebuilding made worse: {len(worse)}")
    return [*lines, *worse], missed


def write_docs(results: Results, lines: Sequence[str], setting: str, folder: Path) -> list[Path]:
    """The table and a chart per network; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "papers.md"]
    for network, methods in results.items():
        path = folder / f"papers-{network.replace('/', '-')}.svg"
        path.write_text(chart(network, methods), encoding="utf-8")
        paths.append(path)
    paths[0].write_text(markdown(results, lines, setting, paths[1:]), encoding="utf-8")
    return paths


def markdown(results: Results, lines: Sequence[str], setting: str, charts: Sequence[Path]) -> str:
    text = [
        "# Recipes and baselines on equal terms",
        "",
        f"Written by `make bench-papers ARGS=--write-docs`. {setting}.",
        "",
        "One checkpoint, one counter of MACs (a multiply-add is 1), whole channels, the smaller network itself",
        "evaluated. Budgets are shares of the dense MACs that may remain. Nothing is chosen on the images reported.",
        "",
        "- *accuracy*: per cent right with its 95 % Wilson interval; *difference*: against the dense network on the",
        "  same images, paired; *tuned*: after the same short fine-tune, where one was run",
        "- *seconds*, *processor*: of the whole job, by the wall and by the processor; *MB*: the peak of the process",
        "- *paper*: what the paper itself printed, with other weights, images and budgets: **not ours**",
        "- `peer-*`: Torch-Pruning; `+bn`: its batch norms re-estimated by us",
        "",
        "```",
        *lines,
        "```",
    ]
    columns = ("method", "budget", "MACs", "parameters", "accuracy", "difference", "tuned", "seconds", "processor",
               "MB", "paper (not ours)")  # fmt: skip
    for (network, methods), path in zip(results.items(), charts, strict=True):
        dense = next((f["comparison"]["a"] for m in methods.values() for f in m.values() if "comparison" in f), None)
        told = f"Dense: {percent(dense['value'])} % on {dense['images']} images." if dense else ""
        text += ["", f"## {network}", "", told, "", f"![Accuracy against MACs]({path.name})", ""]
        text += [f"| {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) - 2) + "---|"]
        for method, budgets in methods.items():
            text += [_row(method, budget, found) for budget, found in budgets.items()]
    return "\n".join(text) + "\n"


def _row(method: str, budget: str, found: Entry) -> str:
    paper = PAPERS.get(method, "")
    if found.get("error"):
        cells = [method, budget, "-", "-", f"fails: {str(found['error'])[:80]}", "-", "-", "-", "-", "-", paper]
    else:
        cells = [
            method,
            budget,
            percent(found["macs"]),
            percent(found["params"]),
            accuracy(found["comparison"]),
            points(found["comparison"]),
            accuracy(found.get("finetuned")),
            f"{found['seconds']:.0f}",
            f"{found['cpu_seconds']:.0f}",
            f"{found['peak_mb']:.0f}",
            paper,
        ]
    return "| " + " | ".join(cells) + " |"


def chart(network: str, methods: Mapping[str, Mapping[str, Entry]]) -> str:
    """Accuracy (up) against the share of MACs left (across), a line per method."""
    curves = {
        method: sorted((f["macs"], f["comparison"]["b"]["value"]) for f in budgets.values() if "comparison" in f)
        for method, budgets in methods.items()
    }
    curves = {method: curve for method, curve in curves.items() if curve}
    parts = [f'<text class="title" x="{LEFT}" y="24">{escape(network)}: accuracy without retraining, %</text>']
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
        colour, peer = COLOURS[number % len(COLOURS)], " peer" if number >= len(COLOURS) else ""
        places = [(LEFT + (RIGHT - LEFT) * macs, BOTTOM - (BOTTOM - TOP) * value) for macs, value in curve]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="line{peer}" stroke="{colour}" d="M{path}"/>')
        for (x, y), (macs, value) in zip(places, curve, strict=True):
            told = f"{method}: {percent(value)} % with {percent(macs)} % of the MACs"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"><title>{escape(told)}</title></circle>'
            )
        key = TOP + 10 + 18 * number
        parts.append(f'<path class="line{peer}" stroke="{colour}" d="M{RIGHT + 20} {key}h24"/>')
        parts.append(f'<text class="small" x="{RIGHT + 50}" y="{key + 4}">{escape(method)}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Accuracy against MACs of {len(curves)} ways to prune {escape(network)}">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"
