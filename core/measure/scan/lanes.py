"""Independent runs side by side, one processor core each.

Convolutions on small maps and few channels gain little from more threads inside of them; whole runs do, because they
have nothing to tell each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor

from core.trace.modes import leave_to_others

What = TypeVar("What")
AHEAD = 2  # runs that wait, per lane: their inputs stay in memory


class Lanes(Generic[What]):
    """``count`` runs at a time; 1 = all in the caller's own thread, as they come. Use in a ``with`` statement, which
    leaves no thread behind."""

    def __init__(self, count: int) -> None:
        self.count, self._threads = count, count
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[What, Future[Tensor]]] = deque()

    def __enter__(self) -> Lanes[What]:
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count, initializer=_alone)
            self._threads = torch.get_num_threads()
            for ready in [self._pool.submit(torch.get_num_threads) for _ in range(self.count)]:
                ready.result()
            torch.set_num_threads(self._threads)
            leave_to_others(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For work of the caller's own beside the runs: on one thread, because several would wait for each other in
        busy loops, on cores that the runs need."""
        if self._pool is None or self._threads == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(self._threads)

    def put(self, what: What, run: Callable[[], Tensor]) -> Iterator[tuple[What, Tensor]]:
        """Begin ``run`` and give what is ready by now, in the order in which it was put."""
        if self._pool is None:
            yield what, run()
            return
        self._waiting.append((what, self._pool.submit(run)))
        while len(self._waiting) > self.count * AHEAD or (self._waiting and self._waiting[0][1].done()):
            yield self._next()

    def rest(self) -> Iterator[tuple[What, Tensor]]:
        """Everything that was put and not given yet."""
        while self._waiting:
            yield self._next()

    def drop(self) -> None:
        """Leave out what has not begun."""
        self._waiting = deque(pair for pair in self._waiting if not pair[1].cancel())

    def do(self, run: Callable[[], object]) -> None:
        """Run something that the caller waits for."""
        if self._pool is None:
            run()
        else:
            self._pool.submit(run).result()

    def _next(self) -> tuple[What, Tensor]:
        what, future = self._waiting.popleft()
        return what, future.result()


def _alone() -> None:
    torch.set_num_threads(1)
