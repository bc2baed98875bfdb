"""model.py: the pruned network as a plain PyTorch class that anybody can read, run, train and change.

It is written from the network's own graph, so it needs neither Prunescope nor the code the network came from. Its
weights are those of model.safetensors, under the same names.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.export.printing import access, forward_lines
from core.export.source import Source
from core.load.program import ProgramNetwork
from core.load.program.steps import Sized

FILE = "model.py"
WEIGHTS = "model.safetensors"
INLINE = 24  # numbers that are written out; longer constants are packed
STANDARD = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
            nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.PReLU)  # fmt: skip


def write_python(source: Source, path: Path) -> None:
    """The class, with a reader for the weights file and the settings of the images in it."""
    path.write_text(python_text(source.network, source.recipe), encoding="utf-8")


def python_text(network: ProgramNetwork, recipe: Mapping[str, Any]) -> str:
    """The whole file as text."""
    body = "\n".join(f"        {line}".replace("\n", "\n        ") for line in forward_lines(network))
    lines = "\n".join(f"        {line}" for line in _init_lines(network))
    facts = _facts(recipe)
    packed = _uses_packed(network)
    return TEMPLATE.format(
        title=facts["title"],
        shape=facts["shape"],
        settings=facts["settings"],
        imports="import base64\nimport json\nimport struct\nimport zlib" if packed else "import json\nimport struct",
        init=lines,
        forward=body,
        unpack=UNPACK if packed else "",
    )


def _facts(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What the file says about the network and its images, from the recipe. Texts are quoted, never pasted as code."""
    model, data = recipe.get("model") or {}, recipe.get("data") or {}
    name = "".join(char for char in str(model.get("name") or "A network") if char.isalnum() or char in " -_.,()/")[:80]
    shape = tuple(int(size) for size in recipe.get("input") or model.get("input") or ())
    wide = " x ".join(str(size) for size in shape) or "C x H x W"
    settings = [f"SHAPE = {shape!r}  # of one image: channels, height, width"]
    for key in ("mean", "std"):
        values = tuple(float(value) for value in data.get(key) or ())
        if values:
            if key == "mean":
                settings.append("# Images go in as (value in 0..1 - MEAN) / STD, channel by channel.")
            settings.append(f"{key.upper()} = {values!r}")
    classes = tuple(str(one) for one in model.get("classes") or data.get("classes") or ())
    if classes:
        quoted = [json.dumps(one) for one in classes]
        text = f"CLASSES = ({', '.join(quoted)},)"
        settings.append(text if len(text) <= 116 else "CLASSES = (\n    " + ",\n    ".join(quoted) + ",\n)")
    parameters = int(recipe.get("parameters") or 0)
    title = f"{name}, pruned to {parameters:,} parameters"
    return {"title": title, "shape": wide, "settings": "\n".join(settings)}


def _init_lines(network: ProgramNetwork) -> list[str]:
    lines: list[str] = []
    for name, child in network._modules.items():
        if child is not None and _holds(child):
            target = access(name)
            text = _module(child, 0)
            lines += f"{target} = {text}".splitlines() if target.startswith("self.") else (
                f"self.add_module({name!r}, {text})".splitlines()
            )  # fmt: skip
    lines += _loose(network)
    return lines or ["pass"]


def _holds(module: nn.Module) -> bool:
    """Whether anything in it has weights: reshapes and dropout are written where they are called."""
    return any(isinstance(one, STANDARD) for one in module.modules())


def _module(module: nn.Module, depth: int) -> str:
    if isinstance(module, STANDARD):
        text = _layer(module)
        inner = {name: child for name, child in module._modules.items() if child is not None and _holds(child)}
        return f"nested({text}, {_block(inner, depth)})" if inner else text
    children = {name: child for name, child in module._modules.items() if child is not None and _holds(child)}
    return f"Block({_block(children, depth)})"


def _block(children: Mapping[str, nn.Module], depth: int) -> str:
    pad = "    " * (depth + 1)
    rows = [f"{pad}{json.dumps(name)}: {_module(child, depth + 1)}," for name, child in children.items()]
    return "{\n" + "\n".join(rows) + "\n" + "    " * depth + "}"


def _layer(layer: nn.Module) -> str:
    """ "nn.Conv2d(3, 16, 3, padding=1, bias=False)": sizes, and what differs from PyTorch's defaults."""
    kind = type(layer).__name__
    if isinstance(layer, nn.modules.conv._ConvNd):
        parts = [str(layer.in_channels), str(layer.out_channels), _size(layer.kernel_size)]
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0)):
            value = getattr(layer, name)
            if value != (default,) * len(layer.kernel_size):
                parts.append(f"{name}={_size(value)}")
        parts += [f"groups={layer.groups}"] if layer.groups != 1 else []
        parts += ["bias=False"] if layer.bias is None else []
    elif isinstance(layer, nn.Linear):
        parts = [str(layer.in_features), str(layer.out_features)] + (["bias=False"] if layer.bias is None else [])
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        parts = [str(layer.num_features)]
        parts += [f"eps={layer.eps!r}"] if layer.eps != 1e-5 else []
        parts += [f"momentum={layer.momentum!r}"] if layer.momentum != 0.1 else []
    elif isinstance(layer, nn.LayerNorm):
        shape = tuple(layer.normalized_shape)
        parts = [str(shape[0] if len(shape) == 1 else shape), f"eps={layer.eps!r}"]
        parts += ["bias=False"] if layer.bias is None else []
    elif isinstance(layer, nn.GroupNorm):
        parts = [str(layer.num_groups), str(layer.num_channels), f"eps={layer.eps!r}"]
    else:
        assert isinstance(layer, nn.PReLU)
        parts = [str(layer.num_parameters)]
    return f"nn.{kind}({', '.join(parts)})"


def _size(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return str(value[0]) if len(set(value)) == 1 else repr(tuple(value))


def _loose(network: ProgramNetwork) -> list[str]:
    """Tensors that no standard layer brings along: tables, scales, what a layer gathers, constants."""
    lines = []
    state = set(network.state_dict())
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        path, _, last = name.rpartition(".")
        owner = network.get_submodule(path)
        if isinstance(owner, STANDARD) and last in _own_names(owner):
            continue
        if isinstance(owner, Sized):
            continue
        if isinstance(value, nn.Parameter):
            text = f"nn.Parameter(torch.zeros({tuple(value.shape)!r}))"
        elif name in state:
            text = f"torch.zeros({tuple(value.shape)!r}, dtype={value.dtype})"
        else:
            text = _constant(value)
        extra = "" if name in state else ", persistent=False"
        lines.append(f"hold(self, {json.dumps(name)}, {text}{extra})")
    return lines


def _own_names(layer: nn.Module) -> set[str]:
    norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    return {"weight", "bias", *(("running_mean", "running_var", "num_batches_tracked") if norm else ())}


def _packed(value: Tensor) -> bool:
    return value.numel() > INLINE


def _constant(value: Tensor) -> str:
    if not _packed(value) and value.dtype not in (torch.float16, torch.bfloat16):
        return f"torch.tensor({value.tolist()!r}, dtype={value.dtype})"
    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    text = base64.b85encode(zlib.compress(raw, 9)).decode("ascii")
    return f"unpack({json.dumps(text)}, {tuple(value.shape)!r}, {value.dtype})"


def _uses_packed(network: ProgramNetwork) -> bool:
    return any("unpack(" in line for line in _loose(network))


UNPACK = '''

def unpack(text: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A constant of the network."""
    return torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(text))), dtype=dtype).reshape(shape).clone()
'''

TEMPLATE = '''"""{title}. Plain PyTorch: this file and model.safetensors are all it takes.

    from model import load

    network = load()            # reads model.safetensors beside this file; in eval mode
    scores = network(images)    # images: float32, N x {shape}, normalised as below

Written by Prunescope from the network's own graph. The names of its weights are those of the original network.
"""

from __future__ import annotations

{imports}
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

{settings}


class Block(nn.Module):
    """Layers under their names: ``block.conv1``, ``block[0]``."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def __getitem__(self, name: int | str) -> nn.Module:
        return self._modules[str(name)]


class Network(nn.Module):
    """Takes images, N x {shape}; gives the class scores, N x classes."""

    def __init__(self) -> None:
        super().__init__()
{init}

    def __getitem__(self, name: int | str) -> nn.Module:
        return self._modules[str(name)]

    def forward(self, images: Tensor) -> Tensor:
{forward}


def nested(layer: nn.Module, inner: dict[str, nn.Module]) -> nn.Module:
    """A layer that has layers of its own."""
    for name, child in inner.items():
        layer.add_module(name, child)
    return layer


def hold(root: nn.Module, name: str, value: Tensor, persistent: bool = True) -> None:
    """Put a parameter or a buffer in its place, "block.0.scale"."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, Block({{}}))
        root = root._modules[part]
    if isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    else:
        root.register_buffer(last, value, persistent=persistent)

{unpack}
def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name."""
    types = {{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
             "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
             "BOOL": torch.bool}}
    data = bytearray(Path(path).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    found = {{}}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            flat = torch.frombuffer(data[start:end] or bytearray(8), dtype=types[entry["dtype"]])
            found[name] = flat[: (end - start) // max(1, flat.element_size())].reshape(entry["shape"]).clone()
    return found


def load(weights: str | Path | None = None) -> Network:
    """The network with its weights, in eval mode."""
    network = Network()
    state = read_safetensors(weights or Path(__file__).with_name("model.safetensors"))
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unexpected = [name for name in unexpected if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"Weights of another network: missing {{missing[:3]}}, unexpected {{unexpected[:3]}}")
    return network.eval()
'''
