"""The cost of a plan by arithmetic over the trace: no model is built.

A multiply-add is 1 MAC, counted per image. Convolutions, linear layers and matrix products are counted; batch norm
(it folds into the convolution), activations, pooling and additions are not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from core.records import Cost, LayerCost, Plan, Trace
from core.trace.graph import Ref, Step, named_state
from core.trace.groups import layer_of
from core.trace.replay import needed_steps

# Operators that multiply but whose width under a plan is not followed: reported, never silently dropped.
UNCOUNTED = {"einsum", "_trilinear", "fft_fft", "linalg_matmul", "_scaled_dot_product_flash_attention_for_cpu"}
PRODUCTS = {"bmm", "baddbmm", "matmul"}


@dataclass(frozen=True)
class _Product:
    """A counted step: MACs = scale x (live size of each weight dimension)."""

    layer: str
    scale: float
    factors: tuple[tuple[str, int], ...]  # (state name, dimension)


@dataclass(frozen=True)
class _Model:
    """Everything about a trace that a count needs, prepared once."""

    products: tuple[_Product, ...]
    constant_macs: int
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    bytes_each: Mapping[str, int]
    layer_of: Mapping[str, str]
    weight_of: Mapping[str, str]  # layer -> its widest state entry
    uncounted: Mapping[str, int]
    lost: Mapping[str, tuple[tuple[tuple[str, int], torch.Tensor], ...]]  # group -> positions per unit


def count_cost(trace: Trace, plan: Plan | None = None) -> Cost:
    """MACs, parameters and bytes of the network that ``plan`` describes (None = the dense one), exactly.

    Equals the count on the built network. Raises PlanError when the plan names a group the trace does not have.
    """
    model = _prepare(trace)
    live = _live_sizes(model, trace, plan)

    def size(name: str, dim: int) -> int:
        return live.get((name, dim), model.shapes[name][dim])

    macs: Counter[str] = Counter()
    for product in model.products:
        macs[product.layer] += round(product.scale * math.prod(size(name, dim) for name, dim in product.factors))
    params: Counter[str] = Counter()
    size_bytes = 0
    for name, shape in model.shapes.items():
        elements = math.prod(size(name, dim) for dim in range(len(shape)))
        size_bytes += elements * model.bytes_each[name]
        if name in model.parameters:
            params[model.layer_of[name]] += elements
    per_layer = {}
    for layer, weight in model.weight_of.items():
        shape = model.shapes[weight]
        inside = size(weight, 1) if len(shape) > 1 else size(weight, 0)
        per_layer[layer] = LayerCost(macs[layer], params[layer], inside, size(weight, 0))
    return Cost(sum(macs.values()) + model.constant_macs, sum(params.values()), size_bytes, per_layer, model.uncounted)


def cost_terms(trace: Trace, quantity: str) -> list[tuple[float, str | None, str | None]]:
    """``macs`` or ``params`` of any plan as a sum of coef x kept(a) x kept(b) over prunable groups (None = factor 1).

    The browser evaluates this while a bar is dragged. Exact where every dimension is made of whole groups with equal
    channels per unit, which holds for every network traced so far; ``count_cost`` stays the authority.
    """
    model = _prepare(trace)
    affine: dict[tuple[str, int], dict[str | None, float]] = {}
    for group in trace.prunable:
        for key, per_unit in model.lost[group.id]:
            sizes = affine.setdefault(key, {None: float(model.shapes[key[0]][key[1]])})
            sizes[group.id] = float(per_unit.double().mean())
            sizes[None] -= float(per_unit.sum())
    terms: Counter[tuple[str | None, str | None]] = Counter()

    def add(scale: float, factors: list[tuple[str, int]]) -> None:
        expanded: list[tuple[float, tuple[str, ...]]] = [(scale, ())]
        for key in factors:
            choices = affine.get(key, {None: float(model.shapes[key[0]][key[1]])})
            expanded = [
                (coef * value, (*names, group) if group is not None else names)
                for coef, names in expanded
                for group, value in choices.items()
                if value
            ]
        for coef, names in expanded:
            a, b = [*sorted(names), None, None][:2]
            terms[a, b] += coef  # type: ignore[assignment]

    if quantity == "macs":
        for product in model.products:
            add(product.scale, list(product.factors))
        terms[None, None] += model.constant_macs
    else:
        for name in model.parameters:
            add(1.0, [(name, dim) for dim in range(len(model.shapes[name]))])
    return [(float(coef), a, b) for (a, b), coef in terms.items() if coef]


def _live_sizes(model: _Model, trace: Trace, plan: Plan | None) -> dict[tuple[str, int], int]:
    live: dict[tuple[str, int], int] = {}
    for group_id, kept in (plan.kept if plan else {}).items():
        group = trace.group(group_id)
        if len(kept) == group.units:
            continue
        gone = torch.ones(group.units, dtype=torch.bool)
        gone[list(kept)] = False
        for key, per_unit in model.lost[group_id]:
            live[key] = live.get(key, model.shapes[key[0]][key[1]]) - int(per_unit[gone].sum())
    return live


def _build(trace: Trace) -> _Model:
    state = named_state(trace.module)
    parameters = frozenset(name for name, _ in trace.module.named_parameters())
    products: list[_Product] = []
    constant = 0
    uncounted: Counter[str] = Counter()
    for step in needed_steps(trace.tape):
        counted = _count_step(trace, step)
        if isinstance(counted, _Product):
            products.append(counted)
        elif counted is not None:
            constant += counted
        elif step.name in UNCOUNTED:
            uncounted[step.name] += 1
    layers = {name: layer_of(name) for name in state}
    weight_of: dict[str, str] = {}
    for name in parameters:
        layer = layers[name]
        if layer not in weight_of or state[name].dim() > state[weight_of[layer]].dim():
            weight_of[layer] = name
    ordered = {layers[name]: weight_of[layers[name]] for name in state if layers[name] in weight_of}
    lost = {}
    for group in trace.groups:
        places = []
        for member in group.members:
            here = member.unit_of[member.unit_of >= 0]
            places.append(((member.tensor, member.dim), torch.bincount(here, minlength=group.units)))
        lost[group.id] = tuple(places)
    return _Model(
        tuple(products),
        constant,
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        parameters,
        {name: tensor.element_size() for name, tensor in state.items()},
        layers,
        ordered,
        dict(uncounted),
        lost,
    )


def _prepare(trace: Trace) -> _Model:
    prepared = trace.__dict__.get("_cost_model")
    if prepared is None:
        prepared = _build(trace)
        trace.__dict__["_cost_model"] = prepared  # a frozen record may keep what follows from it alone
    result: _Model = prepared
    return result


def _weight(trace: Trace, value: Any) -> str | None:
    """State name behind a Ref, through views that only swap dimensions; None when it is computed."""
    if not isinstance(value, Ref):
        return None
    return trace.tape.state.get(value.slot) or _viewed(trace).get(value.slot)


def _viewed(trace: Trace) -> Mapping[int, str]:
    cached: Mapping[int, str] | None = trace.__dict__.get("_viewed_weights")
    if cached is None:
        found: dict[int, str] = {}
        for step in trace.tape.steps:
            if step.name in {"t", "transpose", "detach", "alias"} and step.reads:
                name = trace.tape.state.get(step.reads[0]) or found.get(step.reads[0])
                if name is not None:
                    found[step.outputs[0]] = name
        cached = trace.__dict__["_viewed_weights"] = found
    return cached


def _count_step(trace: Trace, step: Step) -> _Product | int | None:
    """A product with live dimensions, a fixed number of MACs, or None for what is not counted."""
    shapes = trace.tape.shapes
    batch = max(1, shapes[trace.tape.input][0])
    if step.name == "convolution":
        out = shapes[step.outputs[0]]
        weight = step.args[1]
        assert isinstance(weight, Ref)
        shape = shapes[weight.slot]
        transposed = bool(step.args[6])
        read = step.args[0]
        assert isinstance(read, Ref)
        positions = math.prod(shapes[read.slot][2:] if transposed else out[2:]) * out[0] / batch
        name = trace.tape.state.get(weight.slot)
        if name is None:
            return round(positions * math.prod(shape))
        return _Product(layer_of(name), positions * math.prod(shape[2:]), ((name, 0), (name, 1)))
    if step.name in {"addmm", "mm", "linear"}:
        x, w = (step.args[1], step.args[2]) if step.name == "addmm" else (step.args[0], step.args[1])
        assert isinstance(x, Ref)
        rows = math.prod(shapes[x.slot][:-1]) / batch
        name = _weight(trace, w)
        if name is None or len(shapes[w.slot]) != 2:
            return round(rows * shapes[x.slot][-1] * shapes[step.outputs[0]][-1])
        return _Product(layer_of(name), rows, ((name, 0), (name, 1)))
    if step.name in PRODUCTS:
        a, b = (step.args[1], step.args[2]) if step.name == "baddbmm" else (step.args[0], step.args[1])
        assert isinstance(a, Ref) and isinstance(b, Ref)
        return round(math.prod(shapes[a.slot]) * shapes[b.slot][-1] / batch)
    return None
