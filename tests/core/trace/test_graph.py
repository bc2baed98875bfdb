"""Recording a forward pass: on shape-only tensors where possible, on real ones where a model looks at values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import TraceError
from core.trace import trace_channels
from core.trace.graph import named_state, record_tape, shape_only
from core.trace.replay import Replay, needed_steps, pure, state_reads
from tests.zoo import ZOO, images, outputs


def tape_of(name: str, batch: int = 1):
    net = ZOO[name]
    module = net.build()
    return module, record_tape(module, images(net.shape, batch))


def test_steps_state_and_shapes() -> None:
    module, tape = tape_of("Plain", batch=2)
    convolutions = [step for step in tape.steps if step.name == "convolution"]
    assert [state_reads(tape, step) for step in convolutions] == [["conv1.weight", "conv1.bias"], ["conv2.weight"]]
    assert [tape.shapes[step.outputs[0]] for step in convolutions] == [(2, 8, 8, 8), (2, 6, 4, 4)]
    assert tape.shapes[tape.input] == (2, 3, 8, 8) and [tape.shapes[slot] for slot in tape.output_slots] == [(2, 5)]
    assert set(tape.state.values()) <= set(named_state(module))
    assert not tape.constants and not tape.aliases_written


def test_steps_that_reach_no_output_are_not_needed() -> None:
    class Wasteful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return self.used(x)

    tape = record_tape(Wasteful(), images((1, 3, 4, 4), 1))
    assert len(tape.steps) == 2
    assert [state_reads(tape, step)[0] for step in needed_steps(tape)] == ["used.weight"]


def test_a_shared_weight_has_one_name() -> None:
    _, tape = tape_of("TiedWeights")
    names = [state_reads(tape, step)[0] for step in tape.steps if step.name == "convolution"]
    assert names == ["conv1.weight", "first.weight", "first.weight"]


def test_in_place_steps_are_known_and_have_pure_forms() -> None:
    _, tape = tape_of("ResidualInPlace")
    written = [step.name for step in tape.steps if step.in_place]
    assert {"relu_", "add_", "mul_", "clamp_"} <= set(written)
    assert pure(torch.ops.aten.relu_.default) is torch.ops.aten.relu.default
    assert pure(torch.ops.aten.relu.default) is torch.ops.aten.relu.default
    x = torch.tensor([1.0, 2.0])
    assert pure(torch.ops.aten.fill_.Scalar)(x, 7.0).tolist() == [7.0, 7.0] and x.tolist() == [1.0, 2.0]


def test_a_model_that_looks_at_values_is_recorded_on_real_ones() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            if float(x.sum()) > 1e9:
                x = -x
            return self.conv2(F.relu(self.conv1(x)))

    module = Looks().eval()
    example = images((1, 3, 8, 8), 1)
    trace = trace_channels(module, example)
    assert [group.id for group in trace.prunable] == ["conv1"]
    replay = Replay(trace.tape, module)
    assert torch.equal(replay.logits(replay.run({trace.tape.input: example})), outputs(module, example)[0])


def test_a_plain_tensor_of_the_model_is_a_constant() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
            self.shift = torch.full((1,), 0.25)  # neither parameter nor buffer

        def forward(self, x: Tensor) -> Tensor:
            return self.conv2(F.relu(self.conv1(x) + self.shift))

    module = Holds().eval()
    example = images((1, 3, 8, 8), 1)
    trace = trace_channels(module, example)
    assert [tensor.tolist() for tensor in trace.tape.constants.values()] == [[0.25]]
    assert trace.group("conv1").prunable
    replay = Replay(trace.tape, module)
    assert torch.equal(replay.logits(replay.run({trace.tape.input: example})), outputs(module, example)[0])


def test_shape_only_keeps_structure_and_sharing() -> None:
    module = ZOO["TiedWeights"].build()
    empty = shape_only(module)
    assert all(tensor.is_meta for tensor in named_state(empty).values())
    assert empty.first.weight is empty.second.weight and not module.first.weight.is_meta


def test_train_mode_is_recorded_as_evaluation() -> None:
    """No statistics move, and dropout is not on the tape."""
    module = ZOO["Perceptron"].build().train()
    before = module.bn.running_mean.clone()
    tape = record_tape(module, images((1, 3, 2, 2), 1))
    assert torch.equal(module.bn.running_mean, before) and module.training
    assert not [step for step in tape.steps if "dropout" in step.name or "bernoulli" in step.name]


def test_an_input_that_does_not_fit_is_named() -> None:
    net = ZOO["Plain"]
    with pytest.raises(TraceError, match=r"Plain does not run on an input of 1 x 4 x 8 x 8: .*channels"):
        trace_channels(net.build(), torch.zeros(1, 4, 8, 8))


def test_a_model_that_raises_its_own_error_is_a_trace_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("no such head\nsecond line")

    with pytest.raises(TraceError, match="Broken does not run"):
        trace_channels(Broken(), torch.zeros(1, 3, 4, 4))


def test_a_model_without_tensor_output_says_so() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> int:
            return 3

    module = Silent()
    tape = record_tape(module, torch.zeros(1, 3, 4, 4))
    with pytest.raises(TraceError, match="returns no tensor"):
        Replay(tape, module).logits({})


def test_an_error_without_words_is_still_a_trace_error() -> None:
    class Mute(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    with pytest.raises(TraceError, match="Mute does not run"):
        trace_channels(Mute(), torch.zeros(1, 3, 4, 4))
