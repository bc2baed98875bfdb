"""A program's steps as lines of PyTorch that a person would write."""

from __future__ import annotations

import builtins
import keyword
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from core.load.program.layers import operator_name
from core.load.program.steps import Held, ProgramNetwork, Ref, Sized, Slot, Step

LINE = 116
_FUNCTIONAL = """
    relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu mish hardtanh hardtanh_
    hardswish hardsigmoid softplus softsign glu max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d
    avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d linear layer_norm group_norm scaled_dot_product_attention pad pixel_shuffle
    pixel_unshuffle
"""
FUNCTIONAL = frozenset(_FUNCTIONAL.split())
_OF_TORCH = """
    cat concat stack sigmoid tanh flatten chunk matmul bmm mm addmm maximum minimum where exp roll flip sigmoid_
    tanh_ einsum
"""
OF_TORCH = frozenset(_OF_TORCH.split())
_METHODS = """
    view reshape transpose permute contiguous mean sum amax unsqueeze squeeze select expand index_select softmax
    split split_with_sizes add_ mul_ sub_ div_ clamp clamp_ detach clone masked_fill swapaxes flatten unflatten
    unbind narrow expand_as repeat t pow sqrt rsqrt neg abs square
"""
METHODS = frozenset(_METHODS.split())
BETWEEN = {"add": "+", "sub": "-", "mul": "*", "div": "/", "ne": "!=", "eq": "=="}
PYTHON = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.mod: "%",
          operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">",
          operator.ge: ">="}  # fmt: skip
_IN_PLACE_FLAG = """
    silu_ hardswish_ hardsigmoid_ mish_ relu6_
"""
IN_PLACE_FLAG = frozenset(_IN_PLACE_FLAG.split())


def forward_lines(network: ProgramNetwork) -> list[str]:
    """The body of ``forward(self, images)``, without indentation."""
    names = _Names()
    names.give(network.inputs[0], "images")
    lines: list[str] = []
    place = ""
    for step in network.steps:
        part = _part(step)
        if part and part != place:
            lines.append(f"# {part}")
            place = part
        lines += _line(step, network, names)
    found = [names.of[name] for name in network.outputs]
    lines.append(f"return {', '.join(found)}")
    return lines


def access(path: str) -> str:
    """ "layer1.0.conv1" -> "self.layer1[0].conv1"."""
    text = "self"
    for part in path.split(".") if path else ():
        plain = part.isidentifier() and not keyword.iskeyword(part)
        text += f".{part}" if plain else f"[{part}]" if part.isdigit() else f"[{part!r}]"
    return text


def _part(step: Step) -> str:
    if not isinstance(step.target, str) or "." not in step.target:
        return ""
    return step.target.rpartition(".")[0]


class _Names:
    """Few short names, each given again when its value is no longer needed."""

    POOL = ("x", "y", "z", "u", "v", "w")

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def give(self, value: str, wanted: str = "") -> str:
        used = set(self.of.values())
        if wanted and wanted not in used:
            self.of[value] = wanted
            return wanted
        count = 1
        free = next((name for name in self.POOL if name not in used), "")
        while not free:
            free = f"x{count}" if f"x{count}" not in used else ""
            count += 1
        self.of[value] = free
        return free

    def drop(self, values: Sequence[str]) -> None:
        for value in values:
            self.of.pop(value, None)


def _line(step: Step, network: ProgramNetwork, names: _Names) -> list[str]:
    text = _call(step, network, names.of)
    # An operator that works in place gives its own first argument back.
    names.drop([name for name in step.frees if name not in step.outputs])
    is_batch = operator_name(step.target) == "sym_size" and step.args[1:] == (0,)
    made = [names.give(name, "batch" if is_batch else "") if name else "_" for name in step.outputs]
    names.drop([name for name in step.frees if name in step.outputs])
    left = ", ".join(made) + ("," if step.spread and len(made) == 1 else "")
    return [_wrapped(f"{left} = {text}")]


def _wrapped(line: str) -> str:
    """Long lists (a dense block's concatenation) on a line of their own each few words."""
    if len(line) <= LINE - 8 or "[" not in line:
        return line
    words, rows = line.split(", "), [""]
    for word in words:
        if rows[-1] and len(rows[-1]) + len(word) > LINE - 24:
            rows.append("")
        rows[-1] += f"{word}, "
    rows[-1] = rows[-1].removesuffix(", ")
    return "\n    ".join(row.rstrip() for row in rows)


def _call(step: Step, network: ProgramNetwork, of: dict[str, str]) -> str:
    args = [written(one, of) for one in step.args]
    named = [f"{key}={written(one, of)}" for key, one in step.kwargs.items()]
    if isinstance(step.target, str):
        layer = network.get_submodule(step.target)
        if isinstance(layer, Sized):
            return _sized(layer, args)
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            kind = "dropout" if isinstance(layer, nn.Dropout) else "dropout2d"
            return f"F.{kind}({args[0]}, {layer.p}, self.training)"
        return f"{access(step.target)}({', '.join(args)})"
    return operator_text(step.target, args, named)


def _sized(layer: Sized, args: list[str]) -> str:
    def fill(value: Any) -> str:
        if isinstance(value, Slot):
            return repr(getattr(layer, value.name)) if value.name else args[value.index]
        if isinstance(value, list | tuple):
            return f"[{', '.join(fill(one) for one in value)}]"
        return written(value, {})

    return operator_text(layer.operator, [fill(one) for one in layer.template], [])


def operator_text(target: Callable[..., Any], args: list[str], named: list[str]) -> str:
    """One call in the words of PyTorch's documentation; by its full ATen name where there are none."""
    if target is operator.getitem:
        return f"{args[0]}[{args[1]}]"
    if target is operator.neg:
        return f"-{args[0]}"
    if target in PYTHON:
        return f"{args[0]} {PYTHON[target]} {args[1]}"
    name = operator_name(target)
    every = ", ".join([*args, *named])
    rest = ", ".join([*args[1:], *named])
    if name == "sym_size":
        return f"{args[0]}.shape[{args[1]}]"
    if name in BETWEEN and len(args) == 2 and not named:
        return f"{args[0]} {BETWEEN[name]} {args[1]}"
    if name in IN_PLACE_FLAG:
        return f"F.{name.rstrip('_')}({every}, inplace=True)"
    if name == "_softmax" or name not in FUNCTIONAL | OF_TORCH | METHODS:
        text = str(target).removeprefix("aten.")
        return f"torch.ops.aten.{text}({every})"
    if name in FUNCTIONAL:
        return f"F.{name}({every})"
    if name in OF_TORCH:
        return f"torch.{name}({every})"
    return f"{args[0]}.{name}({rest})"


def written(value: Any, of: dict[str, str]) -> str:
    """A value of an argument as Python text. ``of``: the names that variables have now."""
    if isinstance(value, Ref):
        return of[value.name]
    if isinstance(value, Held):
        return access(value.name)
    if isinstance(value, list | tuple):
        return f"[{', '.join(written(one, of) for one in value)}]"
    if isinstance(value, torch.device):
        return "images.device"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    assert type(value) in (builtins.int, builtins.float, builtins.bool, builtins.str), type(value)
    return repr(value)
