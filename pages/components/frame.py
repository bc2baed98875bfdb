"""What every page stands in: navigation, the workspace link, where one stands, notices and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from core import CoreError, Subject
from core.jobs import open_jobs
from core.workspace import Workspace
from pages.components import session, work

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Stage:
    """One page: its file, its name in the menu, and what one does there."""

    file: str
    title: str
    summary: str
    icon: str


STAGES = (
    Stage("pages/1_Model.py", "Model", "Choose a network and images.", ":material/deployed_code:"),
    Stage("pages/2_Channels.py", "Channels", "See what every channel is worth.", ":material/grid_on:"),
    Stage(
        "pages/3_Sensitivity.py", "Sensitivity", "See what each group of channels can lose.", ":material/show_chart:"
    ),
    Stage("pages/4_Tune.py", "Tune", "Drag the widths; watch accuracy and latency.", ":material/tune:"),
    Stage("pages/7_Export.py", "Export", "Take away a smaller network that is verified.", ":material/download:"),
)


def run(overview: Callable[[], None]) -> None:
    """app.py's whole body: warm workers, declare the pages, draw the menu, run the page that was asked for."""
    session.set_temporary("framed", True)
    open_jobs().warm()
    pages = [st.Page(overview, title="Overview", icon=":material/home:", default=True)]
    for stage in STAGES:
        pages.append(st.Page(ROOT / stage.file, title=stage.title, icon=stage.icon, url_path=Path(stage.file).stem))
    current = st.navigation(pages, position="hidden")
    token = session.workspace().token
    with st.sidebar:
        for one in pages:
            st.page_link(one, label=one.title, icon=one.icon, query_params={"w": token})
    current.run()


@contextmanager
def page(title: str, lead: str) -> Iterator[tuple[Workspace, Subject]]:
    """Open a page: title, one sentence, the workspace and its subject. What a CoreError says is shown as it stands."""
    guard()
    record = session.workspace()
    try:
        subject = work.subject(record)
    except CoreError as error:
        _head(title, lead, record, None)
        st.error(str(error), icon=":material/error:")
        st.page_link(
            STAGES[0].file, label="Choose another model", icon=STAGES[0].icon, query_params={"w": record.token}
        )
        st.stop()
    _head(title, lead, session.workspace(), subject)
    try:
        yield session.workspace(), subject
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def guard() -> None:
    """A deep link on a freshly started server runs a page without app.py: run app.py's frame, which runs the page."""
    if not session.temporary("framed"):
        run(lambda: None)
        st.stop()


def _head(title: str, lead: str, record: Workspace, subject: Subject | None) -> None:
    st.title(title)
    st.caption(lead)
    notice = session.take_notice()
    if notice:
        st.warning(notice)
