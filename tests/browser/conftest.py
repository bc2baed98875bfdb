"""A real server with a home of its own, and a real Chromium."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core import build_latency_table, job_key, open_subject
from core.keep.store import FILE_NAME, Store
from pages.components.work import FIRST_MODEL
from tests.browser.harness_page import HarnessPage
from tests.browser.waits import PATIENCE_S

ROOT = Path(__file__).parents[2]
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
START_S = 60


@dataclass(frozen=True)
class Server:
    """A running app: its address, its home folder, and how long it took to answer."""

    process: subprocess.Popen[bytes]
    address: str
    home: Path
    ready_s: float

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


HARNESS = Path(__file__).parent / "component_harness" / "app.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start_app(home: Path) -> Server:
    """``streamlit run app.py`` as ``make run`` does it, on a free port, keeping its work in ``home``."""
    return start_streamlit(ROOT / "app.py", home)


def start_streamlit(script: Path, home: Path) -> Server:
    """Any page under Streamlit. Raises RuntimeError with the end of its log when it does not answer."""
    port = free_port()
    log = home / "server.log"
    began = time.monotonic()
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless=true", f"--server.port={port}"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PRUNESCOPE_HOME": str(home)}, stdout=file, stderr=file
        )
    address = f"http://localhost:{port}"
    while time.monotonic() < began + START_S and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
            return Server(process, address, home, time.monotonic() - began)
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"The app did not answer within {START_S} s:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def chromium_at(path: str) -> Iterator[Any]:
    """A headless browser from the executable at ``path``."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=list(QUIET))
        yield running
        running.close()


def time_layers(home: Path) -> None:
    """Put a latency table of the first demo where the server looks for one: measured here and now, in few rounds. The
    server's own takes most of a minute, in which every story would stand still."""
    subject = open_subject(FIRST_MODEL)
    table = build_latency_table(subject.trace, points=2, repeats=1, max_seconds=1.0)
    store = Store(home / FILE_NAME)
    store.put_result("latency_table", job_key("latency_table", subject), table.to_dict())
    store.close()


@pytest.fixture(scope="package")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all stories, as one server has many visitors: every test works under a link of its own."""
    home = tmp_path_factory.mktemp("home")
    time_layers(home)
    server = start_app(home)
    yield server
    server.stop()


@pytest.fixture(scope="package")
def visitor(chromium: str) -> Iterator[Any]:
    """A browser; contexts of its own are newcomers."""
    with chromium_at(chromium) as running:
        yield running


class Tabs:
    """Lends tabs. One that was given back is lent again: its process has the app's scripts at hand, and a page opens
    in a third of the time. Nothing of the former page is left, as after a reload."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.contexts: dict[str, Any] = {}
        self.idle: dict[str, list[Any]] = {}

    def __call__(self, **options: Any) -> Any:
        """A tab with these options of a browser context."""
        look = {"viewport": {"width": 1400, "height": 1000}, "color_scheme": "light", "reduced_motion": "no-preference"}
        look |= {name: options.pop(name) for name in list(options) if name in look}
        name = repr(sorted(options.items()))
        if name not in self.contexts:
            self.contexts[name] = self.browser.new_context(accept_downloads=True, **options)
        idle = self.idle.setdefault(name, [])
        page = idle.pop() if idle else self.contexts[name].new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.set_viewport_size(look.pop("viewport"))
        page.emulate_media(**look)
        return page

    def give_back(self, page: Any) -> None:
        page.goto("about:blank")
        page.mouse.move(0, 0)
        name = next(name for name, context in self.contexts.items() if context == page.context)
        self.idle[name].append(page)

    def close(self) -> None:
        for context in self.contexts.values():
            context.close()


@pytest.fixture(scope="package")
def tabs(visitor: Any) -> Iterator[Tabs]:
    """Lends tabs, all of one visitor's browser; who takes one gives it back."""
    lent = Tabs(visitor)
    yield lent
    lent.close()


@pytest.fixture(scope="package")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page with made-up rows that drives the components alone."""
    server = start_streamlit(HARNESS, tmp_path_factory.mktemp("harness"))
    yield server
    server.stop()


@pytest.fixture
def open_desk(tabs: Tabs, harness: Server) -> Iterator[Callable[..., HarnessPage]]:
    """Opens the harness with a query; any option of a browser context."""
    opened: list[HarnessPage] = []

    def open_one(query: str = "", **options: Any) -> HarnessPage:
        page = tabs(**{"viewport": {"width": 1400, "height": 900}, **options})
        opened.append(HarnessPage(page, harness.address, query))
        return opened[-1]

    yield open_one
    for desk in opened:
        assert desk.faults == []
        tabs.give_back(desk.page)
