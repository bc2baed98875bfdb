"""ONNX operators in PyTorch's: a small function per operator, beside its name. Source: the operators' own reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.load.program.steps import Held, Ref, Step

aten = torch.ops.aten
Attributes = Mapping[str, Any]
Builder = Callable[["Graph", Any, Attributes], None]


class NoCounterpartError(Exception):
    """Why an operator cannot be converted, to end a sentence with."""


class Graph:
    """What is known while nodes are converted: ``constants`` by value name, ``sizes`` (lists of plain numbers and Refs
    that stand for a shape), the ``steps`` so far, the tensors they ``held``."""

    def __init__(self, constants: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], image: str) -> None:
        self.constants, self.shapes, self.image = constants, shapes, image
        self.sizes: dict[str, list[Any]] = {}
        self.steps: list[Step] = []
        self.held: dict[str, Tensor] = {}
        self.alias: dict[str, str] = {}

    def value(self, name: str) -> Ref | Held:
        name = self.alias.get(name, name)
        if name in self.constants:
            return self.hold(_word(name), self.constants[name])
        return Ref(name)

    def hold(self, name: str, value: Tensor) -> Held:
        self.held[name] = value
        return Held(name)

    def numbers(self, name: str) -> list[Any]:
        """The plain numbers (or Refs to the batch size) that a value stands for."""
        if name in self.sizes:
            return self.sizes[name]
        if name in self.constants:
            found: list[Any] = self.constants[name].reshape(-1).tolist()
            return found
        raise NoCounterpartError("takes sizes that are computed while it runs")

    def add(self, target: Any, args: tuple[Any, ...], *outputs: str, spread: bool = False) -> None:
        self.steps.append(Step(target, args, {}, outputs, spread))

    def layer(self, node: Any, weight: Tensor) -> str:
        """The name of a layer: that of its weight where it has one ("conv1.weight"), else made from the node's."""
        given = node.input[1]
        path = (
            given.removesuffix(".weight") if given.endswith(".weight") else f"{node.op_type.lower()}_{len(self.steps)}"
        )
        path = ".".join(_word(part) for part in path.split(".") if part) or "layer"
        known = self.held.get(f"{path}.weight")
        while known is not None and known is not weight:
            path += "_"
            known = self.held.get(f"{path}.weight")
        return path


def _word(name: str) -> str:
    return re.sub(r"[^\w]", "_", name).strip("_") or "value"


def _pads(attributes: Attributes, room: int, kernel: list[int]) -> list[int]:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise NoCounterpartError("pads by itself (auto_pad)")
    pads = list(attributes.get("pads", [0] * 2 * room))
    if pads[:room] != pads[room:]:
        raise NoCounterpartError("pads one side more than the other")
    return pads[:room]


def _conv(graph: Graph, node: Any, attributes: Attributes) -> None:
    if node.input[1] not in graph.constants:
        raise NoCounterpartError("has a weight that is computed while it runs")
    weight = graph.constants[node.input[1]]
    room = weight.dim() - 2
    path = graph.layer(node, weight)
    held = graph.hold(f"{path}.weight", weight)
    has_bias = len(node.input) > 2 and node.input[2]
    bias = graph.hold(f"{path}.bias", graph.constants[node.input[2]]) if has_bias else None
    pads = _pads(attributes, room, list(weight.shape[2:]))
    strides, dilations = (list(attributes.get(name, [1] * room)) for name in ("strides", "dilations"))
    transposed = node.op_type == "ConvTranspose"
    more = list(attributes.get("output_padding", [0] * room))
    args = (
        graph.value(node.input[0]),
        held,
        bias,
        strides,
        pads,
        dilations,
        transposed,
        more,
        attributes.get("group", 1),
    )
    graph.add(aten.convolution.default, args, node.output[0])


def _batch_norm(graph: Graph, node: Any, attributes: Attributes) -> None:
    scale = graph.constants[node.input[1]]
    path = graph.layer(node, scale)
    names = ("weight", "bias", "running_mean", "running_var")
    held = [
        graph.hold(f"{path}.{name}", graph.constants[given]) for name, given in zip(names, node.input[1:5], strict=True)
    ]
    eps, momentum = float(attributes.get("epsilon", 1e-5)), 1 - float(attributes.get("momentum", 0.9))
    args = (graph.value(node.input[0]), *held, False, momentum, eps, False)
    graph.add(aten.batch_norm.default, args, node.output[0])


def _gemm(graph: Graph, node: Any, attributes: Attributes) -> None:
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
        raise NoCounterpartError("scales or turns what it multiplies")
    weight = graph.constants[node.input[1]]
    _linear(graph, node, weight if attributes.get("transB", 0) else weight.t().contiguous())


def _matmul(graph: Graph, node: Any, attributes: Attributes) -> None:
    if node.input[1] in graph.constants and graph.constants[node.input[1]].dim() == 2:
        _linear(graph, node, graph.constants[node.input[1]].t().contiguous())
    else:
        graph.add(aten.matmul.default, (graph.value(node.input[0]), graph.value(node.input[1])), node.output[0])


def _linear(graph: Graph, node: Any, weight: Tensor) -> None:
    path = graph.layer(node, weight)
    held = graph.hold(f"{path}.weight", weight)
    has_bias = len(node.input) > 2 and node.input[2]
    bias = graph.hold(f"{path}.bias", graph.constants[node.input[2]].reshape(-1)) if has_bias else None
    graph.add(aten.linear.default, (graph.value(node.input[0]), held, bias), node.output[0])


def _pool(graph: Graph, node: Any, attributes: Attributes) -> None:
    kernel = list(attributes["kernel_shape"])
    if len(kernel) != 2 or len([name for name in node.output if name]) != 1:
        raise NoCounterpartError("pools other than images, or tells where")
    strides, pads = list(attributes.get("strides", [1, 1])), _pads(attributes, 2, kernel)
    ceil = bool(attributes.get("ceil_mode", 0))
    if node.op_type == "MaxPool":
        dilations = list(attributes.get("dilations", [1, 1]))
        args: tuple[Any, ...] = (graph.value(node.input[0]), kernel, strides, pads, dilations, ceil)
        graph.add(aten.max_pool2d.default, args, node.output[0])
    else:
        counts = bool(attributes.get("count_include_pad", 0))
        args = (graph.value(node.input[0]), kernel, strides, pads, ceil, counts)
        graph.add(aten.avg_pool2d.default, args, node.output[0])


def _clip(graph: Graph, node: Any, attributes: Attributes) -> None:
    low, high = attributes.get("min"), attributes.get("max")
    if len(node.input) > 1 and node.input[1]:
        low = graph.numbers(node.input[1])[0]
    if len(node.input) > 2 and node.input[2]:
        high = graph.numbers(node.input[2])[0]
    graph.add(aten.clamp.default, (graph.value(node.input[0]), low, high), node.output[0])


def _hard_sigmoid(graph: Graph, node: Any, attributes: Attributes) -> None:
    if abs(attributes.get("alpha", 0.2) - 1 / 6) > 1e-4 or abs(attributes.get("beta", 0.5) - 0.5) > 1e-4:
        raise NoCounterpartError("has another slope than PyTorch's")
    graph.add(aten.hardsigmoid.default, (graph.value(node.input[0]),), node.output[0])


def _axes(graph: Graph, node: Any, attributes: Attributes) -> list[int]:
    if "axes" in attributes:
        return list(attributes["axes"])
    return [int(one) for one in graph.numbers(node.input[1])]


def _mean(graph: Graph, node: Any, attributes: Attributes) -> None:
    keep = bool(attributes.get("keepdims", 1))
    graph.add(aten.mean.dim, (graph.value(node.input[0]), _axes(graph, node, attributes), keep), node.output[0])


def _reshape(graph: Graph, node: Any, attributes: Attributes) -> None:
    if node.input[0] in graph.sizes:
        graph.sizes[node.output[0]] = graph.sizes[node.input[0]]
        return
    shape = list(graph.numbers(node.input[1]))
    given = graph.shapes.get(node.input[0], ())
    for place, size in enumerate(shape):
        if size == 0 and place == 0:
            shape[0] = _batch(graph, node.input[0])
        elif size == 0:
            shape[place] = given[place]
    if type(shape[0]) is int and shape[0] == 1 and -1 not in shape:
        shape[0] = -1  # a network exported for one image
    graph.add(aten.reshape.default, (graph.value(node.input[0]), shape), node.output[0])


def _batch(graph: Graph, name: str) -> Ref:
    ref = f"batch of {len(graph.steps)}"
    graph.add(aten.sym_size.int, (graph.value(name), 0), ref)
    return Ref(ref)


def _shape(graph: Graph, node: Any, attributes: Attributes) -> None:
    sizes: list[Any] = list(graph.shapes.get(node.input[0], ()))
    if not sizes or any(size < 0 for size in sizes[1:]):
        raise NoCounterpartError("asks for sizes that are not known")
    start, end = attributes.get("start", 0), attributes.get("end", len(sizes))
    if range(len(sizes))[start:end].start == 0:
        sizes[0] = _batch(graph, node.input[0])
    graph.sizes[node.output[0]] = sizes[start:end]


def _gather(graph: Graph, node: Any, attributes: Attributes) -> None:
    index = graph.constants[node.input[1]]
    if node.input[0] in graph.sizes:
        sizes = graph.sizes[node.input[0]]
        graph.sizes[node.output[0]] = [sizes[int(one)] for one in index.reshape(-1)]
        return
    axis = attributes.get("axis", 0)
    if index.dim() == 0:
        graph.add(aten.select.int, (graph.value(node.input[0]), axis, int(index)), node.output[0])
    elif index.dim() == 1:
        held = graph.hold(f"index_{len(graph.steps)}", index)
        graph.add(aten.index_select.default, (graph.value(node.input[0]), axis, held), node.output[0])
    else:
        raise NoCounterpartError("gathers by a table of indices")


def _concat(graph: Graph, node: Any, attributes: Attributes) -> None:
    if any(name in graph.sizes for name in node.input):
        graph.sizes[node.output[0]] = [one for name in node.input for one in graph.numbers(name)]
        return
    graph.add(aten.cat.default, ([graph.value(name) for name in node.input], attributes["axis"]), node.output[0])


def _same(graph: Graph, node: Any, attributes: Attributes) -> None:
    """Operators that change nothing: Identity, Dropout in use, a Cast of sizes."""
    name = node.input[0]
    if name in graph.sizes:
        graph.sizes[node.output[0]] = graph.sizes[name]
    elif name in graph.constants:
        graph.constants[node.output[0]] = graph.constants[name]
    elif node.op_type == "Cast" and attributes.get("to") != 1:
        raise NoCounterpartError("changes the type of numbers")
    else:
        graph.alias[node.output[0]] = graph.alias.get(name, name)


def _lifted(graph: Graph, node: Any, attributes: Attributes) -> None:
    """Squeeze and Unsqueeze."""
    if node.input[0] in graph.sizes:
        graph.sizes[node.output[0]] = graph.sizes[node.input[0]]
        return
    axes = _axes(graph, node, attributes)
    if node.op_type == "Squeeze":
        graph.add(aten.squeeze.dims, (graph.value(node.input[0]), axes), node.output[0])
    elif len(axes) == 1:
        graph.add(aten.unsqueeze.default, (graph.value(node.input[0]), axes[0]), node.output[0])
    else:
        raise NoCounterpartError("adds several axes at once")


def _constant(graph: Graph, node: Any, attributes: Attributes) -> None:
    from onnx import numpy_helper

    if "value" in attributes:
        value = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
    else:
        name = next(iter(attributes))
        if name not in ("value_float", "value_int", "value_floats", "value_ints"):
            raise NoCounterpartError("is no number")
        value = torch.tensor(attributes[name])
    graph.constants[node.output[0]] = value


def _flatten(graph: Graph, node: Any, attributes: Attributes) -> None:
    if attributes.get("axis", 1) != 1:
        raise NoCounterpartError("flattens the batch")
    graph.add(aten.flatten.using_ints, (graph.value(node.input[0]), 1), node.output[0])


def _split(graph: Graph, node: Any, attributes: Attributes) -> None:
    axis = attributes.get("axis", 0)
    whole = graph.shapes[node.input[0]][axis]
    count = len(node.output)
    sizes = list(attributes.get("split", []))
    if len(node.input) > 1 and node.input[1]:
        sizes = [int(one) for one in graph.numbers(node.input[1])]
    args: tuple[Any, ...]
    if not sizes or len(set(sizes)) == 1:
        args, target = (graph.value(node.input[0]), count, axis), aten.chunk.default
    else:
        args, target = (graph.value(node.input[0]), sizes, axis), aten.split_with_sizes.default
    if whole < 0:
        raise NoCounterpartError("splits an axis of unknown size")
    graph.add(target, args, *node.output, spread=True)


def _pad(graph: Graph, node: Any, attributes: Attributes) -> None:
    if attributes.get("mode", b"constant") != b"constant":
        raise NoCounterpartError("pads by reflection or repetition")
    pads = [int(one) for one in (attributes.get("pads") or graph.numbers(node.input[1]))]
    value = graph.numbers(node.input[2])[0] if len(node.input) > 2 and node.input[2] else attributes.get("value", 0.0)
    half = len(pads) // 2
    pairs = [size for axis in reversed(range(half)) for size in (pads[axis], pads[axis + half])]
    graph.add(aten.constant_pad_nd.default, (graph.value(node.input[0]), pairs, value), node.output[0])


def _between(target: Any) -> Builder:
    def build(graph: Graph, node: Any, attributes: Attributes) -> None:
        graph.add(target, (graph.value(node.input[0]), graph.value(node.input[1])), node.output[0])

    return build


def _pointwise(target: Any, *names: tuple[str, Any]) -> Builder:
    """names: attributes with their defaults, in the order in which PyTorch takes them."""

    def build(graph: Graph, node: Any, attributes: Attributes) -> None:
        more = tuple(attributes.get(name, default) for name, default in names)
        graph.add(target, (graph.value(node.input[0]), *more), node.output[0])

    return build


def _global(target: Any) -> Builder:
    return lambda graph, node, attributes: graph.add(target, (graph.value(node.input[0]), [1, 1]), node.output[0])


def _transpose(graph: Graph, node: Any, attributes: Attributes) -> None:
    graph.add(aten.permute.default, (graph.value(node.input[0]), list(attributes["perm"])), node.output[0])


BUILDERS: dict[str, Builder] = {
    "Conv": _conv, "ConvTranspose": _conv, "BatchNormalization": _batch_norm, "Gemm": _gemm, "MatMul": _matmul,
    "MaxPool": _pool, "AveragePool": _pool, "Clip": _clip, "HardSigmoid": _hard_sigmoid, "ReduceMean": _mean,
    "GlobalAveragePool": _global(aten.adaptive_avg_pool2d.default), "Reshape": _reshape, "Shape": _shape,
    "Gather": _gather, "Concat": _concat, "Identity": _same, "Dropout": _same, "Cast": _same, "Squeeze": _lifted,
    "Unsqueeze": _lifted, "Constant": _constant, "Flatten": _flatten, "Split": _split, "Pad": _pad,
    "Transpose": _transpose, "Add": _between(aten.add.Tensor), "Sub": _between(aten.sub.Tensor),
    "Mul": _between(aten.mul.Tensor), "Div": _between(aten.div.Tensor), "Relu": _pointwise(aten.relu.default),
    "Sigmoid": _pointwise(aten.sigmoid.default), "Tanh": _pointwise(aten.tanh.default),
    "HardSwish": _pointwise(aten.hardswish.default), "Erf": _pointwise(aten.erf.default),
    "LeakyRelu": _pointwise(aten.leaky_relu.default, ("alpha", 0.01)), "Exp": _pointwise(aten.exp.default),
    "Elu": _pointwise(aten.elu.default, ("alpha", 1.0)), "Softmax": _pointwise(aten.softmax.int, ("axis", -1)),
}  # fmt: skip
