"""A network as a list of steps over named values: what a file without source code is opened as.

A step runs one of PyTorch's operators, or one of the network's layers. Nothing is generated or executed as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Ref:
    """The value that an earlier step made, or an input."""

    name: str


@dataclass(frozen=True)
class Held:
    """A parameter or buffer of the network, by its name in the state dict."""

    name: str


@dataclass(frozen=True)
class Step:
    """``outputs[i] = target(*args, **kwargs)[i]``, without the index where there is one output.

    target: an operator, or the path of a layer. args: plain values, Ref and Held, in lists and tuples too.
    outputs: names of values; "" for one that nobody reads. ``spread``: the target gives several values.
    ``frees``: values that no later step reads.
    """

    target: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[str, ...]
    spread: bool = False
    frees: tuple[str, ...] = ()

    def __deepcopy__(self, memo: object) -> Step:
        return self  # it cannot change, and a copied operator would be another one


@dataclass(frozen=True)
class Program:
    """What a file says before its layers are recognised. ``tensors``: by name in the state dict; ``parameters``: which
    of them are trained; ``fleeting``: buffers and constants that state dicts leave out. ``input_shape``: of one image,
    C x H x W. ``shapes``: of each value, -1 for sizes that are free."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    tensors: Mapping[str, Tensor]
    parameters: frozenset[str]
    fleeting: frozenset[str] = frozenset()
    input_shape: tuple[int, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def map_values(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with every Ref and Held in it replaced by ``change`` of it; lists, tuples and dicts are looked into."""
    if isinstance(value, Ref | Held):
        return change(value)
    if isinstance(value, list):
        return [map_values(item, change) for item in value]
    if isinstance(value, tuple):
        return tuple(map_values(item, change) for item in value)
    if isinstance(value, Mapping):
        return {key: map_values(item, change) for key, item in value.items()}
    return value


def read_names(step: Step) -> list[str]:
    """Names of the values a step reads, each once, in order."""
    found: dict[str, None] = {}

    def note(value: Any) -> Any:
        if isinstance(value, Ref):
            found[value.name] = None
        return value

    map_values([step.args, step.kwargs], note)
    return list(found)


def with_frees(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[Step, ...]:
    """Each step told which values nobody reads after it, so that memory is given back as in hand-written code."""
    later = set(outputs)
    done: list[Step] = []
    for step in reversed(steps):
        names = [*read_names(step), *(name for name in step.outputs if name)]
        frees = tuple(name for name in dict.fromkeys(names) if name not in later)
        later.update(names)
        done.append(Step(step.target, step.args, step.kwargs, step.outputs, step.spread, frees))
    return tuple(reversed(done))


class ProgramNetwork(nn.Module):
    """Runs its steps in order. Layers are ordinary modules under the names that their weights had in the file.

    Takes one image batch, N x C x H x W, and gives the first output, or all of them as a tuple when there are more.
    """

    def __init__(self, inputs: tuple[str, ...], outputs: tuple[str, ...], steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.steps = inputs, outputs, steps

    def forward(self, images: Tensor) -> Any:
        values: dict[str, Any] = {self.inputs[0]: images}
        held = self._held

        def resolve(value: Any) -> Any:
            return values[value.name] if isinstance(value, Ref) else held(value.name)

        for step in self.steps:
            run = self.get_submodule(step.target) if isinstance(step.target, str) else step.target
            made = run(*map_values(step.args, resolve), **map_values(step.kwargs, resolve))
            if step.spread:
                values.update(zip(step.outputs, made, strict=False))
            else:
                values[step.outputs[0]] = made
            for name in step.frees:
                values.pop(name, None)
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def _held(self, name: str) -> Tensor:
        path, _, last = name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(path), last)
        return found


class Sized(nn.Module):
    """An operator whose sizes are numbers in its call: a reshape, a split, a slice.

    Each size is kept as an attribute, ``width_i`` where it may be a number of channels, so that the engine can follow
    it when channels leave. ``template``: the arguments, with Slot(attribute) in place of each size.
    """

    def __init__(self, operator: Callable[..., Any], template: Any, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.operator, self.template = operator, template
        for name, value in sizes.items():
            setattr(self, name, value)

    def forward(self, *values: Any) -> Any:
        return self.operator(*filled(self.template, values, self))


@dataclass(frozen=True)
class Slot:
    """A place in a Sized template: the attribute ``name``, or the ``index``-th value given."""

    name: str = ""
    index: int = -1

    def __deepcopy__(self, memo: object) -> Slot:
        return self


def filled(template: Any, values: Sequence[Any], owner: nn.Module) -> Any:
    """The arguments of a Sized operator."""
    if isinstance(template, Slot):
        return getattr(owner, template.name) if template.name else values[template.index]
    if isinstance(template, list):
        return [filled(item, values, owner) for item in template]
    if isinstance(template, tuple):
        return tuple(filled(item, values, owner) for item in template)
    return template
