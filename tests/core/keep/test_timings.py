"""What is measured of plans finds its way into the predictions that follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from core.keep.store import Store
from core.keep.timings import KEPT, KIND, newest_table, note_timing
from core.measure.cost import build_latency_table, predict_latency
from core.records import Latency, Plan, Trace
from core.trace import trace_channels


@pytest.fixture(scope="module")
def trace() -> Trace:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten())
    return trace_channels(net.eval(), torch.zeros(1, 1, 8, 8))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


def test_a_measurement_is_felt_in_the_next_prediction(trace: Trace, store: Store) -> None:
    table = build_latency_table(trace, threads=1, points=2, repeats=1, max_seconds=2.0)
    assert newest_table(store, "key", trace, table) == table
    dense = Latency(8.0, 7.5, 9.0, 40, 1, 1, table.device)
    half = Plan({trace.prunable[0].id: tuple(range(8))})
    note_timing(store, "key", trace, half, [dense, replace(dense, median_ms=6.0)])
    now = newest_table(store, "key", trace, table)
    assert now is newest_table(store, "key", trace, table), "worked out once"
    found = predict_latency(trace, None, now)
    assert (found.low_ms, found.median_ms, found.high_ms) == pytest.approx((7.5, 8.0, 9.0))
    assert now.wall is not None and now.wall.last is not None and now.wall.last.measured_ms == 6.0
    note_timing(store, "key", trace, Plan({}), [replace(dense, median_ms=4.0)])
    later = newest_table(store, "key", trace, table)
    assert predict_latency(trace, None, later).median_ms == pytest.approx(4.0)
    assert newest_table(store, "another", trace, table) == table


def test_a_table_made_later_has_nothing_to_learn_from_before(trace: Trace, store: Store) -> None:
    table = build_latency_table(trace, threads=1, points=2, repeats=1, max_seconds=2.0)
    note_timing(store, "key", trace, Plan({}), [Latency(8.0, 7.5, 9.0, 40, 1, 1, table.device)])
    assert table.wall is not None
    later = replace(table, wall=replace(table.wall, when="2999-01-01T00:00:00+00:00"))
    assert newest_table(store, "key", trace, later) == later


def test_few_are_kept_and_what_cannot_be_read_is_left_out(trace: Trace, store: Store) -> None:
    table = build_latency_table(trace, threads=1, points=2, repeats=1, max_seconds=2.0)
    for number in range(KEPT + 2):
        note_timing(store, "key", trace, Plan({}), [Latency(1.0 + number, 1.0, 20.0, 40, 1, 1, table.device)])
    kept = store.result(KIND, "key")
    assert [note["plan_ms"] for note in kept] == [3.0 + number for number in range(KEPT)]
    for broken in (["x"], [{"when": "3000"}], {"a": 1}):
        store.put_result(KIND, "key", broken)
        assert newest_table(store, "key", trace, table) == table
