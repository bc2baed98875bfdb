"""Give a pruned network back what its smaller weights can express: rebuild layers that read fewer channels.

Two walks go step by step together, over the original network and the pruned one. At each layer that lost input
channels new weights are solved for, and everything behind runs with them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply.batchnorm import NORMS, reestimate_batchnorm
from core.apply.surgery import kept_positions, prune_model
from core.apply.walk import Walk, calibration_batches
from core.errors import Cancelled, PruneError
from core.records import ImageData, Plan, Trace
from core.registry import unknown_name
from core.solvers.least_squares import RIDGE, Moments, compensate, solve_least_squares
from core.trace.graph import Step

METHODS = ("least-squares", "compensation", "batchnorm")
ROWS_PER_INPUT, LEAST_ROWS = 8, 2000  # sampled positions per unknown: enough for a stable fit


@dataclass(frozen=True)
class LayerFit:
    """How well a layer's smaller weights give back its outputs, before (``raw``) and after: mean squared error of the
    kept outputs over their variance."""

    layer: str
    raw_error: float
    rebuilt_error: float
    rows: int


@dataclass(frozen=True)
class _Site:
    """One layer to rebuild. ``inputs``/``outputs``: bool masks over the original weight's dimensions."""

    weight: str
    bias: str | None
    mean: str | None  # running mean that can take the shift of a layer without bias
    inputs: Tensor
    outputs: Tensor


def reconstruct_model(
    module: nn.Module, trace: Trace, plan: Plan, data: ImageData, method: str, **options: Any
) -> nn.Module:
    """A NEW pruned network whose weights are rebuilt from calibration images; ``module`` is left alone.

    method: "least-squares" (inputs from the network as pruned and rebuilt so far, outputs from the original: He, Zhang,
    Sun 2017, arXiv 1707.06168), "compensation" (closed form on the original's input statistics: Xie et al. 2021, arXiv
    2108.13728) or "batchnorm" (running statistics of the layers behind a change). data: images as the network takes
    them; labels are not used. options: as in ``reconstruct_layers``. Raises PlanError for a plan that does not fit,
    PruneError for images that do not, Cancelled when asked to stop.
    """
    return reconstruct_layers(module, trace, plan, data, method, **options)[0]


def reconstruct_layers(
    module: nn.Module,
    trace: Trace,
    plan: Plan,
    data: ImageData,
    method: str,
    *,
    images: int = 512,
    max_rows: int = 20_000,
    ridge: float = RIDGE,
    batch_size: int = 64,
    seed: int = 0,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[nn.Module, tuple[LayerFit, ...]]:
    """``reconstruct_model`` with the errors of every rebuilt layer (none for "batchnorm").

    images: at most that many (fewer when memory is short). max_rows: sampled output positions per layer; 8 per unknown
    are taken, drawn with ``seed``. ridge: times the mean diagonal of the inputs' second moments. Layers with groups,
    transposed ones and weights that are used twice stay as pruned, and a layer keeps its raw weights when they fit
    better. A shift goes into the layer's bias or the mean of the batch norm behind it; with neither, the fit has none.
    """
    if method not in METHODS:
        raise unknown_name("way to rebuild", method, list(METHODS), PruneError)
    pruned = prune_model(module, trace, plan)
    masks = kept_positions(trace, plan)
    read = {name for name, _ in kept_positions(trace, plan, roles=("consumer",))}
    if not read:
        return pruned, ()
    tell = on_progress or (lambda *_: None)
    if method == "batchnorm":
        options: dict[str, Any] = {"images": images, "batch_size": batch_size, "cancelled": cancelled}
        return reestimate_batchnorm(pruned, trace.example, data, read, on_progress=on_progress, **options), ()
    batches = calibration_batches(module, trace.example, data, images, batch_size)
    original, current = Walk(module, trace.example, batches), Walk(pruned, trace.example, batches)
    partners = _weights_at(current)
    sites = {index: site for index, site in _sites(original, masks).items() if site.weight in partners}
    ahead = 0  # how many steps the pruned walk has run
    fits: list[LayerFit] = []
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for index in range(len(original.steps)):
            if cancelled is not None and cancelled():
                raise Cancelled("Rebuilding was cancelled.")
            site = sites.get(index)
            inputs: list[Tensor] = []
            if site is not None:
                partner = partners[site.weight]
                for step in range(ahead, partner):
                    current.run(step)
                ahead = max(ahead, partner)
                source, place = (current, partner) if method == "least-squares" else (original, index)
                inputs = source.values(_input(source.steps[place]).slot)
            original.run(index)
            if site is not None:
                moments = _gather(original, index, site, inputs, method, max_rows, generator)
                fits.append(_rebuild(original, current, site, moments, method, ridge))
            tell((index + 1) / len(original.steps), f"Rebuilt {len(fits)} of {len(sites)} layers")
    return current.finish(pruned), tuple(fits)


def _input(step: Step) -> Any:
    return step.args[1] if step.name == "addmm" else step.args[0]


def _weights_at(walk: Walk) -> dict[str, int]:
    """Weight -> the step that reads it. The pruned network may run other steps between its layers: layers that gather
    their inputs, attention with fewer heads."""
    found: dict[str, int] = {}
    for index, step in enumerate(walk.steps):
        if step.name in {"convolution", "addmm", "mm", "linear"}:
            name = walk.name(step.args[2 if step.name == "addmm" else 1])
            if name is not None:
                found[name] = index
    return found


def _sites(walk: Walk, masks: Mapping[tuple[str, int], Tensor]) -> dict[int, _Site]:
    """Step index -> what can be rebuilt there."""
    sites = {}
    reads = Counter(name for step in walk.steps for name in map(walk.replay.tape.state.get, step.reads) if name)
    for index, step in enumerate(walk.steps):
        if step.name == "convolution":
            weight, bias = step.args[1], step.args[2]
            if step.args[6] or step.args[8] != 1:
                continue
        elif step.name in {"addmm", "mm", "linear"}:
            weight = step.args[2] if step.name == "addmm" else step.args[1]
            bias = step.args[0] if step.name == "addmm" else (step.args[2] if len(step.args) > 2 else None)
        else:
            continue
        name = walk.name(weight)
        if name is None or (name, 1) not in masks or reads[name] != 1:
            continue
        rows = walk.replay.state[name].shape[0]
        outputs = masks.get((name, 0), torch.ones(rows, dtype=torch.bool))
        sites[index] = _Site(name, walk.name(bias), _mean_behind(walk, step, reads), masks[name, 1], outputs)
    return sites


def _mean_behind(walk: Walk, step: Step, reads: Mapping[str, int]) -> str | None:
    """The running mean of the batch norm that alone reads this step's output."""
    after = walk.readers(step.outputs[0])
    if len(after) != 1 or after[0].name not in NORMS or step.outputs[0] in walk.replay.tape.output_slots:
        return None
    name = walk.name(after[0].args[3])
    return name if name is not None and reads[name] == 1 else None


def _gather(
    original: Walk,
    index: int,
    site: _Site,
    inputs: list[Tensor],
    method: str,
    max_rows: int,
    generator: torch.Generator,
) -> Moments:
    """Second moments of sampled input patches, and of the original's outputs there for least squares."""
    step = original.steps[index]
    outputs = original.values(step.outputs[0])
    weight = original.replay.state[site.weight]
    share = 1.0 if method == "compensation" else float(site.inputs.float().mean())
    unknowns = round(weight[0].numel() * share)
    images = sum(len(batch) for batch in outputs)
    rows = min(max_rows, max(LEAST_ROWS, ROWS_PER_INPUT * unknowns))
    fitted = method == "least-squares"
    moments = Moments(unknowns, int(site.outputs.sum()) if fitted else 0)
    for x, y in zip(inputs, outputs, strict=True):
        if step.name == "convolution":
            x, y = sample_patches(x, y, step, weight.shape[2:], math.ceil(rows / images), generator)
        else:
            x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        moments.add(x, y[:, site.outputs] if fitted else None)
    return moments


def sample_patches(
    x: Tensor, y: Tensor, step: Step, kernel: Sequence[int], positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What a convolution read and gave at random output positions, other ones in every image.

    x: N x c x space, y: N x n x space. Returns patches, (rows, c * kernel), in the weight's order, and (rows, n).
    """
    stride, padding, dilation = ([int(v) for v in step.args[k]] for k in (3, 4, 5))
    space = y.shape[2:]
    area = math.prod(space)
    positions = min(area, positions)
    chosen = torch.rand(len(x), area, generator=generator).topk(positions, dim=1).indices.to(x.device)
    where: list[Tensor] = []
    left = chosen
    for size in reversed(space):
        where.insert(0, left % size)
        left = left // size
    pads = [amount for size in reversed(padding) for amount in (size, size)]
    padded = F.pad(x, pads)
    image = torch.arange(len(x), device=x.device)[:, None]
    taps = []
    for offset in itertools.product(*(range(size) for size in kernel)):
        place = [p * s + o * d for p, s, o, d in zip(where, stride, offset, dilation, strict=True)]
        at: Any = (image, slice(None), *place)
        taps.append(padded[at])  # N x positions x c
    patches = torch.stack(taps, dim=-1).reshape(len(x) * positions, -1)
    at = (image, slice(None), *where)
    return patches, y[at].reshape(len(x) * positions, -1)


def _rebuild(original: Walk, current: Walk, site: _Site, moments: Moments, method: str, ridge: float) -> LayerFit:
    """Solve for the layer's weights, keep the better of raw and rebuilt, and hand them to the pruned walk."""
    raw_weight = current.state(site.weight)
    shift_into = site.bias or site.mean
    raw_bias = current.state(site.bias).double() if site.bias else torch.zeros(len(raw_weight), dtype=torch.float64)
    raw = raw_weight.reshape(len(raw_weight), -1).double()
    intercept = shift_into is not None
    if method == "least-squares":
        W, b = solve_least_squares(moments, ridge=ridge, intercept=intercept)
        spread = float((moments.yy / moments.rows - moments.mean_y.square()).sum())
        errors = [moments.error(raw, raw_bias), moments.error(W, b)]
    else:
        full = original.replay.state[site.weight].reshape(len(site.outputs), -1)[site.outputs].double()
        kernel = full.shape[1] // len(site.inputs)
        kept = site.inputs.repeat_interleave(kernel)
        covariance = moments.covariance(centred=intercept)
        W, shift = compensate(full, moments.mean_x, covariance, kept, ridge=ridge, intercept=intercept)
        b = raw_bias + shift
        spread = float(((full @ covariance) * full).sum())
        errors = [_lost(full, W_, kept, s, moments) for W_, s in ((raw, torch.zeros_like(shift)), (W, shift))]
    layer = site.weight.rpartition(".")[0]
    found = [error / max(spread, 1e-12) for error in errors]
    if not (errors[1] <= errors[0] and bool(W.isfinite().all())):
        return LayerFit(layer, found[0], found[0], moments.rows)
    current.edits[site.weight] = W.reshape(raw_weight.shape).to(raw_weight)
    if site.bias is not None:
        current.edits[site.bias] = b.to(raw_weight)
    elif site.mean is not None:
        mean = current.state(site.mean)
        current.edits[site.mean] = (mean.double() - b).to(mean)
    return LayerFit(layer, found[0], found[1], moments.rows)


def _lost(full: Tensor, rebuilt: Tensor, kept: Tensor, shift: Tensor, moments: Moments) -> float:
    """Mean || W x - W' x_S - shift ||^2 from the moments of x."""
    rest = full.clone()
    rest[:, kept] -= rebuilt
    raw = moments.xx / moments.rows
    value = ((rest @ raw) * rest).sum() - 2 * (shift * (rest @ moments.mean_x)).sum() + shift.square().sum()
    return max(0.0, float(value))
