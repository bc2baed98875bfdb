"""The oracle: what the loss really does when one unit alone is hidden. Slow, and the measure of every criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from core.errors import Cancelled, MeasureError, TraceError
from core.measure.forks import Fork, ForkEngine, Latch
from core.measure.importance.criteria import CRITERIA, Criterion, Progress, Request, Stop
from core.measure.walk import batches, example_losses, require_images
from core.records import Group, ImageData, Trace
from core.registry import Row

CHANGES = ("signed", "absolute", "squared")


def oracle(request: Request) -> dict[str, Tensor]:
    """Change of the images' mean cross-entropy when a unit is hidden from all its readers, everything else dense.

    ``change``: "signed" (loss without the unit minus loss with it), "absolute" (oracle-abs of Molchanov et al. 2017,
    arXiv 1611.06440, section 2.1) or "squared" (of the mean loss, as Molchanov et al. 2019, arXiv 1906.10771, equation
    2). Only what lies behind the first reader is run again, for every unit that is not zero on all images of a batch.
    Gathers take the values of the channels
    they choose from, unless ``gathers`` is True: then each of their channels is hidden from the one reader alone.
    """
    data = require_images(request.data, "The oracle")
    change = request.options["change"]
    if change not in CHANGES:
        raise MeasureError(f"change: expected one of {', '.join(CHANGES)}, found {change!r}.")
    trace = request.trace
    groups = trace.groups if request.options["gathers"] else trace.coupled
    hides = {fork: unit for group in groups for unit, fork in enumerate(single_unit_forks(group))}
    losses, dense = _losses(request, list(hides))
    total = {group.id: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    for fork, loss in losses.items():
        total[fork.group.id][hides[fork]] = (loss - dense) / len(data)
    if change == "absolute":
        return {name: values.abs() for name, values in total.items()}
    return {name: values.square() for name, values in total.items()} if change == "squared" else total


def unit_losses(
    trace: Trace, data: ImageData, group: Group, *, batch_size: int = 64, on_progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> Tensor:  # fmt: skip
    """The oracle's signed values of one group alone, in nats: float64 (units,). Raises as ``oracle`` does."""
    forks = single_unit_forks(group)
    losses, dense = _losses(Request(trace, data, 0, batch_size, {}, on_progress, cancelled), forks)
    return torch.tensor([(losses[fork] - dense) / len(data) for fork in forks], dtype=torch.float64)


def single_unit_forks(group: Group) -> list[Fork]:
    """One fork per unit, which hides that unit alone; none where nothing reads the group."""
    if not group.by_role("consumer"):
        return []
    units = tuple(range(group.units))
    return [Fork(group, units[:unit] + units[unit + 1 :]) for unit in units]


def _losses(request: Request, forks: list[Fork]) -> tuple[dict[Fork, float], float]:
    """Summed cross-entropy over all images: of every fork, and of the dense network."""
    data = require_images(request.data, "The oracle")
    engine, stop = ForkEngine(request.trace, forks), Latch(request.cancelled)
    losses, dense, done = dict.fromkeys(forks, 0.0), 0.0, 0
    count = -(-len(data) // max(1, request.batch_size))
    size = -(-len(data) // count) if request.batch_size > 0 else request.batch_size  # which ``batches`` refuses
    order = torch.arange(count * size).clamp_max(len(data) - 1)  # another batch size would be another program
    for place, (images, labels) in enumerate(batches(data, order, size, request.trace.module)):
        new = min(size, len(data) - place * size)
        try:
            for fork, logits in engine.outputs(images, stop):
                loss = float(example_losses(logits, labels, data)[:new].sum())
                if fork is None:
                    dense += loss
                    continue
                losses[fork] += loss
                done += 1
                request.report(done / (count * max(1, len(forks))), f"Oracle: {fork.group.name}")
        except TraceError as error:
            raise MeasureError(f"The oracle cannot be had here. {error}") from error
        if stop():
            raise Cancelled("Scoring was cancelled; no scores were kept.")
    return losses, dense


CRITERIA.add(
    Row(
        "oracle",
        Criterion(oracle, needs_images=True, options={"change": "signed", "gathers": False}),
        "Oracle",
        "Hides every channel in turn and measures the change of the loss: slow, and what other criteria try to guess.",
        r"\Theta_i = C(\mathcal{D} \mid z_i = 0) - C(\mathcal{D})",
        "Molchanov, Tyree, Karras, Aila, Kautz 2017, Pruning CNNs for Resource Efficient Inference, arXiv 1611.06440",
    )
)
