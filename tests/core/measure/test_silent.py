"""Units that are zero on all images need no run of their own; what is told of them stays the truth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.apply import prune_model
from core.measure.forks import Fork, ForkEngine
from core.measure.scan.program import Program
from core.measure.scan.silent import Silence
from core.measure.walk import Replays
from core.records import Plan
from core.trace import trace_channels
from tests.core.measure.test_forks import never
from tests.core.measure.test_sensitivity import Depthwise, Residual, network, pictures
from tests.core.measure.test_sensitivity_scan import Normed


def hushed() -> nn.Module:
    """Units 1 and 4 of conv1 never get above zero."""
    module = network(Residual)
    module.bn1.bias.data[[1, 4]] = -100.0
    return module


@pytest.mark.parametrize("narrow", [False, True])
def test_forks_that_differ_by_silent_units_share_a_run(narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = hushed(), pictures(9).images
    trace = trace_channels(module, batch)
    group = next(group for group in trace.prunable if group.units == 8)
    left = [(0, 2, 3, 5, 6, 7), (0, 1, 2, 3, 5, 6, 7), (0, 2, 3, 5), (0, 1, 2, 3, 5), (0, 2, 3), (1, 4)]
    forks = [Fork(group, kept) for kept in left]
    engine = ForkEngine(trace, forks, narrow=narrow)
    forked = engine._on(batch)
    ran: list[Fork] = []
    ready = forked._ready
    monkeypatch.setattr(forked, "_ready", lambda fork, *rest: ran.append(fork) or ready(fork, *rest))
    found = dict(engine.outputs(batch, never))
    assert ran == [forks[2], forks[4], forks[5]]  # the first two are as the base, the next two as each other
    assert set(found) == {None, *forks} and found[forks[0]] is found[None]
    for fork in forks:
        with torch.no_grad():
            expected = prune_model(module, trace, Plan({group.id: fork.kept}))(batch)
        torch.testing.assert_close(found[fork], expected, rtol=1e-4, atol=1e-5)


def test_what_is_silent_depends_on_the_images() -> None:
    module, batch = hushed(), pictures(9).images
    trace = trace_channels(module, batch)
    group = next(group for group in trace.prunable if group.units == 8)
    module.bn1.bias.data[1] = 0.0
    program = Program(Replays(trace).tape(batch), module)
    with torch.inference_mode():
        index = next(
            i for i, step in enumerate(program.steps) if program.tape.state.get(step.reads[1]) == "conv2.weight"
        )
        env = program.run(program.begin(batch), 0, index)
        assert Silence(program).units(group, env) == {4}
        assert Silence(program).units(group, program.begin(batch)) == frozenset()


def test_linear_readers_and_norms() -> None:
    module, batch = network(Depthwise), pictures(9).images
    with torch.no_grad():
        module.project.weight[3], module.project.bias[3] = 0.0, 0.0
        module.head[2].weight[2], module.head[2].bias[2] = 0.0, -1.0
    trace = trace_channels(module, batch)
    program = Program(Replays(trace).tape(batch), module)
    with torch.inference_mode():
        env = {}
        for end in range(len(program.steps) + 1):  # tensors are dropped behind their last reader
            env.update(program.run(program.begin(batch), 0, end))
        found = {group.layers[0]: set(Silence(program).units(group, env)) for group in trace.prunable}
    assert found["project"] == {3} and found["head.2"] >= {2}
    normed = trace_channels(network(Normed), batch, mixing=True)
    group = next(group for group in normed.prunable if group.mixing)
    silence = Silence(Program(normed.tape, normed.module))
    zeros = {slot: torch.zeros(shape) for slot, shape in normed.tape.shapes.items()}
    assert silence.units(group, zeros) == frozenset()
