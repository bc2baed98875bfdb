"""Layers that only turn the channels of others up and down, as the last one of a squeeze-and-excitation block does."""

from __future__ import annotations

from collections.abc import Sequence

from core.trace.graph import Ref, Tape, needed_steps
from core.trace.sites import MATRIX

WEIGHTED = {"convolution": 1, **{name: places[1] for name, places in MATRIX.items()}}  # the weight's place


def gating_layers(tape: Tape) -> frozenset[str]:
    """Names of layers whose output, one number per channel, is multiplied with a map (Hu, Shen, Sun 2018, "Squeeze-and-
    Excitation Networks", arXiv 1709.01507). What makes the map is not among them."""
    steps = needed_steps(tape)
    maker = {slot: step for step in steps for slot in step.outputs}
    found = set()
    for step in steps:
        if step.name.removesuffix("_") != "mul" or len(step.reads) != 2:
            continue
        one, two = step.reads
        for gate, gated in ((one, two), (two, one)):
            if not _one_per_channel(tape.shapes[gate], tape.shapes[gated]):
                continue
            made = maker.get(gate)
            while made is not None:
                weight = made.args[WEIGHTED[made.name]] if made.name in WEIGHTED else None
                if isinstance(weight, Ref) and weight.slot in tape.state:
                    found.add(tape.state[weight.slot].rpartition(".")[0])
                    break
                before = [slot for slot in made.reads if slot in maker]
                made = maker[before[0]] if len(before) == 1 and weight is None else None
    return frozenset(found)


def _one_per_channel(gate: Sequence[int], gated: Sequence[int]) -> bool:
    same = len(gate) == len(gated) > 2 and tuple(gate[:2]) == tuple(gated[:2])
    return same and all(size == 1 for size in gate[2:]) and any(size > 1 for size in gated[2:])
