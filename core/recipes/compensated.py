"""A network with layers compensated, measured without being built: CaP's binary search asks for hundreds of them.

CaP's statistics are those of the original network, taken once. Each candidate hides channels, puts the closed form into
the layers that read them, and runs the tape on images for choosing, from the first layer that changed. Masked equals
pruned, so this is the accuracy of the pruned and compensated network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.apply.lockstep import Lockstep
from core.apply.sites import Site, find_sites
from core.apply.surgery import kept_positions
from core.errors import Cancelled
from core.evaluate.metrics import Answers, summarise
from core.measure.importance.compensation import ROWS_PER_INPUT
from core.measure.importance.criteria import Request
from core.measure.importance.moments import Reading, score_by_readings
from core.measure.walk import Replays, example_losses, replay_for
from core.records import Accuracy, Group, ImageData, Plan, Trace
from core.solvers.greedy import Design, forward_greedy
from core.solvers.least_squares import compensate
from core.trace.hiding import hidden_state
from core.trace.replay import Replay

MOMENT_BYTES = 1 << 30  # of all layers together; layers beyond are hidden from and not compensated
BATCH = 64
PURPOSE = "Compensation"


@dataclass(frozen=True)
class _Layer:
    """W: (q, p), its weights. mean: (p,), covariance: (p, p) of input patches, about 0 where no shift has a place."""

    site: Site
    W: Tensor
    mean: Tensor
    covariance: Tensor


class CompensatedNetwork:
    """``order``: each group's units in CaP's greedy order, those to keep first."""

    def __init__(
        self,
        trace: Trace,
        groups: tuple[Group, ...],
        calibration: ImageData,
        images: ImageData,
        *,
        seed: int = 0,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.trace, self.images, self.cancelled = trace, images, cancelled
        pair = Lockstep(trace.module, trace.example, [calibration.images[:1]], follow=False)
        self.sites = {site.weight: site for site in find_sites(pair).values()}
        self.state = pair.replay.state
        self.layers: dict[str, _Layer] = {}
        self.order: dict[str, tuple[int, ...]] = {}
        request = Request(replace(trace, groups=groups), calibration, seed, BATCH, {"positions": None}, None, cancelled)
        score_by_readings(request, PURPOSE, self._take, rows_per_input=ROWS_PER_INPUT)
        for group in groups:  # nothing reads it
            self.order.setdefault(group.id, tuple(range(group.units)))
        self._solved: dict[tuple[str, bytes], dict[str, Tensor]] = {}
        replays = Replays(trace)
        self._runs = [_Run(replay_for(replays, batch, PURPOSE), batch) for batch in images.images.split(BATCH)]

    def _take(self, group: Group, readings: list[Reading]) -> Tensor:
        """Keep the order, and the statistics of layers whose weights can be solved for."""
        designs = [Design(read.W, read.covariance, read.unit_of, 1 / read.energy) for read in readings]
        order, left = forward_greedy(designs, group.units)
        self.order[group.id] = tuple(order.tolist())
        for read in readings:
            site = self.sites.get(read.weight)
            held = sum(layer.covariance.numel() for layer in self.layers.values()) + read.second.numel()
            whole = len(read.means) == 1 and read.W.numel() == self.state[read.weight].numel()
            if site is not None and whole and read.weight not in self.layers and 8 * held <= MOMENT_BYTES:
                moments = read.covariance if site.shifts else read.second
                self.layers[read.weight] = _Layer(site, read.W, read.means[0], moments)
        return left[1:]

    def plan(self, counts: Mapping[str, int]) -> Plan:
        """The first ``counts`` units of each group's order."""
        return Plan({name: self.order[name][:count] for name, count in counts.items()}, "greedy, structural search")

    def measure(self, counts: Mapping[str, int]) -> Accuracy:
        """What the network that keeps so many units per group, compensated, gets right. Raises Cancelled."""
        edits = self._edits(self.plan(counts))
        predicted, losses = [], []
        labels = self.images.labels.split(BATCH)
        with torch.inference_mode():
            for run, answers in zip(self._runs, labels, strict=True):
                if self.cancelled is not None and self.cancelled():
                    raise Cancelled("Measuring a plan was cancelled.")
                logits = run(edits).cpu()
                losses.append(example_losses(logits, answers, self.images))
                predicted.append(logits.argmax(1))
        return summarise(Answers(torch.cat(predicted), torch.cat(losses)), self.images)

    def _edits(self, plan: Plan) -> dict[str, Tensor]:
        """The state entries that differ from the original's; the same tensors for the same masks."""
        masks = kept_positions(self.trace, plan, roles=("consumer",))
        edits: dict[str, Tensor] = {}
        for key, mask in masks.items():
            memo = (f"{key[0]}|{key[1]}", mask.numpy().tobytes())
            if memo not in self._solved:
                solved = key[0] in self.layers and key[1] == 1
                norms = [pair for pair in self.trace.norms if key[0] in pair]
                hidden = hidden_state({key: mask}, self.state, norms)
                self._solved[memo] = self._compensated(self.layers[key[0]], mask) if solved else hidden
            edits.update(self._solved[memo])
        return edits

    def _compensated(self, layer: _Layer, mask: Tensor) -> dict[str, Tensor]:
        site, old = layer.site, self.state[layer.site.weight]
        kept = mask.repeat_interleave(len(layer.mean) // len(mask))
        W, shift = compensate(layer.W, layer.mean, layer.covariance, kept, intercept=site.shifts)
        full = torch.zeros(len(W), len(kept), dtype=torch.float64)
        full[:, kept] = W
        edits = {site.weight: full.reshape(old.shape).to(old)}
        if site.bias is not None:
            edits[site.bias] = (self.state[site.bias].double() + shift).to(old)
        elif site.mean is not None:
            edits[site.mean] = (self.state[site.mean].double() - shift).to(old)
        return edits


class _Run:
    """The tape on one batch. ``env``: as it is before step ``at`` under ``before``, the edits of an earlier run; the
    next run goes on from there where nothing that was read until then differs."""

    def __init__(self, replay: Replay, images: Tensor) -> None:
        self.replay, self.images = replay, images
        names = [{replay.tape.state[slot] for slot in step.reads if slot in replay.tape.state} for step in replay.steps]
        self.first = {name: at for at, found in reversed(list(enumerate(names))) for name in found}
        self._restart()

    def _restart(self) -> None:
        self.at, self.before, self.env = 0, dict[str, Tensor](), dict[int, Any]({self.replay.tape.input: self.images})

    def __call__(self, edits: Mapping[str, Tensor]) -> Tensor:
        steps = len(self.replay.steps)
        changed = {name for name in {*edits, *self.before} if edits.get(name) is not self.before.get(name)}
        fork = min((self.first.get(name, 0) for name in changed), default=self.at)
        if fork < self.at:
            self._restart()
            fork = min((self.first.get(name, 0) for name in edits), default=0)
        self.replay.run(self.env, self.at, fork, dict(edits))
        self.at, self.before = fork, dict(edits)
        env = self.replay.run(dict(self.env), fork, steps, dict(edits))
        return self.replay.logits(env)
