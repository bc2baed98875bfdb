"""Labels through single operators: what the zoo's nets do not reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.apply.surgery import mask_model, max_relative_error, prune_model
from core.trace import trace_channels
from core.trace.labels import LabelBook, WeightLabels, compact
from tests.zoo import images, outputs, random_plan, randomise


class Around(nn.Module):
    """conv1 (3 -> 8), ``middle``, a convolution that reads ``width`` channels, mean over space."""

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.middle = middle
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.middle(self.conv1(x))).mean((2, 3))


def check(middle: Callable[[Tensor], Tensor], width: int = 8) -> tuple[int, str | None]:
    """(units, reason) of conv1; when prunable, the law is checked at half."""
    module = Around(middle, width).eval()
    randomise(module)
    trace = trace_channels(module, images((1, 3, 8, 8), 1))
    group = trace.group("conv1")
    if group.prunable:
        plan, batch = random_plan(trace, 0.5, 1), images((1, 3, 8, 8), 3)
        pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
        assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) < 1e-4
    return group.units, group.reason


FREE: dict[str, Callable[[Tensor], Tensor]] = {
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "mish": F.mish,
    "softplus": F.softplus,
    "where": lambda x: torch.where(x > 0, x, 0.2 * x),
    "maximum": lambda x: torch.maximum(x, x * 0.5),
    "pow": lambda x: x.abs().pow(0.5),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "pad space": lambda x: F.pad(x, (1, 2, 0, 1)),
    "crop space": lambda x: x[:, :, 1:-1, 2:],
    "negative pad": lambda x: F.pad(x, (-1, -1, -1, -1)),
    "there and back": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "tokens and back": lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (8, 8)),
    "norm over space": lambda x: x / (x.norm(dim=(2, 3), keepdim=True) + 1),
    "softmax over space": lambda x: x.flatten(2).softmax(-1).unflatten(2, (8, 8)),
    "sum over space": lambda x: x * x.sum((2, 3), keepdim=True).sigmoid(),
    "variance over space": lambda x: x / (1 + x.var((2, 3), keepdim=True)),
    "expand": lambda x: x * x.mean((2, 3))[:, :, None, None].expand_as(x),
    "channels-last memory": lambda x: F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1),
    "type and back": lambda x: x.double().float(),
    "sum of list": lambda x: torch.stack([x, 2 * x]).sum(0),
    "zeros below": lambda x: torch.cat([x, torch.zeros_like(x)], 2),
    "class token": lambda x: torch.cat([x.mean((2, 3), keepdim=True).expand(-1, -1, 1, 8), x], 2),
    "unbind space": lambda x: torch.stack(x.unbind(3), 3),
    "split space": lambda x: torch.cat([part.relu() for part in x.split(3, dim=2)], 2),
}


@pytest.mark.parametrize("middle", FREE.values(), ids=FREE.keys())
def test_channels_pass_one_by_one(middle: Callable[[Tensor], Tensor]) -> None:
    assert check(middle) == (8, None)


TIED: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "halves added": (lambda x: sum(x.chunk(2, 1)), 4, 4),
    "quarters stacked": (lambda x: torch.stack(x.chunk(4, 1)).sum(0), 2, 2),
    "repeated": (lambda x: x.repeat(1, 2, 1, 1), 16, 8),
    "repeat interleave by view": (lambda x: x.unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(1, 2), 16, 8),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 2, 2),
    "folded into width": (lambda x: x.unflatten(1, (4, -1)).permute(0, 2, 3, 4, 1).flatten(3).repeat(1, 4, 1, 1), 8, 2),
}


@pytest.mark.parametrize(("middle", "width", "units"), TIED.values(), ids=TIED.keys())
def test_channels_that_leave_together(middle: Callable[[Tensor], Tensor], width: int, units: int) -> None:
    assert check(middle, width) == (units, None)


LOCKED: dict[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "roll over channels": (lambda x: x.roll(1, 1), 8, "roll"),
    "flip channels": (lambda x: x.flip(1), 8, "flip"),
    "sum over channels": (lambda x: x.sum(1, keepdim=True), 1, "sum runs over channels"),
    "maximum over channels": (lambda x: x.amax(1, keepdim=True), 1, "amax runs over channels"),
    "pool over channels": (lambda x: F.max_pool3d(x.unsqueeze(1), (3, 1, 1), 1, (1, 0, 0)).squeeze(1), 8, "across"),
    "pad beside channels": (lambda x: F.pad(x, (0, 0, 0, 0, 0, 0)) * 1, 8, ""),
    "one channel": (lambda x: x[:, 3:4], 1, "cut at a fixed channel"),
    "unequal": (lambda x: torch.cat(x.split([3, 5], 1), 1), 8, "cut at a fixed channel"),
    "product of maps": (lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).unsqueeze(2), 8, "product"),
    "topk": (lambda x: x.topk(8, dim=1).values, 8, "operator topk has no rule"),
    "layer norm": (lambda x: F.layer_norm(x, x.shape[1:]), 8, "normalisation mixes"),
    "fixed rows below": (lambda x: torch.cat([x, x.new_zeros(1, 8, 2, 8).expand(len(x), -1, -1, -1)], 2), 8, "fixed"),
    "fixed rows above": (lambda x: torch.cat([x.new_zeros(1, 8, 2, 8).expand(len(x), -1, -1, -1), x], 2), 8, "fixed"),
    "written into a fixed tensor": (lambda x: x.new_zeros(len(x), 8, 8, 8).copy_(x), 8, "fixed width"),
    "read along space": (lambda x: F.linear(x, torch.eye(8)), 8, ""),
}


@pytest.mark.parametrize(("middle", "width", "reason"), LOCKED.values(), ids=LOCKED.keys())
def test_channels_that_must_stay(middle: Callable[[Tensor], Tensor], width: int, reason: str) -> None:
    _, found = check(middle, width)
    if reason:
        assert found is not None and reason in found


def test_compact_drops_axes_that_do_not_change() -> None:
    labels = torch.tensor([1, 2, 3]).reshape(1, 3, 1).expand(4, 3, 5)
    assert compact(labels).shape == (1, 3, 1)
    assert compact(torch.ones(2, 2, dtype=torch.int64)).shape == (1, 1)


def test_a_weight_names_its_dimensions() -> None:
    book = LabelBook()
    assert book.weight("bias", (3,)).named == [0]
    assert book.weight("scale", (3, 1, 1)).named == [0]
    assert book.weight("kernel", (3, 2)).named == [0, 1]
    assert WeightLabels((None, None)).named == []
    assert not book.weights, "nothing has met them yet"


def test_a_weight_takes_the_labels_that_meet_it_first() -> None:
    book = LabelBook()
    book.weight("bias", (3,))
    channels = book.fresh(3)
    book.join(channels, ("bias", 0))
    assert book.weights["bias", 0] is channels and not book.edges
    others = book.fresh(3)
    book.join(others, ("bias", 0))
    assert len(book.edges) == 1
    book.freeze(("late", 0), "because")
    book.weight("late", (3,))
    book.join(others, ("late", 0))
    assert book.reasons(book.resolve())[0] == ["because"]


def test_ties_and_locks_spread() -> None:
    book = LabelBook()
    a, b, c = book.fresh(3), book.fresh(3), book.fresh(3)
    book.tie(a, b)
    book.tie(b[:1], c)
    book.lock(c[2:], "because")
    unit_of = book.resolve()
    texts, locked, mixed = book.reasons(unit_of)
    assert (mixed == -1).all()
    assert unit_of[a[0]] == unit_of[b[0]] == unit_of[c[0]] == unit_of[c[2]]
    assert unit_of[a[1]] == unit_of[b[1]] != unit_of[a[0]]
    assert texts == ["because"] and locked[unit_of[a[0]]] == 0 and locked[unit_of[a[1]]] == -1


def test_a_consumer_stays_a_consumer() -> None:
    book = LabelBook()
    labels = book.weight("w", (4, 3)).dims[0]
    for role in ("producer", "consumer", "follower"):
        book.set_role(labels, role)
    assert book.roles["w", 0] == "consumer"
