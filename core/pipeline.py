"""The whole story in one function. Read this first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from core.apply import prune_model
from core.evaluate import Comparison, compare_models
from core.export import VerifyReport, export_model, verify_export
from core.load import load_data, load_model
from core.measure.cost import count_cost, measure_together
from core.measure.importance import score_channels
from core.measure.sensitivity import Sensitivity, scan_sensitivity
from core.plan import plan_budget
from core.records import Cost, Latency, Plan
from core.trace import trace_channels


@dataclass(frozen=True)
class Story:
    """Everything that happened, dense first where there are two."""

    plan: Plan
    module: nn.Module
    curves: Sensitivity
    costs: tuple[Cost, Cost]
    latencies: tuple[Latency, Latency]
    comparison: Comparison
    verification: VerifyReport


def tell(
    model: str = "demo/digits-vgg",
    data: str = "digits",
    budget: float = 0.5,
    directory: str | Path = "pruned",
    criterion: str = "taylor",
    fractions: Sequence[float] = (0.25, 0.5, 0.75),
    formats: str | Sequence[str] = "all",
) -> Story:
    """Load, trace, measure, plan, apply, evaluate, export: a network with ``budget`` (share) of its MACs left."""
    loaded = load_model(model)  # a module in eval mode and one example input
    images = load_data(data)  # three disjoint parts: calibration, selection, report
    trace = trace_channels(loaded.module, loaded.example)  # which channels hang together

    scores = score_channels(trace, images.calibration, criterion)  # what every channel is worth
    curves = scan_sensitivity(trace, images.selection, fractions, scores)  # what every group can lose

    plan = plan_budget(trace, scores, curves, {"macs": budget})  # which channels stay
    module = prune_model(loaded.module, trace, plan)  # a new, smaller network

    comparison = compare_models(loaded.module, module, images.report)  # what it still knows
    latencies = measure_together([loaded.module, module], loaded.example)  # what it takes on this machine
    costs = count_cost(trace), count_cost(trace, plan)

    export_model(module, plan, directory, formats, loaded=loaded, trace=trace, data=images.report)
    verification = verify_export(directory)  # the files, reloaded in a fresh process
    return Story(plan, module, curves, costs, (latencies[0], latencies[1]), comparison, verification)
