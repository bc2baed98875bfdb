"""The pictures of the lessons that a learner moves through, as data: what each step of a scene shows, and the line that
tells of it.

A row of SCENES turns a lesson's facts into what a browser draws (assets/lesson/player.js) or a hand-out prints
(core/learn/print_picture.py: the steps named in "moments", else the first, the middle and the last). Nothing is
computed there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
Scene = dict[str, Any]
COLUMNS = 64  # drawn of a layer's channels; of more, each column stands for several


def leaving(facts: Facts) -> Scene:
    """Channels leave, the smallest filters first, and with each the weights that read it."""
    units, count = facts["units"], min(facts["units"], COLUMNS)
    shown = [facts["order"].index(at * units // count) for at in range(count)]  # when the channel of a column leaves
    return {
        "kind": "leaving", "alt": "The layer's filters, and the weights of the next layer that read them.",
        "label": "Channels gone", "start": 0, "columns": list(range(count)), "outputs": facts["reader_outputs"],
        "maker": f"{facts['layer']}: one filter for each channel",
        "reader": f"{facts['reader']}: the weights that read it" if facts["reader"] else "",
        "frames": [[at for at in range(count) if shown[at] < gone] for gone in facts["removed"]],
        "steps": [f"{gone} of {units}" for gone in facts["removed"]],
        "told": [
            f"{units - gone} of {units} channels stay. The whole network: {macs:,} MACs, {macs / facts['macs']:.1%}."
            for gone, macs in zip(facts["removed"], facts["left_macs"], strict=True)
        ],
    }  # fmt: skip


def lasso_path(facts: Facts) -> Scene:
    """Every channel's coefficient while the price falls."""
    betas, drawn = facts["betas"], facts["drawn"]
    highest = max(1.2, *(max(row) for row in betas))
    lowest = min(0.0, *(min(row) for row in betas))
    told = [
        f"Price {price:.3g}: {count} of {facts['units']} channels take part"
        f"{', new: channel ' + ', '.join(map(str, new)) if new else ''}. "
        f"Error with these dials {error:.1%} of the output's energy."
        for price, count, new, error in zip(
            facts["knots"], facts["taking_part"], facts["newest"], facts["errors"], strict=True
        )
    ]
    return {
        "kind": "lines", "alt": "Coefficients of the channels against a falling price.", "label": "Let the price fall",
        "start": facts["place"], "low": lowest, "high": highest, "active": True,
        "ticks": round_ticks(lowest, highest), "xlabel": "the price falls this way →", "ylabel": "dial β",
        "series": [{"name": f"channel {unit}", "tone": "", "y": [row[at] for row in betas]}
                   for at, unit in enumerate(drawn)],
        "fresh": [[drawn.index(unit) for unit in new] for new in facts["newest"]],
        "steps": [f"{count} of {facts['units']}" for count in facts["taking_part"]], "told": told,
        "key": [{"tone": "", "text": "takes part"}, {"tone": "taken", "text": "just came in"}],
    }  # fmt: skip


def pivots(facts: Facts) -> Scene:
    """What is left of every column as one after the other is taken."""
    drawn, taken, longest = facts["drawn"], facts["taken"], facts["diagonal"]
    told, frames = [], []
    for step, lengths in enumerate(facts["lengths"]):
        before = set(taken[: step - 1]) if step else set()
        now = taken[step - 1] if step else None
        shown = facts["lengths"][step - 1] if step else lengths  # the one that is taken keeps its bar for this moment
        frames.append(
            {
                "values": [shown[at] if unit == now else lengths[at] for at, unit in enumerate(drawn)],
                "tones": ["taken" if unit == now else "soft" if unit in before else "" for unit in drawn],
            }
        )
        left = longest[step] / longest[0] if step < len(longest) else 0.0
        head = f"{step} taken, now channel {now}. " if step else "None taken yet. "
        told.append(f"{head}The longest column that is left: {left:.1%} of the first one's length.")
    return {
        "kind": "bars", "alt": "What is left of each channel's column.", "label": "Channels taken", "start": 0,
        "items": [str(unit) for unit in drawn], "frames": frames, "low": 0, "high": 1, "ticks": [0, 0.5, 1],
        "moments": sorted({0, 1, min(facts["needed"], len(frames) - 1)}),
        "xlabel": "channel, the longest column first", "ylabel": "length left",
        "steps": [f"{step} of {facts['units']}" for step in range(len(frames))], "told": told,
        "key": [{"tone": "", "text": "left"}, {"tone": "taken", "text": "taken now"}],
    }  # fmt: skip


def weights(facts: Facts) -> Scene:
    """One output's weights on the way from the old ones to the solved ones, and beyond."""
    old, new, way = facts["old"], facts["new"], facts["way"]
    rows = [[a + share * (b - a) for a, b in zip(old, new, strict=True)] for share in way]
    low, high = min(map(min, rows)), max(map(max, rows))
    return {
        "kind": "bars", "alt": "Weights of one output of the layer.", "label": "Old → new weights", "start": 0,
        "items": [str(at) for at in range(len(old))], "frames": [{"values": row, "tones": None} for row in rows],
        "low": min(low, 0.0), "high": max(high, 0.0), "ticks": round_ticks(low, high), "xlabel": "weight, in its order",
        "ylabel": "value", "steps": [f"{share:.1f}" for share in way],
        "moments": [0, way.index(1.0), len(way) - 1],
        "told": [
            f"{_stage(share)} Error of {facts['reader']}: {error:.2%} of the variance of its outputs."
            for share, error in zip(way, facts["errors"], strict=True)
        ],
    }  # fmt: skip


def _stage(share: float) -> str:
    if share == 0:
        return "The old weights."
    if share == 1:
        return "The solved weights: the bottom of the valley."
    return f"{share:.0%} of the way." if share < 1 else f"{share - 1:.0%} beyond the solved weights."


def compensation(facts: Facts) -> Scene:
    """What each of the three ways leaves, against the channels kept."""
    units, at = facts["units"], facts["at"]
    lines = {name: dict(zip(at, facts[f"{name}_line"], strict=True)) for name in ("cut", "solved")}
    widths = list(range(1, units + 1))
    greedy = facts["greedy_line"][1:]
    top = max(*facts["cut_line"], *facts["solved_line"], *greedy)
    told = []
    for width in widths:
        known = "".join(
            f"{who} {lines[name][width]:.2%}, "
            for who, name in (("Anna", "cut"), ("Ben", "solved")) if width in lines[name]
        )  # fmt: skip
        told.append(
            f"{width} of {units} channels stay; Carla adds channel {facts['order'][width - 1]}. "
            f"Off by: {known}Carla {greedy[width - 1]:.2%}."
        )
    return {
        "kind": "lines", "alt": "Error against channels kept, three ways.", "label": "Channels kept",
        "start": facts["half"] - 1, "low": 0, "high": 100 * top, "ticks": round_ticks(0, 100 * top), "active": False,
        "xlabel": "channels kept →", "ylabel": "error, % of energy",
        "series": [
            {"name": "Anna", "tone": "taken", "y": _filled(widths, lines["cut"])},
            {"name": "Ben", "tone": "third", "y": _filled(widths, lines["solved"])},
            {"name": "Carla", "tone": "", "y": [100 * value for value in greedy]},
        ],
        "steps": [f"{width} of {units}" for width in widths], "told": told,
        "key": [{"tone": "taken", "text": "Anna: as cut"}, {"tone": "third", "text": "Ben: same channels, solved"},
                {"tone": "", "text": "Carla: greedy, solved"}],
    }  # fmt: skip


def _filled(widths: Sequence[int], known: Mapping[int, float]) -> list[float | None]:
    return [100 * known[width] if width in known else None for width in widths]


def soft(facts: Facts) -> Scene:
    """The filters of one group, epoch by epoch."""
    silent, first = facts["silent"], set(facts["silent"][0])
    frames: list[dict[str, list[int]]] = [{"silent": [], "fresh": []}]
    told = ["Before training: every filter is awake."]
    for epoch, now in enumerate(silent, start=1):
        before = set(silent[epoch - 2]) if epoch > 1 else set()
        fresh = [unit for unit in now if unit not in before]
        frames.append({"silent": now, "fresh": fresh})
        back = len(first - set(now))
        told.append(
            f"After epoch {epoch}: {len(now)} of {facts['units']} silent, {len(fresh)} of them new. "
            + (f"Of the first {len(first)}, awake again: {back}." if epoch > 1 else "")
        )
    return {
        "kind": "cells", "alt": "Filters of one layer, silent or awake.", "label": "Epoch", "start": 0,
        "count": facts["units"], "frames": frames, "told": told,
        "steps": [f"{epoch} of {facts['epochs']}" for epoch in range(len(frames))],
        "key": [{"tone": "", "text": "awake"}, {"tone": "gone", "text": "silent"},
                {"tone": "framed", "text": "silent since this epoch"}],
    }  # fmt: skip


def widths(facts: Facts) -> Scene:
    """One group's width: what counting says beside what the clock says."""
    rows = sorted(facts["widths"], reverse=True)
    top = 100 * max(1.0, *(time for _, _, time, _ in rows))
    return {
        "kind": "bars", "alt": "MACs and time that remain, in percent.", "label": "Channels kept", "start": 0,
        "items": ["MACs", "time"],
        "frames": [{"values": [100 * macs, 100 * time], "tones": ["", "taken"]} for _, macs, time, _ in rows],
        "low": 0, "high": top, "ticks": [0, 25, 50, 75, 100], "xlabel": "", "ylabel": "% of the whole network",
        "steps": [f"{width} of {facts['units']}" for width, *_ in rows],
        "told": [
            f"{width} channels of {facts['group']}: {macs:.1%} of the MACs, {time:.1%} of the time ({ms:.2f} ms)."
            for width, macs, time, ms in rows
        ],
    }  # fmt: skip


def classes(facts: Facts) -> Scene:
    """Accuracy of every class at every cut."""
    names, worst = facts["names"], facts["worst"]
    return {
        "kind": "bars", "alt": "Accuracy of every class.", "label": "Channels gone", "start": 0, "items": names,
        "frames": [
            {"values": [100 * value for value in row], "tones": ["taken" if name == worst else "" for name in names]}
            for row in facts["by_class"]
        ],
        "line": [100 * value for value in facts["overall"]], "low": 0, "high": 100, "ticks": [0, 25, 50, 75, 100],
        "moments": sorted({0, facts["chosen"], len(facts["shares"]) - 1}),
        "xlabel": "class", "ylabel": "accuracy, %", "steps": [f"{share:.0%}" for share in facts["shares"]],
        "told": [
            f"Step {step}: {share:.0%} of every group gone. Average {overall:.1%}; class {worst}: "
            f"{row[names.index(worst)]:.1%}; the lowest, class {names[row.index(min(row))]}: {min(row):.1%}."
            for step, (share, overall, row) in enumerate(
                zip(facts["shares"], facts["overall"], facts["by_class"], strict=True)
            )
        ],
        "key": [{"tone": "", "text": "a class"}, {"tone": "taken", "text": f"class {worst}; the line: average"}],
    }  # fmt: skip


def round_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between two others."""
    span = max(high - low, 1e-9)
    for step in (base * 10.0**power for power in range(-6, 4) for base in (1, 2, 5)):
        if span / step <= 5:
            first = -int(-low // step)
            found = [round(step * at, 8) for at in range(first - 1, first + 8)]
            return [tick for tick in found if low - 1e-9 <= tick <= high + 1e-9]
    return [low, high]


SCENES: dict[str, Callable[[Facts], Scene]] = {
    "leaving": leaving,
    "lasso_path": lasso_path,
    "pivots": pivots,
    "weights": weights,
    "compensation": compensation,
    "soft": soft,
    "widths": widths,
    "classes": classes,
}
