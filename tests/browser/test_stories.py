"""Stories of people: two at once, somebody with wrong files, a server killed in mid-scan, hands on real networks."""

from __future__ import annotations

import contextlib
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import data_address
from core.keep.store import FILE_NAME, Store
from core.keep.workspace import Workspace, new_token
from pages.components.work import FIRST_MODEL
from tests.browser.conftest import Server, Tabs, start_app
from tests.browser.desk_page import DeskPage
from tests.browser.waits import AT_REST, eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
SHARED = Path(__file__).parents[3] / "shared"
GROUP = "features.10"


class Payload:
    """What unpickling would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def keep(home: Path, record: Workspace) -> str:
    """Put a workspace where the server looks for it; its token."""
    store = Store(home / FILE_NAME)
    store.save_workspace(record.token, record.to_json(), 0)
    store.close()
    return record.token


def go(desk: DeskPage, title: str) -> None:
    desk.page.get_by_test_id("stSidebar").get_by_role("link", name=title).click()
    desk.page.get_by_role("heading", name=title, exact=True, level=1).wait_for()


@pytest.fixture
def desks(app: Server, tabs: Tabs) -> Iterator[Callable[..., DeskPage]]:
    """Opens the desk of a workspace; a new one when none is given."""
    opened: list[DeskPage] = []

    def open_one(record: Workspace | None = None) -> DeskPage:
        opened.append(DeskPage(tabs(), app.address))
        token = keep(app.home, record) if record is not None else ""
        opened[-1].page.goto(f"{app.address}/Tune" + (f"?w={token}" if token else ""))
        opened[-1].wait_for_bars()
        return opened[-1]

    yield open_one
    for desk in opened:
        assert desk.faults == []
        tabs.give_back(desk.page)


def test_two_visitors_at_once_keep_their_own_plans(desks: Callable[..., DeskPage]) -> None:
    """Side by side on one network, before and after a reload; what one saves the other does not see."""
    ada, bob = desks(), desks()
    ada.drag(GROUP, 0.5)
    bob.drag(GROUP, 0.75)
    for desk in (ada, bob):
        desk.wait_until(lambda seen: seen["macs"].mark == "exact")
    assert (ada.kept(GROUP), bob.kept(GROUP)) == (32, 48)
    assert ada.cells()["macs"].value != bob.cells()["macs"].value
    ada.page.get_by_placeholder("Name this plan").fill("Narrow")
    ada.page.get_by_role("button", name="Save").click()
    ada.page.get_by_role("button", name="Restore").wait_for()
    for desk, kept in ((ada, 32), (bob, 48)):
        desk.page.reload()
        desk.wait_for_bars()
        assert desk.kept(GROUP) == kept
        go(desk, "Compare")
        desk.page.locator(".ps-compare").wait_for()
    heads = ada.page.locator(".ps-compare thead th").all_inner_texts()
    assert [head.strip() for head in heads] == ["Dense network", "On the desk", "Narrow"]
    assert "Narrow" in ada.page.locator(".ps-tree").inner_text()
    assert "Narrow" not in bob.page.content()


def test_a_wrong_file_is_refused_in_a_sentence_and_nothing_is_lost(
    desks: Callable[..., DeskPage], tmp_path: Path
) -> None:
    desk = desks()
    desk.drag(GROUP, 0.5)
    desk.wait_until(lambda seen: seen["macs"].mark == "exact" and desk.kept(GROUP) == 32)
    ran, corrupt, hostile = (tmp_path / name for name in ("ran.txt", "corrupt.pt", "hostile.pt"))
    corrupt.write_bytes(b"PK\x03\x04 this only begins like an archive")
    hostile.write_bytes(pickle.dumps(Payload(ran)))
    page = desk.page
    go(desk, "Model")
    page.locator("label", has_text="From a file").last.click()
    for file in (corrupt, hostile):
        page.locator("input[type=file]").last.set_input_files(file)
        page.get_by_text(file.name).first.wait_for()
        page.locator(AT_REST).wait_for()  # the upload draws the page anew, and "Open" moves down
        page.get_by_test_id("stMain").get_by_test_id("stBaseButton-primary").click()
        told = page.get_by_test_id("stAlert").filter(has_text=file.name)
        told.wait_for()
        assert told.count() == 1
        assert "Traceback" not in told.inner_text() and len(told.inner_text()) < 400
        page.get_by_test_id("stFileChipDeleteBtn").click()
    assert not ran.exists(), "nothing in a stranger's file is run"
    go(desk, "Tune")
    desk.wait_for_bars()
    assert desk.kept(GROUP) == 32


def test_a_page_link_wins_over_what_the_page_before_still_asks(desks: Callable[..., DeskPage]) -> None:
    """A poll that leaves in the moment of the press came back with the old page."""
    desk = desks()
    press = "document.querySelector('[data-testid=stSidebar] a[href*=Compare]').click();"
    poll = "dispatchEvent(new CustomEvent('prunescope-redraw'));"
    for code in (press + poll, poll + press + poll):
        desk.page.evaluate(f"() => {{ {code} }}")
        desk.page.locator(".ps-compare").wait_for()
        desk.page.locator(AT_REST).wait_for()
        desk.page.wait_for_timeout(300)
        assert desk.page.get_by_role("heading", name="Compare", level=1).count() == 1
        go(desk, "Tune")
        desk.wait_for_bars()


def test_a_server_killed_in_mid_scan_loses_neither_plan_nor_curves(tabs: Tabs, tmp_path: Path) -> None:
    """kill -9 while curves are measured; started again on the same home, the plan is there and the scan goes on from
    what it had, not from nothing."""
    record = Workspace(new_token(), FIRST_MODEL, criterion="fpgm")  # no curves are shipped for this criterion
    server = start_app(tmp_path)
    keep(tmp_path, record)
    store = Store(tmp_path / FILE_NAME)

    def images_seen() -> float:
        """Over all points of the curves so far; without bound once they are whole."""
        query = "SELECT kind, key FROM results WHERE kind IN ('part-scan', 'scan')"
        rows = dict(store._run(lambda connection: connection.execute(query).fetchall()))
        if "scan" in rows:
            return float("inf")
        part = store.result("part-scan", rows["part-scan"]) if rows else None
        return sum(point["images"] for points in part["points"].values() for point in points) if part else 0

    desk = DeskPage(tabs(), server.address)
    try:
        desk.page.goto(f"{server.address}/Tune?w={record.token}")
        desk.wait_for_bars()
        group = next(iter(desk.all_kept()))
        desk.drag(group, 0.5)
        kept = desk.kept(group)
        desk.wait_until(lambda seen: seen["macs"].mark == "exact")  # Python heard, so it is kept
        eventually(lambda: images_seen() > 0, 240)
    finally:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    before = images_seen()
    server = start_app(tmp_path)
    try:
        desk.page.goto(f"{server.address}/Tune?w={record.token}")
        desk.wait_for_bars()
        assert desk.kept(group) == kept
        eventually(lambda: (now := images_seen()) > before or now == float("inf"), 240)
    finally:
        server.stop()
        store.close()
        tabs.give_back(desk.page)


def one_drag(desk: DeskPage, group: str) -> None:
    """Half of a group: the browser's estimate is the exact cost, and Undo takes it back."""
    begun, kept = desk.cells(), desk.kept(group)
    desk.grab(group, 0.5)
    desk.wait_until(lambda seen: seen["macs"].mark == "estimated")
    eventually(lambda: abs(desk.kept(group) - kept / 2) <= 1)
    moving = desk.cells()
    desk.page.mouse.up()
    released = desk.wait_until(lambda seen: seen["macs"].mark == "exact")
    assert released["macs"].value == moving["macs"].value != begun["macs"].value
    assert desk.kept(group) == pytest.approx(kept / 2, abs=1)
    desk.page.get_by_role("button", name="Undo").click()
    desk.wait_until(lambda seen: seen["macs"].value == begun["macs"].value)
    eventually(lambda: desk.kept(group) == kept)


def cancel_the_rest(desk: DeskPage) -> None:
    """Curves and times are not needed here, and measuring them would take a minute from all others."""
    buttons = desk.page.locator(", ".join(f"[class*=st-key-cancel-tune-{job}] button" for job in ("curves", "latency")))
    desk.page.locator(AT_REST).wait_for()

    def gone() -> bool:
        with contextlib.suppress(Exception):  # it was drawn anew under the pointer, or is done
            if buttons.count():
                buttons.first.click(timeout=3000)
        return not buttons.count()

    eventually(gone)


def test_a_hand_on_a_trained_cifar_network_sees_what_the_cut_costs(desks: Callable[..., DeskPage]) -> None:
    weights, images = SHARED / "models" / "cifar10_resnet20.pt", SHARED / "data" / "cifar10" / "select.npz"
    if not (weights.exists() and images.exists()):
        pytest.skip("CIFAR-10 and its trained ResNet-20 are not in ../shared")
    source = (str(weights), weights.name, str(images))
    desk = desks(Workspace(new_token(), "cifar/resnet20", *source, criterion="weight-l2"))
    cancel_the_rest(desk)
    group = next(name for name in desk.all_kept() if desk.bar(name).get_attribute("aria-disabled") == "false")
    one_drag(desk, group)
    desk.drag(group, 0.25)
    measured = desk.wait_until(lambda seen: seen["accuracy"].mark == "measured" and seen["macs"].change != "0 %")
    assert "selection images" in measured["accuracy"].detail


def test_a_hand_on_resnet50_moves_any_of_its_groups(desks: Callable[..., DeskPage]) -> None:
    few = data_address("random", size=64)
    desk = desks(Workspace(new_token(), "torchvision/resnet50", data_source=few, criterion="weight-l2"))
    free = [name for name in desk.all_kept() if desk.bar(name).get_attribute("aria-disabled") == "false"]
    assert len(free) == 37
    one_drag(desk, free[-1])
    assert desk.cells()["accuracy"].detail == "Random weights"
