"""report.html: the export told on one page that opens anywhere, offline: figures, charts, checks, environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from core.errors import ExportError
from core.export import drawing
from core.export.files import RECIPE, REPORT, VERIFICATION, write_text
from core.export.formats import FORMATS, how_to_load
from core.export.recipe import read_recipe

MOST_LAYERS = 80  # of the chart; the table has all


def write_report(directory: str | Path) -> Path:
    """Write report.html from the folder's recipe and, when it was verified, the result of that. Opens without a
    network. Raises ExportError when the recipe cannot be read and a report would say nothing; an older report stays."""
    folder = Path(directory)
    try:
        recipe = read_recipe(folder)
    except ExportError:
        (folder / REPORT).unlink(missing_ok=True)
        return folder / REPORT
    text = report_html(recipe, _verification(folder), folder.name)
    write_text(folder / REPORT, text)
    return folder / REPORT


def _verification(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / VERIFICATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def report_html(recipe: Mapping[str, Any], verification: Mapping[str, Any] | None, folder: str) -> str:
    """The whole page as text. Everything that comes from files or names is escaped."""
    model = recipe.get("model") or {}
    name = str(model.get("name") or "A network")
    parts = [
        _headline(recipe),
        _accuracy(recipe),
        _layers_chart(recipe),
        _curves(recipe),
        _files(recipe, verification),
        _loading(recipe, folder),
        _layers_table(recipe),
        _how_made(recipe),
        _environment(recipe),
    ]
    body = "\n".join(part for part in parts if part)
    return PAGE.replace("@TITLE@", escape(f"{name}, pruned")).replace("@BODY@", body).replace(
        "@LEAD@", escape(str((recipe.get("plan") or {}).get("origin") or "A plan made by hand."))
    )  # fmt: skip


def _section(title: str, inner: str, note: str = "") -> str:
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{told}{inner}</section>"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]], words: int = 1) -> str:
    """``words``: how many columns from the left hold text; the others hold numbers."""
    top = "".join(f"<th>{escape(one)}</th>" for one in head)
    lines = [
        "<tr>" + "".join(
            f"<td{'' if place < words else ' class=number'}>{escape(str(cell))}</td>" for place, cell in enumerate(row)
        ) + "</tr>"
        for row in rows
    ]  # fmt: skip
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _headline(recipe: Mapping[str, Any]) -> str:
    costs, (dense, pruned) = recipe.get("costs"), _both(recipe)
    if not costs:
        return ""
    rows = []
    for key, title, unit in (("macs", "Multiply-adds per image", ""), ("params", "Parameters", ""),
                             ("size_bytes", "Weights", " bytes")):  # fmt: skip
        before, after = costs["dense"][key], costs["pruned"][key]
        rows.append((title, f"{before:,}{unit}", f"{after:,}{unit}", _change(after, before), "exact"))
    if _has(dense, "latency", "median_ms") and _has(pruned, "latency", "median_ms"):
        one, other = dense["latency"], pruned["latency"]
        told = f"measured: {other.get('device')}, {other.get('threads')} thread(s), batch {other.get('batch')}"
        rows.append(("Latency", _ms(one), _ms(other), _change(other["median_ms"], one["median_ms"]), told))
    if _has(dense, "accuracy", "value") and _has(pruned, "accuracy", "value"):
        one, other = dense["accuracy"], pruned["accuracy"]
        points = f"{100 * (other['value'] - one['value']):+.1f} points"
        rows.append(("Accuracy", _share(one), _share(other), points, f"measured on {other.get('images')} images"))
    return _section("What became of it", _table(("", "Dense", "Pruned", "Change", ""), rows))


def _accuracy(recipe: Mapping[str, Any]) -> str:
    dense, pruned = _both(recipe)
    rows = [
        (name, one["accuracy"]["low"], one["accuracy"]["value"], one["accuracy"]["high"])
        for name, one in (("Dense", dense), ("Pruned", pruned))
        if _has(one, "accuracy", "value") and _has(one, "accuracy", "low") and _has(one, "accuracy", "high")
    ]
    if not rows:
        return ""
    data = (recipe.get("measurements") or {}).get("data") or "the report images"
    note = f"On {data}, images that nothing was chosen by, with 95 % Wilson intervals."
    return _section("Accuracy", drawing.intervals(rows, "Accuracy of the dense and the pruned network"), note)


def _layers_chart(recipe: Mapping[str, Any]) -> str:
    rows = (recipe.get("costs") or {}).get("layers") or []
    made = recipe.get("layers") or {}  # normalisations follow the layers that make the channels
    rows = [row for row in rows if not made or row["layer"] in made]
    changed = [row for row in rows if row["kept"] < row["channels"]]
    if not changed:
        return ""
    shown = changed[:MOST_LAYERS]
    drawn = [(row["layer"], row["channels"], row["kept"], f"{row['channels']} to {row['kept']}") for row in shown]
    more = f" The first {len(shown)} are drawn." if len(shown) < len(changed) else ""
    note = f"Output channels before (pale) and after (strong); {len(changed)} of {len(rows)} layers are narrower.{more}"
    return _section("Channels, layer by layer", drawing.bars(drawn, "Channels per layer before and after"), note)


def _curves(recipe: Mapping[str, Any]) -> str:
    """Sensitivity curves, when the measurements carry them: {group: [[removed share, accuracy], ...]}."""
    found = (recipe.get("measurements") or {}).get("curves")
    groups = recipe.get("groups") or {}
    if not isinstance(found, Mapping) or not found:
        return ""
    points = {str(name): [(float(x), float(y)) for x, y, *_ in rows] for name, rows in found.items()}
    chosen = {name: 1 - one["kept"] / one["units"] for name, one in groups.items() if name in points}
    note = "Accuracy (0 to 1) against the share of a group's units removed, all else dense. The line marks this plan."
    return _section("Sensitivity of each group", drawing.curves(points, chosen, "Sensitivity curves"), note)


def _files(recipe: Mapping[str, Any], verification: Mapping[str, Any] | None) -> str:
    checks = {check["file"]: check for check in (verification or {}).get("files", ())}
    rows = []
    for file, entry in recipe["files"].items():
        check = checks.get(file)
        told = "" if check is None else ("same" if check["ok"] else "DIFFERENT")
        error = _number(check, "max_abs_error", "{:.1e}"), _number(check, "max_rel_error", "{:.1e}")
        right = _number(check, "accuracy", "{:.1%}")
        rows.append((file, f"{entry['size_bytes']:,}", told, *error, right, _number(check, "latency_ms", "{:.2f}")))
    head = ("File", "Bytes", "Reloaded", "Largest error", "relative", "Accuracy", "ms per image")
    if verification is None:
        verdict = '<p class="verdict">Not verified yet.</p>'
    else:
        kind = "good" if verification.get("ok") else "bad"
        verdict = f'<p class="verdict {kind}">{escape(str(verification.get("message")))}</p>'
    for sentence in (recipe.get("failed") or {}).values():
        verdict += f'<p class="verdict bad">{escape(str(sentence))}</p>'
    note = "Each file was loaded in a fresh process and compared, image by image, with the network it was made from."
    return _section("Files and their verification", verdict + _table(head, rows), note if verification else "")


def _loading(recipe: Mapping[str, Any], folder: str) -> str:
    parts = []
    for row in FORMATS:
        if row.value.file in recipe["files"]:
            code = escape(how_to_load(row.name, folder))
            parts.append(f"<h3>{escape(row.value.file)}</h3><p>{escape(row.summary)}</p><pre>{code}</pre>")
    data = recipe.get("data") or {}
    shape = " x ".join(str(size) for size in recipe.get("input") or ())
    note = f"Images go in as float32, N x {shape}."
    if data.get("mean"):
        mean, std = (", ".join(f"{float(value):.4g}" for value in data[name]) for name in ("mean", "std"))
        note += f" They are normalised: (value in 0..1 - mean) / std, with mean {mean} and std {std}."
    return _section("How to load it", f"<details><summary>Lines to copy</summary>{''.join(parts)}</details>", note)


def _layers_table(recipe: Mapping[str, Any]) -> str:
    rows = (recipe.get("costs") or {}).get("layers") or []
    if not rows:
        return ""
    names = ("channels", "kept", "params_before", "params_after", "macs_before", "macs_after")
    head = ("Layer", "Channels", "Kept", "Parameters", "after", "Multiply-adds", "after")
    cells = [(row["layer"], *(f"{row[name]:,}" for name in names)) for row in rows]
    inner = f"<details><summary>{len(rows)} layers</summary>{_table(head, cells)}</details>"
    return _section("Every layer", inner)


def _how_made(recipe: Mapping[str, Any]) -> str:
    model, method, plan = recipe.get("model") or {}, recipe.get("method") or {}, recipe.get("plan") or {}
    rows = [
        ("Network", model.get("source") or "given as a module"),
        ("Weights", f"{model.get('weights') or 'random'}, fingerprint {model.get('weights_fingerprint', '?')}"),
        ("Plan", f"{plan.get('origin') or 'by hand'} (key {plan.get('key')})"),
        ("Weights after the cut", method.get("repair")),
        ("Seed, threads", f"{method.get('seed')}, {method.get('threads')}"),
        ("Fingerprint of the result", recipe.get("fingerprint")),
    ]
    kept = "".join(
        f"<dt>{escape(name)}</dt><dd>{len(one['kept'])} of {one['channels']}: {escape(_ranges(one['kept']))}</dd>"
        for name, one in (recipe.get("layers") or {}).items()
    )
    inner = _table(("", ""), rows, 2) + f"<details><summary>Kept channels by layer</summary><dl>{kept}</dl></details>"
    return _section("How it was made", inner, f"{RECIPE} repeats it on a fresh copy of the dense network.")


def _environment(recipe: Mapping[str, Any]) -> str:
    rows = [(key, value) for key, value in {**(recipe.get("versions") or {}), **(recipe.get("machine") or {})}.items()]
    data = recipe.get("data") or {}
    rows += [("images", f"{data.get('name')}, {data.get('images')}, {data.get('fingerprint')}")] if data else []
    return _section("Environment", _table(("", ""), rows, 2))


def _both(recipe: Mapping[str, Any]) -> tuple[Any, Any]:
    found = recipe.get("measurements") or {}
    return found.get("dense"), found.get("pruned")


def _has(found: Any, *path: str) -> bool:
    for name in path:
        if not isinstance(found, Mapping) or found.get(name) is None:
            return False
        found = found[name]
    return isinstance(found, int | float)


def _number(check: Mapping[str, Any] | None, name: str, form: str) -> str:
    value = (check or {}).get(name)
    return form.format(value) if isinstance(value, int | float) else ""


def _change(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def _ms(one: Mapping[str, Any]) -> str:
    return f"{one['median_ms']:.2f} ms [{one.get('low_ms', 0):.2f}, {one.get('high_ms', 0):.2f}]"


def _share(one: Mapping[str, Any]) -> str:
    return f"{100 * one['value']:.1f} % [{100 * one.get('low', 0):.1f}, {100 * one.get('high', 0):.1f}]"


def _ranges(kept: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    parts: list[list[int]] = []
    for index in kept:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5c6775; --line: #d9dee5; --ground: #fff; --card: #f6f7f9;
  --before: #cfd8e3; --after: #2f6fdb; --good: #1a7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9aa6b5; --line: #333c48; --ground: #12161c;
  --card: #1a2028; --before: #3a4554; --after: #6fa3ff; --good: #58c98c; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto;
  max-width: 800px; padding: 24px 16px 64px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 36px 0 6px; } h3 { font-size: 15px; margin: 16px 0 0; }
p { margin: 4px 0; } .note, .lead { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; } td, th { padding: 5px 12px 5px 0;
  border-bottom: 1px solid var(--line); } .number { font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--card); padding: 10px 12px; border-radius: 6px; overflow-x: auto; font-size: 13px; }
summary { cursor: pointer; color: var(--after); padding: 6px 0; } dt { font-weight: 600; } dd { margin: 0 0 6px;
  color: var(--soft); overflow-wrap: anywhere; font-size: 13px; }
.verdict { padding: 8px 12px; border-radius: 6px; background: var(--card); }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; margin-top: 8px; } svg text { font-size: 12px; fill: var(--ink); }
.end { text-anchor: end; } .mid { text-anchor: middle; } .before { fill: var(--before); } .after { fill: var(--after); }
.axis, .panel { stroke: var(--line); fill: none; } .span { stroke: var(--after); stroke-width: 3; }
.dot { fill: var(--after); } .curve { stroke: var(--after); stroke-width: 2; fill: none; }
.mark { stroke: var(--bad); stroke-dasharray: 3 3; }
@media print { details { display: block; } }
</style></head><body>
<h1>@TITLE@</h1><p class="lead">@LEAD@</p>
@BODY@
</body></html>
"""
