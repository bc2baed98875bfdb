"""An ONNX graph as the same network in PyTorch, operator by operator; what has no counterpart here is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import LoadError
from core.load.onnx.operators import BUILDERS, Graph, NoCounterpartError
from core.load.onnx.structure import read_proto, shapes_of
from core.load.program.layers import build_network
from core.load.program.steps import Program
from core.records import LoadedModel

SUFFIX = ".onnx"
TOLERANCE = 1e-3
INSPECT = "Its structure, cost and time can be inspected, but it cannot be pruned."


def read_onnx(path: Path) -> LoadedModel | None:
    """The network of an ONNX file in PyTorch; None for any other path.

    It must take one batch of images of a fixed size and consist of known operators, and must compute what ONNX Runtime
    computes from the file (1e-3 of the largest output, on random images). Raises LoadError saying which of these fails.
    """
    if path.suffix != SUFFIX or path.is_dir():
        return None
    proto = read_proto(path)
    program = _program(proto, path.name)
    example = torch.randn(1, *program.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        network = build_network(program)
        with torch.inference_mode():
            found = [network(example), network(torch.cat([example, -example]))]
    except Exception as error:  # arbitrary graphs: whatever their steps raise, they are no network to work with
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise LoadError(f"{path.name} was converted, but does not run in PyTorch ({reason}). {INSPECT}") from error
    _compare(path, example, found)
    return LoadedModel(network, example, path.stem, str(path), path.name)


def _compare(path: Path, example: Tensor, found: list[Any]) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        expected = torch.from_numpy(session.run(None, {name: example.numpy()})[0])
    except Exception as error:  # the runtime's errors have no common class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise LoadError(f"{path.name} does not run in ONNX Runtime ({reason}). Export it again.") from error
    one, two = (value[0] if isinstance(value, tuple) else value for value in found)
    scale = float(expected.abs().max()) or 1.0
    same = one.shape == expected.shape and float((one - expected).abs().max()) <= TOLERANCE * scale
    if not same or not torch.allclose(two[:1], one, rtol=TOLERANCE, atol=TOLERANCE * scale):
        raise LoadError(f"{path.name} computes something else once it is converted to PyTorch. {INSPECT}")


def _program(proto: Any, file: str) -> Program:
    import onnx
    from onnx import numpy_helper

    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # best effort
        inferred = proto
    known = shapes_of(inferred)
    shapes = {name: tuple(-1 if size is None else size for size in sizes) for name, sizes in known.items()}
    constants = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in proto.graph.initializer}
    inputs = [one.name for one in proto.graph.input if one.name not in constants]
    shape = shapes.get(inputs[0], ()) if len(inputs) == 1 else ()
    if len(shape) != 4 or min(shape[1:]) < 1 or max(shape) > 1 << 14:
        raise LoadError(
            f"{file} does not take one batch of images of a fixed size, N x C x H x W (its inputs: "
            f"{', '.join(f'{name} {shapes.get(name, ())}' for name in inputs)[:160]}). {INSPECT}"
        )
    graph = Graph(constants, shapes, inputs[0])
    missing = sorted({node.op_type for node in proto.graph.node} - BUILDERS.keys())
    if missing:
        raise LoadError(f"{file} uses {', '.join(missing[:5])}, which has no counterpart here. {INSPECT}")
    for node in proto.graph.node:
        _convert(graph, node, file)
    outputs = tuple(graph.alias.get(one.name, one.name) for one in proto.graph.output)
    held, trained = _held(graph)
    return Program(
        (inputs[0],), outputs[:1], tuple(graph.steps), held, trained, input_shape=tuple(shape[1:]), shapes=shapes
    )  # fmt: skip


def _convert(graph: Graph, node: Any, file: str) -> None:
    import onnx

    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    try:
        BUILDERS[node.op_type](graph, node, attributes)
    except NoCounterpartError as error:
        raise LoadError(f"{file}: {node.op_type} {node.name[:60]!r} {error}. {INSPECT}") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise LoadError(
            f"{file}: {node.op_type} {node.name[:60]!r} cannot be converted ({reason}). {INSPECT}"
        ) from error


def _held(graph: Graph) -> tuple[Mapping[str, Tensor], frozenset[str]]:
    """What the steps read: weights under the names of their layers, all other constants as buffers."""
    trained = frozenset(name for name in graph.held if re.search(r"\.(weight|bias)$", name))
    return graph.held, trained
