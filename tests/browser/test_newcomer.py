"""The story of a newcomer: open, drag, see, undo, export, take away; then the file does what the page said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Tabs
from tests.browser.desk_page import Cell, DeskPage
from tests.browser.waits import eventually

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# What somebody without Prunescope's pages does with the download: load it and count right answers.
FRESH = """
import json, sys
from core import evaluate_model, load_data, load_exported
module = load_exported(sys.argv[1])
data = load_data("digits")
parts = {part: evaluate_model(module, data.part(part)).value for part in ("selection", "report")}
print(json.dumps({**parts, "params": sum(p.numel() for p in module.parameters())}))
"""


@pytest.fixture
def desk(app: Any, tabs: Tabs) -> Iterator[DeskPage]:
    opened = DeskPage(tabs(), app.address)
    yield opened
    assert opened.faults == []
    tabs.give_back(opened.page)


def test_the_whole_path_from_the_first_page_to_a_file_that_works(desk: DeskPage, tmp_path: Path) -> None:
    page = desk.page
    page.goto(desk.address)
    page.get_by_role("heading", name="Overview", level=1).wait_for(timeout=120_000)  # a cold server imports first
    page.get_by_test_id("stSidebar").get_by_role("link", name="Tune").click()
    desk.wait_for_bars()
    begun = desk.wait_until(lambda seen: seen["accuracy"].settled and seen["latency"].mark == "measured")
    assert begun["macs"].mark == "exact" and begun["macs"].change.startswith("−"), "it opens with a proposed plan"
    proposed = desk.all_kept()

    group = "features.10"
    moving = grab_when_times_are_known(desk, group, 0.5)
    eventually(lambda: desk.kept(group) == 32)
    assert all(moving[name].value != cell.value for name, cell in begun.items())
    assert all(moving[name].mark == "estimated" for name in moving)
    page.mouse.up()
    released = desk.wait_until(lambda seen: seen["macs"].mark == "exact")
    assert released["macs"].value == moving["macs"].value, "the browser's sum is the exact one"
    assert released["latency"].mark in {"predicted", "measured"}
    measured = desk.wait_until(lambda seen: seen["accuracy"].settled and seen["latency"].mark == "measured")
    assert measured["accuracy"].value != begun["accuracy"].value
    assert re.search(r"95 %: [\d.]+ to [\d.]+ %\n360 selection images", measured["accuracy"].detail)
    assert re.search(r"thread", measured["latency"].detail)

    page.get_by_role("button", name="Undo").click()
    undone = desk.wait_until(lambda seen: seen["macs"].value == begun["macs"].value)
    assert undone["accuracy"].mark == "measured", "a plan that was measured before is not measured again"
    eventually(lambda: desk.all_kept() == proposed)
    desk.focus_bar(group)
    page.keyboard.press("Control+Shift+z")
    desk.wait_until(lambda seen: seen["macs"].value == released["macs"].value)
    eventually(lambda: desk.kept(group) == 32)

    page.get_by_test_id("stSidebar").get_by_role("link", name="Export").click()
    page.get_by_role("button", name="Export", exact=True).click()
    every = page.get_by_role("button", name=re.compile("Download all"))
    every.wait_for(timeout=180_000)
    with page.expect_download() as waiting:
        every.click()
    archive = tmp_path / "exported.zip"
    waiting.value.save_as(archive)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "exported")

    found = in_a_new_process(next((tmp_path / "exported").rglob("model.safetensors")).parent)
    assert f"{100 * found['selection']:.1f} %" == measured["accuracy"].value
    assert f"{found['params'] / 1000:.0f} k" == measured["params"].value
    shown = " ".join(page.get_by_test_id("stMain").locator("td").all_text_contents())
    assert f"{100 * found['report']:.1f} %" in shown, f"the export page shows the report accuracy: {shown}"


def grab_when_times_are_known(desk: DeskPage, group: str, share: float) -> dict[str, Cell]:
    """The headline under the hand. Until this machine's layers are timed, no latency can be foretold: try again."""
    limit = time.monotonic() + 120
    while True:
        desk.grab(group, share)
        seen = desk.cells()
        if seen["latency"].mark == "estimated":
            return seen
        assert time.monotonic() < limit, f"no latency was ever foretold: {seen}"
        desk.page.keyboard.press("Escape")
        desk.page.mouse.up()
        desk.page.wait_for_timeout(1000)


def in_a_new_process(folder: Path) -> dict[str, float]:
    ran = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    result: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return result


def test_a_reload_and_a_restart_of_the_page_lose_nothing(desk: DeskPage) -> None:
    desk.open()
    desk.wait_until(lambda seen: seen["macs"].mark == "exact")
    desk.drag("features.21", 0.6)
    desk.wait_until(lambda seen: seen["macs"].mark == "exact" and desk.kept("features.21") == 96)
    before = desk.all_kept()
    time.sleep(0.2)
    desk.page.reload()
    desk.wait_for_bars()
    assert desk.all_kept() == before
    desk.page.get_by_role("button", name="Undo").click()
    eventually(lambda: desk.kept("features.21") != 96)


def test_an_answer_in_mid_drag_moves_nothing_and_loses_nothing(desk: DeskPage) -> None:
    """While a plan is measured the page asks Python again and again; a hand on a bar must not feel it."""
    desk.open()
    desk.drag("features.24", 0.5)
    desk.grab("features.14", 0.7)
    held = desk.kept("features.14")
    for _ in range(30):
        desk.page.wait_for_timeout(100)
        assert desk.kept("features.14") == held
        assert desk.cells()["macs"].mark == "estimated"
    desk.page.mouse.up()
    desk.wait_until(lambda seen: seen["macs"].mark == "exact")
    assert desk.kept("features.14") == held and desk.kept("features.24") == 80


def test_ten_quick_drags_are_ten_steps_and_the_last_plan_is_the_one_measured(desk: DeskPage) -> None:
    desk.open()
    desk.wait_until(lambda seen: seen["macs"].mark == "exact")
    start = desk.all_kept()
    for turn in range(10):
        desk.drag("features.17", 0.95 - 0.05 * turn)
    assert desk.kept("features.17") == round(0.5 * 128)
    desk.wait_until(lambda seen: seen["accuracy"].settled and seen["macs"].mark == "exact")
    assert desk.kept("features.17") == round(0.5 * 128)
    for _ in range(10):
        before = desk.cells()["macs"].value
        desk.page.get_by_role("button", name="Undo").click()
        desk.wait_until(lambda seen, before=before: seen["macs"].value != before)
    eventually(lambda: desk.all_kept() == start)
