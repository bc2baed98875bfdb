"""Soft filter pruning: train everything, and after every epoch silence the faintest filters, which may come back.

He, Kang, Dong, Fu, Yang 2018, Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks (arXiv
1808.06866), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.apply.course import Course, EpochLog
from core.apply.resume import identify_run, load_run, save_run
from core.apply.surgery import mask_model
from core.apply.training import Trainer, accuracy_of, private_copy
from core.errors import Cancelled, PlanError, TrainError
from core.measure.cost.counts import count_cost
from core.measure.importance.criteria import add_by_unit
from core.measure.importance.norms import NORM_STEPS, producer_slices
from core.records import Group, ImageData, Plan, Trace
from core.trace.copies import named_layers, named_state
from core.trace.graph import Ref, Tape

PRETRAINED_RATE = 0.1  # of the learning rate, for a network that was trained before (section 4.1)
SETTLE = 0.5
GAIN, FAINT = 5.0, 3e-3  # what a unit's batch norm wakes with: gain against the former one, and shift


@dataclass(frozen=True)
class SoftEpoch:
    """One epoch and what was silenced after it. zeroed: group id -> units; changed: how many of these units were not
    silent after the epoch before. ``epoch.watched`` is the accuracy with them silent."""

    epoch: EpochLog
    zeroed: Mapping[str, tuple[int, ...]]
    changed: int


@dataclass(frozen=True)
class Softened:
    """``module``: a new network of full size, in eval mode, in which the units that ``plan`` drops are silent:
    ``prune_model(module, trace, plan)`` computes the same."""

    module: nn.Module
    plan: Plan
    log: tuple[SoftEpoch, ...]
    complete: bool


def train_softly(
    module: nn.Module,
    trace: Trace,
    data: ImageData,
    rate: float | Mapping[str, float],
    *,
    start: str = "weights",
    settle: float = SETTLE,
    watch: ImageData | None = None,
    teacher: nn.Module | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    **course: Any,
) -> Softened:
    """Train a copy of ``module``; after every epoch silence floor(units x rate) units of each group, never all.

    The rule on coupled groups: a unit's norm is the L2 norm of the filters that make it in all layers it is born in,
    taken as one vector; those of least norm have all these filters set to zero, with their biases, the batch norms'
    scale and shift (gamma and beta) and whatever else carries the unit on, so that it is exactly zero and can leave
    without a trace. When the next epoch starts only the filters are still zero, and gamma and beta are small (see
    ``silence_units``): all three zero, no gradient would reach them, and none could come back. From the share
    ``settle`` of the course on that is wanted: they stay zero, and the rest of the course trains the network that will
    remain. This is where ours differs from the authors' code, which never silences gamma and beta, so that the network
    it trains and the compact one it builds are not the same; settle=1 lets filters come back to the end, as there.

    rate: for all groups that convolutions give birth to (all prunable ones where there are none), or by group id.
    start: "weights" goes on from the network's weights at a tenth of the learning rate, "scratch" draws new ones.
    course: epochs or seconds, lr, schedule ("steps" is the paper's) and the other fields of ``Course``; the rest is as
    in ``finetune_model``. ``on_progress(share, message, log so far)``.
    Raises PlanError for a rate that does not fit, TrainError as ``finetune_model``, Cancelled with the Softened of the
    last complete epoch as ``partial``.
    """
    counts = silent_counts(trace, rate)
    fresh, taught = _begin(module, start, settle, course)
    log: list[SoftEpoch] = []

    def tell(share: float, message: str, _: object = None) -> None:
        if on_progress is not None:
            on_progress(share, message, tuple(log))

    trainer = Trainer(fresh, data, taught, teacher=teacher, device=device, on_progress=tell, cancelled=cancelled)
    run = _SoftRun(trainer, trace, counts, settle, watch, log)
    store = None if checkpoint is None else Path(checkpoint)
    identity = {} if store is None else identify_run(fresh, trainer.data, taught, silenced=counts, settle=settle)
    if store is not None and resume and store.exists():
        run.take_up(load_run(trainer, store, identity))
    last = run.result(complete=False)
    try:
        for epoch in trainer.epochs():
            run.silence(epoch)
            last = run.result(complete=False)
            if store is not None:
                save_run(trainer, store, identity, run.kept())
            run.wake()
    except Cancelled as stop:
        raise Cancelled(f"Soft pruning was cancelled after {len(last.log)} complete epochs.", last) from stop
    return Softened(last.module, last.plan, last.log, True)


def _begin(module: nn.Module, start: str, settle: float, course: Mapping[str, Any]) -> tuple[nn.Module, Course]:
    """The network that training starts from, and the course with the learning rate that suits it."""
    if start not in ("weights", "scratch"):
        raise TrainError(f"start: expected 'weights' or 'scratch', found {start!r}.")
    if not 0.0 <= settle <= 1.0:
        raise TrainError(f"settle: expected a share in 0..1, found {settle}.")
    chosen = Course(**course)
    if start == "scratch":
        return reset_weights(module, chosen.seed), chosen
    return module, replace(chosen, lr=PRETRAINED_RATE * chosen.lr)


class _SoftRun:
    """What soft pruning keeps beside the trainer. ``waking``: gamma, beta and the like, by name, as they are
    when the next epoch starts."""

    def __init__(
        self,
        trainer: Trainer,
        trace: Trace,
        counts: Mapping[str, int],
        settle: float,
        watch: ImageData | None,
        log: list[SoftEpoch],
    ) -> None:
        self.trainer, self.trace, self.counts, self.settle = trainer, trace, counts, settle
        self.watch, self.log = watch, log
        self.waking: dict[str, Tensor] = {}

    def silence(self, epoch: EpochLog) -> None:
        state = named_state(self.trainer.module)
        zeroed = {name: faintest(self.trace.group(name), state, count) for name, count in self.counts.items()}
        self.waking = silence_units(self.trace, state, zeroed)
        before = self.log[-1].zeroed if self.log else {}
        changed = sum(len(set(units) - set(before.get(name, ()))) for name, units in zeroed.items())
        if self.watch is not None:
            watched = accuracy_of(self.trainer.module, self.watch, self.trainer.stop_if_asked)
            epoch = replace(epoch, watched=watched)
        self.log.append(SoftEpoch(epoch, zeroed, changed))

    def wake(self) -> None:
        """Let the silent filters grow again; unless the course is too far gone for that."""
        if self.trainer.share() >= min(self.settle, 1.0):
            return
        state = named_state(self.trainer.module)
        with torch.no_grad():
            for name, value in self.waking.items():
                state[name].copy_(value)

    def result(self, *, complete: bool) -> Softened:
        zeroed = self.log[-1].zeroed if self.log else {}
        kept = {}
        for name, units in zeroed.items():
            silent = set(units)
            kept[name] = tuple(unit for unit in range(self.trace.group(name).units) if unit not in silent)
        plan = Plan(kept, f"soft filter pruning, {len(self.log)} epochs")
        module = mask_model(self.trainer.finish(), self.trace, plan)  # for activations that are not zero at zero
        return Softened(module, plan, tuple(self.log), complete)

    def kept(self) -> dict[str, Tensor]:
        """All of it as tensors."""
        found = {f"waking.{name}": value for name, value in self.waking.items()}
        for number, entry in enumerate(self.log):
            watched = float("nan") if entry.epoch.watched is None else entry.epoch.watched
            found[f"log.{number}"] = torch.tensor([entry.changed, watched], dtype=torch.float64)
            for name, units in entry.zeroed.items():
                found[f"zeroed.{number}.{name}"] = torch.tensor(units, dtype=torch.int64)
        return found

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        for number, epoch in enumerate(self.trainer.logs):
            changed, watched = kept[f"log.{number}"].tolist()
            if watched == watched:
                epoch = replace(epoch, watched=watched)
            zeroed = {name: tuple(kept[f"zeroed.{number}.{name}"].tolist()) for name in self.counts}
            self.log.append(SoftEpoch(epoch, zeroed, int(changed)))
        start = "waking."
        self.waking = {name.removeprefix(start): v for name, v in kept.items() if name.startswith(start)}
        self.wake()


def soft_groups(trace: Trace) -> tuple[Group, ...]:
    """The prunable groups that convolutions give birth to; all prunable ones where there are none of these."""
    state = named_state(trace.module)
    found = tuple(g for g in trace.prunable if any(state[m.tensor].dim() > 2 for m in g.by_role("producer")))
    return found or trace.prunable


def silent_counts(trace: Trace, rate: float | Mapping[str, float]) -> dict[str, int]:
    """Group id -> floor(units x rate), never all units. Raises PlanError for a rate outside 0..1 (1 not included), an
    unknown or a locked group, or a network without groups that may leave."""
    rates = dict(rate) if isinstance(rate, Mapping) else {group.id: rate for group in soft_groups(trace)}
    if not rates:
        raise PlanError("No group of channels of this network may leave, so nothing can be pruned softly.")
    counts = {}
    for name, value in rates.items():
        group = trace.group(name)
        if not group.prunable or group.gather_of is not None:
            why = group.reason or "it is one reader's own choice of channels"
            raise PlanError(f"Group {name} cannot be pruned softly: {why}. Leave it out.")
        if not 0.0 <= value < 1.0:
            raise PlanError(f"Group {name}: expected a rate from 0 up and below 1, found {value}.")
        counts[name] = min(group.units - 1, int(value * group.units + 1e-9))
    return counts


def rate_for_macs(trace: Trace, macs: float) -> float:
    """The smallest rate (to 0.001) that leaves at most ``macs`` (a share in 0..1) of the dense multiply-adds.

    Raises PlanError when no rate does."""
    whole = count_cost(trace).macs
    for step in range(1000):
        counts = silent_counts(trace, step / 1000)
        plan = Plan({name: tuple(range(trace.group(name).units - count)) for name, count in counts.items()})
        if count_cost(trace, plan).macs <= macs * whole:
            return step / 1000
    raise PlanError(f"No rate leaves {macs:g} of the multiply-adds: with one channel a group more remain. Allow more.")


def faintest(group: Group, state: Mapping[str, Tensor], count: int) -> tuple[int, ...]:
    """The ``count`` units whose filters, over all layers they are born in, have the least L2 norm; ties: last first."""
    total = torch.zeros(group.units, dtype=torch.float64)
    for unit_of, slices in producer_slices(group, dict(state)):
        total += add_by_unit(group.units, unit_of, slices.square().sum(1))
    order = torch.argsort(total, descending=True, stable=True)
    return tuple(sorted(order[group.units - count :].tolist()))


@torch.no_grad()
def silence_units(
    trace: Trace, state: Mapping[str, Tensor], zeroed: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Set all that makes or carries on the ``zeroed`` units to zero, in place.

    Gives what is no filter (gamma, beta, biases, depthwise kernels) by name, as it shall be when the units wake. A
    batch norm multiplies the gradient of a filter that gives nothing by gamma / sqrt(eps), hundreds of times what it
    was: the filter would come back too strong at once and drive out others that are needed. So gamma wakes as small as
    makes that gain ``GAIN`` times the one the channel had, gamma / sqrt(var + eps), and beta just above zero, where a
    ReLU lets gradients through; the rest wakes as it was. The awake network computes nearly what the silent one did,
    and a filter comes back by as much as it helps.
    """
    waking: dict[str, Tensor] = {}
    scales, shifts = _affine(trace.tape)
    directions = {name for name, _ in trace.norms}  # a direction of zero would be divided by zero; its length is 0
    for name, units in zeroed.items():
        group = trace.group(name)
        silent = torch.zeros(group.units + 1, dtype=torch.bool)
        silent[list(units)] = True
        for member in (*group.by_role("producer"), *group.by_role("follower")):
            tensor = state[member.tensor]
            if member.tensor in directions or not isinstance(tensor, nn.Parameter):
                continue  # running statistics say nothing where gamma and beta are zero
            here = silent[member.unit_of].to(tensor.device)
            if member.role == "follower" or tensor.dim() < 2:
                awake = waking.setdefault(member.tensor, tensor.detach().clone())
                if member.tensor in scales:
                    var, eps = scales[member.tensor]
                    awake[here] *= (GAIN * (eps / (state[var][here] + eps)).sqrt()).clamp(max=1.0)
                elif member.tensor in shifts or member.role == "producer":
                    awake[here] = FAINT
            shape = [1] * tensor.dim()
            shape[member.dim] = -1
            tensor.masked_fill_(here.reshape(shape), 0.0)
    return waking


def _affine(tape: Tape) -> tuple[dict[str, tuple[str, float]], set[str]]:
    """Of the batch norms on a tape: scale -> (running variance, eps), and the names of all shifts."""
    scales: dict[str, tuple[str, float]] = {}
    shifts: set[str] = set()
    for step in tape.steps:
        if step.name in NORM_STEPS:
            names = [tape.state.get(value.slot) if isinstance(value, Ref) else None for value in step.args[1:5]]
            eps = next((value for value in reversed(step.args) if type(value) is float), 1e-5)
            if names[0] is not None and names[3] is not None:
                scales[names[0]] = names[3], eps
            if names[1] is not None:
                shifts.add(names[1])
    return scales, shifts


def reset_weights(module: nn.Module, seed: int) -> nn.Module:
    """A copy with new random weights, as its layers draw them, fixed by ``seed``.

    Raises TrainError when a layer holds parameters of its own and does not say how they are drawn."""
    fresh = private_copy(module)
    with torch.random.fork_rng([]), torch.inference_mode(False):
        torch.default_generator.manual_seed(seed)
        for name, layer in named_layers(fresh):
            reset: Any = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(parameter is not None for parameter in layer._parameters.values()):
                raise TrainError(
                    f"{type(layer).__name__} ({name or 'the network itself'}) does not say how its weights are drawn, "
                    "so training cannot start from scratch. Load the network with random weights and use "
                    "start='weights' with ten times the learning rate."
                )
    return fresh
