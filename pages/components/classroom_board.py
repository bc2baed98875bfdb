"""The class board: every plan that was handed in on one chart of accuracy over cost, as a table, and as CSV.

It refreshes by itself in a part of the page of its own, so nothing else on the page is touched.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from core import (
    BUDGETS,
    Assignment,
    Board,
    Class,
    CoreError,
    Entry,
    board_csv,
    board_of,
    count_learners,
    entries,
    find_class,
    learner,
    remove_entry,
)
from core.keep.store import open_store
from pages.components import charts, downloads, session, tables

EVERY_S = 5.0  # thirty learners ask six times a second together: what did not change is drawn from what is kept
COST_WORDS = dict(BUDGETS)
OTHERS, MET, DENSE = charts.REFERENCE, charts.CURVE, charts.REFERENCE
KEPT = 300  # figures: a class of learners, each with a mark on their own plans
_boards: OrderedDict[tuple[str, int], Board] = OrderedDict()  # by class and version: one for all who look
_tables: OrderedDict[tuple[str, int, str], pd.DataFrame] = OrderedDict()
_figures: OrderedDict[tuple[str, int, str], go.Figure] = OrderedDict()  # and by learner; "" for the teacher's
APART = 14  # percent of the cost between two names: closer ones would cover each other


def board(task: Assignment, code: str, *, own: str = "", key: str = "") -> None:
    """The board of class ``code``. ``own``: the learner's token, whose plans stand out. ``key``: the teacher's, who may
    take plans off."""
    st.fragment(run_every=EVERY_S)(_draw)(task, code, own, key)


def _draw(task: Assignment, code: str, own: str, key: str) -> None:
    try:
        found = find_class(open_store(), code)
        shown = _board(task, code, found.version)
        learners = count_learners(open_store(), code)
    except CoreError as error:
        st.error(str(error), icon=":material/error:")
        return
    told = f"{tables.plural(learners, 'learner')}, {tables.plural(len(shown.entries), 'plan')}"
    closed = " The class is closed." if found.closed else ""
    st.caption(f"{told} handed in, {shown.passed} meet the goal. It refreshes by itself.{closed}")
    if not shown.entries:
        st.caption("Plans appear here as they are handed in.")
        return
    mine = _who(code, own) if own else ""
    st.plotly_chart(
        _figure(shown, task, found, mine),
        key="class-chart",
        config=charts.config(f"class-{code}"),
        alt=words(shown, task),
    )
    st.caption(KEY_WORDS + (" ◇ yours." if mine else ""))
    _table(shown, found, mine, key)


KEY_WORDS = "● goal met, ○ not met. The green corner is the goal."


def _board(task: Assignment, code: str, version: int) -> Board:
    """Put together once per change, however many look at it."""
    return _kept(_boards, (code, version), lambda: board_of(entries(open_store(), code), task))


def _figure(shown: Board, task: Assignment, found: Class, mine: str) -> go.Figure:
    """The chart, with one's own plans marked; Plotly takes 50 ms to put it together, so all share the rest of it."""
    at = (found.code, found.version)
    plain = _kept(_figures, (*at, ""), lambda: _ready(figure(shown, task)))
    if not any(entry.who == mine for entry in shown.entries):
        return plain
    return _kept(_figures, (*at, mine), lambda: _ready(mark_own(plain, shown, mine)))


def _ready(found: go.Figure) -> go.Figure:
    """With its dict made once: Streamlit asks for it at every click of everybody, and Plotly would make it anew."""
    made = found.to_dict()
    found.to_dict = lambda: made
    return found


def _kept(where: OrderedDict[Any, Any], at: Any, make: Callable[[], Any]) -> Any:
    found = where.get(at)
    if found is None:
        found = where[at] = make()
        while len(where) > KEPT:
            where.popitem(last=False)
    return found


def _who(code: str, token: str) -> str:
    return str(learner(code, token))


def words(board: Board, task: Assignment) -> str:
    """The chart for those who do not see it; nicknames stay in the table."""
    told = [100 * entry.told["value"] for entry in board.entries]
    shares = [100 * entry.told["shares"][board.cost] for entry in board.entries]
    return (
        f"Accuracy over {COST_WORDS[board.cost]} of {tables.plural(len(told), 'plan')}: {min(told):.1f} to "
        f"{max(told):.1f} % right, {min(shares):.0f} to {max(shares):.0f} % of the cost. {board.passed} meet the goal, "
        f"{task.goal_words}. The whole network: {100 * board.entries[-1].told['dense']['value']:.1f} %."
    )


def figure(board: Board, task: Assignment) -> go.Figure:
    """Accuracy over the cost that the goal limits, as a share of the whole network's."""
    dense = board.entries[-1].told["dense"]
    limit, least = 100 * task.budget[1], 100 * (dense["value"] - task.drop)
    lowest = min([least, *(100 * entry.told["low"] for entry in board.entries)])
    found = go.Figure(layout={"shapes": _goal_shapes(limit, least)})
    _front(found, board)
    met = [place for place, entry in enumerate(board.entries) if entry.told["passed"]]
    rest = [place for place, entry in enumerate(board.entries) if not entry.told["passed"]]
    groups = (("goal met", met, MET, "circle", 10), ("not met", rest, OTHERS, "circle-open", 9))
    for title, members, colour, symbol, size in groups:
        if members:
            found.add_trace(_points(title, board, members, colour, symbol, size))
    found.add_trace(_dense(dense))
    what = COST_WORDS[board.cost]
    charts.house(found, f"Accuracy over {what}", "Measured; bars are 95 % intervals", 430)
    charts.legend_below(found, 96)
    charts.hold_left(found)
    found.update_xaxes(title=f"{what} left, % of the whole network", range=[0, 104])
    found.update_yaxes(title=charts.ACCURACY_AXIS, range=[max(0.0, lowest - 4), 105])
    return found


def mark_own(plain: go.Figure, board: Board, mine: str) -> go.Figure:
    """``plain`` with a diamond around every plan of the learner ``mine``; ``plain`` stays as it is."""
    own = [entry.told for entry in board.entries if entry.who == mine]
    found = copy.deepcopy(plain)
    found.add_trace(
        go.Scatter(
            x=[100 * told["shares"][board.cost] for told in own],
            y=[100 * told["value"] for told in own],
            mode="markers",
            marker={"color": charts.FOCUS, "symbol": "diamond-open", "size": 16, "line": {"width": 2.4}},
            name="yours",
            hoverinfo="skip",
        )
    )
    return found


def _goal_shapes(limit: float, least: float) -> list[dict[str, Any]]:
    """The corner in which the goal is met, and its two lines, all in percent."""
    line = {"color": charts.PLAN, "width": 1.6, "dash": "dash"}
    corner = {"type": "rect", "x0": 0, "x1": limit, "y0": least, "y1": 105, "line": {"width": 0}, "layer": "below"}
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": least, "y1": least, "line": line}
    upward = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit, "line": line}
    return [{**corner, "fillcolor": "rgba(0, 158, 115, 0.13)"}, across, upward]


def _front(found: go.Figure, board: Board) -> None:
    if len(board.front) > 1:
        x = [100 * board.entries[place].told["shares"][board.cost] for place in board.front]
        y = [100 * board.entries[place].told["value"] for place in board.front]
        line = {"color": charts.REFERENCE, "width": 1.4, "shape": "hv"}
        found.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name="best so far", hoverinfo="skip"))


def _points(title: str, board: Board, members: list[int], colour: str, symbol: str, size: int) -> go.Scatter:
    """Names stand beside the best few, and under the pointer for all. Plotly reads a little HTML: names are escaped."""
    named = _named(board)
    all_ = [board.entries[place] for place in members]
    told = [entry.told for entry in all_]
    return go.Scatter(
        x=[100 * one["shares"][board.cost] for one in told],
        y=[100 * one["value"] for one in told],
        error_y={
            "array": [100 * (one["high"] - one["value"]) for one in told],
            "arrayminus": [100 * (one["value"] - one["low"]) for one in told],
            "thickness": 1, "width": 0, "color": charts.MUTED,
        },
        text=[escape(one.name) if place in named else "" for place, one in zip(members, all_, strict=True)],
        textposition="top left",
        customdata=[[escape(one.name), tables.count(one.told["costs"][board.cost])] for one in all_],
        mode="markers+text",
        marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 1.6, "color": colour}},
        name=title,
        hovertemplate="<b>%{customdata[0]}</b><br>%{y:.1f} %<br>%{x:.1f} % of the cost (%{customdata[1]})"
        "<extra></extra>",
    )  # fmt: skip


def _named(board: Board) -> set[int]:
    """Places on the front whose names stand beside them: the best first, none too close to another."""
    shares: dict[int, float] = {}
    for place in reversed(board.front):
        share = 100 * float(board.entries[place].told["shares"][board.cost])
        if all(abs(share - other) >= APART for other in shares.values()):
            shares[place] = share
    return set(shares)


def _dense(dense: Any) -> go.Scatter:
    return go.Scatter(
        x=[100],
        y=[100 * dense["value"]],
        mode="markers",
        marker={"color": DENSE, "symbol": "square-open", "size": 12, "line": {"width": 2}},
        name="whole network",
        hovertemplate="<b>whole network</b><br>%{y:.1f} %<extra></extra>",
    )


def _table(board: Board, of: Class, mine: str, key: str) -> None:
    own = mine if any(entry.who == mine for entry in board.entries) else ""
    rows = _kept(_tables, (of.code, of.version, own), lambda: _frame(board, own))
    options: dict[str, Any] = {"on_select": "rerun", "selection_mode": "single-row"} if key else {}
    picked: Any = st.dataframe(
        rows,
        key="class-table",
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(rows), 420),
        column_config=COLUMNS,
        **options,
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        if key:
            _remove(board, of.code, key, picked["selection"]["rows"])
        downloads.csv("Board as CSV", lambda: board_csv(board), f"class-{of.code}")


def _frame(board: Board, mine: str) -> pd.DataFrame:
    return pd.DataFrame([_row(place, entry, board, mine) for place, entry in enumerate(board.entries)])


COLUMNS = {
    "Nickname": st.column_config.TextColumn(pinned=True, width=150),
    "Accuracy, %": st.column_config.NumberColumn(format="%.1f"),
    "Points lost": st.column_config.NumberColumn(format="%.1f"),
    **{f"{name}, %": st.column_config.NumberColumn(format="%.1f") for name in ("MACs", "Parameters", "Size")},
}


def _row(place: int, entry: Entry, board: Board, mine: str) -> dict[str, Any]:
    told = entry.told
    return {
        "Nickname": f"{entry.name}{' (you)' if entry.who == mine else ''}",
        "Goal": "met" if told["passed"] else "not met",
        "Accuracy, %": 100 * told["value"],
        "95 % interval": tables.interval(told["low"], told["high"]),
        "Points lost": 100 * (told["dense"]["value"] - told["value"]),
        "MACs, %": 100 * told["shares"]["macs"],
        "Parameters, %": 100 * told["shares"]["params"],
        "Size, %": 100 * told["shares"]["size_bytes"],
        "Best so far": "yes" if place in board.front else "",
        "Built": "as cut" if told["repair"] == "none" else told["repair"],
    }


def _remove(board: Board, code: str, key: str, rows: list[int]) -> None:
    """The teacher takes the picked plan off. Its number, not its place, is what goes: the board may have grown."""
    picked = board.entries[rows[0]] if rows and rows[0] < len(board.entries) else None
    pressed = st.button(
        "Take it off the board", key="class-remove", icon=":material/delete:", disabled=picked is None,
        help="Pick a line of the table first.",
    )  # fmt: skip
    if pressed and picked is not None:
        try:
            remove_entry(open_store(), code, key, picked.number)
        except CoreError as error:
            session.notify(str(error))
        st.rerun(scope="fragment")
