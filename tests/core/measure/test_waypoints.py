"""Batches that come again: what the base had made is taken up where forks left it, and the answers stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from core.measure.forks import Fork, ForkEngine
from core.measure.scan import waypoints
from core.measure.scan.program import Env, Program
from core.measure.scan.waypoints import Waypoints
from core.records import Plan, Trace
from core.trace import trace_channels
from tests.core.measure.test_forks import choices, never
from tests.core.measure.test_sensitivity import Residual, network, pictures
from tests.zoo import ZOO, images

KINDS = ("ResidualPadded", "EncoderLayer", "WeightNormed", "GatedByGlu", "GroupNormed", "PixelShuffled")


def forks_of(trace: Trace) -> list[Fork]:
    return [Fork(group, kept) for group, kept in choices(trace)]


def answers(engine: ForkEngine, batch: Tensor, forks: list[Fork], place: int | None) -> dict[Fork | None, Tensor]:
    return {fork: scores.clone() for fork, scores in engine.outputs(batch, never, forks, place)}


@contextmanager
def steps_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many steps runs to a known end took: those of the base."""
    taken: list[int] = []
    run = Program.run

    def counted(self: Program, env: Env, start: int, stop: int | None = None, **rest: Any) -> Env:
        if stop is not None:
            taken.append(stop - start)
        return run(self, env, start, stop, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Program, "run", counted)
        yield taken


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("planned", [False, True])
def test_a_batch_that_comes_again_gives_the_same(kind: str, planned: bool) -> None:
    torch.manual_seed(0)
    one, two = (images(ZOO[kind].shape, 3, seed) for seed in (0, 1))
    trace = trace_channels(ZOO[kind].build(), one)
    plan = Plan({})
    forks = forks_of(trace)
    if planned:
        group = trace.prunable[0]
        plan = Plan({group.id: tuple(range(group.units - 1))})
        forks = [fork for fork in forks if fork.group.id != group.id]
    plain = ForkEngine(trace, forks, plan, narrow=True)
    again = ForkEngine(trace, forks, plan, narrow=True, places=2)
    rounds = [forks[1::2], forks[::3], forks, [], forks[-1:]]
    for chosen in rounds:
        for place, batch in enumerate((one, two)):
            expected, found = answers(plain, batch, chosen, None), answers(again, batch, chosen, place)
            assert expected.keys() == found.keys()
            for fork, scores in expected.items():
                assert torch.equal(scores, found[fork])


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_walked_twice(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    batch = pictures(9).images
    trace = trace_channels(network(Residual), batch)
    forks = forks_of(trace)
    engine = ForkEngine(trace, forks, narrow=True, places=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = answers(engine, batch, forks, 0)
        with steps_counted(monkeypatch) as taken:
            second = answers(engine, batch, forks, 0)
    finally:
        torch.set_num_threads(before)
    assert sum(taken) == 0
    assert all(torch.equal(first[fork], second[fork]) for fork in first)


def test_without_room_it_is_walked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waypoints, "ROOM", 0)
    batch = pictures(9).images
    trace = trace_channels(network(Residual), batch)
    forks = forks_of(trace)
    engine = ForkEngine(trace, forks, narrow=True, places=1)
    first = answers(engine, batch, forks, 0)
    with steps_counted(monkeypatch) as taken:
        second = answers(engine, batch, forks, 0)
    assert sum(taken) > 0
    assert all(torch.equal(first[fork], second[fork]) for fork in first)


def test_the_room_is_shared_and_the_latest_stay() -> None:
    stops = Waypoints(2)
    stops.share = 100
    shared = torch.zeros(10)  # 40 bytes
    stops.keep(0, 3, {1: shared})
    stops.keep(0, 5, {1: shared, 2: torch.zeros(10)})
    assert stops.last(0, 4) == (3, {1: shared}) and stops.last(0, 2) == (0, {}) and stops.last(1, 9) == (0, {})
    stops.keep(0, 8, {3: torch.zeros(15)})
    assert stops.last(0, 7) == (0, {}) and stops.last(0, 9)[0] == 8
    stops.keep(1, 1, {1: torch.zeros(26)})
    assert stops.last(1, 1) == (0, {})
