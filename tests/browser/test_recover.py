"""The story of a cut and its repair: half the MACs, the ladder, one rung kept; and the export carries it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from core import evaluate_model, load_data, load_exported
from tests.browser.conftest import Server, Tabs
from tests.browser.desk_page import DeskPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PATIENCE_MS = 300_000  # a busy machine may be slow; nothing here is a measurement


def rungs(page: Any) -> dict[str, str]:
    """What the picture says of each rung, by title."""
    written = page.locator(".js-plotly-plot .ytick text").evaluate_all(
        "texts => texts.map((text) => [...text.querySelectorAll('tspan.line')].map((line) => line.textContent))"
    )
    return {lines[0]: lines[1] for lines in written if len(lines) == 2}


def go(page: Any, title: str) -> None:
    page.get_by_test_id("stSidebar").get_by_role("link", name=title).click()
    page.get_by_role("heading", name=title, exact=True).wait_for()


def test_the_rung_that_is_kept_is_the_network_that_is_exported(app: Server, tabs: Tabs, tmp_path: Path) -> None:
    page = tabs(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(PATIENCE_MS)
    desk = DeskPage(page, app.address)
    desk.open()
    page.get_by_role("button", name="Start from a plan").click()
    page.get_by_role("button", name="Half the MACs").click()
    desk.wait_until(lambda seen: seen["macs"].change == "−50 %" and seen["macs"].mark == "exact")

    go(page, "Recover")
    page.get_by_role("combobox", name=re.compile("Fine-tune for")).click()
    page.get_by_role("option", name="without").click()
    page.get_by_role("button", name="Measure the ladder").click()
    page.locator(".ytick text", has_text=re.compile(r"^Least squares.* points$")).wait_for()
    page.get_by_role("button", name="Cancel").click()  # what stands by now is enough
    page.get_by_role("button", name="Go on").wait_for()
    shown = rungs(page)
    stand = [title for title in shown if "points" in shown[title]]
    assert stand[-3:] == ["Least squares", "Batch norm", "As cut"], shown  # one more may be done by the press
    page.get_by_role("radio", name="Least squares").or_(page.get_by_role("button", name="Least squares")).first.click()
    page.get_by_role("button", name="Keep this rung").click()
    page.get_by_text("Kept: Least squares").wait_for()
    accuracy = shown["Least squares"].partition(",")[0]
    page.locator(".headline .value").filter(has_text=accuracy).first.wait_for()

    go(page, "Export")
    page.get_by_text("Least squares.").first.wait_for()
    for name in ("ONNX", "PyTorch program"):
        page.get_by_role("button", name=re.compile(name)).first.click()
    page.get_by_role("button", name="Export", exact=True).click()
    every = page.get_by_role("button", name=re.compile("Download all"))
    every.wait_for()
    with page.expect_download() as waiting:
        every.click()
    archive = tmp_path / "exported.zip"
    waiting.value.save_as(archive)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "exported")
    folder = next((tmp_path / "exported").rglob("model.safetensors")).parent
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    assert "least-squares" in recipe["plan"]["origin"] and recipe["measurements"]["repair"] == "least-squares"
    found = evaluate_model(load_exported(folder), load_data("digits").part("selection"))
    assert f"{100 * found.value:.1f} %" == accuracy, "as the ladder said"
    assert desk.faults == []
    tabs.give_back(page)
