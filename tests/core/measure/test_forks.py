"""A program that is re-run in parts and narrower must compute what the network computes, and touch nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from core.apply import mask_model, prune_model
from core.measure.forks import Fork, ForkEngine, Latch
from core.measure.scan.folding import fold_norms
from core.measure.scan.lanes import Lanes
from core.measure.scan.program import Program
from core.records import Group, Plan, Trace
from core.trace import trace_channels
from core.trace.graph import named_state, record_tape
from tests.core.measure.test_sensitivity import Depthwise, Residual, network, pictures
from tests.core.measure.test_sensitivity_scan import Concat

NETS = (Residual, Depthwise, Concat)
THREADS = torch.get_num_threads()


def traced(kind: type[nn.Module]) -> tuple[Trace, Tensor]:
    batch = pictures(9).images
    return trace_channels(network(kind), batch), batch


def never() -> bool:
    return False


def choices(trace: Trace) -> Iterator[tuple[Group, tuple[int, ...]]]:
    for group in trace.groups:
        if group.prunable:
            for kept in {1, group.units // 2, group.units - 1}:
                yield group, tuple(range(group.units))[-kept:]


@pytest.mark.parametrize("kind", NETS)
def test_batch_norms_fold_exactly_into_the_convolutions_before_them(kind: type[nn.Module]) -> None:
    trace, batch = traced(kind)
    state = {name: tensor.detach() for name, tensor in named_state(trace.module).items()}
    folded = fold_norms(record_tape(trace.module, batch), state)
    left = [step.name for step in folded.tape.steps].count("native_batch_norm")
    assert left == (1 if kind is Concat else 0)  # behind a concatenation there is no one convolution to take it over
    program = Program(record_tape(trace.module, batch), trace.module)
    with torch.no_grad():
        torch.testing.assert_close(program.logits(program.run(program.begin(batch), 0)), trace.module(batch))


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("narrow", [False, True])
def test_forks_equal_pruned_and_masked_networks(kind: type[nn.Module], narrow: bool) -> None:
    trace, batch = traced(kind)
    forks = [Fork(group, kept) for group, kept in choices(trace)]
    engine = ForkEngine(trace, forks, narrow=narrow)
    for _ in range(2):  # the first time narrow runs are compared with hidden ones, then they are trusted
        found = dict(engine.outputs(batch, never))
        assert set(found) == {None, *forks}
        for fork in forks:
            plan = Plan({fork.group.id: fork.kept})
            with torch.no_grad():
                pruned, masked = (make(trace.module, trace, plan)(batch) for make in (prune_model, mask_model))
            torch.testing.assert_close(found[fork], pruned, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[fork], masked, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(found[None], trace.module(batch), rtol=1e-4, atol=1e-5)
    runs = [engine._on(batch).run(fork) for fork in forks]
    assert any(run.narrowed is not None for run in runs) == narrow
    assert all(engine._on(batch).trusted.values())


@pytest.mark.parametrize("kind", NETS)
def test_narrow_runs_do_less_arithmetic(kind: type[nn.Module]) -> None:
    trace, batch = traced(kind)
    forks = [Fork(group, (0,)) for group in trace.prunable]
    wide, narrow = (ForkEngine(trace, forks, narrow=narrow).macs(batch) for narrow in (False, True))
    assert all(narrow[fork] <= wide[fork] for fork in forks) and any(narrow[fork] < wide[fork] for fork in forks)


def test_a_narrow_run_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    trace, batch = traced(Residual)
    fork = Fork(trace.prunable[0], (0, 1))
    engine = ForkEngine(trace, [fork], narrow=True)
    run = engine._on(batch).run(fork)
    assert run.narrowed is not None
    weights = run.weights()
    monkeypatch.setattr(run, "weights", lambda: {slot: tensor * 1.5 for slot, tensor in weights.items()})
    with torch.no_grad():
        expected = prune_model(trace.module, trace, Plan({fork.group.id: fork.kept}))(batch)
    for _ in range(2):
        torch.testing.assert_close(dict(engine.outputs(batch, never))[fork], expected, rtol=1e-4, atol=1e-5)
    assert engine._on(batch).trusted == {fork.group.id: False}


@contextmanager
def threads(count: int) -> Iterator[None]:
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(THREADS)


@pytest.mark.parametrize("kind", NETS)
def test_images_and_weights_are_not_written_to(kind: type[nn.Module]) -> None:
    trace, batch = traced(kind)
    before, state = batch.clone(), {name: tensor.clone() for name, tensor in trace.module.state_dict().items()}
    engine = ForkEngine(trace, [Fork(group, kept) for group, kept in choices(trace)], narrow=True)
    first, second = (dict(engine.outputs(batch, never)) for _ in range(2))
    again = dict(engine.outputs(batch, never))
    assert torch.equal(batch, before)
    assert all(torch.equal(state[name], tensor) for name, tensor in trace.module.state_dict().items())
    assert all(torch.equal(second[fork], again[fork]) for fork in second) and first.keys() == again.keys()


def test_only_some_forks_and_a_stop() -> None:
    trace, batch = traced(Residual)
    forks = [Fork(group, kept) for group, kept in choices(trace)]
    engine = ForkEngine(trace, forks)
    assert [fork for fork, _ in engine.outputs(batch, never, forks[2:4])] == [*forks[2:4], None]
    count = iter(range(100))
    stop = Latch(lambda: next(count) >= 2)
    with threads(1):
        found = [fork for fork, _ in engine.outputs(batch, stop)]
    assert len(found) == 3 and found[-1] is None and stop.set


@pytest.mark.parametrize("kind", NETS)
def test_side_by_side_gives_the_same_bits_and_leaves_no_thread(kind: type[nn.Module]) -> None:
    trace, batch = traced(kind)
    forks = [Fork(group, kept) for group, kept in choices(trace)]
    found: list[dict[Fork | None, Tensor]] = []
    for count in (1, 3):
        before = threading.active_count()
        with threads(count):
            found.append({})
            for fork, scores in ForkEngine(trace, forks, narrow=True).outputs(batch, never):
                found[-1][fork] = scores
                assert torch.get_num_threads() == count  # as the caller set it, whenever the caller has its turn
            assert torch.get_num_threads() == count and threading.active_count() == before
    assert found[0].keys() == found[1].keys()
    for fork, scores in found[0].items():
        torch.testing.assert_close(scores, found[1][fork], rtol=1e-6, atol=1e-7)


def test_a_stop_side_by_side_gives_what_had_begun() -> None:
    trace, batch = traced(Residual)
    forks = [Fork(group, kept) for group, kept in choices(trace)]
    count = iter(range(100))
    stop = Latch(lambda: next(count) >= 2)
    before = threading.active_count()
    with threads(2):
        found = dict(ForkEngine(trace, forks).outputs(batch, stop))
        whole = dict(ForkEngine(trace, forks).outputs(batch, never))
    assert None in found and len(found) <= 3 and stop.set and threading.active_count() == before
    assert all(torch.equal(scores, whole[fork]) for fork, scores in found.items() if fork is None)


def test_an_error_side_by_side_comes_through() -> None:
    lanes: Lanes[str] = Lanes(2)
    with pytest.raises(ValueError, match="broken"), lanes:
        for _ in range(9):
            list(lanes.put("a", lambda: torch.zeros(1)))
        list(lanes.put("b", fail))
        list(lanes.rest())
    assert torch.get_num_threads() == THREADS


def fail() -> torch.Tensor:
    raise ValueError("broken")
