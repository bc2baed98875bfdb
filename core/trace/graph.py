"""The tape: every ATen operator that one forward pass calls, in order, with where its tensors come from.

The model runs once on shape-only (meta) tensors, so recording costs milliseconds and no arithmetic: first as a shell
around its own weights, of which only the shapes are used; when it would change one of them, as a shape-only copy. A
model that looks at values while it runs (``if x.sum() > 0``) can do neither; it is recorded on real tensors instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from core.errors import TraceError
from core.trace import shapes
from core.trace.calls import Calls, UntouchableError
from core.trace.copies import Census, copy_of, shell_with, take_census
from core.trace.copies import named_state as named_state
from core.trace.leaves import UnusualError, leaf_forward
from core.trace.memo import forget

CALLED = (nn.modules.conv._ConvNd, nn.Linear)
GROUPED = (nn.modules.conv._ConvNd, nn.GroupNorm)
NoDispatch, NoFunctions = torch._C._DisableTorchDispatch, torch._C.DisableTorchFunction


@dataclass(frozen=True, slots=True)
class Ref:
    """A place on the tape where a tensor lives."""

    slot: int


class Facts(NamedTuple):
    """What an operator's schema says: its name without overload; whether it writes one of its arguments; whether it
    gives a view of one."""

    name: str
    written: bool
    views: bool


_facts: dict[int, Facts] = {}  # by id: operators live as long as the program, and to hash one takes a call of Python


def facts_of(op: Any) -> Facts:
    found = _facts.get(id(op))
    if found is None:
        schema = op._schema
        written = any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments)
        views = any(result.alias_info is not None for result in schema.returns)
        found = _facts[id(op)] = Facts(str(op.overloadpacket.__name__), written, views)
    return found


@dataclass(slots=True)  # not frozen: a network has hundreds, and each would take four times as long to make
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
        return facts_of(self.op).name


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
    called: frozenset[str] = frozenset()  # convolutions and linear layers that ran as modules
    spans: Mapping[str, list[tuple[int, int]]] = field(default_factory=dict)  # module -> steps of each of its runs
    repeats_widths: bool = True  # a call may have been given a width as a number: narrower networks must be tried
    shape_only: bool = True  # False: the network looks at values while it runs, and was recorded on real tensors
    keeps_state: bool = False  # True: a run was seen to leave parameters and buffers as they are

    @property
    def output_slots(self) -> tuple[int, ...]:
        return tuple(leaf.slot for leaf in tree_flatten(self.output)[0] if isinstance(leaf, Ref))


class _Recorder(TorchDispatchMode):
    """shape_only: real tensors are only asked for their shapes, and may not be written to."""

    def __init__(self, names: dict[int, str], *, shape_only: bool) -> None:
        super().__init__()
        self.names = names  # id of a parameter or buffer -> its state name
        self.shape_only = shape_only
        self.steps: list[Step] = []
        self.slot_of: dict[int, int] = {}
        self.places: list[Ref] = []  # by slot
        self.alive: list[Tensor] = []  # ids are only unique while their tensors live
        self.twins: dict[int, Tensor] = {}  # real tensors as shape-only ones
        self.state: dict[int, str] = {}
        self.constants: dict[int, Tensor] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.viewed: set[int] = set()
        self.aliases_written = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is ever compiled; PyTorch's guard against it costs more than a step

    def slot(self, tensor: Tensor) -> int:
        """Where ``tensor`` lives; a tensor that no step has made is the network's own."""
        key = id(tensor)
        found = self.slot_of.get(key)
        if found is not None:
            return found
        slot = self.made(tensor)
        if key in self.names:
            self.state[slot] = self.names[key]
        else:
            self.constants[slot] = tensor
        return slot

    def made(self, tensor: Tensor) -> int:
        """A new place for ``tensor``."""
        slot = self.slot_of[id(tensor)] = len(self.places)
        self.places.append(Ref(slot))
        self.shapes[slot] = tuple(tensor.shape)
        self.alive.append(tensor)
        return slot

    def refs(self, values: Any, reads: list[int]) -> Any:
        """``values`` with Refs for tensors, whose slots are added to ``reads``."""
        found = []
        for value in values:
            kind = type(value)
            if kind in PLAIN:
                found.append(value)
            elif kind is Tensor or isinstance(value, Tensor):
                slot = self.slot_of.get(id(value))
                if slot is None:
                    slot = self.slot(value)
                reads.append(slot)
                found.append(self.places[slot])
            elif value and (kind is list or kind is tuple) and type(value[0]) is not int:  # not a list of sizes
                found.append(self.refs(value, reads))
            else:
                found.append(value)
        return found if type(values) is list else type(values)(found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():  # the sizes asked for here are not the network's questions
            if not self.shape_only:
                result = func(*args, **kwargs)
            else:
                given = tensors_in((*args, kwargs) if kwargs else args)
                real = [x for x in given if not x.is_meta]
                if real and facts_of(func).written:
                    raise UntouchableError
                if any(x.is_meta or x.is_floating_point() for x in given) and real:
                    result = shapes.run(func, self._shaped(args), self._shaped(kwargs))
                else:
                    result = shapes.run(func, args, kwargs)
            return self.note(func, args, kwargs, result)

    def _shaped(self, value: Any) -> Any:
        """``value`` with shape-only tensors in the place of real ones."""
        if isinstance(value, Tensor):
            if value.is_meta:
                return value
            if id(value) not in self.twins:
                self.alive.append(value)
                self.twins[id(value)] = torch.empty_like(value, device="meta")
            return self.twins[id(value)]
        if isinstance(value, list | tuple):
            return type(value)(self._shaped(item) for item in value)
        return {name: self._shaped(item) for name, item in value.items()} if isinstance(value, dict) else value

    def note(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """Put one operator's call on the tape; gives back its result."""
        reads: list[int] = []
        ref_args = self.refs(args, reads)
        ref_kwargs = dict(zip(kwargs, self.refs(list(kwargs.values()), reads), strict=True)) if kwargs else {}
        tensors = [result] if type(result) is Tensor else tensors_in(result)
        _, written, views = facts_of(func)
        in_place = False
        if written:
            given = tensors_in(args) + tensors_in(list(kwargs.values()))
            back = [x for x in tensors if any(x is one for one in given)]
            in_place = bool(back)
            self.aliases_written |= not in_place or any(self.slot_of[id(x)] in self.viewed for x in back)
        outputs = tuple([self.made(x) for x in tensors])
        if views and not written:
            self.viewed.update(reads, outputs)
        self.steps.append(Step(func, ref_args, ref_kwargs, outputs, tuple(reads), in_place))
        return result


TENSORS, NESTED = frozenset({Tensor, nn.Parameter}), frozenset({list, tuple, dict})
PLAIN = frozenset({type(None), int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format})


def tensors_in(value: Any) -> list[Tensor]:
    """In order; ``value`` may be nested as PyTorch's operators take and give them."""
    if isinstance(value, Tensor):
        return [value]
    kind = type(value)
    if kind is not tuple and kind is not list:
        return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    found = []
    for item in value:
        kind = type(item)
        if kind in TENSORS:
            found.append(item)
        elif kind is list and item and type(item[0]) is int:  # sizes
            continue
        elif kind in NESTED:
            if item:
                found += tensors_in(item)
        elif kind not in PLAIN and isinstance(item, Tensor):
            found.append(item)
    return found


def shape_only(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose parameters and buffers are meta tensors: structure without numbers."""
    return _without_numbers(take_census(module)).module


def _without_numbers(census: Census) -> Census:
    return copy_of(
        census, lambda name, tensor: torch.empty_like(tensor, device="meta"), loose=lambda tensor: tensor.detach()
    )


def record_tape(module: nn.Module | Census, example: Tensor, *, training: bool = False) -> Tape:
    """Record one forward pass of ``module`` (as if in eval mode, unless ``training``) on an input like ``example``.

    ``module`` is not touched and sees no data; only when it needs values does a real copy run on ``example``.
    Raises TraceError when the network does not run on such an input.
    """
    census = take_census(module)
    if not training:
        forget()
    mode = _branching if training else in_eval_mode
    try:
        return _record(mode(shell_with(census, {})), example.detach().to("meta"), keeps_state=True)
    except Exception:  # mostly UntouchableError; a copy may be written to
        pass
    try:
        return _record(_in_mode(_without_numbers(census), training), example.detach().to("meta"))
    except Exception:  # whatever shape-only tensors could not do, real ones may
        try:
            return _record(_in_mode(copy_of(census, lambda name, tensor: tensor.clone()), training), example)
        except Exception as error:
            module = census.module
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            shape = " x ".join(str(size) for size in example.shape)
            raise TraceError(
                f"{type(module).__name__} does not run on an input of {shape}: {reason} "
                "Check the input size and the number of channels."
            ) from error


@contextmanager
def plain_attention() -> Iterator[None]:
    """The fused attention path is one opaque operator; the plain path shows its matrix products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def in_eval_mode(shell: Census) -> Census:
    """``shell`` itself, which nobody else holds."""
    return _in_mode(shell, False) if any([layer.training for _, layer in shell.layers]) else shell


def _branching(shell: Census) -> Census:
    """``shell`` as in training, but for PyTorch's own layers: which layers run is for the code around them to say."""
    for _, layer in shell.layers:
        layer.__dict__["training"] = users_own(layer)
    return shell


def _in_mode(shell: Census, training: bool) -> Census:
    shell.module.train(training)
    return shell


def _record(network: Census, example: Tensor, *, keeps_state: bool = False) -> Tape:
    """Run ``network``, which is thrown away. keeps_state: it holds the user's own tensors; none may be written to."""
    module = network.module
    names = {id(tensor): name for name, tensor in reversed(network.state.items())}
    recorder = _Recorder(names, shape_only=example.is_meta)
    calls = Calls(recorder.note if example.is_meta else None, untouchable=example.is_meta)
    spans: dict[str, list[tuple[int, int]]] = {}
    called = set()
    for path, layer in network.layers:
        leaf = leaf_forward(layer, recorder.note) if example.is_meta else None
        forward = layer.forward
        if isinstance(layer, GROUPED):
            forward = calls.counting(layer, forward)
        if leaf is not None:
            forward = or_itself(leaf, forward)
        if isinstance(layer, CALLED) or users_own(layer):
            forward = _noting(forward, spans.setdefault(path, []), recorder.steps)
            if isinstance(layer, CALLED):
                called.add(path)
        layer.__dict__["forward"] = forward
    input_slot = recorder.slot(example)
    recorder.constants.pop(input_slot, None)
    with plain_attention(), torch.no_grad(), calls, recorder:
        result = module(example)
    ran = frozenset(path for path in called if spans[path])
    output = tree_map(lambda x: Ref(recorder.slot(x)) if isinstance(x, Tensor) else x, _as_tree(result))
    return Tape(
        tuple(recorder.steps), input_slot, output, recorder.state, recorder.constants, recorder.shapes,
        recorder.aliases_written, ran, spans, calls.suspicious, example.is_meta, keeps_state,
    )  # fmt: skip


def or_itself(leaf: Callable[[Tensor], Tensor], forward: Callable[..., Any]) -> Callable[..., Any]:
    """``leaf`` for the calls it can answer, ``forward`` for the others."""

    def answered(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            try:
                with NoDispatch(), NoFunctions():
                    return leaf(args[0])
            except UnusualError:
                pass
        return forward(*args, **kwargs)

    return answered


def _noting(forward: Callable[..., Any], spans: list[tuple[int, int]], steps: list[Step]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        start = len(steps)
        result = forward(*args, **kwargs)
        spans.append((start, len(steps)))
        return result

    return noted


def users_own(layer: nn.Module) -> bool:
    """Whether its code is not PyTorch's; attention counts too, because a headed one runs other code."""
    return not type(layer).__module__.startswith("torch.nn.") or isinstance(layer, nn.MultiheadAttention)


def _as_tree(result: Any) -> Any:
    """Model outputs that pytree does not know (dataclass-like dicts) become plain dicts."""
    return dict(result) if isinstance(result, Mapping) and type(result) is not dict else result


def tree_slots(tree: Any, visit: Callable[[int], Any]) -> Any:
    """``tree`` with every Ref replaced by ``visit(slot)``."""
    return tree_map(lambda x: visit(x.slot) if isinstance(x, Ref) else x, tree)


def needed_steps(tape: Tape) -> tuple[Step, ...]:
    """The steps whose results reach the output, in order."""
    needed = set(tape.output_slots)
    kept = []
    for step in reversed(tape.steps):
        if needed.intersection(step.outputs):
            kept.append(step)
            needed.update(step.reads)
    return tuple(reversed(kept))
