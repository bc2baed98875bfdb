"""model_class.py: the library's own class (torchvision, timm), narrowed to the plan.

The class keeps everything that its graph does not tell: how it trains, its methods, its other outputs. What pruning
changed is a table of numbers: widths that layers keep, and shapes of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import ExportError
from core.export.python_file import TEMPLATE
from core.export.source import Source

FILE = "model_class.py"
SIMPLE = (int, float, bool, str, type(None), torch.Size)
SKIPPED = {"training", "_parameters", "_buffers", "_modules", "gather_index"}


def applies(source: Source) -> bool:
    """Whether the network is one that a library builds by name."""
    return source.loaded is not None and source.loaded.source.partition("/")[0] in ("torchvision", "timm")


def write_class(source: Source, path: Path) -> None:
    """Raises ExportError when layers were replaced by others than can be told by numbers (attention heads)."""
    if source.loaded is None or not applies(source):
        raise ExportError("only classes of torchvision and timm can be built by name; model.py needs no class.")
    gathers: list[tuple[str, int, int]] = []
    numbers = list(_numbers(source.loaded.module, source.module, gathers))
    old, new = _tensors(source.loaded.module), _tensors(source.module)
    shapes = {name: tuple(value.shape) for name, value in new.items() if name in old and value.shape != old[name].shape}
    library, build = _construction(source)
    reader = TEMPLATE[TEMPLATE.index("def read_safetensors") : TEMPLATE.index("def load(")].replace("{{", "{")
    text = CLASS_TEMPLATE.format(
        name=source.loaded.source,
        library=library,
        build=build,
        numbers=_rows([repr(row) for row in numbers]),
        shapes=_rows([f"{name!r}: {shape!r}" for name, shape in shapes.items()]),
        gathers=_rows([repr(row) for row in gathers]),
        reader=reader.replace("}}", "}").rstrip(),
    )
    path.write_text(text, encoding="utf-8")


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _rows(rows: list[str]) -> str:
    return "".join(f"\n    {row}," for row in rows) + ("\n" if rows else "")


def _numbers(
    dense: nn.Module, pruned: nn.Module, gathers: list[tuple[str, int, int]]
) -> Iterator[tuple[str, str, Any]]:
    """(layer, attribute, value) of every number that differs; layers that gather are noted apart."""
    others = dict(dense.named_modules())
    for path, layer in pruned.named_modules():
        old = others.get(path)
        if old is None:
            raise ExportError(f"the layer {path} is not in the dense network; model.py has it.")
        if type(layer) is not type(old):
            index = layer._buffers.get("gather_index")
            if index is None or not isinstance(layer, type(old)):
                raise ExportError(f"the layer {path} was replaced by another kind; model.py has it.")
            gathers.append((path, index.numel(), -1 if isinstance(layer, nn.Linear) else 1))
        for name, value in vars(layer).items():
            if name not in SKIPPED and name in vars(old) and _plain(value) and value != vars(old)[name]:
                yield path, name, value


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(item) for item in value)
    return isinstance(value, SIMPLE)


def _construction(source: Source) -> tuple[str, str]:
    assert source.loaded is not None
    family, _, name = source.loaded.source.partition("/")
    outputs = (source.recipe.get("model") or {}).get("outputs")
    options = f", num_classes={int(outputs)}" if outputs else ""
    if family == "timm":
        return "timm", f"timm.create_model({name!r}{options})"
    if name in ("googlenet", "inception_v3"):
        flag = bool(getattr(source.module, "transform_input", False))
        options += f", aux_logits=False, init_weights=False, transform_input={flag}"
    if name.startswith("vit_"):
        options += f", image_size={int(source.module.image_size)}"  # type: ignore[arg-type]
    return "torchvision", f"torchvision.models.get_model({name!r}, weights=None{options})"


CLASS_TEMPLATE = '''"""{name}, narrowed: the library's own class with fewer channels. Needs PyTorch and {library}.

    from model_class import load

    network = load()            # reads model.safetensors beside this file; in eval mode
    scores = network(images)

``narrow(network)`` makes any freshly built network of this class as narrow. Written by Prunescope.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from pathlib import Path

import torch
import {library}
from torch import Tensor, nn

# Widths that layers keep as numbers: layer, attribute, value.
NUMBERS = [{numbers}]

# Shapes of the weights that got smaller.
SHAPES = {{{shapes}}}

# Layers that read some of the channels they are given: layer, how many, along which axis.
GATHERS: list[tuple[str, int, int]] = [{gathers}]


def build() -> nn.Module:
    """The dense network, with random weights."""
    return {build}


def narrow(network: nn.Module) -> nn.Module:
    """``network`` itself with the pruned shapes; its weights are empty until a state dict is loaded."""
    for path, name, value in NUMBERS:
        setattr(network.get_submodule(path), name, value)
    for name, shape in SHAPES.items():
        path, _, last = name.rpartition(".")
        layer = network.get_submodule(path)
        old = getattr(layer, last)
        new = torch.zeros(shape, dtype=old.dtype, device=old.device)
        setattr(layer, last, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    for path, count, axis in GATHERS:
        layer = network.get_submodule(path)
        layer.register_buffer("gather_index", torch.zeros(count, dtype=torch.int64))
        layer.register_forward_pre_hook(
            lambda layer, given, axis=axis: (given[0].index_select(axis, layer.gather_index), *given[1:])
        )
    return network


{reader}


def load(weights: str | Path | None = None) -> nn.Module:
    """The narrowed network with its weights, in eval mode."""
    network = narrow(build())
    state = OrderedDict(read_safetensors(weights or Path(__file__).with_name("model.safetensors")))
    state._metadata = network.state_dict()._metadata  # versions that some classes ask for
    network.load_state_dict(state)
    return network.eval()
'''
