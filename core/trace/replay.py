"""Run a tape, or the rest of one, on real tensors.

This is how activations, gradients and partial re-runs are had without hooks: the tape is a list, and a list can be
started anywhere. In-place operators are replaced by their pure forms, so nothing a later step needs is spoiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from core.errors import TraceError
from core.trace.graph import Ref, Step, Tape, named_state, needed_steps, tree_slots

Edits = Mapping[str, Tensor]


@cache
def pure(op: Any) -> Any:
    """The operator that computes the same without writing its input; the operator itself when it writes nothing."""
    schema = op._schema
    if not any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments):
        return op
    name = schema.name.split("::")[1]
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    overload = getattr(packet, op._overloadname, None) if packet is not None else None
    return overload or (lambda first, *rest, **named: op(first.clone(), *rest, **named))


class Replay:
    """A tape bound to a module's weights.

    ``steps`` are those that the output needs. ``last_use[slot]`` is the index of the last of them that reads the slot.
    """

    def __init__(self, tape: Tape, module: nn.Module) -> None:
        if tape.aliases_written:
            raise TraceError(
                f"{type(module).__name__} writes into views of its tensors while it runs, so it cannot be re-run in "
                "parts. Use a criterion that needs no images (weight norms), or evaluate whole plans."
            )
        self.tape = tape
        self.state = {name: tensor.detach() for name, tensor in named_state(module).items()}
        self.device = next((tensor.device for tensor in self.state.values()), torch.device("cpu"))
        self.steps = needed_steps(tape)
        self.last_use = {slot: index for index, step in enumerate(self.steps) for slot in step.reads}
        self.last_use.update(dict.fromkeys(tape.output_slots, len(self.steps)))

    def value(self, slot: int, env: Mapping[int, Any], edits: Edits) -> Any:
        if slot in env:
            return env[slot]
        name = self.tape.state.get(slot)
        if name is not None:
            return edits.get(name, self.state[name])
        return self.tape.constants[slot]

    def run_step(self, index: int, env: dict[int, Any], edits: Edits) -> None:
        """Run step ``index``, put its results into ``env`` and drop what no later step reads."""
        step = self.steps[index]
        args, kwargs = tree_slots((step.args, dict(step.kwargs)), lambda slot: self.value(slot, env, edits))
        if "device" in kwargs:  # the tape was recorded elsewhere, mostly on shape-only tensors
            kwargs["device"] = self.device
        result = pure(step.op)(*args, **kwargs)
        tensors = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        for slot, tensor in zip(step.outputs, tensors, strict=True):
            if self.last_use.get(slot, -1) > index:
                env[slot] = tensor
        for slot in step.reads:
            if self.last_use[slot] == index:
                env.pop(slot, None)

    def run(
        self,
        env: dict[int, Any],
        start: int = 0,
        stop: int | None = None,
        edits: Edits | None = None,
        visit: Callable[[int, dict[int, Any]], None] | None = None,
    ) -> dict[int, Any]:
        """Run steps ``start`` to ``stop`` (not included) in ``env`` (slot -> tensor), which is changed and returned."""
        for index in range(start, len(self.steps) if stop is None else stop):
            if visit is not None:
                visit(index, env)
            self.run_step(index, env, edits or {})
        return env

    def output(self, env: Mapping[int, Any]) -> Any:
        """The model's result from a finished ``env``."""
        return tree_slots(self.tape.output, lambda slot: self.value(slot, env, {}))

    def logits(self, env: Mapping[int, Any]) -> Tensor:
        """The first tensor of the result: the class scores of a classifier."""
        slots = self.tape.output_slots
        if not slots:
            raise TraceError("The network returns no tensor.")
        result: Tensor = self.value(slots[0], env, {})
        return result


def readers(tape: Tape) -> Iterator[tuple[int, Step]]:
    """(index among the needed steps, step) for every needed step."""
    yield from enumerate(needed_steps(tape))


def state_reads(tape: Tape, step: Step) -> list[str]:
    """Names of the weights and buffers that a step reads directly."""
    return [tape.state[slot] for slot in step.reads if slot in tape.state]


__all__ = ["Ref", "Replay", "needed_steps", "pure", "readers", "state_reads"]
