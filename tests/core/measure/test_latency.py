"""Times: what surrounds a measurement comes back, and the figures belong to what was asked."""

from __future__ import annotations

import platform
import sys
import time

import pytest
import torch
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.measure.cost import measure_latency, measure_together, memory
from core.measure.cost.latency import machine_identity
from core.measure.cost.ways import compiler, prepare_run


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
    assert found.median_ms >= 4.0 and found.low_ms <= found.median_ms <= found.high_ms
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


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(6, 3), []
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.dtype, self.steps.dtype))
        return self.layer(x)


def test_number_types_are_those_of_a_copy() -> None:
    module = Tiny()
    found = measure_latency(module, torch.zeros(1, 6), dtype="bfloat16", device="cpu", repeats=2, min_seconds=0)
    assert (found.dtype, found.way) == ("bfloat16", "eager")
    assert module.layer.weight.dtype is torch.float32 and module.seen == []
    assert measure_latency(module, torch.zeros(1, 6), repeats=1).dtype == "float32" and len(module.seen) > 1
    assert measure_latency(nn.Identity(), torch.zeros(1, 6), dtype="float64", repeats=1).dtype == "float64"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dtype": "int3"}, "no number type called 'int3'"),
        ({"way": "magic"}, "no way to run called 'magic'.*eager"),
        ({"device": "abacus"}, "no device called 'abacus'"),
        ({"device": "cuda:77"}, "cuda:77 cannot be timed. Choose cpu"),
        ({"device": "meta"}, "timed on cpu or cuda"),
    ],
)
def test_what_is_not_to_be_had_is_said(asked: dict[str, str], said: str) -> None:
    with pytest.raises(MeasureError, match=said):
        measure_latency(Tiny(), torch.zeros(1, 6), **asked)


def test_compiled() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    module, threads = nn.Sequential(nn.Linear(6, 3), nn.ReLU()).train(), torch.get_num_threads()
    ran: list[int] = []
    module.register_forward_hook(lambda *_: ran.append(1))
    found = measure_latency(module, torch.zeros(1, 6), way="compiled", threads=1, repeats=3, min_seconds=0)
    assert found.way == "compiled" and found.repeats == 3 and found.median_ms > 0
    assert module.training and torch.get_num_threads() == threads and type(module) is nn.Sequential


def test_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "there-is-no-such-compiler")
    with pytest.raises(MeasureError, match=r"needs a C\+\+ compiler.*Or time the network as it stands"):
        measure_latency(Tiny(), torch.zeros(1, 6), way="compiled")


def test_onnx_runtime_computes_what_is_timed() -> None:
    pytest.importorskip("onnxruntime")
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    image = torch.randn(2, 1, 8, 8)
    found = measure_latency(module, image, way="onnx", batch=2, threads=1, repeats=3, min_seconds=0)
    assert (found.way, found.batch, found.repeats) == ("onnx", 2, 3) and found.median_ms > 0
    with torch.inference_mode():
        call = prepare_run(module, image, "onnx")
    call()
    assert torch.allclose(torch.from_numpy(call.binding.copy_outputs_to_cpu()[0]), module(image), atol=1e-5)


def test_onnx_runtime_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MeasureError, match=r"needs the package onnxruntime.*pip install"):
        measure_latency(Tiny(), torch.zeros(1, 6), way="onnx")


def test_a_machine_is_told_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine_identity()
    assert here == machine_identity() and torch.__version__ in here
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert machine_identity() != here


def test_large_buffers_cost_no_page_faults_while_something_is_timed() -> None:
    """Whether glibc gives them back depends on what ran before; a third of a network's time may hang on it."""
    if memory._glibc() is None:
        pytest.skip("this system's allocator is not glibc's, and is left alone")
    resource = pytest.importorskip("resource")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            held = [torch.ones(1 << 20) for _ in range(6)]
            del held
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    with memory.keeping_memory():
        faults()
        assert faults() < 2400, "24 buffers of 4 MB are 24,000 pages: a tenth, for what else the machine does"
