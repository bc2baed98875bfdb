"""A plan to begin with, held to its promise by measurement.

Drops of single groups do not add up: a sum of one point can be many points in truth. So the search measures whole
networks on the way that ``plan_budget`` takes, and keeps the smallest that loses no more than was promised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from core.apply import prune_model
from core.errors import Cancelled, PlanError
from core.evaluate import evaluate_model
from core.keep.shelf import find_result
from core.keep.store import open_store
from core.keep.subject import Subject, open_subject
from core.measure.cost import count_cost
from core.measure.sensitivity import Sensitivity
from core.plan import plan_budget
from core.records import Accuracy, Plan, Scores
from core.show.desk import removed_counts
from core.work.tasks import scan_subject, score_subject

DROP = 0.01  # a share of the images: one point
STEPS = 6  # halvings: the MACs are found to 1/64 of the network
IMAGES = 400


@dataclass(frozen=True)
class Proposal:
    """``removed``: units per group id. Both accuracies are measured on the same selection images. ``macs``: the share
    that remains."""

    removed: dict[str, int]
    accuracy: Accuracy
    dense_accuracy: Accuracy
    macs: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def search_proposal(
    subject: Subject,
    scores: Scores,
    sensitivity: Sensitivity,
    *,
    drop: float = DROP,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Proposal:
    """The fewest MACs on the way of least loss whose measured accuracy stays within ``drop`` of the dense network's.

    Bisection over the MACs that remain, on at most IMAGES selection images; accuracy need not fall steadily, so it is
    the best plan met, not the best there is. Nothing fits: the plan that removes nothing. Raises Cancelled.
    """
    tell = on_progress or (lambda *_: None)
    trace, images = subject.trace, subject.data.selection

    def measure(plan: Plan) -> Accuracy:
        if cancelled is not None and cancelled():
            raise Cancelled("The search for a plan was cancelled.")
        pruned = prune_model(subject.loaded.module, trace, plan)
        return evaluate_model(pruned, images, limit=IMAGES, cancelled=cancelled)

    dense = measure(Plan({}))
    best = Proposal({}, dense, dense, 1.0)
    low, high = 0.0, 1.0
    for step in range(STEPS):
        tell((step + 1) / (STEPS + 1), f"Measured {step + 1} of {STEPS + 1} plans")
        share = (low + high) / 2
        try:
            plan = plan_budget(trace, scores, sensitivity, {"macs": share})
        except PlanError:  # out of reach
            low = share
            continue
        found = measure(plan)
        if dense.correct - found.correct <= drop * dense.images:
            high = share
            remaining = count_cost(trace, plan).macs / max(1, count_cost(trace).macs)
            best = Proposal(removed_counts(trace, plan), found, dense, remaining)
        else:
            low = share
    return best


def propose_subject(
    subject: Subject,
    criterion: str,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Proposal:
    """As ``search_proposal``, with the scores and curves that are stored; what is missing is measured first."""
    scores = find_result(open_store(), "score", subject, criterion=criterion)
    curves = find_result(open_store(), "scan", subject, criterion=criterion)
    return search_proposal(
        subject,
        Scores.from_dict(scores) if scores else score_subject(subject, criterion, cancelled=cancelled),
        Sensitivity.from_dict(curves) if curves else scan_subject(subject, criterion, cancelled=cancelled),
        on_progress=on_progress,
        cancelled=cancelled,
    )


def propose_plan(
    model: str,
    weights: str,
    data: str,
    criterion: str,
    on_progress: Callable[..., None],
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """The worker's verb. Result: ``Proposal.to_dict()``."""
    return propose_subject(open_subject(model, weights, data), criterion, on_progress, cancelled).to_dict()
