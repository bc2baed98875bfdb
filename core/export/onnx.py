"""model.onnx: the network for runtimes outside PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.export.exported_program import export_program

FILE = "model.onnx"
OPSET = 18
INPUT, OUTPUT = "images", "scores"


def write_onnx(module: nn.Module, example: Tensor, path: Path, recipe: Mapping[str, Any]) -> None:
    """Opset 18, any batch size; input "images", N x C x H x W, first output "scores". Checked by onnx itself."""
    import onnx

    program = export_program(module, example)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about internals of the exporter, nothing a caller could act on
            made = torch.onnx.export(
                program, (), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
    finally:
        logger.setLevel(level)
    assert made is not None
    proto = made.model_proto
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def run_onnx(directory: Path, batches: list[Tensor]) -> list[Tensor]:
    """First output of onnxruntime on the CPU for each batch, after onnx's own check of the file."""
    import onnx
    import onnxruntime

    path = directory / FILE
    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [torch.from_numpy(session.run(None, {name: batch.numpy()})[0]) for batch in batches]
