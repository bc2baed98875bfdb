"""Multiply-adds of a program's calls, from shapes alone: which run is the cheaper one, and how far a scan has come."""

from __future__ import annotations

import math
from collections.abc import Mapping

from core.trace.graph import Ref, Step
from core.trace.sites import MATRIX

Shapes = Mapping[int, tuple[int, ...]]
PRODUCTS = {**MATRIX, "bmm": (0, 1), "baddbmm": (1, 2), "matmul": (0, 1)}


def step_macs(step: Step, shapes: Shapes, read_channels: int | None = None) -> int:
    """Multiply-adds of one call for the whole batch. read_channels: what a convolution or a linear layer reads, where
    that is less than its input has (a gather)."""
    if step.name == "convolution":
        weight = shapes[step.args[1].slot]
        if step.args[6]:  # transposed: every input position meets the whole kernel
            return math.prod(shapes[step.args[0].slot]) * math.prod(weight[1:])
        return math.prod(shapes[step.outputs[0]]) * math.prod(weight[1:])
    if step.name in PRODUCTS:
        value = step.args[PRODUCTS[step.name][0]]
        if isinstance(value, Ref):
            inner = shapes[value.slot][-1] if read_channels is None else read_channels
            return math.prod(shapes[step.outputs[0]]) * inner
    return 0
