"""The pictures of a lesson on paper: the charts, and of what moves on the screen a few moments; black on white, as SVG
that stands in the page itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from core.learn.lesson import Lesson
from core.learn.scenes import SCENES, Scene, round_ticks

Facts = Mapping[str, Any]
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 640, 54, 12, 22, 34
FEW = 6  # curves that are named where they end; of more, every one is thin
DASHES = ("", "7 4", "2 3")
INK, SOFT, PALE = "#000", "#666", "#bbb"
TONES = {"": "grey", "taken": "black", "soft": "pale", "gone": "white", "framed": "thick frame"}
ROLES = {"producer": "makes them", "follower": "follows, channel by channel", "consumer": "reads them"}


def lesson_pictures(lesson: Lesson, facts: Facts) -> dict[int, str]:
    """By the number of the step, what it shows, as HTML; steps without a picture are left out."""
    found = {}
    for number, step in enumerate(lesson.steps, start=1):
        told = _scene(SCENES[step.scene](facts)) if step.scene else ""
        told += VIEWS[step.view](facts) if step.view else ""
        if told:
            found[number] = f'<figure class="picture">{told}</figure>'
    return found


# What moves on the screen


def _scene(scene: Scene) -> str:
    if scene["kind"] == "lines":
        return _lines(scene) + _caption(scene, scene["start"])
    last = len(scene["told"]) - 1
    moments = range(last + 1) if scene["kind"] == "cells" else sorted({0, last // 2, last})
    told = (PANELS[scene["kind"]](scene, at) + _caption(scene, at) for at in scene.get("moments", moments))
    drawn = "".join(told)
    return drawn + _key(scene)


def _caption(scene: Scene, at: int) -> str:
    told = f"{scene['label']}: {scene['steps'][at]}. {scene['told'][at]}"
    return f"<figcaption>{escape(told)}</figcaption>"


def _key(scene: Scene) -> str:
    told = [f"{TONES[one['tone']]}: {escape(one['text'])}" for one in scene.get("key", ())]
    return f"<figcaption>{'; '.join(told)}</figcaption>" if told else ""


def _lines(scene: Scene) -> str:
    """All curves, and a line at the moment that the lesson speaks of. A few are told apart by their dashes."""
    count = max(2, len(scene["told"]))
    plot = _Plot(260, (0, count - 1), (scene["low"], scene["high"]))
    parts = [plot.frame(scene["ticks"], [], scene["xlabel"], scene["ylabel"])]
    named = len(scene["series"]) <= FEW
    for number, one in enumerate(scene["series"]):
        points = [(at, value) for at, value in enumerate(one["y"]) if value is not None]
        dash = DASHES[number % len(DASHES)] if named else ""
        parts.append(plot.path(points, INK if named else SOFT, 1.8 if named else 0.7, dash))
        if named and points:
            at, value = points[len(points) // 8]
            parts.append(_text(plot.x(at) + 5, plot.y(value) - 5, escape(one["name"]), "start"))
    parts.append(plot.path([(scene["start"], scene["low"]), (scene["start"], scene["high"])], INK, 1, "3 3"))
    return _svg(260, scene["alt"], parts)


def _bars(scene: Scene, at: int) -> str:
    frame, items = scene["frames"][at], scene["items"]
    plot = _Plot(150, (0, len(items)), (scene["low"], scene["high"]))
    every = -(-len(items) // 16)
    marks = [(place + 0.5, str(item)) for place, item in enumerate(items) if place % every == 0]
    parts = [plot.frame(scene["ticks"], marks, scene["xlabel"], scene["ylabel"])]
    zero = max(scene["low"], 0.0)
    for place, value in enumerate(frame["values"]):
        tone = (frame["tones"] or [""] * len(items))[place]
        fill = {"taken": INK, "soft": PALE}.get(tone, SOFT)
        x, top, low = plot.x(place + 0.12), plot.y(max(value, zero)), plot.y(min(value, zero))
        parts.append(_rect(x, top, plot.x(place + 0.88) - x, low - top, fill))
    if "line" in scene:
        level = scene["line"][at]
        parts.append(plot.path([(0, level), (len(items), level)], INK, 1.4, "6 4"))
    return _svg(150, scene["alt"], parts)


def _cells(scene: Scene, at: int) -> str:
    frame, count = scene["frames"][at], scene["count"]
    size = min(22, WIDTH // min(count, 32) - 2)
    columns = WIDTH // (size + 2)
    parts = []
    for unit in range(count):
        x, y = (unit % columns) * (size + 2) + 1, (unit // columns) * (size + 2) + 1
        silent, fresh = unit in frame["silent"], unit in frame["fresh"]
        parts.append(_rect(x, y, size, size, "#fff" if silent else "#ddd", INK, 2.4 if fresh else 0.6))
        parts.append(_text(x + size / 2, y + size / 2 + 3.5, str(unit), "middle", 9))
    return _svg(-(-count // columns) * (size + 2) + 2, scene["alt"], parts)


def _leaving(scene: Scene, at: int) -> str:
    columns, gone, rows = scene["columns"], set(scene["frames"][at]), min(scene["outputs"], 6)
    step = min(18.0, WIDTH / len(columns))
    parts = [_text(0, 11, escape(scene["maker"]), "start"), _text(0, 56, escape(scene["reader"]), "start")]
    left = [column for column in columns if column not in gone]
    for place in range(len(left)):
        parts.append(_rect(place * step, 18, step * 0.8, 20, SOFT))
        parts += [_rect(place * step, 62 + row * 8, step * 0.8, 6, PALE) for row in range(rows)]
    return _svg(64 + rows * 8, scene["alt"], parts)


PANELS: dict[str, Callable[[Scene, int], str]] = {"bars": _bars, "cells": _cells, "leaving": _leaving}


# Charts


def _layer_costs(facts: Facts) -> str:
    touched = [row for row in facts["rows"] if row[1] != row[2]]
    rows = [[name, f"{dense:,}", f"{one:,}", f"{dense - one:,}"] for name, dense, one, _ in touched]
    sums = [sum(row[at] for row in facts["rows"]) for at in (1, 2)]
    rows.append(["Whole network", *(f"{count:,}" for count in (*sums, sums[0] - sums[1]))])
    return _table(["Layer", "MACs now", "One channel less", "Saved"], rows)


def _members(facts: Facts) -> str:
    rows = [[name, ROLES[role]] for role, name in facts["rows"]]
    return _table(["Layer", "What it does with these channels"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(one)}</th>" for one in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(one)}</td>" for one in row) + "</tr>" for row in rows)
    return f'<table class="symbols"><tr>{top}</tr>{body}</table>'


def _norm_scatter(facts: Facts) -> str:
    named = {int(key) for key, _ in facts["candidates"]}
    return _scatter(facts, facts["norms"], named, facts["smallest"], "L2 norm of the filter")


def _taylor_scatter(facts: Facts) -> str:
    return _scatter(facts, facts["scores"], {facts["first"]}, facts["first"], "Taylor's estimate")


def _scatter(facts: Facts, x: Sequence[float], named: set[int], special: int, axis: str) -> str:
    """One dot for each channel; those that the lesson speaks of with their numbers."""
    y = [1000 * value for value in facts["losses"]]
    plot = _Plot(260, _room(x), _room([*y, 0.0]))
    marks = [(tick, f"{tick:g}") for tick in round_ticks(*plot.across)]
    parts = [plot.frame(round_ticks(*plot.upward), marks, f"{axis} →", "change of the loss, thousandths of a nat")]
    parts.append(plot.path([(plot.across[0], 0.0), (plot.across[1], 0.0)], SOFT, 0.8, "2 3"))
    names = []
    for unit, a, b in zip(facts["tried"], x, y, strict=True):
        fill = INK if unit == special else "#fff"
        parts.append(f'<circle cx="{plot.x(a):.1f}" cy="{plot.y(b):.1f}" r="3.4" fill="{fill}" stroke="{INK}"/>')
        if unit in named:
            names.append(_text(plot.x(a) + 5, plot.y(b) - 4, str(unit), "start", 11))
    halo = 'stroke="#fff" stroke-width="3" paint-order="stroke" font-weight="bold"'  # over dots that stand close
    parts.append(f"<g {halo}>{''.join(names)}</g>")
    told = "One dot for each channel; numbers name some of them, the black one is spoken of above."
    return _svg(260, told, parts) + f"<figcaption>{told}</figcaption>"


def _three_groups(facts: Facts) -> str:
    rows = [[name, *(100 * value for value in values)] for name, *values in facts["rows"]]
    return _intervals(rows, "accuracy, %", 100 * facts["dense"], "the whole network")


def _ladder(facts: Facts) -> str:
    names = {"whole": "whole network", "cut": "as cut", "batchnorm": "batch norm", "least-squares": "least squares"}
    rows = [[names[name], *(100 * value for value in values)] for name, *values in facts["ladder"]]
    return _intervals(rows, "accuracy, %")


def _times(facts: Facts) -> str:
    rows = [row[:4] for row in facts["times"]]
    return _intervals(rows, "milliseconds", facts["linear_ms"], "if time followed MACs")


def _intervals(rows: Sequence[Sequence[Any]], axis: str, line: float | None = None, words: str = "") -> str:
    """Rows of (name, value, low, high), one under the other, each with its name and value above it."""
    height = TOP + BOTTOM + 40 * len(rows)
    highest = 1.06 * max([row[3] for row in rows] + ([line] if line is not None else []))
    plot = _Plot(height, (0.0, highest), (0.0, float(len(rows))))
    marks = [(tick, f"{tick:g}") for tick in round_ticks(0.0, highest)]
    parts = [plot.frame([], marks, f"{axis} →", "")]
    for place, (name, value, low, high) in enumerate(rows):
        level = len(rows) - place - 0.68
        parts.append(plot.path([(low, level), (high, level)], INK, 1.4))
        parts.append(f'<circle cx="{plot.x(value):.1f}" cy="{plot.y(level):.1f}" r="4.2" fill="{INK}"/>')
        parts.append(_text(LEFT + 4, plot.y(level) - 10, f"{escape(str(name))}: {value:.4g}", "start"))
    if line is not None:
        parts.append(plot.path([(line, 0.0), (line, float(len(rows)))], INK, 1, "3 3"))
    told = "The value, and how far it may lie from the truth."
    told += f" Dotted line: {words}, {line:.4g}." if line is not None else ""
    return _svg(height, told, parts) + f"<figcaption>{told}</figcaption>"


VIEWS: dict[str, Callable[[Facts], str]] = {
    "layer_costs": _layer_costs,
    "members": _members,
    "norm_scatter": _norm_scatter,
    "taylor_scatter": _taylor_scatter,
    "three_groups": _three_groups,
    "ladder": _ladder,
    "times": _times,
}


# Drawing


class _Plot:
    """A frame of ``height`` that shows ``across`` (low, high) to the right and ``upward`` to the top."""

    def __init__(self, height: int, across: tuple[float, float], upward: tuple[float, float]) -> None:
        self.height, self.across, self.upward = height, across, upward

    def x(self, value: float) -> float:
        low, high = self.across
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / ((high - low) or 1)

    def y(self, value: float) -> float:
        low, high = self.upward
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * (value - low) / ((high - low) or 1)

    def frame(self, ticks: Sequence[float], marks: Sequence[tuple[float, str]], xlabel: str, ylabel: str) -> str:
        parts = [_text(0, 11, escape(ylabel), "start"), _text(LEFT, self.height - 4, escape(xlabel), "start")]
        for tick in ticks:
            parts.append(self.path([(self.across[0], tick), (self.across[1], tick)], PALE, 0.6))
            parts.append(_text(LEFT - 6, self.y(tick) + 4, f"{tick:g}", "end"))
        parts += [_text(self.x(at), self.height - BOTTOM + 14, escape(text), "middle") for at, text in marks]
        parts.append(self.path([(at, self.upward[0]) for at in self.across], INK, 0.8))
        return "".join(parts)

    def path(self, points: Sequence[tuple[float, float]], colour: str, width: float, dash: str = "") -> str:
        drawn = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        return f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _room(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest, with a little air."""
    low, high = min(values), max(values)
    air = 0.06 * ((high - low) or 1.0)
    return low - air, high + air


def _text(x: float, y: float, told: str, anchor: str, size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{told}</text>'


def _rect(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", line: float = 1.0) -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(0.0, height):.1f}"'
    return f'<rect {at} fill="{fill}" stroke="{stroke}" stroke-width="{line}"/>'


def _svg(height: float, told: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(told)}">'
    return f"{head}{''.join(parts)}</svg>"
