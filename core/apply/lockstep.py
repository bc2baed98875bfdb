"""The original network and the one that is being changed, run step by step together over all calibration images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from core.apply.branches import shallow_first
from core.trace.graph import Ref, Step, Tape, record_tape
from core.trace.replay import Replay

FEW = 8  # below this many candidates per drawn position, positions are drawn without repeats
Env = dict[int, Tensor]


class Lockstep:
    """Both networks on one tape, so that a step of one is the same step of the other.

    ``edits``: state entries of the changed network; ``reads``: weight -> which inputs it reads (bool), where not all.
    Until a change reaches a step, its results are the original's own. follow: False when only the original is needed.
    """

    def __init__(self, module: nn.Module, example: Tensor, batches: Sequence[Tensor], *, follow: bool = True) -> None:
        repeated = example[:1].repeat(len(batches[0]), *[1] * (example.dim() - 1))
        self.replay = Replay(record_tape(module, repeated), module)
        self.steps: tuple[Step, ...] = tuple(shallow_first(self.tape, self.replay.steps))
        self.replay.steps = self.steps
        self.replay.last_use = {slot: index for index, step in enumerate(self.steps) for slot in step.reads}
        self.replay.last_use.update(dict.fromkeys(self.tape.output_slots, len(self.steps)))
        self.images = [len(batch) for batch in batches]
        self.original: list[Env] = [{self.tape.input: images} for images in batches]
        self.current: list[Env] = [dict(env) for env in self.original] if follow else []
        self.edits: dict[str, Tensor] = {}
        self.reads: dict[str, Tensor] = {}
        self.changed: set[int] = set()
        self._transposed = {
            step.outputs[0]: self.tape.state[step.reads[0]]
            for step in self.steps
            if step.name == "t" and step.reads[0] in self.tape.state
        }

    @property
    def tape(self) -> Tape:
        return self.replay.tape

    def name(self, value: object) -> str | None:
        """State name behind an argument of a step; through a transposed view of a weight."""
        if not isinstance(value, Ref):
            return None
        return self.tape.state.get(value.slot, self._transposed.get(value.slot))

    def values(self, envs: Sequence[Env], slot: int, edits: Mapping[str, Tensor]) -> list[Tensor]:
        """What ``slot`` holds, per batch. Read it before the last step that uses it has run."""
        return [self.replay.value(slot, env, edits) for env in envs]

    def known(self, slot: int) -> bool:
        """Whether the step that makes ``slot`` has run in both networks."""
        return all(slot in env for env in (*self.original[:1], *self.current[:1]))

    def run_original(self, index: int) -> None:
        for env in self.original:
            self.replay.run_step(index, env, {})

    def run_current(self, index: int) -> None:
        """After ``run_original`` of the same step."""
        step = self.steps[index]
        names = {self.tape.state.get(slot) for slot in step.reads}
        touched = not self.changed.isdisjoint(step.reads) or not names.isdisjoint(self.edits)
        if touched:
            self.changed.update(step.outputs)
        for before, env in zip(self.original, self.current, strict=bool(self.current)):
            if touched:
                self._run(index, env)
                continue
            env.update({slot: before[slot] for slot in step.outputs if slot in before})
            for slot in step.reads:
                if self.replay.last_use[slot] == index:
                    env.pop(slot, None)

    def _run(self, index: int, env: Env) -> None:
        """One step of the changed network; a convolution skips the inputs that it does not read."""
        step = self.steps[index]
        name = self.name(step.args[1]) if step.name == "convolution" else None
        kept = self.reads.get(name) if name is not None else None
        if name is None or kept is None or step.args[8] != 1 or step.args[6]:
            self.replay.run_step(index, env, self.edits)
            return
        x_slot = step.args[0].slot
        x, place = env[x_slot], kept.nonzero().flatten().to(env[x_slot].device)
        env[x_slot] = x[:, place]
        narrow = {**self.edits, name: self.state(name)[:, place]}
        self.replay.run_step(index, env, narrow)
        if x_slot in env:
            env[x_slot] = x

    def state(self, name: str) -> Tensor:
        return self.edits.get(name, self.replay.state[name])


class Positions:
    """Which output positions of each image are sampled: the same in every layer with as many positions.

    A block's shortcut and its last layer thus meet at the same places, and fewer positions are a part of more.
    """

    def __init__(self, images: Sequence[int], seed: int) -> None:
        self.images, self.seed = images, seed
        self.drawn: dict[int, list[Tensor]] = {}

    def at(self, area: int, count: int) -> list[Tensor]:
        """int64 (images of the batch, at most ``count``) per batch, in 0..area - 1."""
        known = self.drawn.get(area)
        if known is None or known[0].shape[1] < min(area, count):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + area)
            known = self.drawn[area] = [self._draw(images, area, count, generator) for images in self.images]
        return [chosen[:, :count] for chosen in known]

    @staticmethod
    def _draw(images: int, area: int, count: int, generator: torch.Generator) -> Tensor:
        if area > FEW * count:
            return torch.randint(area, (images, count), generator=generator)
        return torch.rand(images, area, generator=generator).topk(min(area, count), dim=1).indices


def take_positions(y: Tensor, chosen: Tensor) -> Tensor:
    """y: N x n x space. chosen: (N, positions) into the flattened space. Returns (N * positions, n)."""
    flat = y.flatten(2)
    index = chosen.to(y.device)[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).reshape(-1, flat.shape[1])


def take_patches(x: Tensor, step: Step, kernel: Sequence[int], space: Sequence[int], chosen: Tensor) -> Tensor:
    """What a convolution read at output positions ``chosen``, (N, positions): (N * positions, c * kernel).

    x: N x c x space. kernel: the sizes of its window, space: of its output. Columns stand in the weight's order.
    """
    stride, padding, dilation = (_per_axis(step.args[place], len(kernel)) for place in (3, 4, 5))
    left, where = chosen.to(x.device), list[Tensor]()
    for size in reversed(space):
        where.insert(0, left % size)
        left = left // size
    pads = [amount for size in reversed(padding) for amount in (size, size)]
    padded = torch.nn.functional.pad(x, pads)
    sizes = padded.shape[2:]
    flat = torch.zeros(*chosen.shape, 1, dtype=torch.int64, device=x.device)
    for axis, taps in enumerate(kernel):
        at = where[axis][..., None] * stride[axis] + torch.arange(taps, device=x.device) * dilation[axis]
        flat = (flat[..., :, None] * sizes[axis] + at[..., None, :]).flatten(2)
    window = math.prod(kernel)
    index = flat.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    found = padded.flatten(2).gather(2, index)  # N x c x (positions * window)
    return found.unflatten(2, (-1, window)).transpose(1, 2).reshape(-1, x.shape[1] * window)


def _per_axis(values: Sequence[int], axes: int) -> list[int]:
    return [int(values[axis if len(values) > 1 else 0]) for axis in range(axes)]
