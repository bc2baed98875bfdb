"""The layers that can be rebuilt, and sampled rows of what they read and of what they should give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.apply.branches import Affine, Behind, affine_of, look_behind
from core.apply.fitting import Rows
from core.apply.lockstep import Lockstep, Positions, take_patches, take_positions
from core.records import Group
from core.trace.graph import Ref

LEAST_ROWS, ROWS_PER_INPUT, MOST_ROWS = 2000, 20, 60_000
MOST_KEPT = 1 << 27  # numbers in the rows of one layer, where rows are kept


@dataclass(frozen=True)
class Site:
    """One layer. weight, bias: state names; mean: the running mean behind it that can take a shift. affine: what the
    batch norm behind does to each output, 1 and 0 where that may not be divided by (``safe``: where it may).
    groups: those to be chosen here."""

    index: int
    weight: str
    bias: str | None
    mean: str | None
    behind: Behind
    affine: Affine
    safe: Tensor
    x_slot: int
    groups: list[Group] = field(default_factory=list)

    @property
    def layer(self) -> str:
        return self.weight.rpartition(".")[0]

    @property
    def shifts(self) -> bool:
        """Whether there is a place for a new bias."""
        return self.bias is not None or self.mean is not None


def find_sites(pair: Lockstep) -> dict[int, Site]:
    """Step index -> the layer there, for plain convolutions and linear layers whose weight is read once."""
    used = Counter(name for step in pair.steps for name in map(pair.tape.state.get, step.reads) if name)
    sites = {}
    for index, step in enumerate(pair.steps):
        if step.name == "convolution" and not step.args[6] and step.args[8] == 1:
            x, weight, bias = step.args[:3]
        elif step.name == "addmm" and len(step.args) == 3 and not step.kwargs:
            bias, x, weight = step.args
        elif step.name in {"mm", "linear"}:
            x, weight, bias = step.args[0], step.args[1], step.args[2] if len(step.args) > 2 else None
        else:
            continue
        name = pair.name(weight)
        if name is None or used[name] != 1 or not isinstance(x, Ref) or x.slot in pair.tape.state:
            continue
        if bias is None or (pair.name(bias) is not None and used[str(pair.name(bias))] == 1):
            sites[index] = _site(pair, index, name, pair.name(bias), x.slot, used)
    return sites


def _site(pair: Lockstep, index: int, weight: str, bias: str | None, x_slot: int, used: Counter[str]) -> Site:
    behind = look_behind(pair.tape, pair.steps, index)
    norm = None if behind.norm is None else pair.steps[behind.norm]
    affine = affine_of(norm, pair.tape.state, pair.replay.state, len(pair.replay.state[weight]))
    mean = None if norm is None else pair.name(norm.args[3])
    mean = mean if mean is not None and used[mean] == 1 else None
    safe = affine.safe
    affine = Affine(torch.where(safe, affine.scale, 1.0), torch.where(safe, affine.shift, 0.0))
    return Site(index, weight, bias, mean, behind, affine, safe, x_slot)


@dataclass(frozen=True)
class Sampler:
    """Draws the rows. on_original: inputs are the original network's; then its own outputs are all that is wanted."""

    pair: Lockstep
    positions: Positions
    per_image: int
    correct_branches: bool
    rectify: bool
    on_original: bool

    def rows(self, site: Site, xs: Sequence[Tensor], alive: Tensor, window: int) -> Rows:
        """What the layer reads (``xs``, per batch; of inputs ``alive``, bool (channels,)), and what it should give.

        The targets lie behind the batch norm and what other branches add, as far as that is known already.
        """
        pair, behind = self.pair, site.behind
        others = [slot for slot in behind.others if pair.known(slot)] if self._corrects else []
        heeded = self.rectify and behind.rectified and len(others) == len(behind.others) and not self.on_original
        scale, shift = site.affine.scale.float(), site.affine.shift.float()
        zs = pair.values(pair.original, behind.output, {})
        sums = [[pair.values(envs, slot, {}) for slot in others] for envs in (pair.original, pair.current)]
        rows = Rows(int(alive.sum()) * window, len(scale), heeded)
        place = alive.nonzero().flatten()
        for batch, where in enumerate(self._where(site, rows.inputs)):
            u = self._outputs(site, zs[batch], where) * scale.to(zs[batch].device) + shift.to(zs[batch].device)
            base = None
            if others:
                was, now = (sum(self._outputs(site, values[batch], where) for values in side) for side in sums)
                u, base = torch.where(site.safe.to(u.device), u + was, u), now * site.safe.to(now)
            rows.add(self._inputs(site, xs[batch], where, place), u, base)
        return rows

    @property
    def _corrects(self) -> bool:
        return self.correct_branches and not self.on_original

    def _where(self, site: Site, unknowns: int) -> list[Tensor]:
        shape, images = self.pair.tape.shapes[site.behind.output], sum(self.pair.images)
        if self.pair.steps[site.index].name == "convolution":
            area = math.prod(shape[2:])
        else:
            area = math.prod(shape[:-1]) // self.pair.images[0]
        least = -(-max(LEAST_ROWS, ROWS_PER_INPUT * unknowns) // images)
        most = min(MOST_ROWS, MOST_KEPT // max(1, unknowns))
        count = min(max(self.per_image, least), max(1, most // images), area)
        return self.positions.at(area, max(1, count))

    def _outputs(self, site: Site, y: Tensor, where: Tensor) -> Tensor:
        """(rows, q)"""
        if self.pair.steps[site.index].name == "convolution":
            return take_positions(y, where)
        return _tokens(y, where)

    def _inputs(self, site: Site, x: Tensor, where: Tensor, place: Tensor) -> Tensor:
        """(rows, inputs that are alive)"""
        step = self.pair.steps[site.index]
        if step.name != "convolution":
            return _tokens(x, where)[:, place.to(x.device)]
        if len(place) < x.shape[1]:
            x = x[:, place.to(x.device)]
        kernel = self.pair.replay.state[site.weight].shape[2:]
        return take_patches(x, step, kernel, self.pair.tape.shapes[site.behind.output][2:], where)


def _tokens(x: Tensor, where: Tensor) -> Tensor:
    """x: (..., c), rows of a linear layer, an equal number per image. where: (N, positions)."""
    rows = x.reshape(len(where), -1, x.shape[-1])
    index = where.to(x.device)[..., None].expand(-1, -1, x.shape[-1])
    return rows.gather(1, index).reshape(-1, x.shape[-1])
