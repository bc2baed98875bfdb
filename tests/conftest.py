"""What every test shares: one seed, one Chromium, and no silent gaps in continuous integration."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sharing import Shares, place_of

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
# Networks this small are fastest on one thread, and what is measured must not depend on the machine's cores.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """PRUNESCOPE_CHROMIUM if set, else the first browser on the path."""
    chosen = os.environ.get("PRUNESCOPE_CHROMIUM")
    return chosen or next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def pytest_sessionstart(session: pytest.Session) -> None:
    if IN_CI and find_chromium() is None:
        raise pytest.UsageError("CI=true and no Chromium: browser tests would be skipped. Run .ci/run or install it.")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """What is collected and imported stays: looking through it for garbage would take a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shares:
    config.option.loadscopereorder = False
    return Shares(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a browser test that skips is a failure: nothing else would drive the interface."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("browser"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped although CI=true: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium that Playwright can drive; skips with the remedy where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium found: install it (Debian: apt install chromium) or set PRUNESCOPE_CHROMIUM")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.default_generator.manual_seed(0)  # torch.manual_seed also notes a stack per kind of device: 2 ms
