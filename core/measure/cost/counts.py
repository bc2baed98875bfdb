"""The cost of a plan by arithmetic over the trace: no model is built.

A multiply-add is 1 MAC, counted per image. Convolutions, linear layers and products of two activations (attention) are
counted; batch norm (it folds into the convolution), activations, pooling, interpolation and element-wise arithmetic are
not. Every count is a sum of constants times the sizes of dimensions, so a new plan costs a few array operations.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from core.measure.cost.widths import ONE, Dimensions, Extent, LiveSizes
from core.records import Cost, LayerCost, Plan, Trace
from core.trace.graph import Ref, Step, Tape
from core.trace.groups import layer_of
from core.trace.labels import WeightLabels
from core.trace.replay import needed_steps
from core.trace.rules.flow import RULES, rule, unknown
from core.trace.rules.products import fused_attention

FUSED_ATTENTION = frozenset(name for name, found in RULES.items() if found is fused_attention)
PRODUCTS = frozenset({"addmm", "mm", "linear", "bmm", "baddbmm", "matmul"})
UNCOUNTED = frozenset({"mv", "dot", "vdot"})  # besides all that no rule knows: for all we can tell, it multiplies
INDEX_BYTES = 8  # of each channel that a gather reads


@dataclass(frozen=True)
class _Products:
    """Numbers, each ``scale`` (n,) x the sizes of the dimensions ``factors`` (n, k), and their ``layer`` (n,)."""

    scale: np.ndarray
    factors: np.ndarray
    layer: np.ndarray

    @staticmethod
    def of(rows: Iterable[tuple[Extent, int]]) -> _Products:
        """From (extent, number of the layer)."""
        found = list(rows)
        width = max((len(numbers) for (_, numbers), _ in found), default=0)
        factors = [(*numbers, *[ONE] * (width - len(numbers))) for (_, numbers), _ in found]
        return _Products(
            np.array([scale for (scale, _), _ in found], dtype=np.int64),
            np.array(factors, dtype=np.int64).reshape(len(found), width),
            np.array([layer for _, layer in found], dtype=np.int64),
        )

    def values(self, sizes: np.ndarray) -> np.ndarray:
        result = self.scale
        for column in self.factors.T:
            result = result * sizes[column]
        return result

    def by_layer(self, values: np.ndarray, layers: int) -> np.ndarray:
        sums = np.zeros(layers, dtype=np.int64)
        np.add.at(sums, self.layer, values)
        return sums


@dataclass(frozen=True)
class _Model:
    """Everything about a trace that a count needs, prepared once.

    ``layers``: those with parameters; one number more stands for what belongs to none. ``first``, ``second``: channels
    along the first two dimensions of each layer's main weight. ``swapped``: layers whose first dimension is what they
    read. ``indexed``: chosen dimensions whose layer has an index among its buffers already.
    """

    sizes: LiveSizes
    macs: _Products
    params: _Products
    buffers: _Products
    param_bytes: np.ndarray
    buffer_bytes: np.ndarray
    layers: tuple[str, ...]
    first: _Products
    second: _Products
    second_parts: np.ndarray
    swapped: np.ndarray
    indexed: np.ndarray
    uncounted: Mapping[str, int]


def count_cost(trace: Trace, plan: Plan | None = None) -> Cost:
    """MACs, parameters and bytes of the network that ``plan`` describes (None = the dense one), exactly.

    Equals the count on the built network. Channels in and out of a layer are those its main weight (the parameter with
    most dimensions) is left with. Raises PlanError when the plan names a group or unit the trace does not have.
    """
    model = _prepare(trace)
    sizes, narrower = model.sizes.under(plan)
    macs, params, buffers = (part.values(sizes) for part in (model.macs, model.params, model.buffers))
    size_bytes = int(params @ model.param_bytes + buffers @ model.buffer_bytes)
    if narrower.any():
        read = sizes[list(model.sizes.chosen.values())]
        size_bytes += INDEX_BYTES * int(read[narrower & ~model.indexed].sum())
    count = len(model.layers)
    first, second = model.first.values(sizes), model.second.values(sizes) // model.second_parts
    columns = (
        model.macs.by_layer(macs, count + 1)[:count],
        model.params.by_layer(params, count + 1)[:count],
        np.where(model.swapped, first, second),
        np.where(model.swapped, second, first),
    )
    rows = map(LayerCost, *(column.tolist() for column in columns))
    per_layer = dict(zip(model.layers, rows, strict=True))
    return Cost(int(macs.sum()), int(params.sum()), size_bytes, per_layer, model.uncounted)


def cost_terms(
    trace: Trace, quantity: str, gathers: Collection[str] = ()
) -> list[tuple[float, str | None, str | None]]:
    """``macs`` or ``params`` of any plan as a sum of coef x kept(a) x kept(b) over prunable groups (None = factor 1).

    The browser evaluates this while a bar is dragged. Exact where every dimension is made of whole groups with equal
    channels per unit, which holds for every network traced so far; ``count_cost`` stays the authority. Gathers are no
    part of it but those named: what they read from must keep all.
    """
    model = _prepare(trace)
    products = model.macs if quantity == "macs" else model.params
    affine = _affine(trace, model.sizes, gathers)
    scales: Counter[tuple[int, ...]] = Counter()
    for scale, factors in zip(products.scale.tolist(), products.factors.tolist(), strict=True):
        scales[tuple(sorted(number for number in factors if number != ONE))] += scale
    terms: Counter[tuple[str | None, str | None]] = Counter()
    for factors, scale in scales.items():
        expanded: dict[tuple[str, ...], float] = {(): float(scale)}
        for number in factors:
            wider: dict[tuple[str, ...], float] = defaultdict(float)
            for names, coef in expanded.items():
                for group, value in affine[number].items():
                    wider[names if group is None else tuple(sorted((*names, group)))] += coef * value
            expanded = wider
        for names, coef in expanded.items():
            for group in names[2:]:  # no operator known multiplies three widths; at its dense size, then
                coef *= trace.by_id[group].units
            a, b = [*names[:2], None, None][:2]
            terms[a, b] += coef  # type: ignore[assignment]
    return [(float(coef), a, b) for (a, b), coef in terms.items() if coef]


def _affine(trace: Trace, sizes: LiveSizes, gathers: Collection[str]) -> list[dict[str | None, float]]:
    """For each dimension: a constant, and what one unit of each prunable group adds."""
    groups = {sizes.groups[group.id]: group.id for group in trace.prunable}
    vectors = len(trace.layout.vectors)
    sources = [trace.layout.vector_of[key] for key in sizes.chosen]
    rows = [*range(vectors), *sources, *range(vectors, len(sizes.held))]
    result: list[dict[str | None, float]] = [{None: 1.0}]
    for held in sizes.held[rows]:
        share: dict[str | None, float] = {
            groups[number]: held[number] / sizes.units[number]
            for number in np.flatnonzero(held).tolist()
            if number in groups
        }
        fixed = float(held.sum() - sum(held[sizes.groups[str(group)]] for group in share))
        result.append(share | ({None: fixed} if fixed else {}))
    for key, number in sizes.chosen.items():
        group = trace.layout.gathers[key]
        if group.id in gathers:
            width = sum(value * (trace.by_id[name].units if name else 1) for name, value in result[number].items())
            result[number] = {group.id: width / group.units}
    return result


def _prepare(trace: Trace) -> _Model:
    prepared = trace.__dict__.get("_cost_model")
    if prepared is None:
        prepared = _build(trace)
        trace.__dict__["_cost_model"] = prepared  # a frozen record may keep what follows from it alone
    result: _Model = prepared
    return result


def _build(trace: Trace) -> _Model:
    parameters, buffers = dict(trace.module.named_parameters()), dict(trace.module.named_buffers())
    state: dict[str, Tensor] = {**parameters, **buffers}
    layer_names = {name: layer_of(name) for name in state}
    main = _main_weights(trace, state, parameters, layer_names)
    number = {layer: at for at, layer in enumerate(main)}
    dims = Dimensions(trace)
    macs, uncounted = _count_steps(trace, dims, number)
    extents = {name: _extent_of_state(dims, name, tuple(tensor.shape)) for name, tensor in state.items()}
    indexed = {key: f"{group.layers[0]}.gather_index" for key, group in trace.layout.gathers.items()}
    for key, index in indexed.items():  # it gathers already: what it chooses next is among these
        if index in state:
            extents[index] = (1, (dims.of(key) or ONE,))
    first, second, parts, swapped = _channels(trace, dims, main, state)
    return _Model(
        dims.finished(),
        _Products.of(macs),
        _Products.of((extents[name], number[layer_names[name]]) for name in parameters),
        _Products.of((extents[name], 0) for name in buffers),
        np.array([tensor.element_size() for tensor in parameters.values()], dtype=np.int64),
        np.array([tensor.element_size() for tensor in buffers.values()], dtype=np.int64),
        tuple(main),
        _Products.of((extent, at) for at, extent in enumerate(first)),
        _Products.of((extent, at) for at, extent in enumerate(second)),
        np.array(parts, dtype=np.int64),
        np.array(swapped, dtype=bool),
        np.array([index in state for index in indexed.values()], dtype=bool),
        uncounted,
    )


def _extent_of_state(dims: Dimensions, name: str, shape: tuple[int, ...], axes: Iterable[int] | None = None) -> Extent:
    fixed, numbers = 1, []
    for axis in range(len(shape)) if axes is None else axes:
        found = dims.of((name, axis))
        if found is None:
            fixed *= shape[axis]
        else:
            numbers.append(found)
    return fixed, tuple(numbers)


def _main_weights(
    trace: Trace, state: Mapping[str, Tensor], parameters: Iterable[str], layer_names: Mapping[str, str]
) -> dict[str, str]:
    """Layer -> its first parameter with most dimensions, in the order of the state; lengths of weight norm are none."""
    lengths = {length for _, length in trace.norms}
    main: dict[str, str] = {}
    for name in parameters:
        best = main.setdefault(layer_names[name], name)
        if best in lengths or (name not in lengths and state[name].dim() > state[best].dim()):
            main[layer_names[name]] = name
    return main


def _channels(
    trace: Trace, dims: Dimensions, main: Mapping[str, str], state: Mapping[str, Tensor]
) -> tuple[list[Extent], list[Extent], list[int], list[bool]]:
    """(first dimension, second dimension x parts, parts, whether the first is what the layer reads) of main weights."""
    modules = dict(trace.module.named_modules())
    first: list[Extent] = []
    second: list[Extent] = []
    parts: list[int] = []
    swapped: list[bool] = []
    for layer, name in main.items():
        shape = tuple(state[name].shape) or (1,)
        module = modules.get(layer)
        convolution = module if isinstance(module, nn.modules.conv._ConvNd) else None
        groups = convolution.groups if convolution is not None else 1
        outer = _extent_of_state(dims, name, shape, [0])
        inner = _extent_of_state(dims, name, shape, [min(1, len(shape) - 1)])
        if groups > 1:  # whole groups leave: as many are left as the first dimension tells
            inner = (inner[0] * groups * outer[0], (*inner[1], *outer[1]))
        first.append(outer)
        second.append(inner)
        parts.append(shape[0] if groups > 1 else 1)
        swapped.append(convolution is not None and convolution.transposed)
    return first, second, parts, swapped


def _count_steps(
    trace: Trace, dims: Dimensions, number: Mapping[str, int]
) -> tuple[list[tuple[Extent, int]], dict[str, int]]:
    """The products of the tape, each with the number of its layer, and the operators that are not counted."""
    tape = trace.tape
    owners = _owners(tape)
    found: list[tuple[Extent, int]] = []
    uncounted: Counter[str] = Counter()
    # Where views are written into, results reach the output without a step that says so.
    for step in tape.steps if tape.aliases_written else needed_steps(tape):
        if step.name in FUSED_ATTENTION:
            found += [(extent, len(number)) for extent in _attention(tape, dims, step)]
        elif step.name == "convolution" or step.name in PRODUCTS:
            left, right = _operands(step)
            owner = owners.get(right) or owners.get(left)
            layer = number.get(layer_of(owner), len(number)) if owner else len(number)
            found.append((_product(trace, dims, step, left, right), layer))
        elif (step.name in UNCOUNTED or rule(step) is unknown) and any(slot not in owners for slot in step.reads):
            uncounted[step.name] += 1
    return found, dict(uncounted)


def _owners(tape: Tape) -> dict[int, str | None]:
    """Slots that do not depend on the input -> the first weight they come from (None = from numbers alone)."""
    owners: dict[int, str | None] = {**dict.fromkeys(tape.constants), **tape.state}
    for step in tape.steps:
        if all(slot in owners for slot in step.reads):
            owner = next((owners[slot] for slot in step.reads if owners[slot] is not None), None)
            owners.update(dict.fromkeys(step.outputs, owner))
    return owners


def _operands(step: Step) -> tuple[int, int]:
    start = 1 if step.name in {"addmm", "baddbmm"} else 0
    left, right = step.args[start : start + 2]
    assert isinstance(left, Ref) and isinstance(right, Ref)
    return left.slot, right.slot


def _product(trace: Trace, dims: Dimensions, step: Step, left: int, right: int) -> Extent:
    """MACs of a convolution, a linear layer, or a product of two activations."""
    shapes = trace.tape.shapes
    rank, right_rank = len(shapes[left]), len(shapes[right])
    whole = dims.extent(right, range(right_rank))
    if step.name == "convolution":
        spread = shapes[left if step.args[6] else step.outputs[0]]  # a transposed one works at each position it reads
        return _times((spread[0] * math.prod(spread[2:]), ()), whole)
    if isinstance(trace.flow.get(right), WeightLabels) and right_rank == 2:
        return _times(dims.extent(left, range(rank - 1)), whole)  # its weight knows what it reads of what is there
    made = 0 if step.name == "linear" else right_rank - 1
    return _times(dims.extent(left, range(rank)), dims.extent(right, [made]))


def _attention(tape: Tape, dims: Dimensions, step: Step) -> tuple[Extent, Extent]:
    """Query x key, then weights x value: the two products that a fused operator hides."""
    query, key, value = (arg.slot for arg in step.args[:3])
    rank = len(tape.shapes[query])
    seen = tape.shapes[key][-2]
    logits = _times((seen, ()), dims.extent(query, range(rank)))
    rows = _times((seen, ()), dims.extent(query, range(rank - 1)))
    return logits, _times(rows, dims.extent(value, [rank - 1]))


def _times(a: Extent, b: Extent) -> Extent:
    return a[0] * b[0], (*a[1], *b[1])
