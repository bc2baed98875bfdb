"""model.onnx: the network for runtimes outside PyTorch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

from core.export.source import Source

FILE = "model.onnx"
OPSET = 18
INPUT, OUTPUT = "images", "scores"


def write_onnx(source: Source, path: Path) -> None:
    """Opset 18, any batch size; input "images", N x C x H x W, first output "scores". Checked by onnx itself."""
    import onnx

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about internals of the exporter, nothing a caller could act on
            made = torch.onnx.export(
                source.program, (), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
                verbose=False,
            )  # fmt: skip
    finally:
        logger.setLevel(level)
    assert made is not None
    proto = made.model_proto
    onnx.checker.check_model(proto, full_check=True)
    _forget_sources(proto)
    path.write_bytes(proto.SerializeToString())


def _forget_sources(proto: object) -> None:
    """Drop the exporter's notes beside the nodes: they repeat the graph, and some name files of this machine."""
    for node in proto.graph.node:  # type: ignore[attr-defined]
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.metadata_props[:]  # type: ignore[attr-defined]
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:  # type: ignore[attr-defined]
        del value.metadata_props[:]
