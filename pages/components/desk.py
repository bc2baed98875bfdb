"""The tuning desk: what is known of the plan, the jobs that find out more, and how the components say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from core import (
    AS_CUT,
    CoreError,
    Correction,
    Figure,
    Headline,
    LatencyTable,
    Plan,
    Recent,
    Scores,
    Sensitivity,
    Subject,
    desk_figures,
    desk_rows,
    drag_terms,
    foretell_accuracy,
    headline,
    learn_correction,
    seen_plans,
    widths_plan,
)
from core.keep.workspace import Workspace
from pages.components import tables, work
from pages.components.equaliser import CostTerms, EqualiserRow
from pages.components.headline import Cell

DENSE = Plan({})
Found = TypeVar("Found")
NO_CORRECTION = Correction(1.0, 0, None, None)
# By what they depend on; what is named by its identity is kept with them. A page that waits asks twice a second.
_terms: Recent[CostTerms] = Recent(16)
_headlines: Recent[tuple[Any, Headline]] = Recent(64)
_corrections: Recent[tuple[Any, Correction]] = Recent(64)
TITLES = {
    "accuracy": "Accuracy",
    "latency": "Latency",
    "macs": "MACs",
    "params": "Parameters",
    "size_bytes": "Size",
}
HELP = {
    "accuracy": "Share of selection images that are right. Measured on the pruned network itself; estimated from the "
    "curves of single groups until then.",
    "latency": "Wall-clock time of one forward pass, median and quartiles. Measured in turns with the dense network; "
    "until then predicted from times of single layers, scaled to the dense network's newest measured time here and "
    "corrected by the plans that were measured.",
    "macs": "Multiply-adds per image, counted exactly.",
    "params": "Weights and biases, counted exactly.",
    "size_bytes": "Parameters and buffers as stored, exactly.",
}


@dataclass(frozen=True)
class Desk:
    """What is known at this moment. ``measured``: of this very plan. ``dense``: the same of the network without a
    plan. ``meaningless``: why accuracies say nothing here, "" when they do. ``jobs``: by what they find out."""

    record: Workspace
    subject: Subject
    plan: Plan | None
    scores: Scores | None
    curves: Sensitivity | None
    table: LatencyTable | None
    proposal: Mapping[str, Any] | None
    measured: Mapping[str, Any]
    dense: Mapping[str, Any]
    meaningless: str
    jobs: Mapping[str, Job]
    correction: Correction = NO_CORRECTION

    @property
    def pending(self) -> bool:
        return any(job.work.active for job in self.jobs.values())

    @property
    def poll_ms(self) -> int:
        """When to ask again: the further behind in line, the later. Thirty who wait would else keep the server busy
        with telling them so."""
        places = [job.work.job.position for job in self.jobs.values() if job.work.job is not None and job.work.active]
        return round(1000 * work.POLL_S * (1 + min(places, default=0) / 4))

    @property
    def pending_plan(self) -> bool:
        """Whether the plan itself is being measured: what is known of it is a part then."""
        return "plan" in self.jobs and self.jobs["plan"].work.active

    def knows(self, needs: str) -> bool:
        """Whether what a start plan needs is there: "scores", "curves", "latency" or "proposal"."""
        ready = {"scores": self.scores is not None, "latency": self.table is not None}
        ready["curves"] = self.curves is not None and self.curves.complete
        ready["proposal"] = self.proposal is not None
        return ready[needs]


@dataclass(frozen=True)
class Job:
    """A measurement under way or ended: what it is in words, and how to start it again."""

    title: str
    work: work.Work
    retry: Callable[[], None]


class Jobs:
    """Looks results up, starts what is nowhere, and keeps account of it."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.found: dict[str, Job] = {}

    def want(self, name: str, title: str, verb: str, *, slot: str | None = None, **arguments: Any) -> Any:
        """The newest there is, a part of it included; None when there is nothing yet."""
        found = work.ensure_or_wait(verb, self.subject, slot=slot, **arguments)
        if found.job is not None:
            self.found[name] = Job(title, found, lambda: work.again(verb, self.subject, **arguments))
        return found.result


def gather(record: Workspace, subject: Subject) -> Desk:
    """Everything known of the workspace's plan; starts the jobs for what is not. Never waits."""
    jobs = Jobs(subject)
    criterion, meaningless = work.criterion(record), why_meaningless(subject)
    scores = work.scores(record, subject)
    if scores is None:
        jobs.want("scores", "Scoring channels", "score", criterion=criterion)
    curves = work.sensitivity(record, subject)
    if curves is None and not meaningless:
        part = jobs.want("curves", "Measuring the curves", "scan", criterion=criterion)
        curves = Sensitivity.from_dict(part) if part else None
    plan = work.plan(record, subject)
    measured = _measured(jobs, "plan", plan, work.repair(record, plan)) if plan is not None else {}
    if plan is not None and not measured:  # until then what the page Recover found of it
        measured = work.measured(record, subject, plan)
    dense = work.known("evaluate_plan", subject, dict, plan=DENSE.to_json(), repair=AS_CUT) or {}
    if not dense and "latency" in measured and not meaningless:  # after the plan itself, for which someone waits
        dense = _measured(jobs, "dense", DENSE, AS_CUT)
    table = work.latency_table(subject)
    if table is None:
        whole = jobs.want("latency", "Timing the layers on this machine", "latency_table")
        table = LatencyTable.from_dict(whole) if whole else None
    proposal = work.known("propose", subject, dict, criterion=criterion)
    if proposal is None and curves is not None and curves.complete and not meaningless:
        proposal = jobs.want("proposal", "Searching a plan", "propose", criterion=criterion)
    learned = correction(record, subject, plan, curves, dense) if not meaningless else NO_CORRECTION
    known = (plan, scores, curves, table, proposal, measured, dense, meaningless, jobs.found, learned)
    return Desk(record, subject, *known)


def correction(
    record: Workspace, subject: Subject, plan: Plan | None, curves: Sensitivity | None, dense: Mapping[str, Any]
) -> Correction:
    """What the plans this person measured teach about estimates; nothing without curves or the dense network."""
    if curves is None or curves.plan_key or "accuracy" not in dense:
        return NO_CORRECTION
    own = work.network_key(record, plan) if plan is not None else ""
    known, right, repair = record.measured, dense["accuracy"]["value"], work.repair(record, plan)

    def learn() -> tuple[Any, Correction]:
        seen = [one for one in seen_plans(known, subject) if one.key != own]
        return (known, curves), learn_correction(subject.trace, curves, seen, right, repair)

    return _corrections.get((subject.key, id(known), id(curves), own, right, repair), learn)[1]


def known_now(record: Workspace, subject: Subject | None = None) -> Desk:
    """As ``gather``, without starting anything. What is stored and cannot be read counts as not known: the page it
    belongs to says so."""
    subject = subject if subject is not None else work.subject(record)
    scores = _readable(lambda: work.scores(record, subject))
    curves = _readable(lambda: work.sensitivity(record, subject))
    table = _readable(lambda: work.latency_table(subject))
    plan = _readable(lambda: work.plan(record, subject))
    proposal = work.known("propose", subject, dict, criterion=work.criterion(record))
    measured = work.measured(record, subject, plan) if plan is not None else {}
    dense = work.known("evaluate_plan", subject, dict, plan=DENSE.to_json(), repair=AS_CUT) or {}
    meaningless = why_meaningless(subject)
    learned = correction(record, subject, plan, curves, dense) if not meaningless else NO_CORRECTION
    return Desk(record, subject, plan, scores, curves, table, proposal, measured, dense, meaningless, {}, learned)


def _readable(read: Callable[[], Found]) -> Found | None:
    try:
        return read()
    except CoreError:
        return None


def _measured(jobs: Jobs, name: str, plan: Plan, repair: str) -> Mapping[str, Any]:
    """Results are filed by what the plan keeps, so a late one is never taken for another plan's."""
    title = "Measuring the plan" if name == "plan" else "Measuring the dense network"
    return jobs.want(name, title, "evaluate_plan", slot="preview", plan=plan.to_json(), repair=repair) or {}


def why_meaningless(subject: Subject) -> str:
    """Why no accuracy of this network means anything; "" when it does."""
    if subject.loaded.weights is None:
        return "Random weights: accuracy means nothing here."
    return "" if subject.real_images else "Random images: accuracy means nothing here."


def state_of(desk: Desk, hurt: bool) -> str:
    """Changes whenever the bars, tools and tables of the page would be drawn differently, though nobody moved a bar.
    What a new measurement teaches about estimates reaches the bars with the headline. hurt: a repair is hinted at."""
    points = () if desk.curves is None else [point for all_ in desk.curves.points.values() for point in all_]
    seen = (len(points), sum(point.images for point in points), desk.curves is not None and desk.curves.complete)
    known = [name for name in ("scores", "curves", "latency", "proposal") if desk.knows(name)]
    terms = None if desk.table is None else hash(desk.table.knots)
    listed = bool(desk.record.plans and desk.measured) and not desk.pending_plan  # among the named plans, perhaps
    return repr((desk.record.revision, seen, known, terms, listed, hurt))


# What the components draw


def equaliser_rows(desk: Desk) -> list[EqualiserRow]:
    own = set(desk.record.locked)
    return [
        {
            "id": row.id,
            "name": row.name,
            "units": row.units,
            "kept": row.kept,
            "locked": not row.prunable or row.id in own,
            "reason": row.reason or None,
            "members": row.members,
            "curve": row.curve or None,
            "stage": row.stage,
        }
        for row in desk_rows(desk.subject.trace, desk.curves, desk.record.removed)
    ]


def equaliser_terms(desk: Desk) -> CostTerms:
    """What the browser prices a drag by."""

    def make() -> CostTerms:
        terms = drag_terms(desk.subject.trace, desk.table)
        known: CostTerms = {"macs_terms": terms["macs"], "params_terms": terms["params"]}
        if "latency_ms" in terms:
            known["latency_terms"] = terms["latency_ms"]
        return known

    return _terms.get((desk.subject.key, desk.table.knots if desk.table is not None else None), make)


def figures(desk: Desk) -> tuple[Figure, ...]:
    """The headline numbers; costs are exact before it is known which channels leave."""
    plan = desk.plan if desk.plan is not None else widths_plan(desk.subject.trace, desk.record.removed)
    curves, table, scale = None if desk.meaningless else desk.curves, desk.table, desk.correction.scale

    def make() -> tuple[Any, Headline]:
        classes = len(desk.subject.data.classes)
        told = headline(desk.subject.trace, plan, sensitivity=curves, table=table, classes=classes, scale=scale)
        return (curves, table), told

    now = _headlines.get((desk.subject.key, plan, id(curves), id(table), scale), make)[1]
    hidden = {"accuracy"} if desk.meaningless else set()
    measured = {name: value for name, value in desk.measured.items() if name not in hidden}
    return desk_figures(now, measured, desk.dense)


def cells(desk: Desk) -> list[Cell]:
    """The figures in words."""
    return [_cell(desk, figure) for figure in figures(desk)]


def _cell(desk: Desk, figure: Figure) -> Cell:
    write = {"accuracy": tables.percent, "latency": tables.ms, "size_bytes": tables.size}.get(figure.name, tables.count)
    job = desk.jobs.get("plan")
    measuring = job is not None and job.work.active and figure.name in {"accuracy", "latency"}
    cell: Cell = {
        "name": figure.name,
        "title": TITLES[figure.name],
        "value": write(figure.value),
        "mark": figure.how,
        "change": _change(figure),
        "dense": f"dense {write(figure.dense)}" if figure.dense is not None else "",
        "dense_value": figure.dense,
        "detail": _detail(figure),
        "help": HELP[figure.name],
        "busy": measuring and (figure.how != "measured" or figure.name == "accuracy"),
    }
    if figure.name == "accuracy" and figure.value is not None:
        cell["detail"] = "\n".join(filter(None, [cell["detail"], _off(desk, figure), _after(desk, figure)]))
        cell["help"] += _learned(desk)
    if cell["busy"] and not cell["detail"]:
        cell["detail"] = "measuring …"
    if figure.name == "accuracy" and desk.meaningless:
        cell.update(value="says nothing here", mark="", change="", dense="", unknown=True, silent=True, busy=False)
        cell["detail"] = desk.meaningless.partition(":")[0]
    elif figure.value is None:
        value, detail = _unknown(desk, figure.name)
        cell.update(value=value, detail=detail, mark="", dense="", unknown=True)
    return cell


def _off(desk: Desk, figure: Figure) -> str:
    """How far the estimate was from what was then measured; "" before that, or of a plan that removes nothing."""
    if figure.how != "measured" or desk.curves is None or desk.pending_plan or not any(desk.record.removed.values()):
        return ""
    removed, trace = desk.record.removed, desk.subject.trace
    said = foretell_accuracy(desk.curves, removed, trace, desk.subject.chance, desk.correction.scale)
    return f"estimate was {tables.percent(said)}"


def _learned(desk: Desk) -> str:
    """What the measured plans taught about estimates, in a sentence."""
    found = desk.correction
    if not found.plans or found.error_before is None or found.error_after is None:
        return ""
    return (
        f" Sums of single losses are multiplied by {found.scale:.2f}, as {tables.plural(found.plans, 'measured plan')} "
        f"taught: half of those estimates were off by {100 * found.error_before:.1f} points or more, corrected "
        f"{100 * found.error_after:.1f}."
    )


def _after(desk: Desk, figure: Figure) -> str:
    """Whether an accuracy is one after the repair in use or before it; "" without one."""
    repair = work.repair(desk.record, desk.plan)
    if repair == AS_CUT or not any(desk.record.removed.values()):
        return ""
    title = work.repair_words(desk.record, repair)[0]
    title = title.lower() if repair in work.REPAIRS else title
    return f"{'after' if figure.how == 'measured' else 'before'} {title}"


def _change(figure: Figure) -> str:
    if figure.change is None:
        return ""
    return f"{tables.points(figure.change)} points" if figure.name == "accuracy" else tables.change(figure.change, 0)


def _detail(figure: Figure) -> str:
    """Two short lines: how sure, and on what."""
    about = figure.about
    if figure.low is None or figure.high is None:
        return ""
    if figure.name == "accuracy":
        sure = tables.interval(figure.low, figure.high)
        return f"95 %: {sure}\n{tables.plural(about['images'], 'selection image')}"
    return f"{tables.ms(figure.low)} to {tables.ms(figure.high)}\n{tables.device_text(about)}"


def _unknown(desk: Desk, name: str) -> tuple[str, str]:
    """What stands where a number will be, and how far its measurement is."""
    job = desk.jobs.get("latency" if name == "latency" else "curves")
    if job is None or job.work.job is None or not job.work.active:
        return "not known", ""
    what = "measuring this machine …" if name == "latency" else "measuring curves …"
    return what, f"{tables.percent(job.work.job.fraction, 0)} done"
