"""What an export can be written as. A row here is all that a new format needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.export import checkpoint, exported_program, onnx
from core.registry import Registry, Row

Write = Callable[[nn.Module, Tensor, Path, Mapping[str, Any]], None]
RunBatches = Callable[[Path, list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Format:
    """``write(module, example, path, recipe)`` fills a file; ``run(directory, batches)`` reloads it and computes.

    ``tolerance``: largest difference of outputs allowed, relative to the largest output.
    """

    file: str
    write: Write
    run: RunBatches
    tolerance: float


FORMATS: Registry[Format] = Registry("export format")
FORMATS.add(
    Row("checkpoint", Format(checkpoint.FILE, checkpoint.write_checkpoint, checkpoint.run_checkpoint, 1e-4),
        "Checkpoint and recipe", "The weights as safetensors and the recipe that builds the network around them.",
        source="safetensors: github.com/huggingface/safetensors")
)  # fmt: skip
FORMATS.add(
    Row("exported_program",
        Format(exported_program.FILE, exported_program.write_exported_program,
               exported_program.run_exported_program, 1e-4),
        "PyTorch program", "One file that PyTorch loads and runs without the network's Python code (torch.export).",
        source="PyTorch documentation, torch.export")
)  # fmt: skip
FORMATS.add(
    Row("onnx", Format(onnx.FILE, onnx.write_onnx, onnx.run_onnx, 1e-3),
        "ONNX", "One file for onnxruntime and other runtimes, opset 18, any batch size.",
        source="Open Neural Network Exchange, onnx.ai")
)  # fmt: skip


def list_formats() -> list[Row[Format]]:
    """Every format an export can be written as."""
    return list(FORMATS)
