"""Random small networks from every operator the engine knows.

A network is a plain frozen record (``NetSpec``) that prints as the code that makes it: a failure is one line to paste.
``cases()`` draws one with what to remove, ``build`` makes it, ``simplest`` makes a failing one small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.random_blocks import basic, branches, reshaped, tokens, weights, writes
from tests.random_blocks.basic import CONVS, Block, chain, project, space
from tests.random_blocks.branches import Merge, Twice, UNet
from tests.zoo import images, randomise

# Blocks with many kinds inside are drawn more often.
SIMPLE: tuple[type[Block], ...] = (
    *basic.SIMPLE, *reshaped.SIMPLE, *branches.SIMPLE, *writes.SIMPLE, *tokens.SIMPLE, *weights.SIMPLE,
    *(basic.Conv, writes.Move, tokens.Transformer) * 3, reshaped.Fold, writes.Constant, weights.Product,
    basic.Depthwise, basic.Grouped,
)  # fmt: skip
Head = Literal[
    "mean", "flatten", "max", "adaptive", "two_layers", "conv", "channels_last", "pyramid", "auxiliary", "log_softmax"
]
HEADS: tuple[str, ...] = get_args(Head)


@dataclass(frozen=True)
class NetSpec:
    """Images of 3 channels and ``size`` positions along each of ``dims`` dimensions."""

    dims: Literal[2, 1, 3]
    blocks: tuple[Block, ...]
    head: Head


@dataclass(frozen=True)
class Case:
    """``removed``: the share of units that leave a group; ``seed``: weights, images and choice of units."""

    net: NetSpec
    removed: Literal[0.5, 0.25, 0.75, 1.0]
    seed: int


class Net(nn.Module):
    def __init__(self, spec: NetSpec, x: Tensor) -> None:
        super().__init__()
        self.blocks, x = chain((basic.Conv(4, 3, 1, "zeros", 1, True, "none", "relu", "none"), *spec.blocks), x)
        self.kind, width, conv = spec.head, x.shape[1], CONVS[spec.dims]
        if self.kind in {"mean", "max", "log_softmax"}:
            self.fc = nn.Linear(width, 3)
        elif self.kind == "flatten":
            self.fc = nn.Linear(x[0].numel(), 3)
        elif self.kind == "two_layers":
            self.fc = nn.Sequential(nn.Linear(x[0].numel(), 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3))
        elif self.kind == "adaptive":
            pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[spec.dims]
            self.fc = nn.Sequential(pool(2), nn.Flatten(), nn.Linear(width * 2**spec.dims, 3))
        elif self.kind == "conv":
            self.fc = conv(width, 3, 1)
        elif self.kind == "channels_last":
            self.fc = nn.Linear(width, 3)
        elif self.kind == "pyramid":
            self.lateral, self.top, self.smooth = conv(4, 4, 1), project(x, 4), conv(4, 3, 3, padding=1)
        else:
            self.fc, self.side = nn.Linear(width, 3), conv(4, 2, 1)

    def forward(self, x: Tensor) -> Any:
        low = self.blocks[0](x)
        x = self.blocks[1:](low.clone())
        if self.kind == "max":
            return self.fc(x.amax(space(x)))
        if self.kind == "log_softmax":
            return F.log_softmax(self.fc(F.adaptive_avg_pool1d(x.flatten(2), 1).squeeze(-1)), dim=1)
        if self.kind in {"flatten", "two_layers"}:
            return self.fc(torch.flatten(x, 1))
        if self.kind in {"conv", "adaptive"}:
            return self.fc(x)
        if self.kind == "channels_last":
            return self.fc(x.movedim(1, -1)).flatten(1, -2).mean(1)
        if self.kind == "pyramid":  # two scales share one width and one last layer
            top = self.top(x)
            both = self.lateral(low) + F.interpolate(top, size=low.shape[2:], mode="nearest")
            return self.smooth(both), self.smooth(top)
        if self.kind == "auxiliary":
            return {"out": self.fc(x.mean(space(x))), "aux": self.side(F.relu(low))}
        return self.fc(x.mean(space(x)))


def shape_of(net: NetSpec) -> tuple[int, ...]:
    return (1, 3, *{1: (8,), 2: (6, 6), 3: (4, 4, 4)}[net.dims])


def build(net: NetSpec, seed: int = 0) -> nn.Module:
    """The network in eval mode, float64, every weight random."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = Net(net, torch.zeros(shape_of(net), dtype=torch.float64)).double()
        randomise(module, seed)
        module.train()
        with torch.no_grad():  # spectral norms find their vectors, batch norms their statistics
            module(images(shape_of(net), 3, seed).double())
    return module.eval()


def _record(kind: type[Block]) -> st.SearchStrategy[Block]:
    """A block with every field drawn from what its type allows."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    return st.builds(kind, **{name: st.sampled_from(_choices(hints[name])) for name in names})


def _choices(hint: Any) -> tuple[Any, ...]:
    """What a field may be, plainest first."""
    return (False, True) if hint is bool else get_args(hint)


def _some(blocks: st.SearchStrategy[Block], low: int, high: int) -> st.SearchStrategy[tuple[Block, ...]]:
    return st.lists(blocks, min_size=low, max_size=high).map(tuple)


def _compound(inner: st.SearchStrategy[Block]) -> st.SearchStrategy[Block]:
    branch = _some(inner, 0, 2)
    return st.one_of(
        st.builds(
            Merge,
            branches=st.lists(branch, min_size=2, max_size=3).map(tuple),
            how=st.sampled_from(get_args(branches.Join)),
        ),
        st.builds(Twice, body=_some(inner, 1, 2), between=st.booleans()),
        st.builds(
            UNet,
            body=_some(inner, 1, 2),
            **{name: st.sampled_from(_choices(get_type_hints(UNet)[name])) for name in ("how", "up", "norm", "act")},
        ),
    )


def nets(dims: int | None = None) -> st.SearchStrategy[NetSpec]:
    """Networks of one to four blocks, some of which hold others."""

    def of(count: int) -> st.SearchStrategy[NetSpec]:
        simple = st.one_of([_record(kind) for kind in SIMPLE if count in kind.dims])
        nested = _compound(st.one_of(simple, simple, _compound(simple)))
        block = st.one_of(simple, simple, nested)
        blocks = st.one_of(_some(block, 1, 2), _some(block, 2, 4), _some(block, 3, 5))
        return st.builds(NetSpec, dims=st.just(count), blocks=blocks, head=st.sampled_from(HEADS))

    return of(dims) if dims else st.one_of(of(2), of(2), of(1), of(3))


def cases(dims: int | None = None) -> st.SearchStrategy[Case]:
    removed = st.sampled_from(_choices(get_type_hints(Case)["removed"]))
    return st.builds(Case, net=nets(dims), removed=removed, seed=st.integers(0, 999))


def singles() -> Iterator[Case]:
    """Every block by itself in 2-d, in its plainest form and with every other choice of every field."""
    for kind in dict.fromkeys(SIMPLE):
        choices = {field.name: _choices(get_type_hints(kind)[field.name]) for field in fields(kind)}
        plain = kind(**{name: values[0] for name, values in choices.items()})
        others = [replace(plain, **{name: value}) for name, values in choices.items() for value in values[1:]]
        for number, block in enumerate([plain, *others]):
            last = basic.Conv(4, 1, 1, "zeros", 1, True, "none", "none", "none")
            yield Case(NetSpec(2, (block, last), "mean"), 0.5, number)


def blocks_of(value: Any) -> Iterator[Block]:
    """Every block of a record, nested ones too."""
    if isinstance(value, Block):
        yield value
    if isinstance(value, tuple):
        for part in value:
            yield from blocks_of(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from blocks_of(getattr(value, field.name))


def simpler(value: Any, hint: Any = None) -> Iterator[Any]:
    """Records one step plainer than ``value``: a block less, a block in place of what holds it, a plainer choice."""
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            yield (*value[:index], *value[index + 1 :])
            if isinstance(part, Block):
                for inner in list(blocks_of(part))[1:]:
                    yield (*value[:index], inner, *value[index + 1 :])
            for plainer in simpler(part):
                yield (*value[:index], plainer, *value[index + 1 :])
    elif is_dataclass(value):
        hints = get_type_hints(type(value))
        for field in fields(value):  # type: ignore[arg-type]
            for plainer in simpler(getattr(value, field.name), hints[field.name]):
                if _possible(value, field.name, plainer):
                    yield replace(value, **{field.name: plainer})  # type: ignore[type-var]
    elif hint is int and value:
        yield from (number for number in (0, 1, value // 2) if number < value)
    elif hint is not None and hint is not int:
        choices = _choices(hint)
        yield from choices[: choices.index(value)]


def _possible(record: Any, name: str, value: Any) -> bool:
    if isinstance(record, NetSpec) and name == "dims":
        return all(value in block.dims for block in blocks_of(record.blocks))
    return not (isinstance(record, Merge) and name == "branches" and len(value) < 2)


def simplest(case: Case, still_fails: Callable[[Case], bool], budget: int = 300) -> Case:
    """The plainest case that still fails, found greedily with at most ``budget`` tries."""
    while budget > 0:
        for candidate in simpler(case):
            budget -= 1
            if still_fails(candidate):
                case = candidate
                break
            if budget <= 0:
                break
        else:
            break
    return case
