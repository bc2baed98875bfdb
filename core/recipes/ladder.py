"""The recovery ladder: the same plan as cut, then repaired by one way after another, each measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

from torch import nn

from core.apply.repair import REPAIRS, build_network
from core.apply.surgery import prune_model
from core.errors import Cancelled
from core.evaluate.metrics import Answers, ask, summarise
from core.records import Accuracy, ImageData, LoadedModel, Plan, Trace
from core.registry import Registry, Row
from core.solvers.intervals import paired_interval

RUNGS: Registry[str | None] = Registry("rung")  # the value is the repair that makes it; None: training
for _row in REPAIRS:
    RUNGS.add(Row(_row.name, _row.name, _row.title, _row.summary, _row.formula, _row.source))
RUNGS.add(
    Row("finetune", None, "Fine-tuning",
        "The best network so far is trained for a short while on calibration images; batch norm included.",
        source="textbook: stochastic gradient descent from the repaired weights")
)  # fmt: skip
FINETUNE: Mapping[str, Any] = {"seconds": 60.0}  # what fine-tuning is told unless the caller says otherwise
BUILD_SHARE = 0.8  # of a rung's progress; the rest is measuring


@dataclass(frozen=True)
class Rung:
    """One network of a plan. ``name``: a name of RUNGS. ``accuracy``: on the selection images, as is ``difference``:
    accuracy minus the dense network's on the same images, and its paired 95 % interval (value, low, high; shares).
    ``seconds``: to build it, measuring left out."""

    name: str
    title: str
    accuracy: Accuracy
    difference: tuple[float, float, float]
    seconds: float
    plan: Plan
    module: nn.Module

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the network; ``plan`` as ``Plan.to_json``."""
        return {
            "name": self.name,
            "title": self.title,
            "accuracy": asdict(self.accuracy),
            "difference": list(self.difference),
            "seconds": self.seconds,
            "plan": self.plan.to_json(),
        }


def climb_ladder(
    loaded: LoadedModel,
    trace: Trace,
    plan: Plan,
    data: ImageData,
    rungs: Sequence[str] = tuple(RUNGS.names()),
    *,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    seed: int = 0,
    finetune: Mapping[str, Any] | None = None,
    standing: Sequence[Rung] = (),
) -> tuple[Rung, ...]:
    """The networks of ``plan`` by each of ``rungs`` (names of RUNGS), measured on the selection images as they stand.

    data: with its parts; repairs look at calibration images. seed: of what training draws. finetune: options of
    ``finetune_model``, in place of FINETUNE. Training starts from the rung that did best on the selection images (from
    the plan as cut where there is none yet), has the dense network as its teacher, and gives the start back unless a
    later state does clearly better on the selection images: its rung is never below the one it started from. standing:
    rungs climbed before, from which fine-tuning may start too; they are not given back. After each rung
    ``on_progress(fraction, message, partial)`` gets the rungs that stand; in between ``partial`` is None. Raises
    CoreError for an unknown rung or as the repairs do; Cancelled with the complete rungs in its ``partial``.
    """
    for name in rungs:
        RUNGS.row(name)
    climb = _Climb(loaded, trace, plan, data, len(rungs), on_progress, cancelled, seed, dict(finetune or FINETUNE))
    climb.standing = list(standing)
    try:
        climb.begin()
        for name in rungs:
            climb.step(name)
    except Cancelled as stopped:
        names = ", ".join(rung.title for rung in climb.done) or "none"
        raise Cancelled(f"The ladder was cancelled; rungs that stand: {names}.", tuple(climb.done)) from stopped
    return tuple(climb.done)


class _Climb:
    """What is known on the way up."""

    def __init__(
        self,
        loaded: LoadedModel,
        trace: Trace,
        plan: Plan,
        data: ImageData,
        count: int,
        on_progress: Callable[..., None] | None,
        cancelled: Callable[[], bool] | None,
        seed: int,
        finetune: dict[str, Any],
    ) -> None:
        self.loaded, self.trace, self.plan, self.count = loaded, trace, plan, count
        self.calibration, self.selection = data.calibration, data.selection
        self.tell, self.cancelled, self.seed, self.finetune = on_progress or _silent, cancelled, seed, finetune
        self.done: list[Rung] = []
        self.standing: list[Rung] = []

    def begin(self) -> None:
        self.tell(0.0, "Measuring the dense network", None)
        self.check()
        self.dense = ask(self.loaded.module, self.selection, cancelled=self.cancelled)

    def check(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("The ladder was cancelled.")

    def step(self, name: str) -> None:
        title = RUNGS.row(name).title
        self.check()
        started = perf_counter()
        module, plan = self.build(name, title)
        seconds = perf_counter() - started
        self.report(BUILD_SHARE, f"{title}: measuring")
        answers = ask(module, self.selection, cancelled=self.cancelled)
        difference = paired_difference(self.dense, answers, self.selection)
        self.done.append(Rung(name, title, summarise(answers, self.selection), difference, seconds, plan, module))
        self.tell(len(self.done) / self.count, f"{title}: {self.done[-1].accuracy}", tuple(self.done))

    def build(self, name: str, title: str) -> tuple[nn.Module, Plan]:
        def told(fraction: float, message: str, *_: Any) -> None:
            self.report(BUILD_SHARE * fraction, f"{title}: {message}")

        told(0.0, "building")
        repair = RUNGS[name]
        if repair is None:
            return self.train(told)
        module, plan = build_network(
            self.loaded.module, self.trace, self.plan, self.calibration, repair, on_progress=told,
            cancelled=self.cancelled,
        )  # fmt: skip
        return module.eval(), plan

    def train(self, told: Callable[..., None]) -> tuple[nn.Module, Plan]:
        from core.apply.finetune import finetune_model

        best = max(
            [*self.standing, *self.done], key=lambda rung: (rung.accuracy.correct, -rung.accuracy.loss), default=None
        )
        start = best.module if best else prune_model(self.loaded.module, self.trace, self.plan)
        given = {"teacher": self.loaded.module, "keep": self.selection, "seed": self.seed, **self.finetune}
        tuned = finetune_model(start, self.calibration, **given, on_progress=told, cancelled=self.cancelled)
        plan = best.plan if best else self.plan
        trained = f"fine-tuned on {self.calibration.name}{', which helped nothing' if tuned.chosen == 0 else ''}"
        return tuned.module, replace(plan, origin=f"{plan.origin}; {trained}")

    def report(self, fraction: float, message: str) -> None:
        self.check()
        self.tell((len(self.done) + fraction) / self.count, message, None)


def paired_difference(dense: Answers, pruned: Answers, data: ImageData) -> tuple[float, float, float]:
    """Accuracy of ``pruned`` minus that of ``dense`` on the images both were asked, with its paired 95 % interval."""
    asked = (dense.predicted >= 0) & (pruned.predicted >= 0)
    right, before = ((x.predicted == data.labels)[asked] for x in (pruned, dense))
    lost, gained, images = int((before & ~right).sum()), int((right & ~before).sum()), int(asked.sum())
    return (gained - lost) / max(1, images), *paired_interval(lost, gained, images)


def _silent(*_: Any) -> None:
    return None
