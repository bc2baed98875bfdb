"""The files beside the network: which channels stay, for other programs and for reading, and a script to train on."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from torch import nn

from core.export.files import write_text
from core.export.source import Source
from core.export.training_script import FINETUNE, training_script

RATIOS, LAYERS = "ratios.json", "layers.csv"
PAPERS = (RATIOS, LAYERS, FINETUNE)
TORCH_PRUNING = (
    "import torch_pruning as tp; layers = dict(model.named_modules()); "
    "pruner = tp.pruner.MagnitudePruner(model, images, tp.importance.MagnitudeImportance(), pruning_ratio=0.0, "
    "ignored_layers=[layers[name] for name in found['ignored_layers']], pruning_ratio_dict="
    "{layers[name]: ratio for name, ratio in found['pruning_ratio_dict'].items()}); pruner.step()"
)
GROUPED = (
    "This network has convolutions in groups. Here whole groups leave; Torch-Pruning takes channels out of each group, "
    "so its widths differ."
)
NNI = "from nni.compression.pruning import L1NormPruner; L1NormPruner(model, config_list=found['config_list'])"
COLUMNS = ("layer", "channels", "kept", "kept_percent", "params_before", "params_after", "macs_before", "macs_after")


def write_papers(folder: Path, source: Source) -> list[str]:
    """ratios.json and layers.csv where the trace is known, finetune.py where model.py is there; their names."""
    written = []
    if source.trace is not None:
        write_text(folder / RATIOS, json.dumps(ratios(source.recipe, source.trace.module), indent=1))
        write_text(folder / LAYERS, layers_csv(source.recipe))
        written += [RATIOS, LAYERS]
    if (folder / "model.py").is_file():
        write_text(folder / FINETUNE, training_script(source.recipe))
        written.append(FINETUNE)
    return written


def ratios(recipe: dict[str, Any] | Any, module: Any) -> dict[str, Any]:
    """How much of each layer leaves, as Torch-Pruning and NNI take it. They choose the channels themselves, so the
    widths agree and the weights need not.

    Torch-Pruning keeps int(channels x (1 - ratio)): the ratio aims a quarter of a channel beside the number, so that
    rounding cannot take one more. Its own default for layers that are not named is a half, so ``how`` sets 0. With
    convolutions in groups (other than depthwise) it counts otherwise: ``note`` says so.
    """
    kinds = {name: type(layer).__name__ for name, layer in module.named_modules()}
    narrowed, whole = {}, []
    for name, layer in recipe["layers"].items():
        removed = layer["channels"] - len(layer["kept"])
        if removed:
            narrowed[name] = {"channels": layer["channels"], "kept": len(layer["kept"])}
        else:
            whole.append(name)
    exact = {name: (one["channels"] - one["kept"] - 0.25) / one["channels"] for name, one in narrowed.items()}
    config = [
        {"op_names": [name], "op_types": [kinds.get(name, "")],
         "sparse_ratio": round(1 - one["kept"] / one["channels"], 6)}
        for name, one in narrowed.items()
    ]  # fmt: skip
    return {
        "about": "The share of each layer's output channels that leaves. Only recipe.json names which ones.",
        "widths": narrowed,
        "torch_pruning": {
            "how": TORCH_PRUNING,
            "note": GROUPED if _grouped(module) else "",
            "pruning_ratio_dict": exact,
            "ignored_layers": whole,
        },
        "nni": {"how": NNI, "config_list": config},
    }


def _grouped(module: nn.Module) -> bool:
    convs = [one for one in module.modules() if isinstance(one, nn.modules.conv._ConvNd)]
    return any(1 < one.groups < max(one.in_channels, one.out_channels) for one in convs)


def layers_csv(recipe: Any) -> str:
    """A row per layer with weights: channels, parameters and multiply-adds per image, before and after."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in recipe["costs"]["layers"]:
        share = f"{100 * row['kept'] / row['channels']:.1f}" if row["channels"] else ""
        table.writerow([row["layer"], row["channels"], row["kept"], share, *(row[name] for name in COLUMNS[4:])])
    return text.getvalue()
