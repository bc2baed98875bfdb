"""The tape: every ATen operator that one forward pass calls, in order, with where its tensors come from.

The model runs once on shape-only (meta) tensors, so recording costs milliseconds and no arithmetic. A model that looks
at values while it runs (``if x.sum() > 0``) cannot do that; it is recorded on real tensors instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from core.errors import TraceError


@dataclass(frozen=True)
class Ref:
    """A place on the tape where a tensor lives."""

    slot: int


@dataclass(frozen=True)
class Step:
    """One operator call. Tensors among ``args`` and ``kwargs`` are Refs; ``outputs`` are the slots it fills."""

    op: Any  # torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]
    reads: tuple[int, ...]
    in_place: bool = False

    @property
    def name(self) -> str:
        """Operator name without overload: "convolution", "relu_"."""
        return str(self.op.overloadpacket.__name__)


@dataclass(frozen=True)
class Tape:
    """A recorded forward pass for one batch size.

    ``state``: slot -> state name of the parameter or buffer that lives there. ``constants``: slot -> a tensor the
    model carries outside its state. ``shapes``: slot -> shape. ``output``: the model's result with Refs for tensors.
    """

    steps: tuple[Step, ...]
    input: int
    output: Any
    state: Mapping[int, str]
    constants: Mapping[int, Tensor]
    shapes: Mapping[int, tuple[int, ...]]
    aliases_written: bool  # an in-place operator wrote through a view: the tape cannot be re-run step by step

    @property
    def output_slots(self) -> tuple[int, ...]:
        return tuple(leaf.slot for leaf in tree_flatten(self.output)[0] if isinstance(leaf, Ref))


class _Recorder(TorchDispatchMode):
    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names  # id of a parameter or buffer -> its state name
        self.steps: list[Step] = []
        self.slot_of: dict[int, int] = {}
        self.alive: list[Tensor] = []  # ids are only unique while their tensors live
        self.state: dict[int, str] = {}
        self.constants: dict[int, Tensor] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.viewed: set[int] = set()
        self.aliases_written = False

    def slot(self, tensor: Tensor, *, produced: bool = False) -> int:
        key = id(tensor)
        if produced or key not in self.slot_of:
            slot = len(self.shapes)
            self.slot_of[key] = slot
            self.shapes[slot] = tuple(tensor.shape)
            self.alive.append(tensor)
            if not produced:
                if key in self.names:
                    self.state[slot] = self.names[key]
                else:
                    self.constants[slot] = tensor
        return self.slot_of[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        ref_args, ref_kwargs = tree_map(lambda x: Ref(self.slot(x)) if isinstance(x, Tensor) else x, (args, kwargs))
        result = func(*args, **kwargs)
        given = {id(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)}
        tensors = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        written = any(argument.alias_info is not None and argument.alias_info.is_write for argument in _arguments(func))
        in_place = written and any(id(x) in given for x in tensors)
        if written:
            self.aliases_written |= any(self.slot_of.get(id(x)) in self.viewed for x in tensors if id(x) in given)
            self.aliases_written |= not in_place
        reads = tuple(leaf.slot for leaf in tree_flatten((ref_args, ref_kwargs))[0] if isinstance(leaf, Ref))
        outputs = tuple(self.slot(x, produced=True) for x in tensors)
        if not written and any(return_.alias_info is not None for return_ in func._schema.returns):
            self.viewed.update(reads, outputs)
        self.steps.append(Step(func, tuple(ref_args), ref_kwargs, outputs, reads, in_place))
        return result


def _arguments(func: Any) -> list[Any]:
    return list(func._schema.arguments)


def shape_only(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose parameters and buffers are meta tensors: structure without numbers."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(module, memo)


def named_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers (also non-persistent ones) by name; a shared tensor appears once, by its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def record_tape(module: nn.Module, example: Tensor) -> Tape:
    """Record one forward pass of ``module`` (as if in eval mode) on an input shaped like ``example``.

    ``module`` is not touched and sees no data; only when it needs values does a real copy run on ``example``.
    Raises TraceError when the network does not run on such an input.
    """
    try:
        return _record(shape_only(module).eval(), example.detach().to("meta"))
    except Exception:  # whatever shape-only tensors could not do, real ones may
        try:
            return _record(copy.deepcopy(module).eval(), example)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            shape = " x ".join(str(size) for size in example.shape)
            raise TraceError(
                f"{type(module).__name__} does not run on an input of {shape}: {reason} "
                "Check the input size and the number of channels."
            ) from error


def _record(module: nn.Module, example: Tensor) -> Tape:
    names = {id(tensor): name for name, tensor in reversed(list(named_state(module).items()))}
    recorder = _Recorder(names)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused attention path is one opaque operator; the plain path shows its matrix products.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), recorder:
            input_slot = recorder.slot(example)
            recorder.constants.pop(input_slot, None)
            result = module(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    output = tree_map(lambda x: Ref(recorder.slot(x)) if isinstance(x, Tensor) else x, _as_tree(result))
    return Tape(
        tuple(recorder.steps), input_slot, output, recorder.state, recorder.constants, recorder.shapes,
        recorder.aliases_written,
    )  # fmt: skip


def _as_tree(result: Any) -> Any:
    """Model outputs that pytree does not know (dataclass-like dicts) become plain dicts."""
    return dict(result) if isinstance(result, Mapping) and type(result) is not dict else result


def tree_slots(tree: Any, visit: Callable[[int], Any]) -> Any:
    """``tree`` with every Ref replaced by ``visit(slot)``."""
    return tree_map(lambda x: visit(x.slot) if isinstance(x, Ref) else x, tree)
