"""What every page stands in: navigation, the workspace link, where one stands, notices and errors."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from core import CoreError, Subject, open_project, pack_project
from core.keep import workspace as records
from core.keep.workspace import Workspace
from core.work.jobs import open_jobs
from pages.components import charts, choices, classroom_rules, opening, page_guard, session, work
from pages.components.desk import cells, known_now
from pages.components.headline import headline_strip
from pages.components.standing import Standing, standing

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets"
OVERVIEW = "Overview"


@dataclass(frozen=True)
class Stage:
    """One page: its file, its name in the menu, and what one does there. ``strip``: the frame shows the headline strip
    on it; pages with headline numbers of their own do without."""

    file: str
    title: str
    summary: str
    icon: str
    strip: bool = False

    @property
    def url(self) -> str:
        """What Streamlit itself makes of the file's name: a first visit to a fresh server knows the page only by it."""
        return Path(self.file).stem.partition("_")[2]


STAGES = (
    Stage("pages/1_Model.py", "Model", "Choose a network and images.", ":material/deployed_code:"),
    Stage("pages/2_Channels.py", "Channels", "See what every channel is worth.", ":material/grid_on:", strip=True),
    Stage(
        "pages/3_Sensitivity.py",
        "Sensitivity",
        "See what each group of channels can lose.",
        ":material/show_chart:",
        strip=True,
    ),
    Stage("pages/4_Tune.py", "Tune", "Drag the widths; watch accuracy and latency.", ":material/tune:"),
    Stage("pages/5_Recover.py", "Recover", "Win back what the cut lost.", ":material/healing:", strip=True),
    Stage("pages/6_Compare.py", "Compare", "Put plans side by side.", ":material/compare_arrows:"),
    Stage("pages/7_Export.py", "Export", "Take away a smaller network that is verified.", ":material/download:"),
    Stage("pages/8_Learn.py", "Learn", "Lessons on the network at hand.", ":material/school:"),
)
STAGE = {stage.title: stage for stage in STAGES}


def run(overview: Callable[[], None]) -> None:
    """app.py's whole body: warm workers, declare the pages, draw the menu, run the page that was asked for."""
    page_guard.install()
    session.set_temporary("framed", True)
    pages = _pages(overview)
    current = st.navigation(pages, position="hidden")
    name = "Prunescope" if current.title == OVERVIEW else f"{current.title} · Prunescope"
    st.set_page_config(page_title=name, page_icon=str(ASSETS / "mark.svg"), layout="wide")
    session.set_temporary("pages", {one.title: one for one in pages})
    st.html(ASSETS / "frame.css")
    st.logo(str(ASSETS / "logo.svg"), size="large", icon_image=str(ASSETS / "mark.svg"))
    try:
        with st.sidebar:
            _sidebar(current.title)
        current.run()
    finally:  # only now: their imports would take the processor from the first page
        open_jobs().warm()
        _settle()


@contextmanager
def page(title: str, lead: str) -> Iterator[tuple[Workspace, Subject]]:
    """Open a page: title, one sentence, the workspace and its subject. What a CoreError says is shown as it stands."""
    guard()
    head(title, lead)
    subject = opening.opened(session.workspace())
    if subject is None:
        _way_out()
        st.stop()
    if classroom_rules.hidden_page(title):
        st.info(classroom_rules.HIDDEN_PAGE, icon=":material/lock:")
        st.stop()
    if title in STAGE and STAGE[title].strip:
        strip(session.workspace(), subject)
    try:
        yield session.workspace(), subject
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def guard() -> None:
    """A first visit to a fresh server that begins on a page runs it without app.py, because Streamlit takes the folder
    ``pages`` for a convention of its own. Declaring the pages ends that for the whole server; then app.py runs."""
    if not session.temporary("framed"):
        session.set_temporary("framed", True)
        st.navigation(_pages(lambda: None), position="hidden")
        st.rerun()


def head(title: str, lead: str) -> None:
    """Title, one sentence, and what has to be told once."""
    st.title(title, anchor=False)
    with st.container(key="lead"):
        st.caption(lead)
    notice = session.take_notice()
    if notice:
        st.warning(notice, icon=":material/info:")
    done = session.take_done()
    if done:
        st.toast(done, icon=":material/check_circle:")


def link(title: str, label: str = "", *, icon: str | None = None, help: str | None = None) -> None:
    """A link to a page by its title ("Tune", "Overview") that keeps this work's token. ``icon``: "" for none."""
    known = STAGE.get(title)
    own = known.icon if known else ":material/home:"
    target = session.temporary("pages", {}).get(title)
    if target is None:  # a page that a test runs alone has no menu to lead to
        st.markdown(label or title)
        return
    st.page_link(
        target,
        label=label or title,
        icon=(own if icon is None else icon) or None,
        help=help,
        query_params={session.TOKEN_PARAMETER: session.owner()},
    )


def strip(record: Workspace, subject: Subject) -> None:
    """The headline numbers of the plan as it is, as the page Tune shows them; nothing is measured for it."""
    headline_strip(cells(known_now(record, subject)), key="headline", pending=False)


def _pages(overview: Callable[[], None]) -> list[st.Page]:
    # No icons here: as a page's icon a symbol becomes the tab's, and that one is fetched from the network.
    pages = [st.Page(overview, title=OVERVIEW, default=True)]
    return pages + [
        st.Page(ROOT / one.file, title=one.title, url_path=one.url) for one in STAGES if (ROOT / one.file).exists()
    ]


@st.cache_resource(show_spinner=False)
def _settle() -> None:
    """Once per server: what the imports made stays for good, so the collector need not look at it again."""
    gc.collect()
    gc.freeze()


def _sidebar(here: str) -> None:
    record = session.workspace()
    with st.spinner("Opening the network and its images ..."):
        subject = opening.ready(record)
    _menu(here, standing(record, subject))
    st.divider()
    _loaded(record, subject)
    _share()


def _menu(here: str, at: Standing) -> None:
    with st.container(key="menu"):
        link(OVERVIEW)
        for stage in STAGES:
            if classroom_rules.hidden_page(stage.title):
                continue
            label = stage.title
            if stage.title in at.done:
                label += " :blue[:material/check:]"
            elif stage.title == at.next and stage.title != here:
                label += " :small[:blue[next]]"
            link(stage.title, label)


def _loaded(record: Workspace, subject: Subject | None) -> None:
    with st.container(key="loaded"):
        if subject is None:
            st.caption("Nothing is open yet.")
            return
        st.markdown(f"**{subject.loaded.name}**")
        st.caption(f"{work.weights_text(record, subject)}  \n{subject.data.name}: {len(subject.data):,} images")


def _share() -> None:
    with st.popover("Link and file", icon=":material/link:", width="stretch"):
        st.caption("Opens this work again in any browser that reaches this server. Whoever has the link can edit it.")
        st.code(session.address(), language=None, wrap_lines=True)
        st.caption("As a file, it opens on any other Prunescope: network, plan, undo, named plans, uploaded weights.")
        st.download_button(
            "Download project",
            lambda: pack_project(session.workspace()),
            file_name="work.prunescope",
            mime="application/zip",
            icon=":material/download:",
            on_click="ignore",
            width="stretch",
        )
        choices.segments(charts.PICTURE, "Charts are saved as", charts.PICTURES)
        file = st.file_uploader("Open a project", type=["prunescope"], key="project-file")
        st.button(
            "Open it as new work", icon=":material/folder_open:", width="stretch", disabled=file is None,
            on_click=_open_project, args=(file,),
        )  # fmt: skip


def _open_project(file: Any) -> None:
    """The work in the file under a link of its own; what was open stays at its link."""
    former = session.address()
    try:
        record = open_project(file)
        session.move_to(record)
    except CoreError as error:
        session.notify(str(error))
        return
    session.notify_done(f"The project is open under a link of its own. What was open before stays at {former}")


def _way_out() -> None:
    left, right, _ = st.columns([2, 2, 3])
    with left:
        link("Model", "Choose another network")
    right.button("Open the first demo", on_click=_open_demo, icon=":material/restart_alt:")


def _open_demo() -> None:
    session.update(lambda record: records.open_model(record, work.FIRST_MODEL, ""))
