"""Sessions as pages use them: reload, a second window, a lost or unreadable store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.keep.store import open_store
from core.keep.workspace import Workspace, is_token, new_token


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    yield
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    open_store().close()


def page() -> None:
    """A page with one button per thing a person does."""
    import streamlit as st

    from core.errors import CoreError
    from pages.components import session

    st.text_input("group", key="group")
    if st.button("remove"):
        session.edit({session.widget_value("group"): 3}, "remove")
    if st.button("drag"):
        session.edit({session.widget_value("group"): 5}, "drag", from_equaliser=True)
    if st.button("undo"):
        session.undo()
    if st.button("redo"):
        session.redo()
    if st.button("move"):
        from core.keep.workspace import Workspace, new_token

        session.move_to(Workspace(new_token(), removed={"moved": 1}, revision=7))
    if st.button("choose"):
        session.choose(sort="depth")
    if st.button("wrong"):
        try:
            session.edit({"a": -1}, "wrong")
        except CoreError as error:
            session.notify(str(error))
    if st.button("commit stale"):
        stale = session.temporary("stale")
        st.text(f"committed {session.commit(stale)}")
    session.set_temporary("stale", session.temporary("stale", session.workspace()))
    work = session.workspace()
    st.json({"removed": dict(work.removed), "sort": session.choice("sort", "none"), "rev": session.equaliser_rev()})
    st.text(f"undo {session.can_undo()} redo {session.can_redo()}")
    st.text(f"owner {session.owner()}")
    st.text(f"notice {session.take_notice()}")


def visit(token: str | None = None) -> AppTest:
    app = AppTest.from_function(page, default_timeout=30)
    if token is not None:
        app.query_params["w"] = token
    app.run()
    assert not app.exception
    return app


def token_of(app: AppTest) -> str:
    found = app.query_params["w"]
    return found[0] if isinstance(found, list) else found


def press(app: AppTest, label: str, group: str = "a") -> AppTest:
    app.text_input(key="group").set_value(group)
    next(button for button in app.button if button.label == label).click()
    app.run()
    assert not app.exception
    return app


def shown(app: AppTest) -> dict[str, object]:
    import json

    return json.loads(app.json[0].value)


def notice(app: AppTest) -> str:
    return app.text[-1].value


def test_a_first_visit_gets_a_token_and_stores_nothing() -> None:
    app = visit()
    assert is_token(token_of(app))
    assert app.text[-2].value == f"owner {token_of(app)}"
    assert open_store().workspace(token_of(app)) is None
    assert token_of(visit()) != token_of(app)
    app.run()
    assert shown(app)["removed"] == {}


@pytest.mark.parametrize("wrong", ["", "x", "../../etc/passwd", "a b c"])
def test_a_wrong_token_is_replaced(wrong: str) -> None:
    assert is_token(token_of(visit(wrong)))


def test_an_unknown_token_is_kept() -> None:
    token = new_token()
    app = visit(token)
    assert token_of(app) == token and shown(app)["removed"] == {}


def test_reload_and_link_resume() -> None:
    app = press(press(visit(), "remove"), "choose")
    press(app, "drag", "b")
    press(app, "undo")
    assert shown(app)["removed"] == {"a": 3} and app.text[0].value == "undo True redo True"
    again = visit(token_of(app))
    assert shown(again)["removed"] == {"a": 3} and shown(again)["sort"] == "depth"
    assert app.text[0].value == again.text[0].value
    press(again, "redo")
    assert shown(again)["removed"] == {"a": 3, "b": 5}


def test_a_token_dropped_from_the_address_is_put_back() -> None:
    app = press(visit(), "remove")
    token = token_of(app)
    del app.query_params["w"]
    app.run()
    assert token_of(app) == token and shown(app)["removed"] == {"a": 3}


def test_two_windows_lose_no_work() -> None:
    first = press(visit(), "drag")
    second = visit(token_of(first))
    press(second, "drag", "b")
    before = shown(first)
    first.run()
    assert shown(first)["removed"] == {"a": 5, "b": 5}
    assert shown(first)["rev"] > before["rev"]  # type: ignore[operator] # the equaliser here must adopt b
    rev = shown(first)["rev"]
    press(first, "drag", "c")
    assert shown(first)["rev"] == rev
    press(second, "remove", "d")
    assert shown(second)["removed"] == {"a": 5, "b": 5, "c": 5, "d": 3}
    press(second, "undo")
    press(second, "undo")
    first.run()
    assert shown(first)["removed"] == {"a": 5, "b": 5}


def test_a_stale_record_is_not_committed() -> None:
    app = press(visit(), "remove")
    press(app, "commit stale")
    assert app.text[0].value == "committed False"
    assert shown(app)["removed"] == {"a": 3} and "another window" in notice(app)
    app.run()
    assert notice(app) == "notice None"


def test_an_error_changes_nothing() -> None:
    app = press(press(visit(), "remove"), "wrong")
    assert "0 or more" in notice(app) and shown(app)["removed"] == {"a": 3}


def test_a_window_brings_its_work_back_when_the_store_was_lost() -> None:
    app = press(visit(), "remove")
    store = open_store()
    store.close()
    store.path.write_bytes(b"no database " * 1000)
    for ending in ("-wal", "-shm"):
        Path(f"{store.path}{ending}").unlink(missing_ok=True)
    app.run()
    assert shown(app)["removed"] == {"a": 3} and "damaged" in notice(app)
    found = open_store().workspace(token_of(app))
    assert found is not None and Workspace.from_json(found[0]).removed == {"a": 3}


def test_work_that_cannot_be_saved_stays_on_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = press(visit(), "remove")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "file"))
    press(app, "drag", "b")
    assert shown(app)["removed"] == {"a": 3, "b": 5} and "cannot be used" in notice(app)
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    press(app, "drag", "c")
    assert shown(visit(token_of(app)))["removed"] == {"a": 3, "b": 5, "c": 5}


def test_an_unreadable_workspace_is_told_and_begun_anew() -> None:
    token = new_token()
    open_store().save_workspace(token, {"version": 99}, 0)
    app = visit(token)
    assert "newer Prunescope" in notice(app) and shown(app)["removed"] == {}
    assert token_of(app) != token
    assert shown(press(app, "remove"))["removed"] == {"a": 3}
    assert open_store().workspace(token) == ({"version": 99}, 1)  # what cannot be read is not overwritten


def test_other_work_goes_on_under_its_own_link_and_the_former_stays() -> None:
    app = press(visit(), "remove")
    former = token_of(app)
    press(app, "move")
    assert token_of(app) != former
    assert shown(app)["removed"] == {"moved": 1}
    assert shown(visit(token_of(app)))["removed"] == {"moved": 1}, "it is saved"
    assert shown(visit(former))["removed"] == {"a": 3}
