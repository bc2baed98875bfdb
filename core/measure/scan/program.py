"""A tape as a list of calls that are ready to run: arguments laid out once, results dropped after their last reader,
tensors that nobody reads again written in place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from core.errors import TraceError
from core.measure.scan.folding import FoldedTape, fold_norms
from core.measure.scan.fusing import PLUS, THEN, Convolution, can_fuse, fuse, pack
from core.trace.graph import Ref, Step, Tape, named_state, tree_slots
from core.trace.replay import pure

aten = torch.ops.aten
Env = dict[int, Any]
RESHAPES = {"view", "_unsafe_view", "_reshape_alias"}  # recorded on plain layouts; channels-last may need a copy
LAYOUT_BOUND = {"as_strided", "as_strided_"}
IN_PLACE = {"relu": aten.relu_.default, "hardtanh": aten.hardtanh_.default, "silu": aten.silu_.default,
            "hardswish": aten.hardswish_.default, "sigmoid": aten.sigmoid_.default}  # fmt: skip
NEVER = 1 << 30


class Line:
    """One call. ``own``, ``other``: the step that made the first (second) operand's memory, where this call may
    overwrite it; a run that started at or before that step may, because it made the tensor itself. ``plus``: the slot
    that a fused convolution adds."""

    __slots__ = ("args", "drops", "kwargs", "lists", "op", "other", "outputs", "own", "plus", "refs", "tree", "written")

    def __init__(self, step: Step, device: torch.device, *, fused: bool = False) -> None:
        name = step.name
        self.op: Any = aten.reshape.default if name in RESHAPES else pure(step.op)
        self.args: list[Any] = list(step.args)
        self.kwargs = {key: value for key, value in step.kwargs.items() if key not in (THEN, PLUS)}
        self.plus = step.kwargs[PLUS].slot if PLUS in step.kwargs else None
        if fused:
            self.op = Convolution(step)
        if "device" in self.kwargs:  # the tape was recorded elsewhere, mostly on shape-only tensors
            self.kwargs["device"] = device
        self.refs = [(place, value.slot) for place, value in enumerate(self.args) if isinstance(value, Ref)]
        self.lists = [
            (place, [item.slot for item in value])
            for place, value in enumerate(self.args)
            if isinstance(value, list | tuple) and value and all(isinstance(item, Ref) for item in value)
        ]
        plain = {place for place, _ in (*self.refs, *self.lists)}
        rest = [value for place, value in enumerate(self.args) if place not in plain]
        self.tree = any(isinstance(leaf, Ref) for leaf in tree_flatten((rest, self.kwargs))[0])
        self.outputs = step.outputs
        self.drops: tuple[int, ...] = ()
        self.own = self.other = NEVER
        self.written: Any = None

    def run(self, env: Env, start: int) -> None:
        """Read from ``env``, put the results there, drop what nothing reads again."""
        args, kwargs = self.args, self.kwargs
        if self.tree:
            args, kwargs = tree_slots((args, kwargs), env.__getitem__)
        else:
            args = args.copy()
            for place, slot in self.refs:
                args[place] = env[slot]
            for place, slots in self.lists:
                args[place] = [env[slot] for slot in slots]
        if self.plus is not None:
            result = self.op(*args, plus=env[self.plus], over=NEVER != self.own >= start)
        elif self.own >= start and self.own != NEVER:
            result = self.written(*args, **kwargs)
        elif self.other >= start and self.other != NEVER:
            result = self.written(args[1], args[0])
        else:
            result = self.op(*args, **kwargs)
        if isinstance(result, Tensor):
            env[self.outputs[0]] = result
        else:
            tensors = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
            env.update(zip(self.outputs, tensors, strict=True))
        for slot in self.drops:
            env.pop(slot, None)


class Program:
    """A folded tape bound to a network's weights, for one batch size.

    ``steps`` and ``lines`` correspond one to one. ``values``: slot -> weights, buffers and constants. What calls are
    given is laid out as they read it fastest: channels last where the tape allows it, or as the processor's library
    wants it. ``fused``: which steps are convolutions that do more. Raises TraceError for a tape that cannot be re-run.
    """

    def __init__(self, tape: Tape, module: nn.Module) -> None:
        if tape.aliases_written:
            raise TraceError(f"{type(module).__name__} writes into views of its tensors: it cannot be re-run in parts.")
        self.state = {name: tensor.detach() for name, tensor in named_state(module).items()}
        self.device = next((tensor.device for tensor in self.state.values()), torch.device("cpu"))
        self.recorded = tape
        self.folded: FoldedTape = fold_norms(tape, self.state)
        tape = self.folded.tape
        self.channels_last = not any(step.name in LAYOUT_BOUND for step in tape.steps)
        own = {slot: self.state[name] for slot, name in tape.state.items() if slot not in self.folded.made}
        found = {**own, **tape.constants, **self.folded.made}
        self.fused: frozenset[int] = frozenset()
        if self.channels_last and can_fuse(self.device):
            tape, self.fused = fuse(tape, found.get)
        self.tape, self.steps = tape, tape.steps
        read = {slot for step in self.steps for slot in step.reads} | set(tape.output_slots)
        self.values: Env = {slot: tensor for slot, tensor in found.items() if slot in read}
        self.kernels = self._kernels() if self.channels_last else {}
        self._given: Env = {slot: self.placed(slot, tensor) for slot, tensor in self.values.items()}
        self.lines = compile_lines(self.steps, self.tape, self.device, self.fused)

    def _kernels(self) -> dict[int, Step | None]:
        """What convolutions read, and for which of them it may be laid out as the library wants it: for one that is
        fused, and the only kind of reader."""
        found: dict[int, Step | None] = {step.args[1].slot: None for step in self.steps if step.name == "convolution"}
        for slot in found:
            readers = [(index, step) for index, step in enumerate(self.steps) if slot in step.reads]
            as_kernel = all(index in self.fused and step.reads.index(slot) == 1 for index, step in readers)
            if as_kernel and all(step.args[3:] == readers[0][1].args[3:] for _, step in readers):
                found[slot] = readers[0][1]
        return found

    def laid_out(self, tensor: Tensor) -> Tensor:
        """``tensor`` in channels-last memory where that means something."""
        if tensor.dim() == 4 and self.channels_last:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def placed(self, slot: int, weight: Tensor) -> Tensor:
        """``weight`` as the calls that read ``slot`` want it."""
        if slot not in self.kernels:
            return weight  # weight norm, for one, misreads other layouts
        step = self.kernels[slot]
        return self.laid_out(weight) if step is None else pack(weight, step, self.tape)

    def begin(self, images: Tensor) -> Env:
        """What a run from the first step needs. images: N x C x H x W of this program's batch size."""
        return {**self._given, self.tape.input: self.laid_out(images)}

    def run(self, env: Env, start: int, stop: int | None = None, lines: Sequence[Line] | None = None) -> Env:
        """Run steps ``start`` to ``stop`` (not included) in ``env``, which is changed and returned.

        Tensors made before ``start`` are never written to.
        """
        with torch.inference_mode():  # a thread's own matter
            for line in (self.lines if lines is None else lines)[start:stop]:
                line.run(env, start)
        return env

    def logits(self, env: Mapping[int, Any]) -> Tensor:
        """The first tensor of the result: the class scores of a classifier."""
        slots = self.tape.output_slots
        if not slots:
            raise TraceError("The network returns no tensor.")
        result: Tensor = env[slots[0]]
        return result


def compile_lines(steps: Sequence[Step], tape: Tape, device: torch.device, fused: Collection[int] = ()) -> list[Line]:
    """Lines of all ``steps``, with what each may drop and overwrite."""
    last = {slot: index for index, step in enumerate(steps) for slot in step.reads}
    last.update(dict.fromkeys(tape.output_slots, len(steps)))
    root: dict[int, int] = {}  # slot -> the slot whose memory it lies in
    for step in steps:
        for slot in step.outputs:
            root[slot] = root.get(step.reads[0], step.reads[0]) if step.reads and _may_alias(step) else slot
    until: dict[int, int] = {}
    for slot, base in root.items():
        until[base] = max(until.get(base, -1), last.get(slot, -1))
    made = {slot: index for index, step in enumerate(steps) for slot in step.outputs}
    lines = []
    for index, step in enumerate(steps):
        line = Line(step, device, fused=index in fused)
        fixed = tape.state.keys() | tape.constants.keys()
        gone = {slot for slot in step.reads if last[slot] == index and slot not in fixed}
        line.drops = tuple(gone | {slot for slot in step.outputs if last.get(slot, -1) <= index})
        if PLUS in step.kwargs:
            line.own = _free(step.kwargs[PLUS].slot, index, root, until, made)
        else:
            _allow_writing(line, step, tape, [_free(slot, index, root, until, made) for slot in step.reads[:2]])
        lines.append(line)
    return lines


def _may_alias(step: Step) -> bool:
    if step.name in {"reshape", "contiguous", "to", "dropout", *RESHAPES}:
        return True
    return not step.in_place and any(result.alias_info is not None for result in step.op._schema.returns)


def _free(slot: int, index: int, root: Mapping[int, int], until: Mapping[int, int], made: Mapping[int, int]) -> int:
    """The step that made ``slot``'s memory when nothing after step ``index`` reads it, else NEVER."""
    base = root.get(slot, slot)
    return made[base] if base in made and until[base] <= index else NEVER


def _allow_writing(line: Line, step: Step, tape: Tape, free: list[int]) -> None:
    name = step.name.removesuffix("_")
    if name in IN_PLACE and len(step.reads) == 1:
        line.written, line.own = IN_PLACE[name], free[0]
    elif name == "add" and len(step.reads) == 2 and len(step.args) == 2 and not step.kwargs:
        shapes = [tape.shapes[slot] for slot in (*step.reads, *step.outputs)]
        if shapes[0] == shapes[1] == shapes[2] and step.reads[0] != step.reads[1]:
            line.written, (line.own, line.other) = aten.add_.Tensor, free
