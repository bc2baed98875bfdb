"""Which groups a ratio rule moves: an option, for trunks of residual networks are costly to cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.errors import PlanError
from core.records import Group, Trace
from core.registry import Registry, Row
from core.trace.gates import gating_layers

GROUP_SETS: Registry[Callable[[Trace], tuple[Group, ...]]] = Registry("set of groups")


def target_groups(trace: Trace, name: str) -> tuple[Group, ...]:
    """The groups of a row of GROUP_SETS, in network order, gathers last. Raises PlanError when there are none."""
    groups = GROUP_SETS[name](trace)
    if not groups:
        reason = trace.coupled[0].reason if trace.coupled else "it has no layer with channels"
        raise PlanError(f"No group of channels may leave here ({name}): {reason}. Choose another set of groups.")
    return groups


def in_order(trace: Trace, groups: Sequence[Group]) -> tuple[Group, ...]:
    """In the order in which they are read first; a gather stands with its reader."""
    places = {name: place for place, (name, _) in enumerate(trace.module.named_modules())}
    return tuple(sorted(groups, key=lambda group: places.get((group.consumers or group.layers)[0], 0)))


def _inside(trace: Trace) -> tuple[Group, ...]:
    gates = gating_layers(trace.tape)
    inside = (
        group for group in trace.prunable if len(group.layers) == 1 or len(set(group.layers).difference(gates)) == 1
    )
    return tuple(inside) or trace.prunable


def _gathers(trace: Trace) -> tuple[Group, ...]:
    inside = _inside(trace)
    cut = {group.id for group in inside}
    free = (g for g in trace.gathers if g.prunable and not cut & {source for source, _ in trace.layout.sources(g)})
    return (*inside, *free)


GROUP_SETS.add(
    Row("inside", _inside, "Inside blocks",
        "Channels that one layer makes, gated or not; what several layers add up (a residual network's trunk) stays.",
        source="as in SFP's and CaP's experiments on residual networks")
)  # fmt: skip
GROUP_SETS.add(
    Row("gathers", _gathers, "Inside blocks, and gathers",
        "As inside blocks; and each layer that reads a trunk may choose among its channels, which all stay for others.",
        source="He, Zhang, Sun 2017, arXiv 1707.06168, section 3.3")
)  # fmt: skip
GROUP_SETS.add(
    Row("all", lambda trace: trace.prunable, "All groups",
        "Every group of channels that hang together, trunks too.", source="Li et al. 2017, arXiv 1608.08710")
)  # fmt: skip
