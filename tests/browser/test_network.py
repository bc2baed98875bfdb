"""The network map under a real mouse and keyboard, on the page Channels of a network with shortcuts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core import draw_network, open_subject
from core.keep.store import FILE_NAME, Store
from core.keep.workspace import Workspace, new_token
from tests.browser.conftest import Tabs
from tests.browser.waits import AT_REST, PATIENCE_S, eventually, painted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
MODEL = "demo/digits-resnet"
# Feels its way over the canvas until the map says it is on the layer.
FIND = """(canvas, layer) => {
  const box = canvas.getBoundingClientRect();
  for (let y = box.top + 6; y < box.bottom; y += 6) for (let x = box.left + 6; x < box.right; x += 8) {
    canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: x, clientY: y, pointerType: 'mouse' }));
    if (canvas.closest('.network').dataset.hover === layer) return [x, y];
  }
}"""
# How far the page can still be scrolled down.
BELOW = """() => {
  const main = document.querySelector('[data-testid=stMain]');
  return main.scrollHeight - main.clientHeight - main.scrollTop;
}"""


class Map:
    """The map in one tab. ``facts``: what it says of itself; ``faults``: what went wrong in its scripts."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(address)
        self.canvas = page.locator(".network .map")
        self.canvas.wait_for()
        self.canvas.scroll_into_view_if_needed()
        self.wait(lambda facts: facts.get("selected"))

    @property
    def facts(self) -> dict[str, str]:
        return dict(self.page.locator(".network").evaluate("node => ({...node.dataset})"))

    @property
    def zoom(self) -> float:
        return float(self.facts["zoom"])

    def wait(self, holds: Callable[[dict[str, str]], Any], seconds: float = PATIENCE_S) -> dict[str, str]:
        limit = time.monotonic() + seconds
        while not holds(facts := self.facts):
            assert time.monotonic() < limit, f"it never became so: {facts}"
            self.page.wait_for_timeout(30)
        return facts

    def pixels(self) -> str:
        painted(self.page)
        return str(self.canvas.evaluate("node => node.toDataURL()"))

    def picture(self) -> str:
        """All pixels, once they have come to rest."""
        before, now = "", self.pixels()
        limit = time.monotonic() + PATIENCE_S
        while now != before:
            assert time.monotonic() < limit, "it never came to rest"
            self.page.wait_for_timeout(200)
            before, now = now, self.pixels()
        return now

    def wheel(self, down: float) -> None:
        """Turn the wheel over the map when the page has come to rest: while it scrolls, the map lets it go on."""
        box = self.canvas.bounding_box()
        self.page.mouse.move(box["x"] + 200, box["y"] + 100)
        self.page.locator(AT_REST).wait_for()
        self.page.wait_for_timeout(400)
        self.page.mouse.wheel(0, down)

    def point_at(self, layer: str) -> tuple[float, float]:
        """Move the mouse onto ``layer``, wherever it is drawn; where that is."""
        place = self.canvas.evaluate(FIND, layer)
        assert place, f"{layer} is nowhere under the mouse"
        self.page.mouse.move(*place)
        self.wait(lambda facts: facts["hover"] == layer)
        return float(place[0]), float(place[1])

    def wait_page_shows(self, group: str) -> None:
        """The page's own menu of groups stands on it: Python heard."""
        menu = self.page.get_by_label("Group", exact=True).first
        eventually(lambda: menu.input_value() == group, told=menu.input_value)

    def tip(self) -> str:
        return str(self.page.locator(".network .tip.shown").inner_text())


@pytest.fixture
def network(app: Any, tabs: Tabs) -> Iterator[Callable[..., Map]]:
    """Opens the map of a network under the plan that a workspace holds; any option of a browser context."""
    opened: list[Map] = []

    def open_one(removed: dict[str, int] | None = None, model: str = MODEL, **options: Any) -> Map:
        data = "" if model == MODEL else "random"
        record = Workspace(
            new_token(), model_source=model, data_source=data, criterion="weight-l2", removed=removed or {}
        )
        store = Store(app.home / FILE_NAME)
        store.save_workspace(record.token, record.to_json(), 0)
        store.close()
        opened.append(Map(tabs(**options), f"{app.address}/Channels?w={record.token}"))
        return opened[-1]

    yield open_one
    for one in opened:
        assert one.faults == []
        tabs.give_back(one.page)


def test_pointing_at_a_layer_lights_its_group_and_tells_of_it(network: Callable[..., Map]) -> None:
    trace = open_subject(MODEL).trace
    group = next(group for group in trace.prunable if len(group.layers) == 3)
    one = network(removed={group.id: 9})
    at_rest = one.picture()
    one.point_at(group.layers[1])
    eventually(lambda: one.pixels() != at_rest)
    told = one.tip()
    assert f"{group.units} → {group.units - 9} channels" in told
    assert f"{group.units - 9} of {group.units}" in told
    assert all(layer in told for layer in group.layers) and "MACs" in told
    readout = one.page.locator(".network .readout").inner_text()
    assert group.layers[1] in readout and "(3 layers)" in readout
    one.page.mouse.move(5, 5)
    one.wait(lambda facts: not facts["hover"])
    eventually(lambda: one.pixels() == at_rest)


def test_a_locked_layer_says_why(network: Callable[..., Map]) -> None:
    one = network()
    x, y = one.point_at("classifier")
    assert "Locked: feeds the output" in one.tip()
    one.page.mouse.click(x, y)
    one.wait(lambda facts: facts["selected"] == "classifier")
    one.page.wait_for_timeout(500)
    one.wait_page_shows(open_subject(MODEL).trace.prunable[0].name)


def test_a_click_selects_the_group_everywhere(network: Callable[..., Map]) -> None:
    group = [group for group in open_subject(MODEL).trace.prunable if len(group.layers) == 3][-1]
    one = network()
    assert one.facts["selected"] != group.id
    x, y = one.point_at(group.layers[2])
    one.page.mouse.click(x, y)
    one.wait(lambda facts: facts["selected"] == group.id)
    one.wait_page_shows(group.name)
    again = Map(one.page, one.page.url)
    assert again.facts["selected"] == group.id, "the workspace remembers it"


def test_the_map_follows_a_selection_made_elsewhere(network: Callable[..., Map]) -> None:
    group = open_subject(MODEL).trace.prunable[3]
    one = network()
    one.page.get_by_label("Group", exact=True).first.click()
    one.page.keyboard.type(group.name)
    best = one.page.get_by_role("option").first
    eventually(lambda: best.inner_text() == group.name, told=best.inner_text)
    one.page.keyboard.press("Enter")
    one.wait(lambda facts: facts["selected"] == group.id)


def test_wheel_buttons_and_keys_zoom_and_dragging_pans(network: Callable[..., Map]) -> None:
    one = network()
    fitted, far = one.zoom, one.picture()
    one.wheel(-400)
    near = float(one.wait(lambda facts: float(facts["zoom"]) > 1.2 * fitted)["zoom"])
    one.page.get_by_role("button", name="Zoom in").click()
    one.wait(lambda facts: float(facts["zoom"]) > 1.2 * near)
    one.page.locator(".network .mini").wait_for()  # a part is out of sight: the overview is there
    before, box = one.picture(), one.canvas.bounding_box()
    one.page.mouse.move(box["x"] + 600, box["y"] + 120)
    one.page.mouse.down()
    one.page.mouse.move(box["x"] + 300, box["y"] + 120, steps=6)
    one.page.mouse.up()
    eventually(lambda: one.pixels() != before)
    one.canvas.focus()
    one.page.keyboard.press("0")
    one.wait(lambda facts: float(facts["zoom"]) == fitted)
    one.page.mouse.move(5, 5)
    eventually(lambda: one.pixels() == far and not one.page.locator(".network .mini").is_visible())
    one.page.keyboard.press("+")
    one.wait(lambda facts: float(facts["zoom"]) > fitted)


def test_scrolling_the_page_over_the_map_goes_on(network: Callable[..., Map]) -> None:
    one = network()
    eventually(lambda: one.page.evaluate(BELOW) > 300)  # the map stands long before what is below it
    begun, zoom = one.canvas.bounding_box()["y"], one.zoom
    one.wheel(300)
    eventually(lambda: one.canvas.bounding_box()["y"] < begun - 100)  # the whole is in view: no zooming out
    assert one.zoom == zoom


def test_search_jumps_to_a_layer(network: Callable[..., Map]) -> None:
    one = network()
    fitted = one.zoom
    field = one.page.get_by_role("combobox", name="Find a layer")
    field.fill("3.1.conv")
    hits = one.page.locator(".network .found li")
    eventually(
        lambda: [hit[:14] for hit in hits.all_inner_texts()] == ["stage3.1.conv1", "stage3.1.conv2"],
        told=hits.all_inner_texts,
    )
    one.page.keyboard.press("ArrowDown")
    one.page.keyboard.press("Enter")
    one.wait(lambda facts: facts["hover"] == "stage3.1.conv2" and float(facts["zoom"]) > fitted)
    assert one.tip().startswith("stage3.1.conv2")
    field.fill("no such layer")
    one.page.locator(".network .found", has_text="No layer").wait_for()


def test_everything_works_from_the_keyboard(network: Callable[..., Map]) -> None:
    picture = draw_network(open_subject(MODEL).trace)
    names = [node.name for node in picture.layers]
    one = network()
    one.canvas.focus()
    one.page.keyboard.press("ArrowRight")
    one.wait(lambda facts: facts["hover"] == names[0])
    one.page.keyboard.press("End")
    one.wait(lambda facts: facts["hover"] == "classifier")
    one.page.keyboard.press("Escape")
    one.wait(lambda facts: not facts["hover"])
    for group in picture.groups[:3]:
        one.canvas.focus()
        one.page.keyboard.press("Tab")
        if group is picture.groups[0]:  # after Escape one Tab leaves
            one.page.wait_for_timeout(100)
            assert not one.facts["hover"]
            one.canvas.focus()
            one.page.keyboard.press("Tab")
        one.wait(lambda facts, group=group: facts["hover"] == picture.nodes[group.nodes[0]].name)
    one.page.keyboard.press("Enter")
    one.wait(lambda facts: facts["selected"] == picture.groups[2].id)
    one.wait_page_shows(picture.groups[2].name)


def test_a_phone_sees_all_of_it_and_a_finger_zooms(network: Callable[..., Map]) -> None:
    one = network(viewport={"width": 390, "height": 844}, has_touch=True)
    assert int(one.facts["lines"]) > 1, "a narrow view breaks the network into lines"
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    fitted = one.zoom
    box = one.canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + min(box["height"], 844 - box["y"]) / 2)
    driver = one.page.context.new_cdp_session(one.page)
    for kind, apart in (("touchStart", 20), ("touchMove", 60), ("touchMove", 120), ("touchEnd", 0)):
        fingers = [{"x": middle[0] + sign * apart, "y": middle[1], "id": sign + 1} for sign in (-1, 1)]
        driver.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers if apart else []})
        one.page.wait_for_timeout(50)
    one.wait(lambda facts: float(facts["zoom"]) > 1.5 * fitted)


def test_full_screen_draws_anew_and_comes_back(network: Callable[..., Map]) -> None:
    one = network()
    fitted = one.zoom
    button = one.page.get_by_role("button", name="Full screen")
    button.click()
    one.wait(lambda facts: float(facts["zoom"]) > 1.1 * fitted)
    stretched = "node => [node.width / node.clientWidth, node.height / node.clientHeight]"
    even = pytest.approx([1, 1], abs=0.01)
    eventually(lambda: one.canvas.evaluate(stretched) == even, told=lambda: one.canvas.evaluate(stretched))
    button.click()
    one.wait(lambda facts: float(facts["zoom"]) == fitted)


def test_two_hundred_layers_fill_several_lines(network: Callable[..., Map]) -> None:
    one = network(model="torchvision/densenet201")
    assert int(one.facts["lines"]) > 3


def test_attention_heads_are_counted_as_units(network: Callable[..., Map]) -> None:
    one = network(model="torchvision/vit_b_32")
    one.page.locator(".network input").fill("encoder_layer_0.self_attention")
    one.page.keyboard.press("Enter")
    one.wait(lambda facts: "encoder_layer_0.self_attention" in facts["selected"])
    one.page.locator(".network .readout", has_text="12 units").wait_for()
