"""ONNX files: what is in them, and, where every operator is known, the same network in PyTorch."""

from core.load.onnx.convert import read_onnx as read_onnx
from core.load.onnx.structure import OnnxFile as OnnxFile
from core.load.onnx.structure import inspect_onnx as inspect_onnx
