"""Every page once: axe finds nothing serious in light or dark, and nothing sticks out of a narrow screen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import Server, Tabs
from tests.browser.desk_page import DeskPage
from tests.browser.waits import AT_REST, eventually, painted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
TITLES = ("Overview", "Model", "Channels", "Sensitivity", "Tune", "Recover", "Compare", "Export", "Learn")
VIOLATIONS = {"resultTypes": ["violations"]}  # what passes need not be listed
COLOURS = {**VIOLATIONS, "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
NARROW = {"width": 400, "height": 900}
# What moves comes to rest, and charts are drawn after the script has ended.
# What is held, or turns for ever, never ends.
MOVING = """() => document.getAnimations().filter((one) =>
  one.playState === 'running' && Number.isFinite(one.effect.getComputedTiming().endTime)).length"""
OWN_PAGE = """() => [...document.querySelectorAll('[data-testid=stMain] *')].filter((node) => {
  const style = getComputedStyle(node), box = node.getBoundingClientRect();
  return box.width && style.position !== 'fixed' && box.right > innerWidth + 1 && !hidden(node);
  function hidden(one) {
    for (let at = one.parentElement; at; at = at.parentElement)
      if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(at).overflowX)
          && at.dataset.testid !== 'stMain' && at.getBoundingClientRect().right <= innerWidth + 1) return true;
    return false;
  }
}).slice(0, 3).map((node) => node.outerHTML.slice(0, 120))"""


def come_to_rest(page: Any) -> None:
    page.evaluate("document.fonts.ready.then(() => 0)")
    eventually(lambda: (painted(page), not page.evaluate(MOVING))[1], told=lambda: page.evaluate(MOVING))


def serious(page: Any, options: dict[str, Any] = VIOLATIONS) -> list[tuple[str, Any, str]]:
    """What axe calls serious or critical on the page as it stands."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page, options=options).response["violations"]
    bad = [one for one in found if one["impact"] in ("serious", "critical")]
    return [(one["id"], node["target"], node["failureSummary"]) for one in bad for node in one["nodes"]]


def test_every_page_is_accessible_and_fits_a_phone(app: Server, tabs: Tabs) -> None:
    page = tabs(color_scheme="light")
    desk = DeskPage(page, app.address)
    desk.open()
    desk.wait_until(lambda seen: seen["accuracy"].settled)  # so that every page has something to show
    found: dict[str, Any] = {}
    for title in TITLES:
        page.get_by_test_id("stSidebar").get_by_role("link", name=title, exact=False).first.click()
        page.get_by_role("heading", name=title, level=1).wait_for()
        page.locator(AT_REST).wait_for()
        come_to_rest(page)
        found[f"{title}, light"] = serious(page)
        page.emulate_media(color_scheme="dark")
        come_to_rest(page)
        found[f"{title}, dark"] = serious(page, COLOURS)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(NARROW)
        come_to_rest(page)
        found[f"{title}, narrow"] = page.evaluate(OWN_PAGE)
        page.set_viewport_size({"width": 1400, "height": 1000})
    assert {where: what for where, what in found.items() if what} == {}
    assert desk.faults == []
    tabs.give_back(page)
