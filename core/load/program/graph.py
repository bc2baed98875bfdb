"""The graph of a .pt2 file (JSON) as steps. Operators come from a list, values by name, sizes as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import LoadError
from core.load.program.operators import SKIPPED, check_sizes, find_operator
from core.load.program.steps import Held, Program, Ref, Step, map_values

MOST_STEPS = 100_000
# The numbers that the format gives to types, memory formats and kinds of arguments (torch/_export/serde/schema.py).
SCALARS = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
           7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}  # fmt: skip
MEMORY = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
KEYWORD = 2
PLAIN = {"as_int": int, "as_float": float, "as_bool": bool, "as_string": str}
LISTS = {"as_ints": int, "as_floats": float, "as_bools": bool}


def read_graph(found: Mapping[str, Any], tensors: Mapping[str, Tensor], file: str) -> Program:
    """The program that ``found`` (models/model.json) describes over ``tensors``. Raises LoadError for what is refused;
    JSON that is no graph at all raises KeyError, TypeError, ValueError and the like."""
    module = found["graph_module"]
    graph, signature = module["graph"], module["signature"]
    reader = _Reader(file, graph)
    images: list[str] = []
    kept: dict[str, Tensor] = {}
    parameters, fleeting = set(), set()
    for spec in signature["input_specs"]:
        (kind, entry), *_ = spec.items()
        if kind == "user_input":
            images.append(entry["arg"]["as_tensor"]["name"])
            continue
        named = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
        if kind not in named:
            raise LoadError(f"{file} takes {kind.replace('_', ' ')} as input; networks of tensors alone are opened.")
        name = entry[named[kind]]
        kept[name] = tensors[name]
        reader.held[entry["arg"]["name"]] = name
        if kind == "parameter":
            parameters.add(name)
        elif kind == "tensor_constant" or entry.get("persistent") is False:
            fleeting.add(name)
    for name, value in tensors.items():  # what the graph does not read, such as the batch counters
        kept.setdefault(name, value)
    shape = _image_shape(images, graph, file)
    if len(graph["nodes"]) > MOST_STEPS:
        raise LoadError(f"{file} has {len(graph['nodes']):,} steps; at most {MOST_STEPS:,} are read.")
    reader.known.update(images)
    steps = tuple(step for node in graph["nodes"] for step in [reader.step(node)] if step is not None)
    outputs = tuple(
        spec["user_output"]["arg"]["as_tensor"]["name"] for spec in signature["output_specs"] if "user_output" in spec
    )
    if not outputs or not all(name in reader.known for name in outputs):
        raise LoadError(f"{file} gives no tensor. Open the network by its name or with its Python class instead.")
    shapes = {name: _sizes(value) for name, value in graph["tensor_values"].items()}
    return Program(
        tuple(images), outputs, steps, kept, frozenset(parameters), frozenset(fleeting), shape, shapes
    )  # fmt: skip


def _image_shape(images: list[str], graph: Mapping[str, Any], file: str) -> tuple[int, ...]:
    if len(images) != 1:
        raise LoadError(f"{file} takes {len(images)} inputs; networks that take one batch of images are opened.")
    sizes = graph["tensor_values"][images[0]]["sizes"]
    if len(sizes) != 4 or not all("as_int" in size for size in sizes[1:]):
        raise LoadError(
            f"{file} does not take images of one size, N x C x H x W. Export it with only the batch size left free."
        )
    if "as_int" in sizes[0] and sizes[0]["as_int"] != 1:
        raise LoadError(
            f"{file} takes exactly {sizes[0]['as_int']} images at a time. Export it with a free batch size: "
            "dynamic_shapes=({0: torch.export.Dim('batch')},)."
        )
    shape = tuple(int(size["as_int"]) for size in sizes[1:])
    if not all(1 <= size <= 1 << 14 for size in shape) or math.prod(shape) > 1 << 26:
        raise LoadError(f"{file} takes images of {' x '.join(map(str, shape))}, which is more than is opened.")
    return shape


def _sizes(value: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(size.get("as_int", -1) for size in value["sizes"])


class _Reader:
    """Turns nodes into steps. ``held``: graph name -> tensor; ``known``: values made so far."""

    def __init__(self, file: str, graph: Mapping[str, Any]) -> None:
        self.file = file
        self.graph = graph
        self.held: dict[str, str] = {}
        self.known: set[str] = set()

    def step(self, node: Mapping[str, Any]) -> Step | None:
        target = find_operator(str(node["target"]), self.file)
        outputs, spread = self.outputs(node)
        if target is None:
            assert any(name in node["target"] for name in SKIPPED)
            return None
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for given in node["inputs"]:
            value = self.argument(given["arg"])
            if given.get("kind") == KEYWORD:
                kwargs[str(given["name"])] = value
            else:
                args.append(value)
        map_values([args, kwargs], self.check_known)
        check_sizes(str(node["target"]).split(".")[-2], [*args, *kwargs.values()], self.file)
        self.known.update(name for name in outputs if name)
        return Step(target, tuple(args), kwargs, outputs, spread)

    def check_known(self, value: Ref | Held) -> Ref | Held:
        if isinstance(value, Ref) and value.name not in self.known:
            raise LoadError(f"{self.file} is damaged: {value.name[:40]!r} is read before it is made.")
        return value

    def outputs(self, node: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
        found = node["outputs"]
        if len(found) == 1 and "as_tensors" in found[0]:
            return tuple(str(one["name"]) for one in found[0]["as_tensors"]), True
        names = tuple(_output_name(one) for one in found)
        if not names:
            return ("",), False
        return names, len(names) > 1

    def argument(self, arg: Mapping[str, Any]) -> Any:
        (kind, value), *_ = arg.items()
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self.tensor(value["name"])
        if kind == "as_tensors":
            return [self.tensor(one["name"]) for one in value]
        if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_floats"):
            return [self.argument(one) for one in value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
            return self.argument(value)
        if kind == "as_name":
            return Ref(str(value))
        if kind in PLAIN and type(value) in (PLAIN[kind], int):
            return value
        if kind in LISTS and all(type(one) in (LISTS[kind], int) for one in value):
            return list(value)
        if kind == "as_scalar_type":
            return SCALARS[value]
        if kind == "as_memory_format":
            return MEMORY[value]
        if kind == "as_layout":
            return torch.strided
        if kind == "as_device":
            return torch.device("cpu")
        raise LoadError(
            f"{self.file} uses an argument of kind {kind[:40]!r} (a nested graph, an object or the like), which is not "
            "opened. Open the network by its name or with its Python class instead."
        )

    def tensor(self, name: str) -> Ref | Held:
        return Held(self.held[name]) if name in self.held else Ref(str(name))


def _output_name(entry: Mapping[str, Any]) -> str:
    (kind, value), *_ = entry.items()
    if kind == "as_none":
        return ""
    return str(value["as_name"] if "as_name" in value else value["name"])
