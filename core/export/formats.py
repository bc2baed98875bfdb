"""What an export can be written as. A row here is all that a new format needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.export import checkpoint, class_file, exported_program, onnx, python_file, torchscript
from core.export.source import Source
from core.registry import Registry, Row

Write = Callable[[Source, Path], None]


@dataclass(frozen=True)
class Format:
    """``write(source, path)`` fills a file; core/export/runner.py knows how it is loaded again.

    ``tolerance``: largest difference of outputs allowed, relative to the largest output. ``runs_code``: loading the
    file may run what is written in it, so only files written here are loaded. ``needs``: formats it cannot do without.
    ``applies``: whether it can be written for a network; asked only when all formats are wanted. ``how``: lines of
    Python that load it, {folder} being where it lies.
    """

    file: str
    write: Write
    tolerance: float
    runs_code: bool = True
    needs: tuple[str, ...] = ()
    applies: Callable[[Source], bool] = lambda source: True
    how: str = ""


def how_to_load(name: str, folder: str) -> str:
    """The lines of Python that load a format from ``folder``, to copy."""
    return FORMATS[name].how.replace("{folder}", folder)


ONNX_HOW = """import onnxruntime

session = onnxruntime.InferenceSession("{folder}/model.onnx")
scores = session.run(["scores"], {"images": images.numpy()})[0]"""
PYTHON_HOW = """import sys

sys.path.insert(0, "{folder}")
from model import load

network = load()
scores = network(images)"""

FORMATS: Registry[Format] = Registry("export format")
FORMATS.add(
    Row("checkpoint",
        Format(checkpoint.FILE, checkpoint.write_checkpoint, 1e-4, runs_code=False,
               how='from core import load_exported\n\nnetwork = load_exported("{folder}")\nscores = network(images)'),
        "Weights and recipe",
        "The weights as safetensors, and the recipe that cuts the same channels from the dense network again.",
        source="safetensors: github.com/huggingface/safetensors")
)  # fmt: skip
FORMATS.add(
    Row("python",
        Format(python_file.FILE, python_file.write_python, 1e-4, needs=("checkpoint",), how=PYTHON_HOW),
        "Python file",
        "The pruned network as a plain PyTorch class, to read, run, train and change. Needs PyTorch alone.",
        source="written from the graph of torch.export")
)  # fmt: skip
FORMATS.add(
    Row("python_class",
        Format(class_file.FILE, class_file.write_class, 1e-4, needs=("checkpoint",), applies=class_file.applies,
               how=PYTHON_HOW.replace("from model ", "from model_class ")),
        "The library's class",
        "The class of torchvision or timm itself, narrowed: keeps its own way of training and its methods.",
        source="torchvision, timm")
)  # fmt: skip
FORMATS.add(
    Row("exported_program",
        Format(exported_program.FILE, exported_program.write_exported_program, 1e-4,
               how='import torch\n\nnetwork = torch.export.load("{folder}/model.pt2").module()\n'
                   "scores = network(images)"),
        "PyTorch program", "One file that PyTorch loads and runs without the network's Python code (torch.export).",
        source="PyTorch documentation, torch.export")
)  # fmt: skip
FORMATS.add(
    Row("onnx", Format(onnx.FILE, onnx.write_onnx, 1e-3, runs_code=False, how=ONNX_HOW),
        "ONNX", "One file for ONNX Runtime, TensorRT, OpenVINO and other runtimes; opset 18, any batch size.",
        source="Open Neural Network Exchange, onnx.ai")
)  # fmt: skip
FORMATS.add(
    Row("torchscript",
        Format(torchscript.FILE, torchscript.write_torchscript, 1e-4,
               how='import torch\n\nnetwork = torch.jit.load("{folder}/model.torchscript.pt")\n'
                   "scores = network(images)"),
        "TorchScript", "For C++ (LibTorch) and older programs. PyTorch advises the program file for new work.",
        source="PyTorch documentation, torch.jit.trace")
)  # fmt: skip


def list_formats() -> list[Row[Format]]:
    """Every format an export can be written as."""
    return list(FORMATS)
