"""Times: what surrounds a measurement comes back, and the figures belong to what was asked."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.measure.cost import measure_latency, measure_together


class Sleeps(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.batches, self.threads = seconds, [], []
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training and torch.is_inference_mode_enabled()
        self.batches.append(len(x))
        self.threads.append(torch.get_num_threads())
        time.sleep(self.seconds)
        return x


def test_a_known_time() -> None:
    module, before = Sleeps(0.004).train(), torch.get_num_threads()
    found = measure_latency(module, torch.zeros(1, 1, 2, 2), batch=3, threads=1, warmup=2, repeats=7, min_seconds=0)
    assert 4.0 <= found.median_ms < 12.0 and found.low_ms <= found.median_ms <= found.high_ms
    assert (found.repeats, found.batch, found.threads, found.measured) == (7, 3, 1, True) and found.device
    assert module.batches == [3] * 9 and set(module.threads) == {1}
    assert module.training and module.drop.training and torch.get_num_threads() == before


def test_least_time_and_most_time() -> None:
    assert measure_latency(Sleeps(0.002), torch.zeros(1, 1), repeats=1, min_seconds=0.05).repeats >= 8
    assert measure_latency(Sleeps(0.01), torch.zeros(1, 1), repeats=1000, max_seconds=0.02).repeats == 5


def test_together_takes_turns() -> None:
    order: list[str] = []
    modules = [Sleeps(0.001), Sleeps(0.003)]
    for name, module in zip("ab", modules, strict=True):
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    a, b = measure_together(modules, torch.zeros(1, 1), warmup=1, repeats=4, min_seconds=0)
    assert order == ["a", "b"] * 5 and a.median_ms < b.median_ms
    assert measure_together([], torch.zeros(1, 1)) == []


def test_bad_input_and_cancel() -> None:
    with pytest.raises(MeasureError, match="does not run on an input of 1 x 3 x 8 x 8"):
        measure_latency(nn.Conv2d(1, 2, 3), torch.zeros(1, 3, 8, 8))
    with pytest.raises(MeasureError, match="1 or more"):
        measure_latency(nn.Identity(), torch.zeros(1, 1), batch=0)
    before = torch.get_num_threads()
    with pytest.raises(Cancelled):
        measure_latency(nn.Identity(), torch.zeros(1, 1), threads=1, cancelled=lambda: True)
    assert torch.get_num_threads() == before
