"""Remove the least important feature maps, train a little, and again, until a budget is met.

Molchanov, Tyree, Karras, Aila, Kautz 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference
(arXiv 1611.06440), section 2 and figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.apply.course import Course
from core.apply.iterative_store import save_iterative, take_up_iterative
from core.apply.reading import FORMS, Reading
from core.apply.resume import identify_run
from core.apply.surgery import kept_positions, prune_model
from core.apply.training import Trainer, accuracy_of, numbers, private_copy
from core.errors import Cancelled, PlanError, TrainError
from core.measure.cost.counts import count_cost
from core.records import ImageData, Plan, Trace, fingerprint_state
from core.registry import unknown_name
from core.trace.copies import copy_with, named_state

QUANTITIES = ("macs", "params", "maps")
LOOK_EVERY = 0.02  # share of the multiply-adds between two looks at the accuracy
Budget = Mapping[str, float] | Callable[[Plan], bool]


@dataclass(frozen=True)
class IterationPoint:
    """After one removal and the updates behind it (the first: before any). maps: units that remain in the groups that
    may lose some; macs: multiply-adds as a share of the dense network; removed: (group id, unit of the original);
    loss: mean over the updates, None before any; accuracy: on the watched images, None where it was not looked at."""

    step: int
    maps: int
    macs: float
    removed: tuple[tuple[str, int], ...]
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Iterated:
    """``plan``: of the ORIGINAL network, whose pruned form has the shapes of ``module``, the small and trained one, in
    eval mode. ``unscored``: groups that were left alone because no reader of theirs could be watched."""

    plan: Plan
    module: nn.Module
    curve: tuple[IterationPoint, ...]
    unscored: tuple[str, ...]
    complete: bool


def prune_iteratively(
    module: nn.Module,
    trace: Trace,
    data: ImageData,
    budget: Budget,
    *,
    per_step: int = 4,
    updates: int = 10,
    flops_lambda: float = 1e-3,
    form: str = "2017",
    watch: ImageData | None = None,
    teacher: nn.Module | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    lr: float = 5e-3,
    **course: Any,
) -> Iterated:
    """Repeat {train ``updates`` minibatches; remove the ``per_step`` units of least score} until ``budget`` is met.

    Scores come from the very minibatches that train: Theta = mean over images of |mean over positions of dC/dz z| (form
    "2017", eq. 8), divided by its L2 norm over the group, or the squared gate gradient of Molchanov et al. 2019 (arXiv
    1906.10771, form "2019", not divided). From both ``flops_lambda`` x millions of multiply-adds per map is taken off
    (eq. 11). In front of the first removal the same number of minibatches tells the first scores; every group keeps at
    least one unit. The network is built anew, smaller, after each removal, and the optimiser's momentum with it.

    module: trained until it stopped getting better; left alone. data: as in ``finetune_model``. budget: what may
    remain, as shares of the dense network: {"macs": 0.5}, "params" or "maps" (or several); or a function that says of
    a plan whether it is met. watch: images for the curve (None = the selection part of ``data``); nothing is chosen by
    them. course: batch_size, momentum, optimiser and the other fields of ``Course`` but the length. checkpoint, resume:
    as in ``finetune_model``; the run is kept after every removal, and may go on towards another budget.
    ``on_progress(share, message, curve so far)``. Afterwards a last ``finetune_model`` is customary.
    Raises PlanError for a budget that is malformed or out of reach, TrainError as ``finetune_model``, Cancelled with
    the Iterated of the last complete removal as ``partial``.
    """
    _check(per_step, updates, flops_lambda, form)
    met = budget_check(trace, budget)
    taught = Course(**{"epochs": 1, "schedule": "constant", "lr": lr, "batch_size": 32, **course})
    watch = data.selection if watch is None and data.parts else watch
    trainer = Trainer(module, data, taught, teacher=teacher, device=device, cancelled=cancelled)
    run = IterativeRun(trainer, trace, Reading(trace, form), watch, flops_lambda)
    store = None if checkpoint is None else Path(checkpoint)
    removal = {"per_step": per_step, "updates": updates, "flops_lambda": flops_lambda, "form": form}
    identity = {} if store is None else _identity(module, trainer, teacher, removal)
    if store is not None and resume and store.exists():
        take_up_iterative(run, store, identity)
    last: Iterated | None = None
    try:
        for last in run.steps(met, per_step, updates):
            if store is not None and len(last.curve) > 1:
                save_iterative(run, store, identity)
            if on_progress is not None and len(last.curve) > 1:
                on_progress(run.share(budget), run.message(), last.curve)
        return run.finish(updates)
    except Cancelled as stop:
        done = 0 if last is None else len(last.curve) - 1
        raise Cancelled(f"Iterative pruning was cancelled after {done} removals.", last) from stop


def _identity(
    module: nn.Module, trainer: Trainer, teacher: nn.Module | None, removal: Mapping[str, Any]
) -> dict[str, Any]:
    taught_by = None if teacher is None else fingerprint_state(teacher.state_dict())
    return identify_run(module, trainer.data, trainer.course, removal=dict(removal), teacher=taught_by)


class IterativeRun:
    """The network on its way down. ``kept``: group id -> units of the original that remain. ``whole``: weights and
    buffers at the original's size, in which every trained value stands where it came from; ``memory``: the same for
    what the optimiser remembers."""

    def __init__(
        self, trainer: Trainer, trace: Trace, reading: Reading, watch: ImageData | None, flops_lambda: float
    ) -> None:
        self.trainer, self.trace, self.reading, self.watch = trainer, trace, reading, watch
        self.flops_lambda = flops_lambda
        self.kept = {group.id: list(range(group.units)) for group in trace.prunable}
        self.whole = private_copy(trainer.module)
        self.memory: dict[str, nn.Module] = {}
        self.curve: list[IterationPoint] = []
        self.dense_macs = max(1, count_cost(trace).macs)
        self.looked_at = math.inf
        self.plan = Plan({})
        reading.follow(trainer.module, self.plan)

    def steps(self, met: Callable[[Plan], bool], per_step: int, updates: int) -> Iterator[Iterated]:
        """Before the first removal, and after each, until ``met``: what there is."""
        if not self.curve:
            self.look(0, (), None)
        yield self.result(complete=False)
        while not met(self.plan):
            step = len(self.curve)
            with self.trainer.running():
                loss = self.train(step, updates)
            removed = self.remove(per_step, met)
            if not removed:
                raise _out_of_reach(self.trace, self.plan)
            self.look(step, removed, loss, final=met(self.plan))
            yield self.result(complete=False)

    def restore(self, kept: Mapping[str, list[int]], curve: Sequence[Mapping[str, Any]], looked_at: float) -> None:
        """Go on from a stored state, ``whole`` and ``memory`` being there already."""
        self.kept, self.looked_at = {name: list(units) for name, units in kept.items()}, looked_at
        pairs = [tuple((str(name), int(unit)) for name, unit in point["removed"]) for point in curve]
        self.curve = [IterationPoint(**{**point, "removed": pair}) for point, pair in zip(curve, pairs, strict=True)]
        self.curve, last = self.curve[:-1], self.curve[-1]
        self._shrink()
        self.curve.append(last)

    def finish(self, updates: int) -> Iterated:
        """The last removal too is trained for."""
        if len(self.curve) > 1:
            with self.trainer.running():
                self.train(len(self.curve), updates)
            point = self.curve.pop()
            self.look(point.step, point.removed, point.loss, final=True)
        return self.result(complete=True)

    def train(self, step: int, updates: int) -> float:
        """``updates`` minibatches, whose scores replace the former ones; their mean loss."""
        trainer, total = self.trainer, 0.0
        self.reading.reset()
        generator = numbers(trainer.course.seed, step)
        trainer.seed_layers(generator)
        for _, chosen in zip(range(updates), _minibatches(trainer, generator), strict=False):
            trainer.stop_if_asked()
            images, labels = trainer.batch(chosen, generator)
            with self.reading:
                total += float(trainer.step(images, labels, trainer.course.lr))
            self.reading.collect(len(chosen))
        if not math.isfinite(total):
            raise TrainError(f"The loss stopped being a number after removal {step - 1}. Use a lower learning rate.")
        return total / updates

    def remove(self, count: int, met: Callable[[Plan], bool]) -> tuple[tuple[str, int], ...]:
        """The ``count`` units of least score leave (fewer when the budget is met before); which they were."""
        ranking = []
        for name, values in self.scores().items():
            ranking += [(float(values[unit]), name, unit) for unit in self.kept.get(name, ())]
        removed: list[tuple[str, int]] = []
        for _, name, unit in sorted(ranking):
            if len(removed) == count or (removed and met(self._planned())):
                break
            if len(self.kept[name]) > 1:
                self.kept[name].remove(unit)
                removed.append((name, unit))
        if removed:
            self._rebuild()
        return tuple(removed)

    def scores(self) -> dict[str, Tensor]:
        """Group id -> score of every unit of the original; those of units that have left mean nothing."""
        found = self.reading.scores()
        if self.reading.form == "2017":
            found = {name: values / (float(values.norm()) or 1.0) for name, values in found.items()}
        macs = macs_per_unit(self.trace, self.plan)
        return {name: values - self.flops_lambda * macs[name] for name, values in found.items()}

    def _planned(self) -> Plan:
        whole = {group.id: group.units for group in self.trace.prunable}
        steps = len(self.curve)
        return Plan(
            {name: tuple(units) for name, units in self.kept.items() if len(units) < whole[name]},
            f"iterative Taylor pruning {self.reading.form}, {steps} removals",
        )

    def _rebuild(self) -> None:
        """Put the trained values back where they came from, and build the network of the new plan."""
        trainer, masks = self.trainer, kept_positions(self.trace, self.plan)
        small = named_state(trainer.module)
        put_back(self.whole, small, masks)
        parameters = {name: small[name] for name in small if isinstance(small[name], nn.Parameter)}
        for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
            found = {name: trainer.optimiser.state.get(p, {}).get(key) for name, p in parameters.items()}
            values = {name: value for name, value in found.items() if isinstance(value, Tensor)}
            if values:
                if key not in self.memory:
                    self.memory[key] = copy_with(self.whole, lambda _, tensor: torch.zeros_like(tensor))
                put_back(self.memory[key], values, masks)
        self._shrink()

    def _shrink(self) -> None:
        """Hand the trainer the network of the plan that now holds."""
        self.plan = self._planned()
        memory = {key: named_state(self._pruned(net)) for key, net in self.memory.items()}
        self.trainer.swap(self._pruned(self.whole), memory)
        self.reading.follow(self.trainer.module, self.plan)

    def _pruned(self, module: nn.Module) -> nn.Module:
        with torch.inference_mode(False):
            return prune_model(module, self.trace, self.plan, verify=False)

    def look(self, step: int, removed: tuple[tuple[str, int], ...], loss: float | None, *, final: bool = False) -> None:
        """Note where the network stands; its accuracy only where much has changed since the last look."""
        macs = count_cost(self.trace, self.plan).macs / self.dense_macs
        accuracy = None
        if self.watch is not None and (final or self.looked_at - macs >= LOOK_EVERY):
            accuracy = accuracy_of(self.trainer.module, self.watch, self.trainer.stop_if_asked)
            self.looked_at = macs
        maps = sum(map(len, self.kept.values()))
        self.curve.append(IterationPoint(step, maps, macs, removed, loss, accuracy))

    def share(self, budget: Budget) -> float:
        """How far the way to the budget is gone, in 0..1."""
        if callable(budget):
            return 0.0
        return min(goal_share(self.trace, self.plan, name, value) for name, value in budget.items())

    def message(self) -> str:
        point = self.curve[-1]
        seen = next((p.accuracy for p in reversed(self.curve) if p.accuracy is not None), None)
        right = "" if seen is None else f", {100 * seen:.1f} % right"
        return f"{point.maps} maps left, {100 * point.macs:.1f} % of the multiply-adds{right}"

    def result(self, *, complete: bool) -> Iterated:
        met = self.reading.seen or {group.id for group in self.trace.coupled}
        unscored = tuple(group.id for group in self.trace.prunable if group.id not in met)
        return Iterated(self.plan, self.trainer.finish(), tuple(self.curve), unscored, complete)


def _minibatches(trainer: Trainer, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of random minibatches of equal size, epoch after epoch, without end."""
    while True:
        order = torch.randperm(len(trainer.data), generator=generator)
        yield from order.tensor_split(trainer.batches)


@torch.no_grad()
def put_back(whole: nn.Module, small: Mapping[str, Tensor], masks: Mapping[tuple[str, int], Tensor]) -> None:
    """Write the values ``small`` (state name -> tensor) into ``whole`` at the positions that ``masks`` keep."""
    targets = named_state(whole)
    for name, values in small.items():
        if name not in targets:
            continue  # a layer that lost heads keeps numbers of its own
        target = targets[name]
        stays = torch.ones_like(target, dtype=torch.bool)
        for dim in range(target.dim()):
            mask = masks.get((name, dim))
            if mask is not None:
                shape = [1] * target.dim()
                shape[dim] = -1
                stays &= mask.reshape(shape).to(target.device)
        target[stays] = values.detach().reshape(-1).to(target)


def macs_per_unit(trace: Trace, plan: Plan) -> dict[str, float]:
    """Group id -> millions of multiply-adds per image that the layers it is born in spend on one of the units left."""
    per_layer, masks = count_cost(trace, plan).per_layer, kept_positions(trace, plan)
    result = {}
    for group in trace.coupled:
        total = 0.0
        for member in group.by_role("producer"):
            if member.layer in per_layer and not member.tensor.endswith("bias"):
                mask = masks.get((member.tensor, member.dim))
                left = member.unit_of if mask is None else member.unit_of[mask]
                total += per_layer[member.layer].macs * float((left >= 0).double().mean())
        units = len(plan.kept.get(group.id, range(group.units)))
        result[group.id] = total / units / 1e6
    return result


def remaining(trace: Trace, plan: Plan, quantity: str) -> float:
    """What ``plan`` leaves of ``quantity`` ("macs", "params", "maps"), as a share of the dense network."""
    if quantity == "maps":
        whole = sum(group.units for group in trace.prunable)
        return sum(len(plan.kept.get(g.id, range(g.units))) for g in trace.prunable) / max(1, whole)
    return float(getattr(count_cost(trace, plan), quantity) / max(1, getattr(count_cost(trace), quantity)))


def goal_share(trace: Trace, plan: Plan, quantity: str, goal: float) -> float:
    """How much of the way from 1 down to ``goal`` the plan has gone, in 0..1."""
    return min(1.0, (1.0 - remaining(trace, plan, quantity)) / max(1e-9, 1.0 - goal))


def budget_check(trace: Trace, budget: Budget) -> Callable[[Plan], bool]:
    """Whether a plan is within ``budget``. Raises PlanError for a budget that is malformed."""
    if callable(budget):
        return budget
    if not budget:
        raise PlanError("A budget names what may remain, such as {'macs': 0.5}; found an empty one.")
    for name, value in budget.items():
        if name not in QUANTITIES:
            raise unknown_name("budget for iterative pruning", name, list(QUANTITIES), PlanError)
        if not 0.0 < value <= 1.0:
            raise PlanError(f"Budget {name}: expected a share in 0..1, found {value}.")
    return lambda plan: all(remaining(trace, plan, name) <= value for name, value in budget.items())


def _check(per_step: int, updates: int, flops_lambda: float, form: str) -> None:
    for name, value in (("per_step", per_step), ("updates", updates)):
        if value < 1:
            raise TrainError(f"{name}: expected 1 or more, found {value}.")
    if not 0.0 <= flops_lambda < math.inf:
        raise TrainError(f"flops_lambda: expected a number from 0 up (per million MACs), found {flops_lambda}.")
    if form not in FORMS:
        raise unknown_name("Taylor form", form, list(FORMS), TrainError)


def _out_of_reach(trace: Trace, plan: Plan) -> PlanError:
    left = remaining(trace, plan, "macs")
    return PlanError(
        f"The budget is out of reach: with one channel left in every group, {left:.3f} of the multiply-adds remain. "
        "Allow more to remain, or unlock groups."
    )
