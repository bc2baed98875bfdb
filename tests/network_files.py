"""A tiny network and the files that strangers bring, for tests of what opens them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


class Tiny(nn.Module):
    """For images of 1 x 8 x 8. Its operators are those that ONNX has too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.second(self.first(x).relu()), 1), 1))


def onnx_file(
    *nodes: object, gives: tuple[int, ...], weights: Mapping[str, Tensor] | None = None, name: str = "g"
) -> bytes:
    """A file of opset 18 whose ``nodes`` make "scores" (any batch x ``gives``) of "images" (any batch x 1 x 8 x 8)."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", *gives])
    stored = [numpy_helper.from_array(value.detach().numpy(), key) for key, value in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), name, [images], [scores], initializer=stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def sine(name: str = "g") -> bytes:
    """An ONNX file that has no counterpart in PyTorch here. Another ``name`` makes another file."""
    return onnx_file(helper.make_node("Sin", ["images"], ["scores"]), gives=(1, 8, 8), name=name)
