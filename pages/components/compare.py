"""Two or more plans side by side: what is known of each, as numbers, charts and the images whose answer flips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st

from core import (
    COSTS,
    GAINED,
    LOST,
    Cost,
    Plan,
    SeenPlan,
    Subject,
    classes_csv,
    compare_answers,
    count_cost,
    flip_pictures,
    flips_csv,
    pareto_front,
    plans_csv,
    removed_counts,
    seen_csv,
    seen_plans,
    widths_csv,
)
from core.keep.workspace import Workspace
from pages.components import charts, choices, downloads, moves, origins, pictures, session, tables, work
from pages.components.compare_charts import COST_TITLES, Look, classes_chart, front_chart, looks, widths_chart

DENSE, DESK = "Dense network", "On the desk"
CHOSEN, COST, KIND, PAIR = "compare_plans", "compare_cost", "compare_flips", "compare_pair"
MOST_PLANS, MOST_PICTURES = 6, 40
KINDS = {"all": "All", LOST: "Lost", GAINED: "Won", "other": "Wrong both times"}


@dataclass(frozen=True)
class Entry:
    """One of the compared plans and what is known of it. ``found``: {} until something is measured."""

    name: str
    plan: Plan
    removed: Mapping[str, int]
    repair: str
    cost: Cost
    work: work.Work
    found: Mapping[str, Any]


def options(record: Workspace) -> list[str]:
    """What may be compared: the dense network, the plan on the desk, and the named plans of this network."""
    return [DENSE, DESK, *(plan.name for plan in origins.own_plans(record))]


def choose(record: Workspace) -> list[str]:
    """The plans to compare, as picked last; at first the dense network, the desk and the newest named one."""
    known = options(record)
    picked = [name for name in session.choice(CHOSEN, [DENSE, DESK, *known[2:][-1:]]) if name in known]
    session.set_widget_value(f"menu_{CHOSEN}", picked)
    st.multiselect(
        "Plans side by side",
        known,
        key=f"menu_{CHOSEN}",
        max_selections=MOST_PLANS,
        on_change=choices.remember,
        args=(CHOSEN,),
        help="The first one is what the others are held against.",
    )
    return picked


def plan_of(record: Workspace, subject: Subject, name: str) -> Plan | None:
    """The plan called ``name``; None while the units of the desk's are not known yet."""
    if name == DENSE:
        return Plan({})
    if name == DESK:
        return work.plan(record, subject)
    return next((Plan.from_json(plan.plan) for plan in record.plans if plan.name == name), None)


def entries(record: Workspace, subject: Subject, names: Sequence[str]) -> list[Entry]:
    """What is known of every plan; what is not is asked for."""
    found = []
    for name in names:
        plan = plan_of(record, subject, name)
        if plan is None:
            continue
        repair = work.repair(record, plan) if plan.kept else work.AS_CUT
        its = work.ensure("evaluate_plan", subject, plan=plan.to_json(), repair=repair)
        cost = count_cost(subject.trace, plan)
        found.append(Entry(name, plan, removed_counts(subject.trace, plan), repair, cost, its, its.result or {}))
    return found


def follow(subject: Subject, entries: Sequence[Entry]) -> None:
    """How far the measurements are, in one line, and what ended badly with a way to try again."""
    active = [one for one in entries if one.work.active]
    if active:
        told = [one.work.job.fraction if one.work.active and one.work.job else 1.0 for one in entries]
        share = sum(told) / len(entries)
        what = f"Measuring {active[0].name}" if len(active) == 1 else f"Measuring {len(active)} plans"
        bar, stop = st.columns([6, 1], vertical_alignment="center")
        bar.progress(share, text=f"{what}: {tables.percent(share, 0)} done")
        stop.button("Cancel", key="cancel-compare", on_click=cancel, args=(active,))
    for one in (one for one in entries if not one.work.active):
        work.progress(
            one.work,
            f"Measuring {one.name}",
            retry=lambda one=one: work.again("evaluate_plan", subject, plan=one.plan.to_json(), repair=one.repair),
            key=f"compare-{one.plan.key}",
        )


def cancel(entries: Sequence[Entry]) -> None:
    for one in entries:
        work.cancel(one.work)


# Side by side


def numbers_table(subject: Subject, entries: Sequence[Entry], drawn: Mapping[str, Look], meaningless: str) -> None:
    """Figures by row, plans by column; under each figure how far it is from the first plan's."""
    heads = "".join(f'<th scope="col">{_dot(drawn[one.name])}{escape(one.name)}</th>' for one in entries)
    first = entries[0]
    rows = [("Accuracy", [_accuracy(one, first, subject, meaningless) for one in entries])]
    rows.append(("Latency", [_latency(one, entries) for one in entries]))
    for name in ("macs", "params", "size_bytes"):
        write = tables.size if name == "size_bytes" else tables.count
        values = [getattr(one.cost, name) for one in entries]
        beside = ["", *(tables.relative(value, values[0]) or "the same" for value in values[1:])]
        cells = list(zip(map(write, values), beside, strict=True))
        rows.append((COST_TITLES[name], cells))
    body = "".join(
        f'<tr><th scope="row">{title}</th>'
        + "".join(f"<td><b>{escape(value)}</b><small>{escape(beside)}</small></td>" for value, beside in cells)
        + "</tr>"
        for title, cells in rows
    )
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    st.html(f'<div class="ps-scroll"><table class="ps-compare">{head}<tbody>{body}</tbody></table></div>')
    downloads.csv("Table as CSV", lambda: _numbers_csv(entries, meaningless), f"plans-{subject.loaded.name}")


def _numbers_csv(entries: Sequence[Entry], meaningless: str) -> str:
    """As shown: an accuracy that says nothing is left out."""
    hidden = {"accuracy"} if meaningless else set()
    plans = {}
    for one in entries:
        found = {name: value for name, value in one.found.items() if name not in hidden}
        plans[one.name] = (one.cost, found, one.repair)
    return plans_csv(plans)


def _dot(look: Look) -> str:
    hollow = look.symbol.endswith("open")
    fill = "transparent" if hollow else look.colour
    return f'<i style="background:{fill};border-color:{look.colour}"></i>'


def _accuracy(one: Entry, first: Entry, subject: Subject, meaningless: str) -> tuple[str, str]:
    if meaningless:
        return tables.MISSING, "says nothing here"
    said = one.found.get("accuracy")
    if said is None:
        return tables.MISSING, "measuring …" if one.work.active else "not known"
    beside = f"{tables.interval(said['low'], said['high'])}"
    if one is not first and one.work.done and first.work.done:
        pair, flips = compare_answers(subject.data.selection, first.found["answers"], one.found["answers"])
        sure = tables.difference_text({"value": pair.difference, "low": pair.low, "high": pair.high})
        beside = f"{beside}\n{sure}\n{tables.plural(len(flips), 'answer')} differ{'s' if len(flips) == 1 else ''}"
    return tables.percent(said["value"]), beside


def _latency(one: Entry, entries: Sequence[Entry]) -> tuple[str, str]:
    said = one.found.get("latency")
    if said is None:
        return tables.MISSING, "measuring …" if one.work.active else "not known"
    if not one.plan.kept:
        return _dense_latency(said, [other for other in entries if other.plan.kept and "latency" in other.found])
    own = one.found["dense_latency"]["median_ms"]
    beside = f"{tables.ms(said['low_ms'])} to {tables.ms(said['high_ms'])}"
    beside += f"\n{tables.change(said['median_ms'] / own - 1, 0)} beside the dense network:"
    return tables.ms(said["median_ms"]), f"{beside}\n{tables.ms(own)}, timed in turns with it"


def _dense_latency(said: Mapping[str, Any], others: Sequence[Entry]) -> tuple[str, str]:
    """Of the runs in which it was timed in turns with the plans beside it, so that the columns agree with the changes
    they tell. ``said``, of another moment, where there is none."""
    turns = [one.found["dense_latency"] for one in others] or [said]
    low, high = (pick(turns, key=lambda one: one["median_ms"]) for pick in (min, max))
    value, most = tables.ms(low["median_ms"]), tables.ms(high["median_ms"])
    if value != most:
        return f"{value.removesuffix(' ms')} to {most}", f"timed in turns with each of {len(turns)} plans"
    beside = f"{tables.ms(low['low_ms'])} to {tables.ms(high['high_ms'])}"
    return value, beside + (f"\ntimed in turns with {_plans_named(others)}" if others else "")


def _plans_named(others: Sequence[Entry]) -> str:
    return f"“{others[0].name}”" if len(others) == 1 else f"each of {len(others)} plans"


# Accuracy over cost, widths


def front(record: Workspace, subject: Subject, entries: Sequence[Entry], drawn: Mapping[str, Look]) -> None:
    """Everything measured so far, and which of it is worth having."""
    seen = seen_plans(record.measured, subject)
    cost = choices.segments(COST, "Cost", {name: COST_TITLES[name] for name in COSTS})
    seen = [one for one in seen if cost in one.costs]
    if not seen:
        st.caption("Plans appear here as they are measured.")
        return
    best = pareto_front([(one.costs[cost], one.accuracy) for one in seen])
    named = names_by_key(record)
    shown: dict[str, Look] = {}
    for one in entries:
        key = work.network_key(record, one.plan)
        named[key] = one.name if one.name in (DENSE, DESK) and key not in named else named.get(key, one.name)
        shown[key] = drawn[one.name]
    figure = front_chart(seen, best, cost, named, shown)
    st.plotly_chart(
        figure,
        key="front",
        config=charts.config(f"front-{cost}"),
        on_select="rerun",
        selection_mode="points",
        alt=f"Accuracy of {tables.plural(len(seen), 'measured plan')} over {COST_TITLES[cost]}, with the Pareto front",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        take(subject, seen)
        downloads.csv("All as CSV", lambda: seen_csv(seen, best, named), f"measured-{subject.loaded.name}")


def take(subject: Subject, seen: Sequence[SeenPlan]) -> None:
    """A clicked point goes to the desk, by its widths."""
    points = ((session.widget_value("front") or {}).get("selection") or {}).get("points") or []
    data = points[0].get("customdata") if points else None
    picked = seen[data[0]] if data and data[0] < len(seen) else None
    label = "" if picked is None else picked.label or "Measured plan"
    st.button(
        f"Put “{label}” on the desk" if picked else "Put it on the desk",
        disabled=picked is None,
        icon=":material/tune:",
        help="Click a point first. Its widths go to the desk as one step of undo; the criterion in use chooses which "
        "channels leave.",
        on_click=lambda: moves.take_widths(picked.removed, label) if picked else None,
    )


def names_by_key(record: Workspace) -> dict[str, str]:
    """What this person calls a measured network."""
    found = {}
    for named in origins.own_plans(record):
        found[work.network_key(record, Plan.from_json(named.plan))] = named.name
    return found


def widths(record: Workspace, subject: Subject, entries: Sequence[Entry], drawn: Mapping[str, Look]) -> None:
    removed = {one.name: one.removed for one in entries}
    st.plotly_chart(
        widths_chart(subject.trace, removed, drawn, focus=record.selected_group),
        key="widths",
        config=charts.config("widths"),
        on_select=pick_group,
        selection_mode="points",
        alt=f"Kept share of every group for {tables.plural(len(entries), 'plan')}",
    )
    downloads.csv("Widths as CSV", lambda: widths_csv(subject.trace, removed), f"widths-{subject.loaded.name}")


def pick_group() -> None:
    """A click on a width selects its group on every page."""
    points = (session.widget_value("widths") or {}).get("selection", {}).get("points", [])
    if points and points[0].get("customdata"):
        session.select_group(str(points[0]["customdata"][0]))


# Classes and images


def classes(subject: Subject, entries: Sequence[Entry], drawn: Mapping[str, Look]) -> None:
    measured = {one.name: one.found["accuracy"]["per_class"] for one in entries if "accuracy" in one.found}
    if not measured:
        return
    names = subject.data.classes
    figure = classes_chart(names, measured, drawn)
    st.plotly_chart(
        figure, key="classes", config=charts.config("classes"), alt=f"Accuracy of {len(names)} classes, a dot per plan"
    )
    downloads.csv("Classes as CSV", lambda: classes_csv(names, measured), f"classes-{subject.loaded.name}")


def flips(subject: Subject, entries: Sequence[Entry]) -> None:
    """Between two of the plans: the images whose answer changes."""
    ready = {one.name: one for one in entries if one.work.done and "answers" in one.found}
    st.markdown("##### Images whose answer flips")
    if len(ready) < 2:
        st.caption("Shown as soon as two of the plans are measured.")
        return
    before, after = choose_pair(list(ready))
    pair, found = compare_answers(subject.data.selection, ready[before].found["answers"], ready[after].found["answers"])
    told = tables.difference_text({"value": pair.difference, "low": pair.low, "high": pair.high})
    st.markdown(
        f"From *{before}* to *{after}*: **{tables.plural(len(found), 'answer')}** of {len(subject.data.selection):,} "
        f"differ{'s' if len(found) == 1 else ''}, {pair.lost} lost, {pair.gained} won. {told} (95 %)."
    )
    if not found:
        return
    kind = choices.segments(KIND, "Which", KINDS, "all")
    shown = [flip for flip in found if kind in ("all", flip.kind)]
    if not shown:
        st.caption("None of this kind.")
    pictures.flips(flip_pictures(subject.data.selection, shown[:MOST_PICTURES]), [f.kind for f in shown])
    more = f", {MOST_PICTURES} of {len(shown)} shown" if len(shown) > MOST_PICTURES else ""
    st.caption(f"Under each image: what it is, then the first answer → the second{more}.")
    downloads.csv("Flips as CSV", lambda: flips_csv(found), f"flips-{subject.loaded.name}")


def choose_pair(names: Sequence[str]) -> tuple[str, str]:
    if len(names) == 2:
        return names[0], names[1]
    with st.container(horizontal=True):
        picked = []
        for place, title in enumerate(("From", "To")):
            name = f"{PAIR}_{place}"
            value = choices.chosen(name, names, names[place])
            st.selectbox(title, names, key=f"menu_{name}", on_change=choices.remember, args=(name,), width=220)
            picked.append(value)
    return picked[0], picked[1]


def drawn_as(entries: Sequence[Entry]) -> dict[str, Look]:
    return looks([one.name for one in entries], DENSE)
