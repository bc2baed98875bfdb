"""The latency table: its widths are real, its arithmetic exact, and narrower networks are predicted faster."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from core.apply import prune_model
from core.errors import Cancelled, MeasureError
from core.measure.cost import LatencyTable, build_latency_table, latency_terms, predict_latency
from core.measure.cost.lookup import StepTimes, operators_ms
from core.measure.cost.steps import sized_copy, step_model, uniform_plan
from core.measure.cost.widths import kept_masks
from core.records import Plan, Trace
from core.trace import trace_channels
from core.trace.graph import record_tape
from core.trace.replay import needed_steps
from tests.zoo import NETS, ZooNet


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU())
        self.depth = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.b = nn.Sequential(nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.c = nn.Conv2d(48, 64, 1)
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(self.a(x))
        return self.head(torch.cat([self.b(x), self.c(x)], dim=1).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_channels(Net().eval(), torch.randn(1, 1, 24, 24))


@pytest.fixture(scope="module")
def table(trace: Trace) -> LatencyTable:
    return build_latency_table(trace, threads=1, repeats=9)


def every_third(trace: Trace) -> Plan:
    return Plan({g.id: tuple(u for u in range(g.units) if u % 3 or u == 0) for g in trace.prunable})


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_widths_are_those_of_the_pruned_network(net: ZooNet) -> None:
    module = net.build()
    trace = trace_channels(module, net.example)
    plan = every_third(trace)
    if not plan.kept:
        return
    pruned = prune_model(module, trace, plan, verify=False)
    tape = record_tape(pruned, trace.example)
    masks = kept_masks(trace, plan)
    model = step_model(trace, 1)
    steps = needed_steps(tape)
    headed = any(type(a) is not type(b) for a, b in zip(pruned.modules(), module.modules(), strict=True))
    assert headed or len(steps) == len(model.calls)
    # Attention that lost heads does its sums in another order, so its steps cannot be laid side by side.
    for call, step in () if headed else zip(model.calls, steps, strict=True):
        for slot, live in zip(call.step.outputs[:1], step.outputs, strict=False):
            shape = list(trace.tape.shapes[slot])
            for axis, place in model.widths.axes(slot).items():
                shape[axis] = place.live(masks)
            if call.operator not in {"split", "chunk", "unbind"}:
                assert tuple(shape) == tape.shapes[live], call.title
    copied = sized_copy(trace, plan)
    if copied is not None:
        want = {name: tuple(p.shape) for name, p in pruned.named_parameters()}
        assert {name: tuple(p.shape) for name, p in copied.named_parameters()} == want


def test_widths_of_attention_at_another_batch() -> None:
    """Heads lie beside the images of a batch on one axis; three images have three times as many places there."""
    encoder = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    trace = trace_channels(nn.Sequential(encoder, nn.Linear(8, 3)).eval(), torch.zeros(1, 5, 8))
    heads = next(group for group in trace.prunable if group.units == 4)
    masks = kept_masks(trace, Plan({heads.id: (1,)}))
    for batch in (1, 3):
        widths = step_model(trace, batch).widths
        found = set()
        for step in widths.tape.steps:
            if step.name == "bmm":
                (place,) = (widths.axes(slot)[0] for slot in step.reads[:1])
                found.add((place.size, place.live(masks)))
        assert found == {(4 * batch, batch)}
    narrow = sized_copy(trace, uniform_plan(trace, 0.5))
    assert narrow is not None and narrow[0].self_attn.num_heads == 2


def test_a_gather_is_felt_where_it_reads() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.left, self.right = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.trunk(x)
            return self.left(x), self.right(x)

    trace = trace_channels(Shared().eval(), torch.zeros(1, 1, 4, 4))
    convolutions = [call for call in step_model(trace, 2).calls if call.operator == "convolution"]

    def reads(**kept: tuple[int, ...]) -> list[int]:
        masks = kept_masks(trace, Plan({name.replace("_", ":"): units for name, units in kept.items()}))
        return [call.place_in.live(masks) for call in convolutions[1:] if call.place_in is not None]

    assert reads() == [8, 8] and reads(gather_left=(0, 5, 6)) == [3, 8]
    assert reads(gather_left=(0, 5, 6), trunk=(0, 1, 2, 6)) == [2, 4]
    assert reads(gather_left=(0, 5, 6), trunk=(1, 2)) == [2, 2]


def test_dense_is_met_and_narrower_is_faster(trace: Trace, table: LatencyTable) -> None:
    dense = predict_latency(trace, None, table)
    assert dense.median_ms == pytest.approx(table.knots[-1][1]) and not dense.measured
    assert predict_latency(trace, Plan({}), table) == dense
    sums = [operators_ms(trace, uniform_plan(trace, share), table) for share in (1.0, 0.5, 0.25)]
    assert sums[0] > sums[1] > sums[2] > 0
    assert predict_latency(trace, uniform_plan(trace, 0.25), table).median_ms < dense.median_ms
    assert not table.untimed and table.threads == 1 and dense.device == table.device


def test_prediction_is_quick(trace: Trace, table: LatencyTable) -> None:
    plan = every_third(trace)
    predict_latency(trace, plan, table)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        predict_latency(trace, plan, table)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005


def test_interpolation_keeps_what_was_measured() -> None:
    step = StepTimes("convolution", 1, (8, 16), (4, 8, 16), ((1.0, 1.0, 3.0), (2.0, 2.0, 7.0)))
    assert [step.at(8, 4), step.at(16, 16), step.at(8, 12), step.at(12, 16)] == [1.0, 7.0, 2.0, 5.0]
    assert [step.at(12, 12), step.at(99, 99), step.at(1, 1)] == [3.25, 7.0, 1.0]
    table = LatencyTable({}, ((1.0, 2.0), (3.0, 5.0)), (1.0, 1.1), {}, "", 1, 1, "", "")
    assert [table.whole(ms) for ms in (1.0, 2.0, 3.0, 4.0)] == [2.0, 3.5, 5.0, 6.5]
    assert replace(table, knots=((2.0, 3.0),)).whole(4.0) == 6.0


def test_json_and_csv(trace: Trace, table: LatencyTable) -> None:
    assert LatencyTable.from_json(table.to_json()) == table
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(rows) == sum(len(s.widths_in) * len(s.widths_out) for s in table.steps.values())
    assert all(float(row["ms"]) >= 0 for row in rows)
    for broken in ("", "[]", "{}", '{"steps": 3}'):
        with pytest.raises(MeasureError, match="latency table"):
            LatencyTable.from_json(broken)


def test_terms_agree_with_the_table(trace: Trace, table: LatencyTable) -> None:
    terms = latency_terms(trace, table)
    units = {group.id: group.units for group in trace.prunable}

    def total(kept: dict[str, int]) -> float:
        return sum(coef * (kept[a] if a else 1) * (kept[b] if b else 1) for coef, a, b in terms)

    assert total(units) == pytest.approx(predict_latency(trace, None, table).median_ms)
    half = uniform_plan(trace, 0.5)
    near = total({name: len(kept) for name, kept in half.kept.items()})
    assert near == pytest.approx(predict_latency(trace, half, table).median_ms, rel=0.4)


def test_another_batch_and_a_foreign_table(trace: Trace, table: LatencyTable) -> None:
    two = build_latency_table(trace, batch=2, threads=1, points=2, repeats=3)
    assert two.batch == 2 and predict_latency(trace, None, two).batch == 2
    other = trace_channels(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(1, 3, 8, 8))
    with pytest.raises(MeasureError, match="another network"):
        predict_latency(other, None, table)


def test_progress_and_cancel(trace: Trace) -> None:
    seen: list[float] = []
    build_latency_table(trace, points=2, repeats=2, on_progress=lambda f, m, *_: seen.append(f))
    assert seen == sorted(seen) and seen[-1] == 1.0
    calls = iter(range(10_000))
    threads = torch.get_num_threads()
    with pytest.raises(Cancelled):
        build_latency_table(trace, threads=1, cancelled=lambda: next(calls) > 60)
    assert torch.get_num_threads() == threads
    with pytest.raises(MeasureError, match="2 widths"):
        build_latency_table(trace, points=1)
