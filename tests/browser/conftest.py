"""A real server with a home of its own, and a real Chromium."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start_app(home: Path) -> Server:
    """``streamlit run app.py`` as ``make run`` does it, on a free port, keeping its work in ``home``.

    Raises RuntimeError with the end of its log when it does not answer.
    """
    port = free_port()
    log = home / "server.log"
    began = time.monotonic()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"]
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


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_app(tmp_path_factory.mktemp("home"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def visitor(chromium: str) -> Iterator[Any]:
    """A browser whose pages see the app as a newcomer does."""
    with chromium_at(chromium) as running:
        yield running
