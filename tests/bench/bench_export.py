"""Everything written, reloaded in a fresh process and compared: `python tests/bench/bench_export.py [part of a name]`.

For the three demos, the CIFAR ResNet-20 and 56 (../shared; left out where that is missing), 25 CNNs of torchvision and
a few of timm (where that is installed), half of every group removed by weight-l2:

- every format is written; each is loaded in a fresh process without Prunescope (the recipe: with it), and its outputs
  must be within 1e-4 of the network that was exported, relative to the largest output (ONNX 1e-3), with equal accuracy
  where the images have labels (512 random or report images at most);
- sizes must be at most 2 % above the bytes of parameters and buffers plus the overhead of OVERHEAD;
- the recipe, applied to a fresh copy of the dense network, must give bit-equal weights; networks with images of their
  own (demos, CIFAR) are repaired by least squares first, so that accuracy says something, and the recipe repairs too;
- the dense network's .pt2 is opened as data, without its source; the same plan is cut there, must compute what the
  network cut from source computes (1e-4), and is written and verified once more.

`--write` keeps the table in assets/bench/export.md. `--keep=FILE` adds a line of JSON per network to FILE and leaves
out those that are there already, so that a run can be gone on with. Exits with an error when a bar is missed. A
network takes about a minute of processor time.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import nn

from core.apply import prune_model, reconstruct_model
from core.errors import CoreError
from core.export import apply_recipe, export_model, verify_export
from core.export.formats import FORMATS
from core.export.source import export_program, save_program
from core.load import load_data, load_model
from core.load.program import read_pt2
from core.measure.importance import score_channels
from core.plan import plan_uniform
from core.records import ImageData, LoadedModel, Plan
from core.trace import trace_channels

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
TABLE = ROOT / "assets" / "bench" / "export.md"
DEMOS = ("demo/digits-vgg", "demo/digits-resnet", "demo/shapes-cnn")
CIFAR = ("cifar/resnet20", "cifar/resnet56")
TORCHVISION = tuple(
    f"torchvision/{name}"
    for name in (
        "alexnet", "densenet121", "efficientnet_b0", "efficientnet_b2", "efficientnet_v2_s", "googlenet",
        "inception_v3", "mnasnet0_5", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
        "regnet_x_400mf", "regnet_y_400mf", "regnet_y_1_6gf", "resnet18", "resnet34", "resnet50", "resnext50_32x4d",
        "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1", "vgg11_bn", "wide_resnet50_2",
    )
)  # fmt: skip
TIMM = ("timm/resnet10t", "timm/mobilenetv4_conv_small", "timm/ghostnet_100")
NETWORKS = (*DEMOS, *CIFAR, *TORCHVISION, *TIMM)
REMOVED, BAR, ONNX_BAR, SLACK = 0.5, 1e-4, 1e-3, 1.02
# Bytes beside the weights that a format may take: per tensor, and per step of the graph.
OVERHEAD = {"checkpoint": (160, 0), "exported_program": (600, 2200), "onnx": (60, 700), "torchscript": (700, 1300)}


def main(arguments: list[str]) -> int:
    write = "--write" in arguments
    wanted = [one for one in arguments if not one.startswith("--")]
    names = [name for name in NETWORKS if not wanted or any(part in name for part in wanted)]
    if not SHARED.is_dir():
        print("Left out for want of ../shared:", *[name for name in names if name in CIFAR])
        names = [name for name in names if name not in CIFAR]
    if find_spec("timm") is None:
        names = [name for name in names if name not in TIMM]
    os.environ["PRUNESCOPE_HOME"] = tempfile.mkdtemp()
    keep = next((Path(one.partition("=")[2]) for one in arguments if one.startswith("--keep=")), None)
    rows: list[dict[str, Any]] = []
    if keep is not None and keep.exists():
        rows = [json.loads(line) for line in keep.read_text(encoding="utf-8").splitlines()]
    for name in [name for name in names if name not in {row["name"] for row in rows}]:
        rows.append(measure(name))
        print(json.dumps(rows[-1]), flush=True)
        if keep is not None:
            with keep.open("a", encoding="utf-8") as file:
                print(json.dumps(rows[-1]), file=file)
        if write:
            rows.sort(key=lambda row: NETWORKS.index(row["name"]))
            TABLE.parent.mkdir(parents=True, exist_ok=True)
            TABLE.write_text(table(rows), encoding="utf-8")
    shutil.rmtree(os.environ["PRUNESCOPE_HOME"])
    bad = [f"{row['name']}: {fault}" for row in rows for fault in row["faults"]]
    print(f"{len(rows)} networks, {len(bad)} faults.", *bad, sep="\n")
    return int(bool(bad))


def measure(name: str) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    row: dict[str, Any] = {"name": name, "faults": []}
    with tempfile.TemporaryDirectory() as folder:
        try:
            loaded, images, report = opened(name)
            trace = trace_channels(loaded.module, loaded.example)
            plan = plan_uniform(trace, score_channels(trace, None, "weight-l2"), REMOVED)
            pruned = prune_model(loaded.module, trace, plan)
            row["params"] = [sum(p.numel() for p in module.parameters()) for module in (loaded.module, pruned)]
            built, told = pruned, {"repair": "none"}
            if images is not None:
                built = reconstruct_model(loaded.module, trace, plan, images.calibration, "least-squares")
                told = {"repair": "least-squares"}
            folder_ = Path(folder) / "export"
            export_model(built, plan, folder_, loaded=loaded, trace=trace, data=report, measurements=told)
            written(row, folder_, built)
            applied = apply_recipe(folder_, loaded if name in CIFAR else None, images)
            row["repair"], row["recipe_exact"] = told["repair"], applied.exact
            row["faults"] += [] if applied.exact else ["the recipe gives other weights"]
            without_source(row, Path(folder), loaded, plan, pruned)
        except CoreError as error:
            row["faults"].append(str(error)[:200])
    row["seconds"], row["processor_s"] = time.perf_counter() - start, time.process_time() - cpu
    return row


def opened(name: str) -> tuple[LoadedModel, ImageData | None, ImageData | None]:
    """The network; images to repair it with, and those it is judged by, where it has any of its own."""
    if name in CIFAR:
        weights = SHARED / "models" / f"cifar10_{name.partition('/')[2]}.pt"
        data = SHARED / "data" / "cifar10"
        return load_model(name, weights=str(weights)), load_data(data / "train.npz"), load_data(data / "select.npz")
    loaded = load_model(name)
    images = load_data(loaded.data) if loaded.data else None
    return loaded, images, images.report if images is not None else None


def written(row: dict[str, Any], folder: Path, built: nn.Module) -> None:
    """Every format: reloaded, compared, weighed."""
    row["faults"] += list(json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["failed"].values())
    report = verify_export(folder)
    row["faults"] += [check.message for check in report.files if not check.ok]
    row["formats"] = len(report.files)
    row["error"] = max(check.max_rel_error or 0.0 for check in report.files if check.format != "onnx")
    row["onnx_error"] = max(check.max_rel_error or 0.0 for check in report.files if check.format == "onnx")
    row["accuracy"] = sorted({check.accuracy for check in report.files if check.accuracy is not None})
    row["expected"] = report.files[0].expected_accuracy
    if row["error"] > BAR or row["onnx_error"] > ONNX_BAR:
        row["faults"].append("outputs differ by more than the bar")
    if row["accuracy"] and row["accuracy"] != [row["expected"]]:
        row["faults"].append(f"accuracy differs: {row['accuracy']}, {row['expected']}")
    weigh(row, folder, built)


def weigh(row: dict[str, Any], folder: Path, pruned: nn.Module) -> None:
    state = pruned.state_dict()
    whole = sum(value.numel() * value.element_size() for value in state.values())
    steps = (folder / "model.py").read_text(encoding="utf-8").count(" = ")
    row["bytes"], row["size"] = whole, {}
    for name, (per_tensor, per_step) in OVERHEAD.items():
        size = (folder / FORMATS[name].file).stat().st_size
        net = size - per_tensor * len(state) - per_step * steps
        row["size"][name] = size / whole
        if net > SLACK * whole:
            row["faults"].append(f"{name} takes {size:,} bytes for {whole:,} of weights and {steps} steps")


def without_source(row: dict[str, Any], folder: Path, loaded: LoadedModel, plan: Plan, pruned: nn.Module) -> None:
    """The dense network's .pt2, opened as data, pruned by the same plan, written and verified."""
    path = folder / "dense.pt2"
    save_program(export_program(loaded.module, loaded.example), path)
    found = read_pt2(path)
    assert found is not None
    trace = trace_channels(found.module, found.example)
    row["groups"] = [len(trace.prunable), len(plan.kept)]
    same_groups = {group.id for group in trace.prunable} == set(plan.kept)
    if not same_groups:
        row["faults"].append("opened from .pt2, the network has other groups")
        plan = plan_uniform(trace, score_channels(trace, None, "weight-l2"), REMOVED)
    module = prune_model(found.module, trace, plan)
    if same_groups:
        with torch.inference_mode():
            images = torch.cat([loaded.example, -loaded.example])
            first, second = pruned(images), module(images)
        row["opened_error"] = float((first - second).abs().max() / first.abs().max())
        if not row["opened_error"] <= BAR:
            row["faults"].append(f"pruned without source it differs by {row['opened_error']:.1e}")
    export_model(module, plan, folder / "opened", "python", loaded=found, trace=trace)
    report = verify_export(folder / "opened")
    row["opened_ok"] = report.ok
    row["faults"] += [] if report.ok else [report.message]


def table(rows: list[dict[str, Any]]) -> str:
    """The whole page as Markdown."""
    seconds = sum(row["seconds"] for row in rows)
    left = [name for name in NETWORKS if name not in {row["name"] for row in rows}]
    faults = sum(len(row["faults"]) for row in rows)
    lines = [
        "# Export: every format, reloaded and compared",
        "",
        f"`python tests/bench/bench_export.py --write`: {len(rows)} networks, half of every group removed, {faults}"
        f" faults; {seconds / 60:.0f} minutes on {torch.get_num_threads()} thread(s) of a shared machine; torch"
        f" {torch.__version__.partition('+')[0]}.",
        "",
        "Errors are the largest difference of outputs relative to the largest output, over every image stored with the",
        "export; ONNX apart. Sizes are bytes per byte of parameters and buffers; beside 2 % each format may take "
        + "; ".join(f"{name} {a} B per tensor and {b} B per step of the graph" for name, (a, b) in OVERHEAD.items())
        + ".",
        "",
        "| network | parameters | formats | error | ONNX | accuracy, reloaded | weights, .pt2, ONNX, TorchScript |"
        " recipe bit-equal | opened .pt2, verified | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in rows]
    bad = [f"- {row['name']}: {fault}" for row in rows for fault in row["faults"]]
    if left:
        lines += ["", f"Not measured yet: {', '.join(left)}."]
    return "\n".join([*lines, "", *(["Faults:", "", *bad] if bad else ["No faults."]), ""])


def _line(row: dict[str, Any]) -> str:
    if "formats" not in row:
        return f"| {row['name']} | " + " | " * 8 + "|"
    accuracy = "" if not row["accuracy"] else f"{100 * row['expected']:.1f} %, equal" if (
        row["accuracy"] == [row["expected"]]) else "differs"  # fmt: skip
    sizes = ", ".join(f"{row['size'][name]:.3f}" for name in OVERHEAD)
    exact = ("yes" if row["recipe_exact"] else "no") + ("" if row["repair"] == "none" else ", repair included")
    error, fine = row.get("opened_error", float("nan")), "yes" if row.get("opened_ok") else "no"
    before, after = row["params"]
    return (
        f"| {row['name']} | {before:,} to {after:,} | {row['formats']} | {row['error']:.0e} | {row['onnx_error']:.0e} |"
        f" {accuracy} | {sizes} | {exact} | {error:.0e}, {fine} | {row['seconds']:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
