"""From a network and one input to its trace: record, label, group, try."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import TraceError
from core.records import Group, Trace
from core.trace.copies import Census, take_census
from core.trace.graph import record_tape
from core.trace.groups import group_channels
from core.trace.labels import LabelBook
from core.trace.layers.heads import why_heads_stay
from core.trace.layout import Layout
from core.trace.leaves import MAKERS
from core.trace.modes import collecting_later
from core.trace.rules import Flow
from core.trace.trial import Fault, find_fault
from core.trace.written import WrittenWidth, alike, candidates, harms

ONE_WIDTH = (nn.RNNBase, nn.RNNCellBase)
WIDTHS_OF_THEIR_OWN = frozenset({*MAKERS, nn.Sequential, nn.ModuleList})  # the usual case, told by a look
ALONE = 6  # so many times groups at fault are locked alone; then with those that stand alike in layers of the class
TRIALS = 40  # how often groups at fault are helped or locked, one after the other, before all are locked


def trace_channels(module: nn.Module, example: Tensor, *, mixing: bool = False) -> Trace:
    """Find which channels of ``module`` hang together.

    example: an input of the shape the network takes, batch first (only its shape matters). The module is run on
    shape-only tensors and is not changed. ``mixing``: also let channels leave that a normalisation runs over (layer
    norm, ConvNeXt); what is left then differs from the masked network. Raises TraceError when it does not run.
    """
    with collecting_later():
        return _trace(module, example, mixing)


def _trace(module: nn.Module, example: Tensor, mixing: bool) -> Trace:
    census = take_census(module)
    tape = record_tape(census, example[:1])
    flow = Flow(tape, constant=census.state.__getitem__)
    flow.run()
    _label_training_branches(flow, census, example)
    _lock_fixed_modules(flow.book, census)
    called = tape.called - _sharing(census)
    groups, layout = group_channels(flow.book, called, mixing=mixing)
    written: tuple[WrittenWidth, ...] = ()
    fault = find_fault(census, example[:1], flow, groups, layout) if tape.shape_only and tape.repeats_widths else None
    trials = 0
    while fault is not None:
        trials += 1
        more = _written(census, example[:1], flow, groups, layout, written, fault)
        if more and trials < TRIALS:
            written += more
            fault = find_fault(census, example[:1], flow, groups, layout, written)
            continue
        at_fault = fault.groups if trials < TRIALS else tuple(layout.first)
        if ALONE < trials < TRIALS:
            at_fault += _alike(census, groups, fault)
        _lock_groups(flow.book, groups, layout, at_fault, fault.reason)
        groups, layout = group_channels(flow.book, called, mixing=mixing)
        fault = find_fault(census, example[:1], flow, groups, layout, written)
    norms = tuple(dict.fromkeys(flow.book.norms))
    return Trace(
        module, groups, dict(flow.unknown), tape, example[:1].detach(), flow, layout, norms, written
    )  # fmt: skip


def _written(
    census: Census,
    example: Tensor,
    flow: Flow,
    groups: tuple[Group, ...],
    layout: Layout,
    known: tuple[WrittenWidth, ...],
    fault: Fault,
) -> tuple[WrittenWidth, ...]:
    """Numbers kept by the running modules that, set to the new widths, carry the network beyond the fault."""
    if fault.step >= len(flow.tape.steps):
        return ()
    step = flow.tape.steps[fault.step]
    for found in candidates(census.module, fault.running, (*step.reads, *step.outputs), flow, layout, fault.stays):
        new = tuple(one for one in found if one not in known)
        if new:
            next_fault = find_fault(census, example, flow, groups, layout, known + new)
            later = next_fault is not None and next_fault.step > fault.step
            if next_fault is None or (later and not harms(next_fault.step, flow, layout, next_fault.stays)):
                return new + alike(census.module, new, fault.step, flow.tape, known)
    return ()


def _alike(census: Census, groups: tuple[Group, ...], fault: Fault) -> tuple[str, ...]:
    """Prunable groups that stand where the groups at fault stand, in other layers of the class that was running: a
    network of many blocks need not fail in every one of them."""
    by_id = {group.id: group for group in groups if group.gather_of is None}
    places = {group.layers: group.id for group in by_id.values()}
    found: list[str] = []
    for path in filter(None, reversed(fault.running)):
        kind, prefix = type(census.by_path[path]), f"{path}."
        inside = [by_id[one].layers for one in fault.groups if all(x.startswith(prefix) for x in by_id[one].layers)]
        for other, layer in census.layers if inside else ():
            if type(layer) is kind and other != path:
                moved = [tuple(f"{other}.{name.removeprefix(prefix)}" for name in layers) for layers in inside]
                found += [places[layers] for layers in moved if layers in places and by_id[places[layers]].prunable]
        if inside:
            break
    return tuple(found)


def _label_training_branches(flow: Flow, census: Census, example: Tensor) -> None:
    """Layers that only run in training (auxiliary heads) read channels too, and must follow."""
    if set(flow.tape.state.values()).issuperset(census.parameter_names):
        return
    try:
        tape = record_tape(census, example[:1].expand(2, *example.shape[1:]), training=True)
    except TraceError:
        return  # a network that cannot train has no such branches to keep
    branches = Flow(tape, flow.book, flow.constant)
    branches.run()
    flow.unknown.update({name: count for name, count in Counter(branches.unknown).items() if name not in flow.unknown})


def _lock_fixed_modules(book: LabelBook, census: Census) -> None:
    """These modules use one width for everything they hold, so no part of it can leave alone."""
    for path, layer in census.layers:
        if type(layer) in WIDTHS_OF_THEIR_OWN:
            continue
        reason = (
            f"{type(layer).__name__} has one fixed width" if isinstance(layer, ONE_WIDTH) else why_heads_stay(layer)
        )
        if reason is not None:
            prefix = f"{path}." if path else ""
            for name, dim in list(book.weights):
                if name.startswith(prefix):
                    book.lock(book.weights[name, dim], reason)


def _lock_groups(
    book: LabelBook, groups: tuple[Group, ...], layout: Layout, at_fault: tuple[str, ...], reason: str
) -> None:
    for group in groups:
        if group.id in at_fault:
            start = layout.first[group.id]
            here = (layout.unit_of_label >= start) & (layout.unit_of_label < start + group.units)
            book.lock(torch.from_numpy(np.flatnonzero(here)), reason)


def _sharing(census: Census) -> frozenset[str]:
    """Layers whose weight another layer holds as well: neither can choose its inputs alone."""
    if not census.reused:
        return frozenset()
    holders: dict[int, list[str]] = {}
    for name, parameter in census.module.named_parameters(remove_duplicate=False):
        if name.endswith(".weight"):
            holders.setdefault(id(parameter), []).append(name.removesuffix(".weight"))
    return frozenset(layer for layers in holders.values() if len(layers) > 1 for layer in layers)
