"""Pictures to take away: what a component draws, as PNG and as SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from core import open_subject
from core.keep.workspace import Workspace, new_token
from tests.browser.conftest import Server, Tabs
from tests.browser.harness_page import HarnessPage
from tests.browser.test_stories import keep

pytestmark = pytest.mark.browser
SVG = "{http://www.w3.org/2000/svg}"


def taken(page: Any, folder: Path, within: str = "body") -> Path:
    """Press the button that saves a picture; the file."""
    with page.expect_download() as waiting:
        page.locator(within).get_by_role("button", name="Picture").click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def texts(path: Path) -> list[str]:
    return [node.text or "" for node in ElementTree.parse(path).iter(f"{SVG}text")]


@pytest.mark.parametrize("part", ["", "heatmap"])
def test_bars_and_heatmap_are_saved_with_every_name(
    open_desk: Callable[..., HarnessPage], tmp_path: Path, part: str
) -> None:
    svg = taken(open_desk(f"n=12&start=mixed&picture=svg&part={part}").page, tmp_path)
    assert svg.suffix == ".svg"
    said = texts(svg)
    assert {f"features.{3 * number}" for number in range(12)} <= set(said), "also what is out of sight"
    tree = ElementTree.parse(svg)
    if part:
        assert len(list(tree.iter(f"{SVG}image"))) == 12 and "Taylor importance, loss change, squared" in said
    else:
        assert {"0 %", "100 %", "of 64", "locked"} <= set(said)
        assert len(list(tree.iter(f"{SVG}rect"))) > 3 * 11
    png = taken(open_desk(f"n=12&start=mixed&part={part}").page, tmp_path)
    with Image.open(png) as picture:
        width, height = (round(2 * float(tree.getroot().attrib[name])) for name in ("width", "height"))
        assert picture.size == pytest.approx((width, height), abs=40)
        # As one number per pixel: to sort rows of three takes twenty times as long.
        assert len(np.unique(np.asarray(picture.convert("RGBA")).view(np.uint32))) > 20


def test_the_whole_network_is_saved_however_much_is_in_sight(app: Server, tabs: Tabs, tmp_path: Path) -> None:
    trace = open_subject("demo/digits-resnet").trace
    record = Workspace(
        new_token(),
        "demo/digits-resnet",
        criterion="weight-l2",
        removed={trace.prunable[0].id: 5},
        choices={"picture_format": "svg"},
    )
    page = tabs()
    page.goto(f"{app.address}/Channels?w={keep(app.home, record)}")
    page.locator(".network .map").wait_for()
    page.wait_for_function("() => document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'running'")
    page.get_by_role("button", name="Zoom in").click()
    path = taken(page, tmp_path, ".network")
    said = texts(path)
    assert "Map of digits-resnet" in said and "locked" in said
    first = trace.prunable[0]
    assert any(text.endswith(f"→ {first.units - 5}") for text in said), "the plan's widths"
    bars = len(list(ElementTree.parse(path).iter(f"{SVG}rect")))
    assert bars > sum(len(group.layers) for group in trace.coupled)
    tabs.give_back(page)
