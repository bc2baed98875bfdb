"""Runs of recipes: start one, see what it gave beside the others, watch it, take its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core import OWN, CoreError, Plan, Subject, has_network, own_choices, recipe_cards, repair_of, runs_csv
from core.keep.workspace import choose
from pages.components import downloads, moves, session, stories, tables, work
from pages.components.ladder import TRAINING

VERB, RUNS, SHOWN = "recipe", "recover_runs", "recover_shown"
MOST_RUNS = 24
Run = Mapping[str, Any]


def start(subject: Subject, run: Run) -> None:
    """Run it, or show what it gave before. Runs of one person wait for each other."""

    found = [(one, run_work(subject, one)) for one in known_runs(subject)]
    ended_badly = [one for one, its in found if not its.done and not its.active]

    def noted(record: Any) -> Any:
        others = [one for one in record.choices.get(RUNS, []) if one != run and one not in ended_badly]
        return choose(record, **{RUNS: [*others, run][-MOST_RUNS:], SHOWN: run_key(run)})

    if not usable(subject, run):
        work.forget(VERB, subject, **arguments(run))
    elif not run_work(subject, run).done:
        work.again(VERB, subject, **arguments(run))
    try:
        work.ensure(VERB, subject, **arguments(run))
    except CoreError as error:
        session.notify(str(error))
        return
    session.update(noted)


def arguments(run: Run) -> dict[str, Any]:
    return {name: run[name] for name in ("recipe", "own", "budget", "finetune", "seed")}


def known_runs(subject: Subject) -> list[Run]:
    return [run for run in session.choice(RUNS, []) if run["subject"] == subject.key]


def run_work(subject: Subject, run: Run) -> work.Work:
    known = work.known(VERB, subject, dict, **arguments(run))  # parsed once: a page that polls asks often
    return work.Work(known, None) if known is not None else work.ensure(VERB, subject, start=False, **arguments(run))


def usable(subject: Subject, run: Run) -> bool:
    """False for a result whose kept weights have left the server."""
    found = run_work(subject, run)
    return not found.done or not found.result["network"] or has_network(found.result["network"])


def run_key(run: Run) -> str:
    """Names a run among a person's own."""
    parts = [*map(str, run["own"].values()), *(f"{name}{value:g}" for name, value in run["budget"].items())]
    return "-".join([run["recipe"], *parts, f"{run['finetune']}s"])


def run_title(run: Run) -> str:
    titles = {card.name: card.title for card in recipe_cards()}
    title = titles.get(run["recipe"], run["recipe"]) if run["recipe"] != OWN else own_title(run["own"])
    return f"{title}, fine-tuned {TRAINING[str(run['finetune'])]}" if run["finetune"] else title


def own_title(own: Mapping[str, Any]) -> str:
    """ "Own: Taylor, Uniform, Least squares" """
    words = []
    for part in own_choices():
        row = next((row for row in part.rows if row.name == (own.get(part.field) or "")), None)
        if row is not None and row.name and part.field in ("ratios", "criterion", "solver"):
            words.append(row.title)
    return f"Own: {', '.join(words)}"


def budget_words(budget: Mapping[str, float]) -> str:
    """ "50 % of the MACs" """
    written = {
        "macs": lambda value: f"{tables.percent(value, 0)} of the MACs",
        "params": lambda value: f"{tables.percent(value, 0)} of the parameters",
        "latency_ms": lambda value: f"{tables.ms(value)} predicted",
        "accuracy_drop": lambda value: f"at most {100 * value:g} points lost",
    }
    return ", ".join(written[name](value) for name, value in budget.items())


def results(subject: Subject, runs: Sequence[Run]) -> None:
    """Every run in one table, and the one picked in full."""
    done = {run_key(run): run for run in runs if run_work(subject, run).done}
    for run in runs:
        found = run_work(subject, run)
        if found.result is not None and not found.done:  # of one under way, or stopped
            stories.show(subject, found.result, run_key(run))
    if not done:
        return
    st.markdown("##### What recipes gave")
    keys = list(done)
    picked = session.choice(SHOWN)
    picked = picked if picked in done else keys[-1]
    rows = [_row(done[key], run_work(subject, done[key]).result) for key in keys]
    session.set_widget_value("recipe-runs", {"selection": {"rows": [keys.index(picked)]}})
    st.dataframe(
        rows,
        key="recipe-runs",
        hide_index=True,
        width="stretch",
        on_select=lambda: _pick(keys),
        selection_mode="single-row",
        column_config=COLUMNS,
    )
    _one(subject, done[picked])
    told = [{**done[key], **run_work(subject, done[key]).result, "title": run_title(done[key])} for key in keys]
    downloads.csv("Runs as CSV", lambda: runs_csv(told), f"recipes-{subject.loaded.name}")


COLUMNS = {
    "Recipe": st.column_config.TextColumn(pinned=True, width=240),
    "Accuracy, %": st.column_config.NumberColumn(format="%.1f"),
    "To dense, points": st.column_config.NumberColumn(format="%+.1f"),
    "MACs": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100),
    "Parameters": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100),
    "Seconds": st.column_config.NumberColumn(format="%.0f"),
}


def _row(run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    accuracy, (less, least, most) = result["accuracy"], result["difference"]
    return {
        "Recipe": run_title(run),
        "Budget": budget_words(run["budget"]),
        "Accuracy, %": 100 * accuracy["value"],
        "95 % interval": tables.interval(accuracy["low"], accuracy["high"]),
        "To dense, points": 100 * less,
        "Its 95 % interval": f"{tables.points(least)} to {tables.points(most)}",
        "MACs": 100 * result["macs"] / max(1, result["dense_macs"]),
        "Parameters": 100 * result["params"] / max(1, result["dense_params"]),
        "Seconds": result["seconds"],
    }


def _pick(keys: Sequence[str]) -> None:
    picked = (session.widget_value("recipe-runs") or {}).get("selection", {}).get("rows", [])
    if picked and picked[0] < len(keys):
        session.choose(**{SHOWN: keys[picked[0]]})


def _one(subject: Subject, run: Run) -> None:
    """One run: its numbers, the way to its plan, and what there is to watch."""
    result = run_work(subject, run).result
    plan = Plan.from_json(result["plan"])
    record = session.workspace()
    taken = work.plan(record, subject) == plan and work.repair(record, plan) == repair_of(result)
    with st.container(horizontal=True, vertical_alignment="center", key="recipe-take"):
        st.markdown(f"**{run_title(run)}**, {budget_words(run['budget'])}")
        label, icon = ("On the desk", ":material/check:") if taken else ("Take this plan", ":material/bookmark_add:")
        if st.button(label, key="take-plan", icon=icon, disabled=taken, type="secondary" if taken else "primary"):
            _take(subject, run, plan, result)
            st.rerun()
    if not usable(subject, run):
        st.warning(GONE, icon=":material/warning:")
    st.caption(
        f"Accuracy on {tables.plural(result['accuracy']['images'], 'selection image')}, by which nothing of this "
        f"network's weights was fitted. Dense network: {tables.percent(result['dense_accuracy']['value'])}. Export "
        "measures on images that nothing was chosen by."
    )
    stories.show(subject, result, f"{run['recipe']}-{subject.loaded.name.replace('/', '-')}")
    with st.expander("What was done, with seconds"):
        st.code("\n".join(result["log"]), language=None)


def offer_unfinished(run: Run, left: Mapping[str, Any]) -> None:
    """A run that was stopped had a complete network: it may be taken, unmeasured as it is."""
    plan = Plan.from_json(left["plan"])
    if st.button("Take the plan as it stood", key=f"take-{run_key(run)}", icon=":material/bookmark_add:"):
        title = f"{run_title(run)}, as it stood when it was cancelled"
        moves.take_plan(plan, title)
        if left["network"]:
            moves.keep_network(plan, left["network"], title)
        session.notify_done(f"{title}: its plan is on the desk.")
        st.rerun()


GONE = "The weights of this run are no longer kept on the server. Press Run to make them again, then take the plan."


def _take(subject: Subject, run: Run, plan: Plan, result: Mapping[str, Any]) -> None:
    title = run_title(run)
    if not usable(subject, run):
        session.notify(GONE)
        return
    moves.take_plan(plan, f"{title}, {budget_words(run['budget'])}")
    if result["network"]:
        moves.keep_network(plan, result["network"], title, result)
    else:
        moves.set_repair(repair_of(result))
    session.notify_done(f"{title}: its plan is on the desk. Undo on the page Tune brings the old one back.")
