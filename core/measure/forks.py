"""Outputs of a network with one group's units gone, for many such choices at once.

The tape is walked once per batch; at a group's first reader it forks, and only the rest runs again: narrower where
that saves arithmetic, else with zeros where the readers would see what is gone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from core.measure.scan.lanes import Lanes
from core.measure.scan.narrow import pick
from core.measure.scan.program import Env, Program
from core.measure.scan.runs import Run, Runs, consumer_masks
from core.measure.scan.silent import Silence
from core.measure.scan.waypoints import Waypoints
from core.measure.walk import Replays, first_tensor
from core.records import Group, Plan, Trace
from core.trace.graph import Tape, named_state, plain_attention
from core.trace.hiding import hidden_state

Stop = Callable[[], bool]
TOLERANCE = 1e-4  # relative: a narrower run must equal the hidden one, as in prune_model
CACHE_BYTES = 256 << 20  # smaller weights that are kept between batches


@dataclass(frozen=True, eq=False)
class Fork:
    """One choice to measure: ``group`` keeps these units (sorted), all else is as in the engine's ``base``."""

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
    """Class scores of every fork and of ``base`` (None = the dense network).

    By partial re-runs of the tape; by whole passes where a tape cannot be re-run. ``narrow``: run forks physically
    narrower where that is cheaper, and where a normalisation runs over their units. Without it every fork runs at full
    width with its units hidden. ``places``: how many batches there are, where the same ones come again and again.
    """

    def __init__(
        self, trace: Trace, forks: Sequence[Fork], base: Plan | None = None, *, narrow: bool = False, places: int = 0
    ) -> None:
        self.trace = trace
        self.forks = forks
        self.base = base or Plan({})
        self.narrow = narrow
        self.places = places
        self.threads = torch.get_num_threads()
        self.replayed = not trace.tape.aliases_written
        self._replays = Replays(trace)
        self._forked: dict[tuple[int, ...], _Forked] = {}

    def outputs(
        self, images: Tensor, stop: Stop, forks: Sequence[Fork] | None = None, place: int | None = None
    ) -> Iterator[tuple[Fork | None, Tensor]]:
        """(fork, scores) for each of ``forks`` (None = all) until ``stop()``, and always (None, scores) for the base.

        images: N x C x H x W; scores: (N, classes). place: a number that belongs to these images alone, where they
        come again: the base then need not make everything anew. Raises TraceError when the network does not run on
        such images.
        """
        chosen = self.forks if forks is None else forks
        if self.replayed:
            return self._on(images).outputs(images, stop, chosen, place)
        return self._whole(images, stop, chosen)

    def macs(self, images: Tensor) -> dict[Fork, float]:
        """Multiply-adds per image of each fork's partial re-run, for batches like ``images``; 1 where a whole network
        has to run for each."""
        if not self.replayed:
            return dict.fromkeys(self.forks, 1.0)
        forked = self._on(images)
        return {fork: max(1.0, forked.run(fork).macs) for fork in self.forks}

    def _on(self, images: Tensor) -> _Forked:
        shape = tuple(images.shape)
        if shape not in self._forked:
            self._forked[shape] = _Forked(self, self._replays.tape(images))
        return self._forked[shape]

    @torch.inference_mode()
    def _whole(self, images: Tensor, stop: Stop, forks: Sequence[Fork]) -> Iterator[tuple[Fork | None, Tensor]]:
        module = copy.deepcopy(self.trace.module).eval()
        state = {name: tensor.detach() for name, tensor in named_state(module).items()}

        def scores(kept: Mapping[str, Sequence[int]]) -> Tensor:
            edits = hidden_state(consumer_masks(self.trace, kept), state, self.trace.norms)
            with plain_attention():
                return first_tensor(torch.func.functional_call(module, edits, (images,)))

        for fork in forks:
            if stop():
                break
            yield fork, scores({**self.base.kept, fork.group.id: fork.kept})
        yield None, scores(self.base.kept)


def _close(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max()) or 1.0
    return found.shape == expected.shape and float((found - expected).abs().max()) <= TOLERANCE * scale


@dataclass
class _Alike:
    """Forks with the same outputs on a batch; the last does the least arithmetic. ``as_base``: also the base's."""

    forks: list[Fork]
    as_base: bool


class _Forked:
    """An engine's forks on the program of one batch size. How each runs is worked out when it is first asked for."""

    def __init__(self, engine: ForkEngine, tape: Tape) -> None:
        self.program = Program(tape, engine.trace.module)
        self.runs = Runs(engine.trace, self.program, engine.base, narrow=engine.narrow)
        self.silence = Silence(self.program)
        self.chosen: dict[Fork, Run] = {}
        self.trusted: dict[str, bool] = {}  # group -> its narrower runs equal hidden ones (looked at once)
        self.base_checked = self.runs.base.narrowed is None
        self.made: dict[Fork | None, Env] = {}
        self.room = CACHE_BYTES
        self.waypoints = Waypoints(engine.places)
        self.lanes = engine.threads if self.program.device.type == "cpu" else 1

    def run(self, fork: Fork) -> Run:
        if fork not in self.chosen:
            self.chosen[fork] = self.runs.of(fork.group, fork.kept)
        return self.chosen[fork]

    @torch.inference_mode()
    def outputs(
        self, images: Tensor, stop: Stop, forks: Sequence[Fork], place: int | None
    ) -> Iterator[tuple[Fork | None, Tensor]]:
        program = self.program
        fresh = program.begin(images)
        if not self.base_checked:
            self._check_base(fresh)
        starts: dict[int, list[Fork]] = {}
        for fork in forks:
            starts.setdefault(self.run(fork).start, []).append(fork)
        walk = _Walk(self, fresh, place)
        unchanged: list[Fork] = []
        lanes: Lanes[list[Fork]] = Lanes(self.lanes)
        with lanes:
            for index in sorted(starts):
                lanes.do(partial(walk.to, index))
                with lanes.alone():
                    found = self._alike(starts[index], walk)
                for alike in found:
                    if alike.as_base:
                        unchanged += alike.forks
                        continue
                    if stop():
                        break
                    with lanes.alone():
                        ready = self._ready(alike.forks[-1], walk.env, fresh)
                    for some, scores in lanes.put(alike.forks, ready):
                        for fork in some:
                            yield fork, scores
            lanes.do(walk.end)
            if stop():
                lanes.drop()
            for some, scores in lanes.rest():
                for fork in some:
                    yield fork, scores
        for fork in unchanged:
            if stop():
                break
            yield fork, walk.logits
        yield None, walk.logits

    def _alike(self, forks: Sequence[Fork], walk: _Walk) -> list[_Alike]:
        """Forks that differ by units which are zero on all these images must give the same; base may be one of them."""
        found: dict[tuple[str, frozenset[int]], _Alike] = {}
        for fork in sorted(forks, key=lambda fork: -len(fork.kept)):
            group = fork.group
            gone, base = walk.silent(group), self.runs.plan.kept.get(group.id, range(group.units))
            heard = frozenset(fork.kept) - gone if gone else frozenset(fork.kept)
            everything = bool(gone) and heard == set(base) - gone
            found.setdefault((group.id, heard), _Alike([], everything)).forks.append(fork)
        return list(found.values())

    def _check_base(self, fresh: Env) -> None:
        self.base_checked = True
        if self._mixing():
            return  # there the smaller network differs from the hidden one, and is the one that counts
        if not self._equal(self.runs.base, None, self.runs.hidden({}, 0), fresh, fresh):
            self.runs.hide_base()
            self.made.clear()
            self.chosen.clear()

    def _mixing(self) -> bool:
        return any(self.runs.trace.group(name).mixing for name in self.runs.plan.kept)

    def _ready(self, fork: Fork, env: Env, fresh: Env) -> Callable[[], Tensor]:
        """What is left to do for the fork's scores, on tensors of its own and on such as nobody changes."""
        run, group = self.run(fork), fork.group
        if run.narrowed is not None and not (group.mixing or self._mixing() or group.id in self.trusted):
            self.trusted[group.id] = self._equal(run, fork, self.runs.instead(group, fork.kept), env, fresh)
        if run.narrowed is not None and self.trusted.get(group.id) is False:
            self.made.pop(fork, None)
            run = self.chosen[fork] = self.runs.instead(group, fork.kept)
        own = self._entered(run, fork, env if run.start else fresh)
        return lambda: self.program.logits(self.program.run(own, run.start, lines=run.lines))

    def _equal(self, narrow: Run, fork: Fork | None, hidden: Run, env: Env, fresh: Env) -> bool:
        """Whether a narrower run makes what the hidden one makes, where both are at full width again."""
        program = self.program
        wide = self._entered(hidden, None, env if hidden.start else fresh)
        slim = self._entered(narrow, fork, env if narrow.start else fresh)
        program.run(wide, hidden.start, narrow.end)
        try:
            program.run(slim, narrow.start, narrow.end, narrow.lines)
        except (RuntimeError, IndexError):
            return False
        made = {slot for step in program.steps[narrow.start : narrow.end] for slot in step.outputs}
        return all(_close(slim[slot], wide[slot]) for slot in made & wide.keys())

    def _entered(self, run: Run, fork: Fork | None, env: Env) -> Env:
        """What ``run`` starts with, from what the base has made so far."""
        own = dict(env)
        for slot, picks in run.picks.items():
            for axis, index in picks:
                own[slot] = pick(own[slot], axis, index)
        own.update(self._weights(run, fork))
        return own

    def _weights(self, run: Run, fork: Fork | None) -> Env:
        """The run's own weights, kept between batches as long as there is room for them."""
        if fork is None and run is not self.runs.base:
            return run.weights()
        if fork in self.made:
            return self.made[fork]
        made = run.weights()
        size = sum(tensor.numel() * tensor.element_size() for tensor in made.values())
        if size <= self.room:
            self.room -= size
            self.made[fork] = made
        return made


class _Walk:
    """The base's way through the network for one batch: ``env``, what it has made by step ``at``."""

    def __init__(self, forked: _Forked, fresh: Env, place: int | None) -> None:
        self.forked, self.place = forked, place
        self.fresh = forked._entered(forked.runs.base, None, fresh)
        self.env, self.at = dict(self.fresh), 0
        self.quiet: dict[str, frozenset[int]] = {}

    def to(self, index: int) -> None:
        """Go on to step ``index``. Nothing made before is written over: forks beside the walk may still read it."""
        forked, place = self.forked, self.place
        if place is not None:
            known, made = forked.waypoints.last(place, index)
            if known > self.at:
                self.env, self.at = {**self.fresh, **made}, known
        forked.program.run(self.env, self.at, index, lines=forked.runs.base.lines)
        if place is not None and self.at < index < len(forked.program.steps):
            made = {slot: value for slot, value in self.env.items() if self.fresh.get(slot) is not value}
            forked.waypoints.keep(place, index, made)
        self.at = index

    def end(self) -> None:
        """Set ``logits``."""
        known, program = self.forked.waypoints.logits, self.forked.program
        if self.place is None or self.place not in known:
            self.to(len(program.steps))
            logits = program.logits(self.env)
            if self.place is None:
                self.logits = logits
                return
            known[self.place] = logits
        self.logits = known[self.place]

    def silent(self, group: Group) -> frozenset[int]:
        """Units of ``group`` that are zero on all these images where the walk is now; only of a base at full width."""
        if self.forked.runs.base.narrowed is not None:
            return frozenset()
        known = self.quiet if self.place is None else self.forked.waypoints.silent.setdefault(self.place, {})
        if group.id not in known:
            known[group.id] = self.forked.silence.units(group, self.env)
        return known[group.id]
