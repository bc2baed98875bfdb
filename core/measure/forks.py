"""Outputs of a network with one group's units hidden, for many such choices at once.

The tape is walked once per batch; at a group's first reader it forks, and only the rest runs again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.measure.walk import Replays, first_tensor
from core.records import Group, Trace
from core.trace.graph import named_state
from core.trace.hiding import hidden_weights
from core.trace.replay import Replay

Stop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Fork:
    """One choice to measure: ``group`` keeps these units (sorted), all else is dense."""

    group: Group
    kept: tuple[int, ...]


class Latch:
    """Remembers that the caller said stop, so that a batch that was told once stays told."""

    def __init__(self, cancelled: Stop | None) -> None:
        self.cancelled = cancelled
        self.set = False

    def __call__(self) -> bool:
        self.set = self.set or (self.cancelled is not None and bool(self.cancelled()))
        return self.set


class ForkEngine:
    """Class scores of every fork and of the dense network: by replay, by whole passes where a tape cannot be re-run."""

    def __init__(self, trace: Trace, forks: Sequence[Fork]) -> None:
        self.trace = trace
        self.forks = forks
        self.replays = None if trace.tape.aliases_written else Replays(trace)

    def outputs(self, images: Tensor, stop: Stop) -> Iterator[tuple[Fork | None, Tensor]]:
        """(fork, scores) for each fork until ``stop()``, and in every case (None, scores) for the dense network.

        images: N x C x H x W; scores: (N, classes). Raises TraceError when the network does not run on such images.
        """
        return self._whole(images, stop) if self.replays is None else self._forked(self.replays, images, stop)

    @torch.inference_mode()
    def _forked(self, replays: Replays, images: Tensor, stop: Stop) -> Iterator[tuple[Fork | None, Tensor]]:
        replay = replays.of(images)
        starts: dict[int, list[Fork]] = {}
        for fork in self.forks:
            starts.setdefault(first_reader(replay, fork.group), []).append(fork)
        env: dict[int, Any] = {replay.tape.input: images}
        for index in range(len(replay.steps) + 1):
            for fork in starts.get(index, ()):
                if stop():
                    break
                edits = hidden_weights(self.trace, fork.group, fork.kept, replay.state)
                yield fork, replay.logits(replay.run(dict(env), index, edits=edits))
            if index < len(replay.steps):
                replay.run_step(index, env, {})
        yield None, replay.logits(env)

    @torch.inference_mode()
    def _whole(self, images: Tensor, stop: Stop) -> Iterator[tuple[Fork | None, Tensor]]:
        module = copy.deepcopy(self.trace.module).eval()
        state = {name: tensor.detach() for name, tensor in named_state(module).items()}
        for fork in self.forks:
            if stop():
                break
            edits = hidden_weights(self.trace, fork.group, fork.kept, state)
            yield fork, first_tensor(torch.func.functional_call(module, edits, (images,)))
        yield None, first_tensor(module(images))


def first_reader(replay: Replay, group: Group) -> int:
    """Index of the first step that reads a weight through which the group is read; the end when nothing does."""
    names = {member.tensor for member in group.by_role("consumer")}
    state = replay.tape.state
    found = (index for index, step in enumerate(replay.steps) if any(state.get(slot) in names for slot in step.reads))
    return next(found, len(replay.steps))
