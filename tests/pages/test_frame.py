"""The frame: the way around, where one stands, and what happens when nothing can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core import job_key, open_subject, score_channels
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token
from pages.components import frame, session, work
from tests.pages.headline_of import headline_cells

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr("core.work.jobs.JobManager.warm", lambda manager: None)  # no workers for pages that only look
    yield
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    open_store().close()


def open_app(token: str = "") -> AppTest:
    app = AppTest.from_file(ROOT / "app.py", default_timeout=60)
    if token:
        app.query_params["w"] = token
    app.run()
    assert not app.exception
    return app


def saved(record: Workspace) -> str:
    open_store().save_workspace(record.token, record.to_json(), 0)
    return record.token


def menu(app: AppTest) -> dict[str, str]:
    """What the sidebar's links say, and where each leads."""
    links = [link for link in app.sidebar.get("page_link")]
    return {link.proto.label: f"{link.proto.page}?{link.proto.query_string}" for link in links}


def test_every_stage_has_a_page_that_streamlit_itself_would_find_under_the_same_address() -> None:
    """A first visit to a fresh server that begins on a page knows pages only by the names their files imply."""
    from streamlit.source_util import page_icon_and_name

    for stage in frame.STAGES:
        assert (ROOT / stage.file).is_file()
        assert stage.url == page_icon_and_name(ROOT / stage.file)[1] == stage.title


def test_the_menu_leads_everywhere_and_keeps_the_token() -> None:
    app = open_app()
    token = app.query_params["w"]
    token = token[0] if isinstance(token, list) else token
    found = menu(app)
    assert [label.split(" ")[0] for label in found] == ["Overview", *(stage.title for stage in frame.STAGES)]
    assert [target.partition("?")[0] for target in found.values()] == ["", *(stage.url for stage in frame.STAGES)]
    assert all(target.endswith(f"w={token}") for target in found.values())


def test_the_menu_says_what_is_done_and_what_is_next() -> None:
    token = new_token()
    labels = list(menu(open_app(saved(Workspace(token, work.FIRST_MODEL, removed={"features.0": 4})))))
    assert any(label.startswith("Model") and "check" in label for label in labels)
    assert any(label.startswith("Tune") and "check" in label for label in labels)
    assert sum("next" in label for label in labels) == 1
    assert "check" not in next(label for label in labels if label.startswith("Export"))


def test_the_sidebar_names_what_is_loaded_and_offers_the_link_to_it() -> None:
    app = open_app()
    said = " ".join(element.value for element in (*app.sidebar.markdown, *app.sidebar.caption))
    assert "digits-vgg" in said
    assert "1,797 images" in said
    assert "?w=" in app.sidebar.code[0].value


def test_a_lost_network_is_told_and_the_demo_is_one_press_away() -> None:
    lost = Workspace(new_token(), "cifar/resnet20", weights_path="/gone.pt", data_source="random")
    app = open_app(saved(lost))
    assert len(app.error) == 1
    assert "/gone.pt" in app.error[0].value
    next(button for button in app.button if button.label == "Open the first demo").click()
    app.run()
    assert not app.error
    assert "digits-vgg" in " ".join(element.value for element in app.sidebar.markdown)


def test_a_notice_is_shown_once() -> None:
    app = open_app()
    app.session_state[session.NOTICE] = "Your work was carried over."
    app.run()
    assert [warning.value for warning in app.warning] == ["Your work was carried over."]
    app.run()
    assert not app.warning


def test_a_page_opened_before_the_app_shows_itself() -> None:
    app = AppTest.from_file(ROOT / "pages" / "1_Model.py", default_timeout=60).run()
    assert not app.exception
    assert app.title[0].value == "Model"


def strip_page() -> None:
    """A page with the headline strip of the open plan."""
    from pages.components import frame, session, work

    record = session.workspace()
    frame.strip(record, work.subject(record))


def test_the_strip_is_the_desk_s_own_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ensure", lambda *_, **__: pytest.fail("a strip starts nothing"))
    record = Workspace(new_token(), work.FIRST_MODEL)
    app = AppTest.from_function(strip_page, default_timeout=60)
    app.query_params["w"] = saved(record)
    app.run()
    assert not app.exception
    shown = headline_cells(app)
    assert (shown["macs"]["value"], shown["params"]["value"]) == ("44.7 M", "704 k")
    assert shown["accuracy"]["mark"] == "measured" and not any(cell["busy"] for cell in shown.values())
    monkeypatch.setattr("core.keep.shelf._shipped", dict)
    work._parsed.clear()
    subject = open_subject(work.FIRST_MODEL)
    scores = score_channels(subject.trace, None, "weight-l2")
    halved = replace(record, token=new_token(), removed={"features.0": 16}, criterion="weight-l2")
    app = AppTest.from_function(strip_page, default_timeout=60)
    app.query_params["w"] = saved(halved)
    app.run()
    assert headline_cells(app)["macs"]["change"] == "−11 %", "costs do not ask which channels leave"
    assert headline_cells(app)["accuracy"]["unknown"]
    open_store().put_result("score", job_key("score", subject, criterion="weight-l2"), scores.to_dict())
    app.run()
    assert headline_cells(app)["macs"]["change"] == "−11 %"
    work._parsed.clear()
