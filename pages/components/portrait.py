"""One channel looked at closely, before and after the plan: filters, mean map, exciting images, where it looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core import AS_CUT, Group, Plan, Subject, filter_mosaics, sights
from core.keep.workspace import Workspace
from core.work.jobs import open_jobs
from pages.components import grids, pictures, session, tables, work

ASKED, PLACE, BY, LAYER = "channel", "portrait_place", "portrait_by", "portrait_layer"
SOON_S = 0.3  # one that was looked at before is there at once, so that no progress bar flashes up
BY_TITLES = {"mean": "Mean", "peak": "Peak"}
DENSE = Plan({}).to_json()
SEARCHED = "On {images} selection images of {data}. A map is what the layers that read the channel see."
BEFORE, AFTER = "**Before:** the dense network", "**After** the plan"
Found = Mapping[str, Any]


def show_portrait(record: Workspace, subject: Subject, group_id: str, unit: int) -> None:
    """The channel's portrait, made by a job when it is asked for."""
    picked = record.choices.get(ASKED) or {}
    group = subject.trace.group(group_id)
    st.subheader(f"Channel {unit} of {group.name}", anchor=False)
    if (picked.get("id"), picked.get("channel")) != (group_id, unit):
        st.caption("Its filters, its mean map, the images that excite it most and where in them it looks.")
        st.button(
            f"Look closely at channel {unit}",
            key="portrait_ask",
            icon=":material/visibility:",
            on_click=lambda: session.choose(**{ASKED: {"id": group_id, "channel": unit}}),
        )
        return
    if session.temporary("portrait_shown") != (group_id, unit):  # a job that the last pick dropped may begin anew
        session.set_temporary("portrait_shown", (group_id, unit))
        _again(record, subject, group_id, unit)
    before, after = _ask(record, subject, group_id, unit, wait=True)
    active = before.active or (after is not None and after.active)
    session.set_temporary("portrait_polling", active)
    st.fragment(run_every=work.poll(active))(_portrait)(record, subject, group, unit)


def _ask(
    record: Workspace, subject: Subject, group_id: str, unit: int, *, wait: bool = False
) -> tuple[work.Work, work.Work | None]:
    """The portrait in the dense network, and in the plan's where the channel is still there."""
    place = _place(group_id)
    asked = {"group": group_id, "unit": unit, "place": place}
    found = [work.ensure("portrait", subject, slot="portrait", **asked, plan=DENSE, repair=AS_CUT)]
    plan = work.plan(record, subject)
    if plan is not None and _narrows(plan, subject) and unit in plan.kept.get(group_id, (unit,)):
        told = {**asked, "plan": plan.to_json(), "repair": work.repair(record, plan)}
        found.append(work.ensure("portrait", subject, slot="portrait-after", **told))
    for one in found if wait else ():
        if one.active and one.job is not None:
            open_jobs().wait(one.job.id, SOON_S)
    if wait:
        return _ask(record, subject, group_id, unit)
    return found[0], found[1] if len(found) > 1 else None


def _place(group_id: str) -> str:
    chosen = session.choice(PLACE) or {}
    return str(chosen.get("place", "")) if chosen.get("id") == group_id else ""


def _narrows(plan: Plan, subject: Subject) -> bool:
    return any(len(kept) < subject.trace.group(name).units for name, kept in plan.kept.items())


def _portrait(record: Workspace, subject: Subject, group: Group, unit: int) -> None:
    before, after = _ask(record, subject, group.id, unit)
    with st.container():  # always there, so that nothing below it changes its place when a job ends
        for one, what in ((before, "Looking at it"), (after, "Looking at it after the plan")):
            if one is not None:
                again = lambda: _again(record, subject, group.id, unit)  # noqa: E731
                work.progress(one, what, key=f"portrait-{one is after}", retry=again)
    if before.done:
        done = after is not None and after.done
        _show(record, subject, group, unit, before.result, after.result if after is not None and done else None)
    active = before.active or (after is not None and after.active)
    if active != session.temporary("portrait_polling"):
        st.rerun()  # begins or ends the polling


def _again(record: Workspace, subject: Subject, group_id: str, unit: int) -> None:
    asked = {"group": group_id, "unit": unit, "place": _place(group_id)}
    work.again("portrait", subject, **asked, plan=DENSE, repair=AS_CUT)
    plan = work.plan(record, subject)
    if plan is not None:
        work.again("portrait", subject, **asked, plan=plan.to_json(), repair=work.repair(record, plan))


def _show(record: Workspace, subject: Subject, group: Group, unit: int, before: Found, after: Found | None) -> None:
    layer = _menus(group, before)
    why = "" if after is not None else _why_no_after(record, subject, group, unit)
    by = session.choice(BY) or "mean"
    st.html(tables.strip_html(_excitement(before, after, by, why), plain=True))
    st.caption(
        SEARCHED.format(images=f"{len(before['images']):,}", data=subject.data.name)
        + (f" It is seen where {before['place']} reads it." if len(before["places"]) > 1 else "")
        + (f" {why}" if why else "")
    )
    _filters(before, after, layer)
    _mean_map(before, after)
    _images(subject, before, after, by)


def _menus(group: Group, before: Found) -> str:
    """How excitement is taken and where the channel is seen; gives the layer whose filter is shown."""
    left, right, last = st.columns([2, 4, 4], gap="medium", vertical_alignment="bottom")
    by = session.choice(BY) or "mean"
    session.set_widget_value(BY, by)
    left.segmented_control(
        "Excitement",
        list(BY_TITLES),
        format_func=BY_TITLES.__getitem__,
        key=BY,
        required=True,
        help="Of an image: the mean of the channel's map on it, or the map's highest point.",
        on_change=lambda: session.choose(**{BY: session.widget_value(BY) or by}),
    )
    if len(before["places"]) > 1:
        session.set_widget_value(PLACE, before["place"])
        right.selectbox(
            "Seen where it is read by",
            before["places"],
            key=PLACE,
            help="Several layers add to these channels one after the other, so each reader sees another map.",
            on_change=lambda: session.choose(**{PLACE: {"id": group.id, "place": session.widget_value(PLACE)}}),
        )
    layers = [one["layer"] for one in before["filters"]]
    return str(last.selectbox("Filter in layer", layers, key=LAYER)) if len(layers) > 1 else next(iter(layers), "")


def _why_no_after(record: Workspace, subject: Subject, group: Group, unit: int) -> str:
    plan = work.plan(record, subject)
    if plan is None:
        return "After the plan is shown when its scores are known."
    if unit not in plan.kept.get(group.id, (unit,)):
        return "The plan removes this channel: after it, nothing is left to look at."
    return "" if _narrows(plan, subject) else "No plan removes anything yet; set widths on page Tune to compare."


def _excitement(before: Found, after: Found | None, by: str, why: str) -> list[tuple[str, str, str]]:
    """The channel's mean (or highest) excitement in both networks."""
    name = f"{BY_TITLES[by]} excitement"
    shown = [(f"{name}, before", before)] + ([(f"{name}, after", after)] if after is not None else [])
    items = []
    for title, found in shown:
        values = found[f"{by}s"]
        items.append((title, grids.number(sum(values) / len(values)), f"up to {grids.number(max(values))}"))
    if after is None and "removes this channel" in why:
        items.append((f"{name}, after", "left", "the plan removes it"))
    return items


def _filters(before: Found, after: Found | None, layer: str) -> None:
    made = {one["layer"]: one for one in before["filters"]}
    if not layer:
        return
    left = next((one for one in after["filters"] if one["layer"] == layer), None) if after is not None else None
    dense, pruned = filter_mosaics(made[layer], left)
    columns = st.columns(2, gap="large")
    limit = grids.largest(dense.values, *([pruned.values] if pruned else []))
    shown = [("before", dense)] + ([("after", pruned)] if pruned is not None else [])
    for column, (when, mosaic) in zip(columns, shown, strict=False):
        column.plotly_chart(
            grids.filter_grid(mosaic, f"Filter weights in {layer}{_when(when, after)}", limit),
            key=f"filter_{when}",
            width="content",
            config=grids.config(f"filter-{layer}-{when}"),
            alt=f"Grid of the weights by which {layer} makes this channel, {when} the plan",
        )
    columns[0].caption(_filter_words(made[layer]))
    if pruned is not None:
        columns[1].caption(
            f"{tables.plural(pruned.left, 'input')} left with the plan; the others stand where they stood."
            if pruned.left
            else "Every input stayed."
        )


def _filter_words(one: Mapping[str, Any]) -> str:
    count = len(one["inputs"])
    said = f"A kernel for each of {tables.plural(one['of'], 'input channel')}, in reading order."
    if count < one["of"]:
        said = f"The {count:,} largest kernels of {one['of']:,}, in the order of their input channels."
    return said + (f" The strongest of the unit's {one['rows']} rows." if one["rows"] > 1 else "")


def _mean_map(before: Found, after: Found | None) -> None:
    if before["mean_map"] is None:
        st.caption("This channel has no places in space (its layer gives one number per image), so it has no map.")
        return
    columns = st.columns(2, gap="large")
    shown = [("before", before)] + ([("after", after)] if after is not None else [])
    ends = grids.ends(*(found["mean_map"] for _, found in shown))
    height, width = before["size"]
    for column, (when, found) in zip(columns, shown, strict=False):
        column.plotly_chart(
            grids.map_grid(found["mean_map"], f"Mean activation map, {height} x {width}{_when(when, after)}", ends),
            key=f"map_{when}",
            width="content",
            config=grids.config(f"mean-map-{when}"),
            alt=f"Heatmap of the channel's mean activation at each place, {when} the plan",
        )


def _images(subject: Subject, before: Found, after: Found | None, by: str) -> None:
    st.markdown(f"**Images that excite it most**, by the {'mean' if by == 'mean' else 'highest point'} of its map")
    columns = st.columns(2, gap="large")
    shown = [(before, after)] + ([(after, before)] if after is not None else [])
    for column, (found, other) in zip(columns, shown, strict=False):
        drawn = sights(subject, found, by, other)
        then = "was" if found is after else "then"
        ranks = [f"{then} {grids.ordinal(one.rank)}" if after is not None else "" for one in drawn]
        captions = [(f"{one.label}: {grids.number(one.value)}", rank) for one, rank in zip(drawn, ranks, strict=True)]
        with column:
            if after is not None:
                st.markdown(BEFORE if found is before else AFTER)
            if before["mean_map"] is not None:
                pictures.show([one.activation for one in drawn], captions)
            st.caption("Where it looks, by Integrated Gradients")
            pictures.show([one.looked_at for one in drawn], captions if before["mean_map"] is None else [])
    st.caption(
        "Over the image in grey, vermilion is what is positive and sky blue what is negative. Above: its map, on "
        "one scale before and after. Below: how much each pixel adds to the excitement, by Integrated Gradients "
        "(Captum) on the way from an even grey, each side on its own scale. What they fail to account for, at most: "
        + f"{_missing(before, by)} before"
        + (f", {_missing(after, by)} after." if after is not None else ".")
    )


def _when(when: str, after: Found | None) -> str:
    return f", {when}" if after is not None else ""


def _missing(found: Found, by: str) -> str:
    return tables.percent(max(one["missing"] for one in found[f"by_{by}"]))
