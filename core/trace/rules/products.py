"""Products of two activations: attention, non-local blocks, gating by matrices."""

from __future__ import annotations

from torch import Tensor

from core.trace.graph import Ref, Step
from core.trace.labels import no_labels, tied_along, varying
from core.trace.rules.flow import Flow, on, slot_of

CONTRACTED = "a product of two activations sums over its channels (attention)"
WIDE = "a product of two activations reads it (attention)"


@on("bmm", "baddbmm", "matmul")
def product(flow: Flow, step: Step) -> None:
    """(batch, i, k) x (batch, k, j). Channels along batch are attention heads, and pass; along i or j they pass too;
    along k they are summed, and stay."""
    operands = [value for value in step.args if isinstance(value, Ref)]
    if step.name in {"baddbmm", "addmm"}:
        first, operands = operands[0], operands[1:]
    else:
        first = None
    a, b = (flow.activation(value.slot) for value in operands[:2])
    out = _heads(flow, a, b) if a.dim() == b.dim() == 3 and max(a.shape[0], b.shape[0]) > 1 else _plain(flow, a, b)
    rank = len(flow.tape.shapes[step.outputs[0]])
    out = out if out.dim() == rank else no_labels(rank)
    if first is not None:
        added = flow.activation(first.slot)
        added = added.reshape((1,) * (rank - added.dim()) + tuple(added.shape))
        if out.numel() > 1 and added.numel() == 1 and flow.tape.shapes[first.slot][-1] > 1:
            flow.book.lock(out, "meets a tensor of fixed width")
        flow.book.tie(out, added)
    flow.set(step, out)


def _heads(flow: Flow, a: Tensor, b: Tensor) -> Tensor:
    for axis in (1, 2):
        a, b = tied_along(a, axis, flow.book), tied_along(b, axis, flow.book)
    return same_heads(flow, [a, b])


def same_heads(flow: Flow, operands: list[Tensor]) -> Tensor:
    """Operands whose labels vary along their heads only: the heads are the same ones."""
    labelled = [labels for labels in operands if labels.numel() > 1]
    for labels in labelled[1:]:
        flow.book.tie(labelled[0], labels)
    if len(labelled) < len(operands):
        for labels in labelled:
            flow.book.lock(labels, "meets a tensor of fixed width")
    return labelled[0]


def _plain(flow: Flow, a: Tensor, b: Tensor) -> Tensor:
    if a.shape[-1] > 1 or (b.dim() > 1 and b.shape[-2] > 1):
        flow.book.lock(a if a.shape[-1] > 1 else None, CONTRACTED)
        flow.book.lock(b if b.shape[-2] > 1 else None, CONTRACTED)
        return no_labels(a.dim())
    if a.numel() > 1 and b.numel() > 1:
        flow.book.lock(a, WIDE)
        flow.book.lock(b, WIDE)
        return no_labels(a.dim())
    return a if a.numel() > 1 else b


@on(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math", "scaled_dot_product_attention",
    "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math_for_mps",
)  # fmt: skip
def fused_attention(flow: Flow, step: Step) -> None:
    """Query, key and value (batch, heads, tokens, width): whole heads pass; a single head's value channels pass."""
    query, key, value = (flow.activation(slot_of(arg)) for arg in step.args[:3])
    rank = query.dim()
    heads = rank - 3
    if any(labels.shape[heads] > 1 for labels in (query, key, value)):
        operands = []
        for labels in (query, key, value):
            for axis in varying(labels):
                if axis != heads:
                    labels = tied_along(labels, axis, flow.book)
            operands.append(labels)
        flow.set(step, same_heads(flow, operands))
    else:
        for labels in (query, key):
            flow.book.lock(labels, CONTRACTED)
        flow.set(step, value)
    for output in range(1, len(step.outputs)):
        flow.set(step, no_labels(len(flow.tape.shapes[step.outputs[output]])), output)
