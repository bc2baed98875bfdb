"""The ways to build the network of a plan: as cut, or repaired from calibration images. A row per way, for menus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from core.apply.reconstruct import reconstruct_model
from core.apply.surgery import prune_model
from core.records import ImageData, Plan, Trace
from core.registry import Registry, Row

AS_CUT = "none"

REPAIRS: Registry[str | None] = Registry("repair")  # the value is a method of reconstruct_model
_ROWS: tuple[Row[str | None], ...] = (
    Row(AS_CUT, None, "As cut", "The weights that stay are the dense network's own.", source="no repair"),
    Row(
        "batchnorm",
        "batchnorm",
        "Batch norm",
        "The batch-norm statistics behind a cut are measured again on calibration images.",
        source="textbook: statistics over the calibration images replace the running averages",
    ),
    Row(
        "least-squares",
        "least-squares",
        "Least squares",
        "Each layer that reads fewer channels is fitted, front to back, to what the dense network computed there.",
        source="He, Zhang, Sun 2017, arXiv 1707.06168, section 3; rounds that heed the ReLU: arXiv 1505.06798",
    ),
    Row(
        "compensation",
        "compensation",
        "Compensation",
        "In closed form, the kept channels take over what can be foretold of the lost ones.",
        source="Xie et al. 2021, arXiv 2108.13728",
    ),
)
for _row in _ROWS:
    REPAIRS.add(_row)


def build_network(
    module: nn.Module,
    trace: Trace,
    plan: Plan,
    data: ImageData,
    repair: str = AS_CUT,
    *,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[nn.Module, Plan]:
    """A new network of ``plan``, and the plan with its repair told in ``origin``.

    repair: a name of REPAIRS. data: calibration images; not looked at for "none", nor when nothing leaves.
    Raises CoreError for an unknown repair, else as ``prune_model`` and ``reconstruct_model``.
    """
    method = REPAIRS[repair]
    leaves = any(len(kept) < trace.group(name).units for name, kept in plan.kept.items())
    if method is None or not leaves:
        return prune_model(module, trace, plan), plan
    rebuilt = reconstruct_model(module, trace, plan, data, method, on_progress=on_progress, cancelled=cancelled)
    told = f"{plan.origin}; repaired by {method} on {data.name}, seed 0"
    return rebuilt, replace(plan, origin=told)


def list_repairs() -> list[Row[str | None]]:
    """Every repair, for menus; the first is none."""
    return list(REPAIRS)
