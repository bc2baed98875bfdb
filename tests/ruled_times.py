"""Latency tables whose times follow a rule, so that no other program's noise is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from core.measure.cost import LatencyTable
from core.records import Trace
from core.trace import trace_channels


def two_convolutions() -> Trace:
    """32 and 24 channels, both prunable, and a linear layer behind them; images of 1 x 8 x 8."""
    net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 24, 3), nn.ReLU(), nn.Flatten())
    return trace_channels(nn.Sequential(*net, nn.Linear(24 * 16, 4)).eval(), torch.zeros(1, 1, 8, 8))


def ruled(table: LatencyTable, ms: Callable[[int, int], float], **changes: Any) -> LatencyTable:
    """Every operator takes ``ms(width it reads, width it makes)``, wherever it runs. changes: other fields."""
    steps = {
        key: replace(step, ms=tuple(tuple(ms(i, j) for j in step.widths_out) for i in step.widths_in), in_network=1.0)
        for key, step in table.steps.items()
    }
    return replace(table, steps=steps, **changes)


def steady(table: LatencyTable) -> LatencyTable:
    """Times grow with both widths, and the network's is their sum."""
    return ruled(table, lambda i, j: 1e-4 * (1 + i) * (1 + j), knots=((1.0, 1.0),), wall=None)
