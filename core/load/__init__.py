"""First stage: networks and images, by name or from files that may come from strangers."""

from core.load.data import list_data, load_data
from core.load.models import list_families, list_models, load_model, register_reader
from core.load.onnx import inspect_onnx, read_onnx
from core.load.program import read_pt2
from core.load.weights import read_state_dict, sanitise_weights

__all__ = [
    "inspect_onnx",
    "list_data",
    "list_families",
    "list_models",
    "load_data",
    "load_model",
    "read_state_dict",
    "sanitise_weights",
]

register_reader(read_pt2)
register_reader(read_onnx)
