"""Choose and rebuild a network layer by layer, front to back.

Inputs are what the network gives as pruned and rebuilt so far; targets are what the original gives (He, Zhang, Sun
2017, arXiv 1707.06168). A group that one layer reads is chosen there; one that several read is chosen before, for all
of its readers together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.apply.batchnorm import reestimate_batchnorm
from core.apply.choosers import CHOOSERS, Choice, Seen
from core.apply.fitting import Rows, compensate_moments, fit_rows
from core.apply.lockstep import Lockstep, Positions
from core.apply.sites import Sampler, Site, find_sites
from core.apply.stories import SOLVERS as SOLVERS
from core.apply.stories import LayerStory as LayerStory
from core.apply.stories import Rebuilt as Rebuilt
from core.apply.stories import Settings as Settings
from core.apply.stories import blend_images
from core.apply.surgery import check_plan, kept_positions, prune_model
from core.apply.walk import calibration_batches
from core.errors import Cancelled, PlanError
from core.measure.importance import CRITERIA, score_channels
from core.measure.importance.criteria import add_by_unit
from core.records import ImageData, Plan, Trace
from core.registry import unknown_name
from core.solvers.least_squares import Moments
from core.trace.copies import copy_with
from core.trace.hiding import hidden_state
from core.trace.sites import read_sites

MOST_INPUTS = 8192  # a layer that reads more is left as pruned: its moments would not fit in memory
JOINT = {"lasso": "lasso", "qr": "qr", "greedy": "cap"}  # the same choice for all readers of a group together
JOINT_IMAGES, RENORM_IMAGES = 512, 2048

Progress = Callable[..., None]
Stop = Callable[[], bool]


def choose_and_rebuild(
    module: nn.Module,
    trace: Trace,
    counts: Mapping[str, int],
    data: ImageData,
    chooser: str,
    *,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
    **options: Any,
) -> Rebuilt:
    """Keep ``counts`` units of each group named (gathers too), chosen by ``chooser``, and rebuild what reads them.

    ``module`` (the traced network) is left alone. data: calibration images, N x C x H x W; labels only where a
    criterion wants them. chooser: a row of CHOOSERS ("lasso", "qr", "greedy") or an importance criterion, whose highest
    scores stay. options: the fields of ``Settings``. Layers with groups, transposed ones and weights that are used
    twice stay as pruned. Raises PlanError for counts that do not fit, CoreError for an unknown chooser or images that
    do not fit, Cancelled when asked to stop: its ``partial`` is the Rebuilt of the layers done by then, None before the
    first.
    """
    known = {name: int(count) for name, count in counts.items() if int(count) < trace.group(name).units}
    for name, count in known.items():
        group = trace.group(name)
        if not group.prunable or count < 1:
            why = f"cannot be pruned: {group.reason}" if not group.prunable else f"keeps at least 1 unit, found {count}"
            raise PlanError(f"Group {name} {why}. Correct the counts.")
    if chooser not in CHOOSERS and chooser not in CRITERIA:
        raise unknown_name("way to choose", chooser, [*CHOOSERS.names(), *CRITERIA.names()], PlanError)
    settings = Settings(**options)
    walk = FrontToBack(module, trace, data, settings, on_progress, cancelled)
    walk.choose_jointly(known, data, chooser)
    return walk.run()


def rebuild_plan(
    module: nn.Module,
    trace: Trace,
    plan: Plan,
    data: ImageData,
    *,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
    **options: Any,
) -> Rebuilt:
    """As ``choose_and_rebuild`` for units that are chosen already."""
    check_plan(trace, plan)
    walk = FrontToBack(module, trace, data, Settings(**options), on_progress, cancelled)
    walk.kept = {name: units for name, units in plan.kept.items() if len(units) < trace.group(name).units}
    walk.method = "plan"
    return replace(walk.run(), plan=plan)


class FrontToBack:
    """The walk. ``kept``: units that stay, by group, as far as they are known."""

    def __init__(
        self,
        module: nn.Module,
        trace: Trace,
        data: ImageData,
        settings: Settings,
        on_progress: Progress | None,
        cancelled: Stop | None,
    ) -> None:
        if settings.solver is not None and settings.solver not in SOLVERS:
            raise unknown_name("solver", settings.solver, list(SOLVERS), PlanError)
        self.module, self.trace, self.data, self.settings = module, trace, data, settings
        self.report, self.cancelled = on_progress or (lambda *_: None), cancelled or (lambda: False)
        self.check()
        batches = calibration_batches(module, trace.example, data, settings.images, settings.batch_size)
        if settings.blend:
            batches = blend_images(batches, settings.seed)
        self.compensates = settings.solver == "compensation"
        self.on_original = self.compensates and not settings.renew
        self.pair = Lockstep(module, trace.example, batches, follow=not self.on_original)
        self.sampler = Sampler(
            self.pair,
            Positions(self.pair.images, settings.seed),
            settings.positions,
            settings.correct_branches,
            bool(settings.rectify),
            self.compensates,
        )
        self.kept: dict[str, tuple[int, ...]] = {}
        self.counts: dict[str, int] = {}
        self.orders: dict[str, tuple[int, ...]] = {}
        self.method = ""
        self.masks: dict[tuple[str, int], Tensor] = {}
        self.solved: set[str] = set()
        self.sites = find_sites(self.pair)
        self._told: set[str] = set()
        self.stories: list[LayerStory] = []

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled("Rebuilding was cancelled; the network is as it was.")

    def choose_jointly(self, counts: Mapping[str, int], data: ImageData, chooser: str) -> None:
        """Choose the groups that no single layer decides; the others wait for the layer that reads them."""
        self.counts, self.method = dict(counts), chooser
        tape, steps = self.pair.tape, self.pair.steps
        at: dict[str, Site] = {}
        groups = [self.trace.group(name) for name in counts]
        if chooser in CHOOSERS:
            sites = read_sites(tape, steps, groups)
            for group in groups:
                readers, found = group.by_role("consumer"), sites[group.id]
                site = self.sites.get(found[0].step) if len(found) == 1 and len(readers) == 1 else None
                if site is not None and readers[0].dim == 1:
                    site.groups.append(group)
                    at[group.id] = site
        rest = tuple(group for group in groups if group.id not in at)
        if not rest:
            return
        few = data.take(torch.arange(min(JOINT_IMAGES, len(data))))
        part = self.trace if any(group.gather_of for group in rest) else replace(self.trace, groups=rest)
        criterion = JOINT.get(chooser, chooser)
        scores = score_channels(part, few, criterion, seed=self.settings.seed, cancelled=self.cancelled)
        for group in rest:
            self.orders[group.id] = tuple(scores.ranking(group.id))
            self.kept[group.id] = tuple(sorted(self.orders[group.id][: counts[group.id]]))

    def run(self) -> Rebuilt:
        try:
            self._walk()
        except Cancelled as stop:
            layers = len({story.layer for story in self.stories})
            done = self._built(renorm=False) if layers else None
            raise Cancelled(f"Rebuilding was cancelled after {layers} layers; later ones are as cut.", done) from stop
        return self._built(renorm=self.settings.renorm)

    def _walk(self) -> None:
        pair = self.pair
        with torch.inference_mode():
            self._hide()
            for index in range(len(pair.steps)):
                self.check()
                site = self.sites.get(index)
                concerned = site is not None and self._concerned(site)
                envs = pair.original if self.on_original else pair.current
                xs = pair.values(envs, site.x_slot, pair.edits) if site is not None and concerned else []
                pair.run_original(index)
                if site is not None and concerned:
                    done = index / (len(pair.steps) + 1)
                    self.report(done, f"Rebuilt {len(self.stories)} layers, now {site.layer}")
                    self._visit(site, xs)
                del xs
                if pair.current:
                    pair.run_current(index)
                self.report((index + 1) / (len(pair.steps) + 1), f"Rebuilt {len(self.stories)} layers")

    def _built(self, *, renorm: bool) -> Rebuilt:
        """The network as far as the walk has come; groups that no layer has chosen yet keep all."""
        edits = {name: value.clone() for name, value in self.pair.edits.items() if name in self.solved}
        changed = copy_with(self.module, lambda name, tensor: edits[name] if name in edits else tensor.clone())
        plan = Plan(self.kept, f"{self.method}, {self.settings.solver or 'as cut'}, front to back")
        pruned = prune_model(changed, self.trace, plan)
        if renorm and self.masks:
            names = {name for name, _ in self.masks} | self.solved
            images = min(RENORM_IMAGES, self.settings.images)
            reestimate_batchnorm(pruned, self.trace.example, self.data, names, images=images, cancelled=self.cancelled)
        return Rebuilt(plan, pruned, tuple(self.stories))

    def _concerned(self, site: Site) -> bool:
        """Whether anything is to be chosen or rebuilt here."""
        if site.groups or (site.weight, 1) in self.masks:
            return True
        return self.settings.refit and not self.compensates and site.x_slot in self.pair.changed

    def _hide(self) -> None:
        """Let the changed network read only what is kept so far."""
        masks = kept_positions(self.trace, Plan(self.kept), roles=("consumer",))
        fresh = {name for (name, dim), mask in masks.items() if (name, dim) not in self.masks}
        fresh |= {key[0] for key, mask in masks.items() if key in self.masks and bool((mask != self.masks[key]).any())}
        self.masks = masks
        norms = [pair for pair in self.trace.norms if fresh & set(pair)]
        names = (fresh | {name for pair in norms for name in pair}) - self.solved
        chosen = {key: mask for key, mask in masks.items() if key[0] in names}
        self.pair.edits.update(hidden_state(chosen, self.pair.replay.state, norms))
        self.pair.reads.update({name: mask for (name, dim), mask in chosen.items() if dim == 1})

    def _visit(self, site: Site, xs: list[Tensor]) -> None:
        weight = self.pair.replay.state[site.weight]
        window = weight[0].numel() // weight.shape[1]
        alive = self._alive(site)
        if self.compensates:
            alive = torch.ones_like(alive)  # what was hidden before is made up for as well
        if int(alive.sum()) * window > MOST_INPUTS:
            self._keep_first(site)
            return
        rows = self.sampler.rows(site, xs, alive, window)
        raw = weight.flatten(1).double().cpu() * site.affine.scale[:, None]
        choices = self._choose(site, rows.moments, raw, alive, window) if site.groups else {}
        chosen = self._alive(site)
        kept = chosen[alive].repeat_interleave(window)
        if self.settings.solver is None:
            errors = (0.0, 0.0)
        elif self.compensates:
            errors = self._compensate(site, rows.moments, raw[:, alive.repeat_interleave(window)], kept, window)
        else:
            errors = self._fit(site, rows, raw, chosen, kept, window)
        self._tell(site, choices, errors, rows.moments.rows)

    def _alive(self, site: Site) -> Tensor:
        """The inputs that the layer still reads, bool (channels,)."""
        channels = self.pair.replay.state[site.weight].shape[1]
        return self.masks.get((site.weight, 1), torch.ones(channels, dtype=torch.bool))

    def _choose(self, site: Site, moments: Moments, raw: Tensor, alive: Tensor, window: int) -> dict[str, Choice]:
        """Choose the groups that this layer alone reads, one after the other."""
        inputs = alive.repeat_interleave(window)
        covariance = moments.covariance()
        cross = raw[:, inputs] @ covariance if self.compensates else moments.cross()
        spread = float((moments.yy / moments.rows - moments.mean_y.square()).sum())
        if self.compensates:
            spread = float((cross * raw[:, inputs]).sum())
        choices = {}
        for group in site.groups:
            now = self._alive(site)[alive].repeat_interleave(window)
            unit_of = group.by_role("consumer")[0].unit_of.repeat_interleave(window)[inputs][now]
            seen = Seen(raw[:, inputs][:, now], covariance[now][:, now], cross[:, now], spread, unit_of, group.units)
            count = self.counts[group.id]
            choices[group.id] = CHOOSERS[self.method](seen, count)
            there = set(unit_of.tolist())
            order = sorted(choices[group.id].order, key=lambda unit: unit not in there)  # units that left come last
            self.orders[group.id] = tuple(order)
            self.kept[group.id] = tuple(sorted(order[:count]))
            self._hide()
        return choices

    def _keep_first(self, site: Site) -> None:
        """Too many inputs for second moments: the largest weights stay, and nothing is rebuilt."""
        weight = self.pair.replay.state[site.weight].detach().double().cpu()
        energy = weight.square().sum([axis for axis in range(weight.dim()) if axis != 1])
        for group in site.groups:
            per_unit = add_by_unit(group.units, group.by_role("consumer")[0].unit_of, energy)
            self.orders[group.id] = tuple(torch.argsort(per_unit, descending=True, stable=True).tolist())
            self.kept[group.id] = tuple(sorted(self.orders[group.id][: self.counts[group.id]]))
        self._hide()

    def _fit(
        self, site: Site, rows: Rows, raw: Tensor, chosen: Tensor, kept: Tensor, window: int
    ) -> tuple[float, float]:
        """Least squares; the result goes into the changed network."""
        scale, shift = site.affine.scale, site.affine.shift
        bias = self.pair.replay.state[site.bias].double().cpu() if site.bias else torch.zeros_like(shift)
        places = chosen.repeat_interleave(window)
        fit = fit_rows(
            rows,
            kept,
            raw[:, places],
            bias * scale + shift,
            ridge=self.settings.ridge,
            intercept=site.shifts,
            rectify=self.settings.rectify,
            cut=site.safe & site.behind.rectified,
        )
        if fit.error < fit.raw_error:
            self._write(site, fit.W / scale[:, None], (fit.b - shift) / scale, places)
        return fit.raw_error, fit.error

    def _compensate(self, site: Site, moments: Moments, raw: Tensor, kept: Tensor, window: int) -> tuple[float, float]:
        """The closed form on the original's statistics; the result is only written down, the walk needs none of it."""
        found = compensate_moments(
            moments, raw, kept, ridge=self.settings.ridge, intercept=site.shifts, rescale=self.settings.rescale
        )
        if found.error < found.raw_error:
            scale = site.affine.scale
            bias = self.pair.replay.state[site.bias].double().cpu() if site.bias else torch.zeros_like(scale)
            places = self._alive(site).repeat_interleave(window)
            self._write(site, found.W / scale[:, None], bias + found.b / scale, places)
        return found.raw_error, found.error

    def _write(self, site: Site, W: Tensor, b: Tensor, places: Tensor) -> None:
        """Put W, (q, kept inputs), and b, (q,), both as the layer itself has them, into the changed network."""
        old = self.pair.replay.state[site.weight]
        full = torch.zeros(len(old), len(places), dtype=torch.float64)
        full[:, places] = W
        self.pair.edits[site.weight] = full.reshape(old.shape).to(old)
        self.solved.add(site.weight)
        if site.bias is not None:
            self.pair.edits[site.bias] = b.to(self.pair.replay.state[site.bias])
            self.solved.add(site.bias)
        elif site.mean is not None:
            mean = self.pair.replay.state[site.mean]
            self.pair.edits[site.mean] = (mean.double().cpu() - b).to(mean)
            self.solved.add(site.mean)

    def _tell(self, site: Site, choices: Mapping[str, Choice], errors: tuple[float, float], rows: int) -> None:
        names = [*choices, *(name for name in self._narrowed(site) if name not in {*self._told, *choices})] or [""]
        self._told.update(names)
        for name in names:
            units = self.trace.group(name).units if name else 0
            kept = len(self.kept[name]) if name else 0
            path = choices[name].path if name in choices else {}
            order = self.orders.get(name, self.kept.get(name, ()))
            story = LayerStory(name, site.layer, self.method, kept, units, order, *errors, rows, path)
            self.stories.append(story)

    def _narrowed(self, site: Site) -> list[str]:
        """The groups chosen before whose units this layer reads."""
        return [
            name
            for name in self.kept
            if any(member.tensor == site.weight for member in self.trace.group(name).by_role("consumer"))
        ]
