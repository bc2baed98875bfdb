"""From steps to a network with layers: convolutions, linear layers and normalisations become modules again.

A step whose weight is "conv1.weight" becomes the layer "conv1", with the sizes of the weight and the settings of the
call, so that state dicts fit, training trains, and the engine sees what it sees in any network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.load.program.steps import Held, Program, ProgramNetwork, Ref, Sized, Slot, Step, with_frees

Found = tuple[str, nn.Module, tuple[Any, ...]]
Bound = Mapping[str, Any]
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
SIZED = ("view", "reshape", "_unsafe_view", "expand", "split", "split_with_sizes", "narrow", "slice", "unflatten")


def build_network(program: Program) -> ProgramNetwork:
    """The program with its layers recognised, in eval mode; every tensor of it in its place."""
    network = ProgramNetwork(program.inputs[:1], program.outputs, ())
    made: dict[str, Step] = {}
    steps: list[Step] = []
    for step in program.steps:
        found = _layer(step, program)
        if found is not None and _fits(found, made, step, network):
            path, layer, given = found
            if path not in made:
                made[path] = step
                put_module(network, path, layer)
            outputs = step.outputs[:1]
            steps.append(Step(path, given, {}, outputs))
        else:
            steps.append(_sized(step, program, network, len(steps)))
    _fill(network, program)
    network.steps = with_frees(steps, program.outputs)
    return network.eval()


def put_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """``module`` at ``path``, with containers on the way as needed; children that were there already move along."""
    parent = root
    *way, last = path.split(".")
    for name in way:
        if name not in parent._modules:
            parent.add_module(name, nn.Module())
        parent = parent._modules[name]  # type: ignore[assignment]
    earlier = parent._modules.get(last)
    if earlier is not None:
        for name, child in earlier._modules.items():
            module.add_module(name, child)
    parent.add_module(last, module)


def bind(step: Step) -> dict[str, Any]:
    """Arguments of an operator by name, with its defaults."""
    found: dict[str, Any] = {}
    for place, argument in enumerate(step.target._schema.arguments):  # type: ignore[union-attr]
        if place < len(step.args):
            found[argument.name] = step.args[place]
        elif argument.name in step.kwargs:
            found[argument.name] = step.kwargs[argument.name]
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
    return found


def operator_name(target: Any) -> str:
    """ "conv2d" for torch.ops.aten.conv2d.default; "" for anything else."""
    return target._schema.name.removeprefix("aten::") if isinstance(target, torch._ops.OpOverload) else ""


def _layer(step: Step, program: Program) -> Found | None:
    name = operator_name(step.target)
    if name not in LAYERS:
        return None
    bound = bind(step)
    reader = LAYERS[name]
    return reader(bound, program)


def _fits(found: Found, made: Mapping[str, Step], step: Step, network: nn.Module) -> bool:
    """Whether the place is free, or holds the very same layer, called a second time."""
    path, layer, _ = found
    if path not in made:
        return True
    return repr(network.get_submodule(path)) == repr(layer) and made[path].target is step.target


def _place(bound: Bound, program: Program, *names: str) -> str | None:
    """The path whose weight (and bias) the call reads; None when they are computed, or not called so."""
    weight = bound["weight"]
    if not isinstance(weight, Held) or not weight.name.endswith(".weight"):
        return None
    path = weight.name.removesuffix(".weight")
    for name in names:
        other = bound.get(name)
        if other is not None and other != Held(f"{path}.{name}"):
            return None
    return path


def _conv(kinds: Mapping[int, Any], transposed: bool = False) -> Callable[[Bound, Program], Found | None]:
    def read(bound: Bound, program: Program) -> Found | None:
        path = _place(bound, program, "bias")
        if path is None or transposed is not bool(bound.get("transposed", transposed)):
            return None
        shape = program.tensors[f"{path}.weight"].shape
        room, groups = len(shape) - 2, bound["groups"]
        reads, writes = (shape[0], shape[1] * groups) if transposed else (shape[1] * groups, shape[0])
        padding = bound["padding"]
        options: dict[str, Any] = {
            "stride": _every(bound["stride"], room),
            "padding": padding if isinstance(padding, str) else _every(padding, room),
            "dilation": _every(bound["dilation"], room),
            "groups": groups,
            "bias": bound["bias"] is not None,
        }
        if transposed:
            options["output_padding"] = _every(bound["output_padding"], room)
        with torch.device("meta"):
            layer = kinds[room](reads, writes, tuple(shape[2:]), **options)
        return path, layer, (bound["input"],)

    return read


def _convolution(bound: Bound, program: Program) -> Found | None:
    """aten.convolution, which both kinds become in decomposed programs."""
    return _conv(TRANSPOSED, True)(bound, program) if bound["transposed"] else _conv(CONVS)(bound, program)


def _every(value: Any, room: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * room if len(values) == 1 else values


def _linear(bound: Bound, program: Program) -> Found | None:
    path = _place(bound, program, "bias")
    if path is None:
        return None
    writes, reads = program.tensors[f"{path}.weight"].shape
    with torch.device("meta"):
        return path, nn.Linear(reads, writes, bound["bias"] is not None), (bound["input"],)


def _batch_norm(bound: Bound, program: Program) -> Found | None:
    path = _place(bound, program, "bias", "running_mean", "running_var") if bound["weight"] is not None else None
    if path is None or bound["running_mean"] is None or bound["bias"] is None or bound["input"].name == "":
        return None
    rank = len(program.shapes.get(bound["input"].name, ()))
    if rank not in NORMS:
        return None
    count = program.tensors[f"{path}.weight"].numel()
    with torch.device("meta"):
        return path, NORMS[rank](count, eps=bound["eps"], momentum=bound["momentum"]), (bound["input"],)


def _layer_norm(bound: Bound, program: Program) -> Found | None:
    path = _place(bound, program, "bias") if bound["weight"] is not None else None
    if path is None:
        return None
    with torch.device("meta"):
        shape = tuple(bound["normalized_shape"])
        return path, nn.LayerNorm(shape, eps=bound["eps"], bias=bound["bias"] is not None), (bound["input"],)


def _group_norm(bound: Bound, program: Program) -> Found | None:
    path = _place(bound, program, "bias") if bound["weight"] is not None else None
    if path is None or bound["bias"] is None:
        return None
    with torch.device("meta"):
        count = program.tensors[f"{path}.weight"].numel()
        return path, nn.GroupNorm(bound["num_groups"], count, eps=bound["eps"]), (bound["input"],)


def _prelu(bound: Bound, program: Program) -> Found | None:
    path = _place(bound, program)
    if path is None:
        return None
    with torch.device("meta"):
        return path, nn.PReLU(program.tensors[f"{path}.weight"].numel()), (bound["self"],)


LAYERS: dict[str, Callable[[Bound, Program], Found | None]] = {
    **{f"conv{room}d": _conv(CONVS) for room in CONVS},
    "conv_transpose1d": _conv(TRANSPOSED, True),
    "conv_transpose2d": _conv(TRANSPOSED, True),
    "conv_transpose3d": _conv(TRANSPOSED, True),
    "convolution": _convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
}


def _sized(step: Step, program: Program, network: nn.Module, number: int) -> Step:
    """Operators with sizes in their call become layers that keep them; dropout becomes one that training switches on.

    Sizes equal to the edge of the image that came in are kept under a name that is never taken for a width.
    """
    name = operator_name(step.target)
    path = f"{name.strip('_') or 'step'}_{number}"
    while path in network._modules or any(one.split(".")[0] == path for one in program.tensors):
        path += "_"
    if name.rstrip("_") in ("dropout", "feature_dropout") and len(step.args) >= 2:
        put_module(network, path, nn.Dropout(step.args[1]) if name.startswith("drop") else nn.Dropout2d(step.args[1]))
        return Step(path, step.args[:1], {}, step.outputs)
    if name not in SIZED or step.kwargs:
        return step
    values: list[Any] = []
    sizes: dict[str, int] = {}
    edges = set(program.shapes.get(step.args[0].name, ())[2:]) if isinstance(step.args[0], Ref) else set()
    first = 2 if name in ("slice", "narrow") else 1  # an axis is no width
    template = (*(_given(one, values) for one in step.args[:first]),
                *(_templated(one, values, sizes, edges) for one in step.args[first:]))  # fmt: skip
    if not sizes:
        return step
    put_module(network, path, Sized(step.target, template, sizes))  # type: ignore[arg-type]
    return Step(path, tuple(values), {}, step.outputs, step.spread)


def _given(value: Any, values: list[Any]) -> Any:
    if isinstance(value, Ref | Held):
        values.append(value)
        return Slot(index=len(values) - 1)
    return value


def _templated(value: Any, values: list[Any], sizes: dict[str, int], edges: set[int]) -> Any:
    if isinstance(value, list | tuple):
        return [_templated(item, values, sizes, edges) for item in value]
    if type(value) is int and 1 < value < 1 << 40:
        name = f"{'edge_index' if value in edges else 'width'}_{len(sizes)}"
        sizes[name] = value
        return Slot(name)
    return _given(value, values)


def _fill(network: nn.Module, program: Program) -> None:
    """Every tensor in its place, under its own name; containers where there are none."""
    for name, value in program.tensors.items():
        path, _, last = name.rpartition(".")
        if path and not _has(network, path):
            put_module(network, path, nn.Module())
        owner = network.get_submodule(path)
        if name in program.parameters:
            owner._buffers.pop(last, None)
            owner.register_parameter(last, nn.Parameter(value, requires_grad=value.is_floating_point()))
        elif last in owner._buffers:
            owner._buffers[last] = value
        else:
            owner._parameters.pop(last, None)
            owner.register_buffer(last, value, persistent=name not in program.fleeting)
    for layer in network.modules():
        counter = layer._buffers.get("num_batches_tracked")
        if counter is not None and counter.is_meta:
            layer._buffers["num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    _unmeta(network)


def _unmeta(network: nn.Module) -> None:
    left = [name for name, value in _tensors(network) if value.is_meta]
    assert not left, left  # every layer was made from the tensors that fill it


def _tensors(network: nn.Module) -> Sequence[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def _has(network: nn.Module, path: str) -> bool:
    try:
        network.get_submodule(path)
    except AttributeError:
        return False
    return True
