"""What the network loses when one group alone loses channels: a curve per group.

Removing a group's channels changes nothing before the first layer that reads them. So each batch walks the tape once,
and at each group's first reader the walk forks: for every fraction only the rest of the tape runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from core.errors import MeasureError
from core.measure.forks import Fork, Latch
from core.measure.importance import score_channels
from core.measure.scan.scanner import Scan
from core.measure.scan.tally import Tally
from core.measure.scan_result import Change as Change
from core.measure.scan_result import Sensitivity as Sensitivity
from core.measure.scan_result import all_units as all_units
from core.measure.scan_result import removed_units as removed_units
from core.measure.walk import require_images
from core.records import CurvePoint as CurvePoint
from core.records import Group, ImageData, Plan, Scores, Trace, fingerprint_state
from core.trace.graph import named_state, needed_steps

Progress = Callable[..., None]
Stop = Callable[[], bool]
FRACTIONS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
CACHE_BYTES = 2 << 20  # the largest map of a batch should stay near the processor
BATCHES = (4, 64)


def scan_sensitivity(
    trace: Trace,
    data: ImageData,
    fractions: Sequence[float] = FRACTIONS,
    criterion: str | Scores = "weight-l2",
    *,
    groups: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    plan: Plan | None = None,
    resume: Sensitivity | None = None,
    decision: float = 0.01,
    effort: float = 1.0,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
    scores_data: ImageData | None = None,
    model_fingerprint: str | None = None,
    data_fingerprint: str | None = None,
) -> Sensitivity:
    """Accuracy, loss and divergence with round(fraction x units) of one group's lowest-scored units gone, all else as
    it is: dense, or as ``plan`` leaves it.

    data: images N x C x H x W with labels; all of them are used unless ``limit`` says how many (drawn by ``seed``).
    criterion: its name, or scores made before; a criterion that needs images gets ``scores_data``, else ``data``.
    groups: ids, gathers too; None = every prunable coupled one. batch_size: None = what fits the processor's memory.
    plan: fractions that leave a group more units than the plan does are left out; of the others, the plan's units
    leave first. The values equal those of a pruned copy evaluated on the same images, but for rounding.

    The order of work: three widths of all groups on few images; then, on all, the middle one, and the neighbouring
    widths between which a group loses ``decision`` (share of accuracy), and 10 x ``decision`` nats; then where that is
    still open and where curves bend; then everything. ``effort`` below 1: stop after that share of the work.
    ``resume``: go on from a stored result of the same network, images, scores, seed and plan, measuring nothing twice.
    ``on_progress(fraction, message, partial)``: after every round, and twice a second, ``partial`` is the Sensitivity
    so far; in between it is None. Stopped by ``cancelled()`` or ``effort``, ``complete`` is False.
    fingerprints: stored in the result; computed when None. The network is left as it was.
    Raises MeasureError for no images, fractions outside 0..1 or a result that cannot be gone on from, PlanError for a
    group that is unknown.
    """
    data = require_images(data, "A sensitivity scan")
    _check_numbers(fractions, limit=limit, batch_size=batch_size)
    chosen = _chosen_groups(trace, groups)
    if isinstance(criterion, str):
        criterion = score_channels(trace, scores_data or data, criterion, seed=seed, cancelled=cancelled)
    plan = plan or Plan({})
    model = fingerprint_state(named_state(trace.module)) if model_fingerprint is None else model_fingerprint
    images = data.fingerprint if data_fingerprint is None else data_fingerprint
    origin = Sensitivity(
        {}, Tally(images=1).point(0, 0), criterion.criterion, False, model, images, seed,
        plan.key if plan.kept else "", fingerprint_state(criterion.scores),
    )  # fmt: skip
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:limit]
    batch = _batch_size(trace, batch_size, len(order))
    forks = _plan_forks(chosen, criterion, fractions, plan)
    scan = Scan(
        trace, data, chosen, forks, plan, order, batch, origin, decision, effort, on_progress, Latch(cancelled)
    )  # fmt: skip
    if resume is not None:
        _go_on_from(scan, resume)
    return scan.run()


def _check_numbers(fractions: Sequence[float], **counts: int | None) -> None:
    for name, number in counts.items():
        if number is not None and number < 1:
            raise MeasureError(f"{name}: expected 1 image or more, found {number}.")
    for fraction in fractions:
        removed_units(2, fraction)


def _chosen_groups(trace: Trace, groups: Sequence[str] | None) -> tuple[Group, ...]:
    chosen = trace.prunable if groups is None else tuple(trace.group(name) for name in groups)
    for group in chosen:
        if not group.prunable:
            raise MeasureError(f"Group {group.id} cannot be pruned: {group.reason}. Leave it out of the scan.")
    return chosen


def _plan_forks(groups: Sequence[Group], scores: Scores, fractions: Sequence[float], plan: Plan) -> list[Fork]:
    forks = []
    for group in groups:
        if group.id not in scores.scores:
            raise MeasureError(f"Group {group.id} has no {scores.criterion} scores. Score the channels again.")
        left = set(plan.kept.get(group.id, range(group.units)))
        ranking = [unit for unit in scores.ranking(group.id) if unit in left]
        for kept in sorted(
            {group.units - removed_units(group.units, fraction) for fraction in fractions}, reverse=True
        ):
            if kept < len(ranking):
                forks.append(Fork(group, tuple(sorted(ranking[:kept]))))
    return forks


def _batch_size(trace: Trace, asked: int | None, total: int) -> int:
    """Images per batch, so that all batches are about as large."""
    if asked is None:
        tape = trace.tape
        steps = [step for step in needed_steps(tape) if any(slot not in tape.state for slot in step.reads)]
        largest = 4 * max((math.prod(tape.shapes[slot]) for step in steps for slot in step.outputs), default=1)
        asked = min(max(CACHE_BYTES // max(1, largest), BATCHES[0]), BATCHES[1])
    return -(-total // -(-total // asked))


def _go_on_from(scan: Scan, resume: Sensitivity) -> None:
    """Take over what a stored result has measured."""
    start = Tally.of(resume.dense, resume.dense)
    if start is None:
        return  # stored without paired counts: nothing can be added to it
    for name in ("criterion", "model_fingerprint", "data_fingerprint", "seed", "plan_key", "scores_key"):
        found, wanted = getattr(resume, name), getattr(scan.result, name)
        if found != wanted:
            raise MeasureError(
                f"The scan to go on from has another {name.replace('_', ' ')}: expected {wanted!r}, found {found!r}. "
                "Scan anew, without it."
            )
    scan.start = start
    forks = {(fork.group.id, len(fork.kept)): fork for fork in scan.forks}
    for group_id, points in resume.points.items():
        for point in points[1:]:
            fork, tally = forks.get((group_id, point.kept)), Tally.of(point, resume.dense)
            if fork is None:
                scan.older.setdefault(group_id, []).append(point)
            elif tally is not None:
                scan.tallies[fork] = tally
