"""The trial: what it lets pass, what it finds, and what it remembers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import mask_model, prune_model
from core.trace import trace_channels
from core.trace.copies import named_state
from core.trace.graph import record_tape
from core.trace.memo import forget, recalled
from core.trace.trial import _all_shares, _shares
from tests.random_blocks.tokens import HandAttention, Tokens
from tests.zoo import outputs, random_plan, randomise

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


class HalfOfTheInput(nn.Module):
    """Takes a fixed slice, a slice by size, or multiplies by a tensor kept as a plain attribute."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d({"plain": 8}.get(way, 4), 6, 3)
        self.scale = torch.linspace(0.5, 2.0, 16).reshape(1, 1, 4, 4)  # no buffer
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.way == "fixed":
            x = x[:, :4]
        elif self.way == "by size":
            x = x[:, : x.shape[1] // 2]
        else:
            x = x * self.scale.repeat(1, 1, 4, 4)
        result: Tensor = self.fc(self.conv2(x).mean((2, 3)))
        return result


@pytest.mark.parametrize(("way", "prunable"), [("fixed", False), ("by size", True), ("plain", True)])
def test_a_part_cut_at_a_fixed_channel_is_found(way: str, prunable: bool) -> None:
    module = HalfOfTheInput(way).eval()
    randomise(module)
    group = trace_channels(module, torch.zeros(1, 3, 18, 18)).group("conv1")
    assert group.prunable == prunable, group.reason
    assert group.units == (8 if way == "plain" else 4)


class Blurred(nn.Module):
    """A filter of its own for every channel, or one for all; only an attribute or the input tells how many."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.channels = 8
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Linear(4, 2)
        self.register_buffer("filter", torch.rand(8 if own else 1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.filter.shape[0] > 1:
            x = nn.functional.conv2d(x, self.filter, groups=self.channels)
        else:
            x = nn.functional.conv2d(x, self.filter.expand(x.shape[1], -1, -1, -1), groups=x.shape[1])
        result: Tensor = self.fc(self.conv2(x).mean((2, 3)))
        return result


class BlurredByAttribute(Blurred):
    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(self.conv1(x), self.filter, None, 1, 0, 1, self.channels)
        result: Tensor = self.fc(self.conv2(x).mean((2, 3)))
        return result


class NonLocal(nn.Module):
    """One number, of no telling name, for the width of three layers, of which two may not lose any."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b, self.c = nn.Conv2d(3, 16, 3), *(nn.Conv2d(16, 8, 1) for _ in range(3))
        self.out, self.fc, self.ic = nn.Conv2d(8, 16, 1), nn.Linear(16, 3), 8

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        c = self.c(x).view(len(x), self.ic, -1).permute(0, 2, 1)
        a, b = self.a(x).view(len(x), self.ic, -1).permute(0, 2, 1), self.b(x).view(len(x), self.ic, -1)
        y = torch.matmul(torch.matmul(a, b).softmax(-1), c).permute(0, 2, 1).contiguous()
        y = self.out(y.view(len(x), self.ic, *x.size()[2:]))
        result: Tensor = self.fc((x + y).mean((2, 3)))
        return result


class Parts(nn.Module):
    """Res2Net's split, by a number of no telling name."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.conv, self.out = 6, nn.Conv2d(3, 24, 3), nn.Conv2d(24, 10, 1)
        self.convs, self.fc = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3)), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = torch.split(self.conv(x).relu(), self.w, 1)
        parts = [conv(part).relu() for conv, part in zip(self.convs, parts, strict=True)]
        result: Tensor = self.fc(self.out(torch.cat([*parts, last], 1)).relu().mean((2, 3)))
        return result


class Remembers(nn.Module):
    """Keeps what it computed from its weights, as timm's attention biases are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.scale = nn.Conv2d(3, 8, 3), nn.Linear(8, 3), nn.Parameter(torch.rand(8, 1))
        self.scale_cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "one" not in self.scale_cache:
            self.scale_cache["one"] = self.scale[:, :, None]
        result: Tensor = self.fc((self.conv(x) * self.scale_cache["one"]).mean((2, 3)))
        return result


MADE = {
    "one filter each": (lambda: Blurred(True), {"conv1": 8, "conv2": 4}),
    "one filter each, by place": (lambda: BlurredByAttribute(True), {"conv1": 8, "conv2": 4}),
    "one filter for all": (lambda: Blurred(False), {"conv1": 8, "conv2": 4}),
    "one number for several widths": (NonLocal, {"conv": 16}),
    "parts": (Parts, {"conv": 6, "convs.0": 6, "convs.1": 6, "convs.2": 6, "out": 10}),
    "remembers": (Remembers, {"conv": 8}),
}


@pytest.mark.parametrize("name", MADE)
def test_numbers_that_the_code_keeps_are_followed_or_named(name: str) -> None:
    make, groups = MADE[name]
    module = make().eval()
    randomise(module)
    image = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    outputs(module, image)  # what it remembers, it remembers from here
    trace = trace_channels(module, image)
    found = {group.id: group.units for group in trace.prunable}
    assert found == groups, [group.reason for group in trace.coupled]
    for seed in range(3):
        plan = random_plan(trace, 0.5, seed)
        pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
        for one, other in zip(outputs(pruned, image), outputs(masked, image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    kept = getattr(module, "scale_cache", {"one": torch.zeros(8, 1, 1)})
    assert kept["one"].shape == (8, 1, 1)


def test_the_network_and_its_layers_are_as_before() -> None:
    module = HalfOfTheInput("by size").train()
    before = [(name, id(tensor), tensor.clone()) for name, tensor in named_state(module).items()]
    fields = [dict(vars(layer)) for layer in module.modules()]
    trace_channels(module, torch.zeros(1, 3, 18, 18))
    assert [(name, id(tensor)) for name, tensor in named_state(module).items()] == [entry[:2] for entry in before]
    assert all(torch.equal(tensor, module.get_parameter(name)) for name, _, tensor in before)
    assert all(vars(layer).keys() == old.keys() for layer, old in zip(module.modules(), fields, strict=True))
    assert all(layer.training for layer in module.modules())


CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten._softmax.default, (meta(2, 3, 4), -1, False), {}),
    (aten.native_layer_norm.default, (meta(2, 4, 3).transpose(1, 2), [4], None, None, 1e-5), {}),
    (aten.roll.default, (meta(1, 8, 8, 3), [-2, -2], [1, 2]), {}),
    (aten.arange.default, (7,), {"device": torch.device("meta")}),
    (aten.add.Tensor, (meta(3, dtype=torch.int64), 1), {}),
    (aten.add.Tensor, (meta(3, dtype=torch.int64), 1.0), {}),
    (aten.mul.Tensor, (meta(2, 3, 4, 5).permute(0, 3, 1, 2), meta(1, 5, 1, 1)), {}),
    (aten.split.Tensor, (meta(6, 4), 2), {}),
    (aten.view.default, (meta(6, 4), [24]), {}),
    (aten.max.dim, (meta(6, 4), 1), {}),
]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_what_is_recalled_is_what_the_operator_gives(number: int, again: bool) -> None:
    op, args, kwargs = CALLS[number]
    forget()
    if again:
        for other in CALLS:  # all are remembered at once: like calls must not be taken for each other
            recalled(other[0], other[1], other[2])
    found, expected = recalled(op, args, kwargs), op(*args, **kwargs)
    pairs = list(zip(found, expected, strict=True)) if isinstance(expected, tuple | list) else [(found, expected)]
    assert type(found) is type(expected)
    for one, other in pairs:
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape,
            other.stride(),
            other.dtype,
            other.device,
        )


def test_a_result_that_is_the_input_is_no_copy() -> None:
    x = meta(3)
    assert recalled(aten.relu_.default, (x,), {}) is x and recalled(aten.relu_.default, (x,), {}) is x


def test_real_tensors_are_computed_with() -> None:
    x = torch.tensor([1.0, -1.0])
    assert recalled(aten.relu.default, (x,), {}).tolist() == [1.0, 0.0]
    assert recalled(aten.relu.default, (-x,), {}).tolist() == [0.0, 1.0]


def test_errors_are_the_operators_own() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="size"):
            recalled(aten.bmm.default, (meta(2, 3, 4), meta(2, 5, 6)), {})


class OwnGroupNorm(nn.GroupNorm):
    """As timm's: a norm and its nonlinearity in one class. ``other``: the number of groups stands in its code."""

    other = False

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.group_norm(x, 2 if self.other else self.num_groups, self.weight, self.bias, self.eps))


@pytest.mark.parametrize("other", [False, True])
def test_a_layers_own_number_of_groups_needs_no_trial(other: bool) -> None:
    """Also where the layer runs itself, as on another memory format."""
    norm = OwnGroupNorm(4, 8)
    norm.other = other
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), norm, nn.Conv2d(8, 2, 1))
    tape = record_tape(module.eval().to(memory_format=torch.channels_last), torch.zeros(1, 3, 6, 6))
    assert tape.shape_only and tape.repeats_widths == other


@pytest.mark.parametrize(("heads", "each"), [(2, 2), (3, 1), (3, 2), (2, 8)])
def test_two_widths_in_one_expression_show(heads: int, each: int) -> None:
    """``width // heads`` follows as long as both keep the same share."""
    width = heads * each
    attention = Tokens([HandAttention(width, heads, each, "qkv_width", False)], [nn.Identity()], None, None)
    module = nn.Sequential(nn.Conv2d(3, width, 3), attention, nn.Conv2d(width, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    trace = trace_channels(module, torch.zeros(1, 3, 6, 6))
    assert "several widths" in str(trace.group("0").reason) or "fixes this width" in str(trace.group("0").reason)
    assert trace.group("2").prunable


@pytest.mark.parametrize("units", [(64, 12, 256, 12), (9, 3, 6), (4, 2), (2, 2, 2), (3, 3), (6, 8, 8, 7, 5)])
def test_of_two_groups_each_keeps_the_smaller_share_once(units: tuple[int, ...]) -> None:
    kept = [_shares(one, index, len(units)) for index, one in enumerate(units)]
    assert all(
        1 <= count <= one and pair != (one, one) for one, pair in zip(units, kept, strict=True) for count in pair
    )
    for one, (a, b) in enumerate(kept):
        for two in range(one + 1, len(kept), 2):  # every second one; the others as far as they have units to tell
            c, d = kept[two]
            assert (a / units[one] - c / units[two]) * (b / units[one] - d / units[two]) < 0


@pytest.mark.parametrize(("units", "heads"), [([4, 4, 2, 6], 2), ([4, 2], 1), ([64, 8, 64, 12], 1), ([6, 3, 12], 1)])
def test_no_width_over_heads_stays_in_both_trials(units: list[int], heads: int) -> None:
    """``width // heads`` with so few of both that shares round alike."""
    kept = _all_shares(units)
    assert all(
        1 <= count <= one and pair[0] != pair[1] for one, pair in zip(units, kept, strict=True) for count in pair
    )
    for at, one in enumerate(units):
        if at != heads and one >= 2 * units[heads]:
            before = one // units[heads]
            assert any(a // b != before for a, b in zip(kept[at], kept[heads], strict=True)), (units, kept)


class Talking(nn.Module):
    """Every block breaks in its own place: its width is written down in the code's own way."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer, self.hidden = nn.Linear(width, hidden), nn.Linear(hidden, width), [hidden]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(self.inner(x).reshape(x.shape[0], self.hidden[0]).relu())


def test_many_blocks_with_one_fault_do_not_lock_the_rest() -> None:
    free = [nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 2)]
    module = nn.Sequential(*[Talking(12, 6 + at % 3) for at in range(60)], *free).eval()
    trace = trace_channels(module, torch.zeros(1, 12))
    assert "fixes this width" in str(trace.group("59.inner").reason)
    assert trace.group("60").prunable and trace.group("60").units == 7


class Standardised(nn.Conv2d):
    """timm's: the weight is flattened, and its outputs normalised by a batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_flattened_weights_are_promised_their_narrow_size() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), Standardised(8, 6, 3), nn.Conv2d(6, 2, 1)).eval()
    trace = trace_channels(module, torch.zeros(1, 3, 6, 6), mixing=True)
    assert [group.id for group in trace.prunable] == ["0", "1"]
    assert outputs(prune_model(module, trace, random_plan(trace, 0.5, 0)), torch.randn(1, 3, 6, 6))[0].shape == (
        1,
        2,
        4,
        4,
    )


class AssertsItsRank(nn.BatchNorm2d):
    """As timm's norms do at every call."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, f"expected 4 dimensions, found {x.ndim}")
        return F.interpolate(super().forward(x).clamp(min=0).abs(), scale_factor=2)


def test_looking_at_the_rank_needs_no_trial() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), AssertsItsRank(8), nn.Conv2d(8, 2, 1)).eval()
    assert not record_tape(module, torch.zeros(1, 3, 6, 6)).repeats_widths


class FixedShuffle(nn.Module):
    """Rows and places are both three, and both stand in its attributes; only places leave."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.each = 3, 3

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], self.groups, self.each, *x.shape[2:])
        return x.transpose(1, 2).reshape(x.shape[0], self.groups * self.each, *x.shape[3:])


class Strict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 8, "another width than it was built for"
        return x


def test_of_two_equal_numbers_the_right_one_is_followed() -> None:
    module = nn.Sequential(nn.Conv2d(3, 9, 1), FixedShuffle(), nn.Conv2d(9, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    randomise(module)
    trace = trace_channels(module, torch.zeros(1, 3, 6, 6))
    image = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        plan = random_plan(trace, 0.5, seed)
        pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
        torch.testing.assert_close(outputs(pruned, image), outputs(masked, image), rtol=1e-4, atol=1e-5)


def test_a_layer_that_insists_on_its_width_is_named_also_before_a_bare_norm() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), Strict(), nn.InstanceNorm2d(8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    trace = trace_channels(module.eval(), torch.zeros(1, 3, 6, 6))
    assert [group.id for group in trace.prunable] == ["3"] and trace.group("0").reason
