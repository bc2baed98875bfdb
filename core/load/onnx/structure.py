"""What an ONNX file holds: its layers with sizes and multiply-adds. Read as data; nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import LoadError

LIMIT_BYTES = 2 << 30
MOST_NODES = 100_000
REMEDY = "Export it again with its weights inside, for example with torch.onnx.export."


@dataclass(frozen=True)
class OnnxLayer:
    """One operator with weights, under their layer's name where they have one ("conv1.weight"): multiply-adds per image
    (None where a size is not known), parameters, output shape."""

    name: str
    operator: str
    macs: int | None
    params: int
    output: tuple[int, ...]


@dataclass(frozen=True)
class OnnxFile:
    """``input_shape``: of one image, C x H x W, () when it is not fixed. ``operators``: how often each is used."""

    file: str
    opset: int
    producer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_shape: tuple[int, ...]
    batch: int | None
    params: int
    macs: int
    layers: tuple[OnnxLayer, ...]
    operators: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_proto(path: str | Path, *, limit_bytes: int = LIMIT_BYTES) -> Any:
    """The file as onnx's ModelProto, checked by onnx, with its weights inside. Raises LoadError in one sentence."""
    import onnx

    path = Path(path)
    if not path.is_file():
        raise LoadError(f"There is no file at {path}. Check the path.")
    if path.stat().st_size > limit_bytes:
        raise LoadError(f"{path.name} has {path.stat().st_size:,} bytes; at most {limit_bytes:,} bytes are read.")
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's errors have no common class
        raise LoadError(f"{path.name} is damaged or no ONNX file ({_brief(error)}). {REMEDY}") from error
    if not proto.graph.node:
        raise LoadError(f"{path.name} is no ONNX file: it has no operators. {REMEDY}")
    if len(proto.graph.node) > MOST_NODES:
        raise LoadError(f"{path.name} has {len(proto.graph.node):,} operators; at most {MOST_NODES:,} are read.")
    # Before the check: it would go and look for the other files.
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise LoadError(f"{path.name} keeps its weights in other files, which are never opened for it. {REMEDY}")
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # its own errors, and whatever its parser raises on the way
        raise LoadError(f"{path.name} is no valid ONNX network ({_brief(error)}). {REMEDY}") from error
    return proto


def _tensors(proto: Any) -> list[Any]:
    """Every stored tensor, also those inside of nodes."""
    found = list(proto.graph.initializer)
    for node in proto.graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
            if attribute.HasField("g") or attribute.graphs:
                for graph in [attribute.g, *attribute.graphs]:
                    found += graph.initializer
    return found


def inspect_onnx(path: str | Path) -> OnnxFile:
    """Structure and cost of an ONNX file. Raises LoadError as ``read_proto``."""
    import onnx

    proto = read_proto(path)
    try:
        shapes = shapes_of(onnx.shape_inference.infer_shapes(proto))
    except Exception:  # inference is best effort: what it does not know stays unknown
        shapes = shapes_of(proto)
    sizes = {one.name: tuple(one.dims) for one in proto.graph.initializer}
    layers = tuple(_layer(node, sizes, shapes) for node in proto.graph.node if node.op_type in WEIGHTED)
    inputs = [one.name for one in proto.graph.input if one.name not in sizes]
    shape = shapes.get(inputs[0], ()) if inputs else ()
    fixed = tuple(size for size in shape[1:] if size is not None) if len(shape) == 4 else ()
    return OnnxFile(
        Path(path).name,
        next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0),
        f"{proto.producer_name} {proto.producer_version}".strip()[:80],
        tuple(inputs),
        tuple(one.name for one in proto.graph.output),
        fixed if len(fixed) == 3 else (),
        shape[0] if shape else None,
        _params(proto),
        sum(layer.macs or 0 for layer in layers),
        layers,
        dict(Counter(node.op_type for node in proto.graph.node).most_common()),
    )


def _params(proto: Any) -> int:
    """Numbers that were learned: stored fractions, without the statistics of batch norms."""
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    statistics = {name for node in norms for name in node.input[3:5]}
    stored = [one for one in proto.graph.initializer if one.data_type in kinds and one.name not in statistics]
    return sum(math.prod(one.dims) for one in stored)


WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Shapes = dict[str, tuple[int | None, ...]]


def shapes_of(proto: Any) -> Shapes:
    """Sizes by value name; None where a size is free."""
    found: Shapes = {}
    for value in [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]:
        dims = value.type.tensor_type.shape.dim
        found[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    return found


def _layer(node: Any, sizes: Mapping[str, tuple[int, ...]], shapes: Shapes) -> OnnxLayer:
    params = sum(math.prod(sizes[name]) for name in node.input if name in sizes)
    output = shapes.get(node.output[0], ())
    weight = next((sizes[name] for name in node.input[1:] if name in sizes), ())
    places = output[2:] if node.op_type.startswith("Conv") else output[1:-1]
    macs: int | None = None
    if weight and output and all(size is not None for size in places):
        at = shapes.get(node.input[0], ())[2:] if node.op_type == "ConvTranspose" else places
        if all(size is not None for size in at):
            macs = math.prod(weight) * math.prod(size for size in at if size is not None)
    named = next((name.removesuffix(".weight") for name in node.input[1:] if name.endswith(".weight")), "")
    return OnnxLayer(
        named or node.name or node.output[0], node.op_type, macs, params, tuple(size or -1 for size in output)
    )


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:120].rstrip(" .:") if lines else type(error).__name__
