"""The latency table: its widths are real, its arithmetic exact, and narrower networks are predicted faster."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.apply import prune_model
from core.errors import Cancelled, MeasureError, PlanError
from core.measure.cost import LatencyTable, build_latency_table, latency_terms, predict_latency
from core.measure.cost.lookup import LiveWidths, family_sums, operators_ms
from core.measure.cost.steps import sized_copy, step_model, uniform_plan, widths
from core.measure.cost.tables import StepTimes
from core.measure.cost.timing import FAMILIES, calibrated, random_widths
from core.measure.cost.widths import Place, kept_masks
from core.records import Plan, Trace
from core.trace import trace_channels
from core.trace.graph import record_tape
from core.trace.replay import needed_steps
from tests.traced import lent, traced
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
    return build_latency_table(trace, threads=1, repeats=5)


def every_third(trace: Trace) -> Plan:
    return Plan({g.id: tuple(u for u in range(g.units) if u % 3 or u == 0) for g in trace.prunable})


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_widths_are_those_of_the_pruned_network(net: ZooNet) -> None:
    module, trace = lent(net)
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
        held = step_model(trace, batch).widths
        found = set()
        for step in held.tape.steps:
            if step.name == "bmm":
                (place,) = (held.axes(slot)[0] for slot in step.reads[:1])
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


def test_dense_is_met(trace: Trace, table: LatencyTable) -> None:
    dense = predict_latency(trace, None, table)
    assert table.wall is not None and table.wall.factor == pytest.approx(table.wall.median_ms / table.knots[-1][1])
    found = (dense.low_ms, dense.median_ms, dense.high_ms)
    assert found == pytest.approx((table.wall.low_ms, table.wall.median_ms, table.wall.high_ms)) and not dense.measured
    assert predict_latency(trace, None, replace(table, wall=None)).median_ms == pytest.approx(table.knots[-1][1])
    assert predict_latency(trace, Plan({}), table) == dense
    sums = [operators_ms(trace, uniform_plan(trace, share), table) for share in (1.0, 0.5, 0.25)]
    assert min(sums) > 0
    assert not table.untimed and table.threads == 1 and dense.device == table.device


def test_interpolation_keeps_what_was_measured() -> None:
    step = StepTimes("convolution", 1, (8, 16), (4, 8, 16), ((1.0, 1.0, 3.0), (2.0, 2.0, 7.0)))
    assert [step.at(8, 4), step.at(16, 16), step.at(8, 12), step.at(12, 16)] == [1.0, 7.0, 2.0, 5.0]
    assert [step.at(12, 12), step.at(99, 99), step.at(1, 1)] == [3.25, 7.0, 1.0]
    table = LatencyTable({}, ((1.0, 2.0), (3.0, 5.0)), (1.0, 1.1), {}, "", 1, 1, "", "")
    assert [table.whole(ms) for ms in (1.0, 2.0, 3.0, 4.0)] == [2.0, 3.5, 5.0, 6.5]
    assert replace(table, knots=((2.0, 3.0),)).whole(4.0) == 6.0


def test_whole_blocks_are_kept_apart_from_other_widths() -> None:
    """Whole blocks of eight take 1 ms a block, all other widths 10 ms more: no width in between blurs the two."""
    measured = (1, 8, 9, 17, 24, 31, 32)
    step = StepTimes("grouped", 1, (0,), measured, (tuple(w / 8 + (10 if w % 8 else 0) for w in measured),))
    for width in range(1, 33):
        assert step.at(0, width) == pytest.approx(width / 8 + (10 if width % 8 else 0))


def test_array_prices_equal_single_lookups(trace: Trace, table: LatencyTable) -> None:
    """The sum in a few array operations is the sum of ``at`` over the operators, each at its place's own width."""
    for plan in (Plan({}), every_third(trace), uniform_plan(trace, 0.3)):
        masks, total = kept_masks(trace, plan), 0.0
        for call in step_model(trace, 1).calls:
            pair = [place.live(masks) if place else 0 for place in (call.place_in, call.place_out)]
            total += table.steps[call.key].in_network * table.steps[call.key].at(*pair)
        assert operators_ms(trace, plan, table) == pytest.approx(total)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_live_widths_in_one_product(net: ZooNet) -> None:
    trace = traced(net)
    model = step_model(trace, 1)
    places = [p for call in (*model.calls, *model.gathers) for p in (call.place_in, call.place_out, call.given) if p]
    live = LiveWidths(trace, places)
    rng = random.Random(0)
    for round_ in range(4):
        some = [g for g in trace.groups if g.prunable and (g.gather_of is None or round_ % 2) and rng.random() < 0.7]
        plan = Plan({g.id: tuple(rng.sample(range(g.units), rng.randint(1, g.units))) for g in some})
        masks = kept_masks(trace, plan)
        assert live.under(plan).tolist() == [*(place.live(masks) for place in places), 0]
        for group in some[:2]:
            one = [Plan({**plan.kept, group.id: tuple(range(count))}) for count in range(1, group.units + 1)]
            over = live.over(plan, group.id, range(1, group.units + 1))
            assert over.tolist() == [live.under(each).tolist() for each in one]
    with pytest.raises(PlanError, match="no group called"):
        live.under(Plan({"nowhere": (0,)}))
    for group in trace.prunable[:1]:
        with pytest.raises(PlanError, match=f"has {group.units} units"):
            live.under(Plan({group.id: (group.units,)}))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 10, 16, 24, 32, 64, 96, 160, 512, 2048])
def test_widths_hold_both_kinds_and_the_dense_one(size: int) -> None:
    for single in (False, True):
        found = widths(Place(size, ()), 4, single)
        assert found == sorted(set(found)) and found[0] >= 1 and found[-1] == size and len(found) <= 42
        if size > 8:
            assert {8, size - 1} <= set(found), "a whole block, and the widest that is none"
            assert any(w + 1 in found for w in found if w % 8 == 0), "both sides of an edge"
    assert widths(None, 4) == [0]


def test_a_gather_is_priced(trace: Trace, table: LatencyTable) -> None:
    """Its index select is added, with the time that was measured for it; a void choice adds nothing."""
    call = step_model(trace, 1).gathers[0]
    assert call.given is not None and call.place_out is not None and call.place_out.choice is not None
    gather = call.place_out.choice.group
    units = trace.group(gather).units
    plan = Plan({gather: tuple(range(units // 2))})
    free = replace(table, steps={key: s for key, s in table.steps.items() if not key.startswith("gather")})
    width = units // 2
    added = operators_ms(trace, plan, table) - operators_ms(trace, plan, free)
    times = table.steps[call.key]
    assert added == pytest.approx(times.in_network * times.at(0, width)) and added > 0
    whole = Plan({gather: tuple(range(units))})
    assert operators_ms(trace, whole, table) == operators_ms(trace, None, table)
    assert operators_ms(trace, None, table) == operators_ms(trace, None, free)


def test_factors_and_constant_are_found_again(trace: Trace, table: LatencyTable) -> None:
    """Whole networks made of known factors and a known constant are met; the operators' own times stay."""
    plans = [None, *(uniform_plan(trace, share) for share in (0.5, 0.25)), *random_widths(trace, 8)]
    raw = replace(table, wall=None, steps={key: replace(s, in_network=1.0) for key, s in table.steps.items()})
    sums = np.array([family_sums(trace, plan, raw, FAMILIES) for plan in plans])
    measured = sums @ np.array([1.3, 1.3, 1.3, 1.3]) + 0.2 * sums[0].sum()
    fitted = calibrated(trace, raw, plans, measured)
    for plan, want in zip(plans, measured, strict=True):
        assert predict_latency(trace, plan, fitted).median_ms == pytest.approx(want, rel=0.05)
    assert {key: s.ms for key, s in fitted.steps.items()} == {key: s.ms for key, s in raw.steps.items()}


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
    two = build_latency_table(trace, batch=2, threads=1, points=2, repeats=1)
    assert two.batch == 2 and predict_latency(trace, None, two).batch == 2
    other = trace_channels(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(1, 3, 8, 8))
    with pytest.raises(MeasureError, match="another network"):
        predict_latency(other, None, table)


def test_progress_and_cancel(trace: Trace) -> None:
    seen: list[float] = []
    build_latency_table(trace, points=2, repeats=1, on_progress=lambda f, m, *_: seen.append(f))
    assert seen == sorted(seen) and seen[-1] == 1.0
    calls = iter(range(10_000))
    threads = torch.get_num_threads()
    with pytest.raises(Cancelled):
        build_latency_table(trace, threads=1, cancelled=lambda: next(calls) > 300)
    assert torch.get_num_threads() == threads
    with pytest.raises(MeasureError, match="2 points"):
        build_latency_table(trace, points=1)
