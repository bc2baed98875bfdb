"""Work that takes longer than a click: what the worker processes do. Plain JSON in and out.

Every function takes what opens the subject (``model``, ``weights``, ``data``), its own arguments, and
``on_progress(fraction, message, partial)`` and ``cancelled()``. ``core.keep.shelf`` names the results, so that each is
computed once for everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from core.apply import AS_CUT
from core.errors import CoreError
from core.evaluate import Comparison, compare_models
from core.evaluate.metrics import ask, summarise
from core.export import export_model, verify_export
from core.keep.networks import build_any
from core.keep.shelf import FRACTIONS, SCAN_IMAGES, SCAN_SEED, job_key
from core.keep.store import open_store
from core.keep.subject import Subject, exports_folder, open_subject
from core.keep.timings import note_timing
from core.measure.cost import build_latency_table, count_cost, measure_together
from core.measure.importance import affordable_images, score_channels
from core.measure.importance.first_order import first_order_changes
from core.measure.sensitivity import Sensitivity, scan_sensitivity
from core.records import Accuracy, Plan, Scores
from core.show.curves import estimate_losses

Progress = Callable[..., None]
Stop = Callable[[], bool]

SCORE_IMAGES = 256  # calibration images a criterion sees, fewer where it would take too long
LATENCY_REPEATS, LATENCY_SECONDS = 40, 8.0  # whichever comes first
BATCH_MACS, MOST_BATCH = 6e9, 128  # of a plan's images: a quarter of a second or so, and a cancel is heard in between


def score(
    model: str, weights: str, data: str, criterion: str, on_progress: Progress, cancelled: Stop
) -> dict[str, Any]:
    """Scores of every channel by one criterion, on calibration images. Result: ``Scores.to_dict()``."""
    subject = open_subject(model, weights, data)
    return score_subject(subject, criterion, on_progress, cancelled).to_dict()


def score_subject(
    subject: Subject, criterion: str, on_progress: Progress | None = None, cancelled: Stop | None = None
) -> Scores:
    """As ``score``, for those who hold the subject."""
    part = subject.data.calibration
    count = affordable_images(subject.trace, criterion, min(SCORE_IMAGES, len(part)))
    few = part.take(torch.arange(count))
    return score_channels(subject.trace, few, criterion, on_progress=on_progress, cancelled=cancelled)


def scan(
    model: str,
    weights: str,
    data: str,
    criterion: str,
    on_progress: Progress,
    cancelled: Stop,
    resume: dict[str, Any] | None = None,
    plan: str = "",
) -> dict[str, Any]:
    """Sensitivity curves of all groups on selection images. Result and partial: ``Sensitivity.to_dict()``.

    ``resume``: the partial of a scan that was stopped; it goes on from there. ``plan``: Plan JSON, the network the
    removals start from; "" = the dense one.
    """
    subject = open_subject(model, weights, data)
    older = Sensitivity.from_dict(resume) if resume else None
    begin = Plan.from_json(plan) if plan else None
    return scan_subject(subject, criterion, on_progress, cancelled, resume=older, plan=begin).to_dict()


def scan_subject(
    subject: Subject,
    criterion: str,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
    *,
    resume: Sensitivity | None = None,
    plan: Plan | None = None,
) -> Sensitivity:
    """As ``scan``, for those who hold the subject. Nothing here sees the report images."""
    scores = score_subject(subject, criterion, cancelled=cancelled)

    def report(fraction: float, message: str, partial: Sensitivity | None = None) -> None:
        if on_progress is not None:
            on_progress(fraction, message, partial.to_dict() if partial is not None else None)

    return scan_sensitivity(
        subject.trace,
        subject.data.selection,
        FRACTIONS,
        scores,
        limit=SCAN_IMAGES,
        seed=SCAN_SEED,
        plan=plan,
        resume=resume,
        on_progress=report,
        cancelled=cancelled,
    )


def taylor_curves(
    model: str, weights: str, data: str, criterion: str, on_progress: Progress, cancelled: Stop
) -> dict[str, Any]:
    """The loss that Taylor's expansion foretells for every width, on the images of a scan, units leaving as
    ``criterion`` says. Result: ``LossEstimate.to_dict()``."""
    subject = open_subject(model, weights, data)
    part = subject.data.selection
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(SCAN_SEED))[:SCAN_IMAGES]
    on_progress(0.0, "Scoring channels")
    scores = score_subject(subject, criterion, cancelled=cancelled)
    changes = first_order_changes(subject.trace, part.take(order), on_progress=on_progress, cancelled=cancelled)
    pairs = {group_id: found.tolist() for group_id, found in changes.items()}
    return estimate_losses(scores, pairs, len(order)).to_dict()


def latency_table(model: str, weights: str, data: str, on_progress: Progress, cancelled: Stop) -> dict[str, Any]:
    """Times of every layer at several widths on this machine. Result: ``LatencyTable.to_dict()``."""
    subject = open_subject(model, weights, data)
    return build_latency_table(subject.trace, on_progress=on_progress, cancelled=cancelled).to_dict()


def evaluate_plan(
    model: str, weights: str, data: str, plan: str, repair: str, on_progress: Progress, cancelled: Stop
) -> dict[str, Any]:
    """Build the network of ``plan`` (Plan JSON), repaired by a method of REPAIRS or kept (core/keep/networks.py), and
    measure it on selection images, then its time beside the dense one.

    Result and partial: {"accuracy", "latency", "dense_latency", "macs", "params", "size_bytes", "answers"}, each
    accuracy and latency as the fields of its record, "answers" the class given to every selection image; absent until
    measured, and accuracy and answers for good where they would say nothing: a network that learned nothing, as cut.
    """
    subject = open_subject(model, weights, data)
    chosen = Plan.from_json(plan)
    pruned, _ = build_any(
        subject,
        chosen,
        repair,
        on_progress=lambda fraction, message, *_: on_progress(0.5 * fraction, message),
        cancelled=cancelled,
    )
    start = 0.0 if repair == AS_CUT else 0.5
    cost = count_cost(subject.trace, chosen)
    result: dict[str, Any] = {"macs": cost.macs, "params": cost.params, "size_bytes": cost.size_bytes}

    def report(fraction: float, message: str, partial: Accuracy | None = None) -> None:
        if partial is not None:
            result["accuracy"] = asdict(partial)
        on_progress(start + (0.9 - start) * fraction, message, dict(result) if partial is not None else None)

    if subject.meaningful or repair != AS_CUT:
        told: dict[str, Any] = {"on_progress": report, "cancelled": cancelled}
        answers = ask(pruned, subject.data.selection, batch_size=batch_of(cost.macs), **told)
        result["accuracy"] = asdict(summarise(answers, subject.data.selection))
        result["answers"] = answers.predicted.tolist()
    on_progress(0.9, "Measuring latency", dict(result))
    # Timed twice, a network would seem to differ from itself.
    networks = [subject.loaded.module, pruned] if chosen.kept else [pruned]
    times = measure_together(
        networks, subject.trace.example, repeats=LATENCY_REPEATS, max_seconds=LATENCY_SECONDS, cancelled=cancelled
    )
    note_timing(open_store(), job_key("latency_table", subject), subject.trace, chosen, times)
    result["dense_latency"], result["latency"] = asdict(times[0]), asdict(times[-1])
    return result


def batch_of(macs: int) -> int:
    """Images per batch of a network of so many MACs per image. A worker that does not hear a cancel is replaced, and
    the new one imports for seconds: while somebody drags a large network, that would be after every drag."""
    return max(1, min(MOST_BATCH, int(BATCH_MACS / max(1, macs))))


def export(
    model: str,
    weights: str,
    data: str,
    plan: str,
    repair: str,
    owner: str,
    formats: list[str],
    on_progress: Progress,
    cancelled: Stop,
    criterion: str = "",
) -> dict[str, Any]:
    """Write the network of ``plan``, repaired as in ``evaluate_plan``, to the owner's export folder, measure it on
    report images and verify the files.

    criterion: whose curves the report shows, when they are known.

    Result: {"directory", "files": [{"name", "size_bytes"}], "verification", "measurements", "difference", "failed"}.
    """
    subject = open_subject(model, weights, data)
    chosen = Plan.from_json(plan)
    on_progress(0.05, "Building the smaller network")
    pruned, chosen = build_any(subject, chosen, repair, cancelled=cancelled)
    on_progress(0.25, "Measuring on the report images")
    comparison, measurements = _measure_both(subject, pruned, chosen, cancelled)
    measurements["repair"] = repair
    measurements["curves"] = _curves(subject, criterion)
    if cancelled():
        raise CoreError("Export was cancelled before anything was written.")
    on_progress(0.4, "Writing files")
    directory = exports_folder(owner) / f"{subject.loaded.name.replace('/', '-')}-{chosen.key}-{repair}"
    told: dict[str, Any] = {
        "loaded": subject.loaded,
        "trace": subject.trace,
        "measurements": measurements,
        "data": subject.data.report,
    }
    told["on_progress"] = lambda share, message: on_progress(0.4 + 0.3 * share, message)
    written = export_model(pruned, chosen, directory, formats, **told)
    on_progress(0.7, "Verifying in a fresh process")
    verification = verify_export(directory)
    files = [{"name": p.name, "size_bytes": p.stat().st_size} for p in sorted(directory.iterdir()) if p.is_file()]
    return {
        "directory": str(directory),
        "files": files,
        "verification": verification.to_dict(),
        "measurements": measurements,
        "difference": {"value": comparison.difference, "low": comparison.low, "high": comparison.high},
        "failed": dict(written.failed),
    }


def _curves(subject: Subject, criterion: str) -> dict[str, Any]:
    """The known curves by ``criterion``, for the report: {group: [[share removed, accuracy, low, high], ...]}."""
    from core.keep.shelf import find_result  # the shelf names its results by this file's job_key

    found = find_result(open_store(), "scan", subject, criterion=criterion) if criterion else None
    return {
        name: [[point["removed_fraction"], point["accuracy"], point["low"], point["high"]] for point in points]
        for name, points in (found or {}).get("points", {}).items()
    }


def _measure_both(
    subject: Subject, pruned: nn.Module, plan: Plan, cancelled: Stop
) -> tuple[Comparison, dict[str, Any]]:
    """Dense and pruned side by side: answers on the report images, times in one run, exact costs."""
    dense = subject.loaded.module
    comparison = compare_models(dense, pruned, subject.data.report, cancelled=cancelled)
    times = measure_together([dense, pruned], subject.trace.example, cancelled=cancelled)
    note_timing(open_store(), job_key("latency_table", subject), subject.trace, plan, times)
    costs = count_cost(subject.trace), count_cost(subject.trace, plan)
    found: dict[str, Any] = {"data": subject.data.report.name}
    names, accuracies = ("dense", "pruned"), (comparison.a, comparison.b)
    for name, accuracy, latency, cost in zip(names, accuracies, times, costs, strict=True):
        sizes = {"macs": cost.macs, "params": cost.params, "size_bytes": cost.size_bytes}
        found[name] = {"accuracy": asdict(accuracy), "latency": asdict(latency), **sizes}
    return comparison, found
