"""Stages of a network: groups whose maps have the same size, as the recorded forward pass tells."""

from __future__ import annotations

from core.records import Group, Trace

FLAT = "vectors"


def group_stages(trace: Trace) -> dict[str, str]:
    """Coupled group id -> its stage in words: "16 × 16" for maps of that size, "vectors" where there is no map.

    A group's stage is that of the first layer that makes it.
    """
    known: dict[str, str] | None = trace.__dict__.get("_stages")
    if known is None:
        sizes = _layer_sizes(trace)
        known = {group.id: _stage(group, sizes) for group in trace.coupled}
        trace.__dict__["_stages"] = known  # a frozen record may keep what follows from it alone
    return known


def _stage(group: Group, sizes: dict[str, tuple[int, ...]]) -> str:
    found = next((sizes[layer] for layer in group.layers if layer in sizes), ())
    return " × ".join(map(str, found)) if found else FLAT


def _layer_sizes(trace: Trace) -> dict[str, tuple[int, ...]]:
    """Layer -> the spatial size of what the first operator that reads its weight gives."""
    tape = trace.tape
    sizes: dict[str, tuple[int, ...]] = {}
    for step in tape.steps:
        names = [tape.state[slot] for slot in step.reads if slot in tape.state]
        for name in names:
            layer, _, tensor = name.rpartition(".")
            if step.outputs and tensor.startswith("weight"):
                sizes.setdefault(layer, tuple(tape.shapes[step.outputs[0]][2:]))
    return sizes
