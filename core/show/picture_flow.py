"""Whose output reaches whom: the tape's dozens of small operators as wires between layers and joins."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from core.trace.graph import Step, Tape
from core.trace.groups import layer_of
from core.trace.replay import needed_steps

# Operators that a layer consists of; all others (norms, activations, pooling, reshaping) are part of the way.
PRODUCTS = {"convolution", "addmm", "mm", "linear", "matmul", "bmm", "baddbmm", "embedding"}
JOINED_BY = {"add": "add", "sub": "add", "cat": "concat", "stack": "concat", "mul": "multiply", "div": "multiply"}
ATTENTION = ("bmm", "baddbmm", "matmul", "_scaled_dot_product")


@dataclass(frozen=True)
class Flow:
    """``nodes``: (kind, name) in the order they first run, from the input to the output. ``wires``: (from, to), each
    once; a layer that runs again may be reached from later nodes, and only then ``from`` >= ``to``."""

    nodes: tuple[tuple[str, str], ...]
    wires: tuple[tuple[int, int], ...]


def data_flow(tape: Tape, layers: Collection[str]) -> Flow:
    """The wires between the layers of ``tape`` that multiply. ``layers``: names that may stand as a node."""
    walk = _Walk(tape, layers)
    for step in needed_steps(tape):
        walk.pass_step(step)
    ends = list(dict.fromkeys(walk.at[slot] for slot in tape.output_slots if slot in walk.at))
    walk.node("output", "output", ends)
    return Flow(tuple(walk.nodes), tuple(walk.wires))


class _Walk:
    def __init__(self, tape: Tape, layers: Collection[str]) -> None:
        self.tape, self.layers = tape, layers
        self.nodes: list[tuple[str, str]] = [("input", "input")]
        self.wires: dict[tuple[int, int], None] = {}
        self.at: dict[int, int] = {tape.input: 0}  # slot -> the node whose output it carries
        self.weights: dict[int, tuple[str, ...]] = {slot: (layer_of(name),) for slot, name in tape.state.items()}
        self.index_of: dict[str, int] = {}
        self.joined: dict[tuple[str, ...] | tuple[str, tuple[int, ...]], int] = {}

    def pass_step(self, step: Step) -> None:
        sources = [self.at[slot] for slot in step.reads if slot in self.at]
        weights = tuple(dict.fromkeys(name for slot in step.reads for name in self.weights.get(slot, ())))
        layer = self._layer(step, weights)
        if layer is not None and set(sources) != {self.index_of.get(layer)}:
            here = self._call(layer, sources)
        elif not sources:
            self.weights.update(dict.fromkeys(step.outputs, weights))
            return
        else:
            here = self._join(step, sources)
        self.at.update(dict.fromkeys(step.outputs, here))

    def _layer(self, step: Step, weights: tuple[str, ...]) -> str | None:
        if step.name not in PRODUCTS:
            return None
        found = next((name for name in weights if name in self.layers), None)
        return found or (weights[0] if weights and step.name == "convolution" else None)

    def _call(self, layer: str, sources: list[int]) -> int:
        if layer not in self.index_of:
            self.index_of[layer] = self.node("layer", layer, sources)
        else:
            self._wire(sources, self.index_of[layer])
        return self.index_of[layer]

    def _join(self, step: Step, sources: list[int]) -> int:
        if len(set(sources)) == 1:
            return sources[0]
        name = step.name.rstrip("_")
        what = "attention" if step.name.startswith(ATTENTION) else JOINED_BY.get(name, name)
        if what == "concat":
            return self._concat(tuple(sources))
        return self.node("join", what, sources)

    def _concat(self, sources: tuple[int, ...]) -> int:
        """A concatenation that repeats an earlier one and adds to it (DenseNet's do) goes on from that one."""
        key = ("concat", sources)
        if key not in self.joined:
            longest = next((n for n in range(len(sources) - 1, 1, -1) if ("concat", sources[:n]) in self.joined), 0)
            before = (self.joined["concat", sources[:longest]],) if longest else ()
            self.joined[key] = self.node("join", "concat", [*before, *sources[longest:]])
        return self.joined[key]

    def node(self, kind: str, name: str, sources: list[int]) -> int:
        self.nodes.append((kind, name))
        self._wire(sources, len(self.nodes) - 1)
        return len(self.nodes) - 1

    def _wire(self, sources: list[int], target: int) -> None:
        self.wires.update(dict.fromkeys((source, target) for source in sources))
