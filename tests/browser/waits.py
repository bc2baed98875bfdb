"""Waiting for what a busy machine shows late. The limits are generous: one costs nothing where the thing comes soon."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 120  # nothing here is a measurement
FRAMES = """() => new Promise((done) => {
  let left = 2;
  const next = () => (left-- ? requestAnimationFrame(next) : done());
  next();
})"""
AT_REST = "[data-testid=stApp][data-test-script-state=notRunning]"


def eventually(holds: Callable[[], Any], seconds: float = PATIENCE_S, told: Callable[[], Any] = lambda: "") -> None:
    """Look again until it holds; ``told()`` says what stood there instead."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"it never became so: {told()}"
        time.sleep(0.05)


def painted(page: Any) -> None:
    """What the hand did stands on the screen: bars are painted in the next frame, and what follows them in one more."""
    page.evaluate(FRAMES)
