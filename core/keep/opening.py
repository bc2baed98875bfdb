"""What takes long to open: made once for all who ask, in a thread where a page must not wait, and kept while in use."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from core.errors import Cancelled, CoreError

T = TypeVar("T")
log = logging.getLogger(__name__)
FAULT_KEPT_S = 10.0  # a page that asks again hears of the fault, not of a new attempt
AT_ONCE = 2  # in threads; the others wait for their turn


class Opening(Generic[T]):
    """One thing being opened. ``stage``: what is being done, in words. ``value``, or ``fault``, is there once it has
    ended."""

    def __init__(self) -> None:
        self.stage = "Waiting for its turn"
        self.value: T | None = None
        self.fault: BaseException | None = None
        self.wanted: set[Hashable] = set()  # who waits
        self._began = time.monotonic()
        self._ended: float | None = None
        self._over = threading.Event()

    @property
    def active(self) -> bool:
        return not self._over.is_set()

    @property
    def seconds(self) -> float:
        """How long it has taken until now, or took."""
        return (self._ended or time.monotonic()) - self._began

    @property
    def error(self) -> CoreError | None:
        """What went wrong, as a sentence for the user."""
        if self.fault is None or isinstance(self.fault, CoreError):
            return self.fault
        if isinstance(self.fault, MemoryError):
            return CoreError("There was not enough memory to open this network. Choose a smaller one.")
        return CoreError(
            "Something in Prunescope broke while it opened this network. What was open stays open; the details are in "
            "the log of the server."
        )

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has ended, at the latest after ``timeout_s``."""
        return self._over.wait(timeout_s)

    def tell(self, stage: str) -> None:
        """Called by who makes it, before every stage. Raises Cancelled when nobody waits any more."""
        if not self.wanted:
            raise Cancelled("Nobody waits for this any more.")
        self.stage = stage

    def end(self) -> None:
        self._ended = time.monotonic()
        self._over.set()

    def stale(self) -> bool:
        """Whether it ended long enough ago to be tried again."""
        return self._ended is not None and time.monotonic() - self._ended > FAULT_KEPT_S


class Openings(Generic[T]):
    """Openings by name. ``bytes_of``: what a value takes; the newest that fit into ``most_bytes`` are kept, at least
    ``least`` and at most ``most`` of them."""

    def __init__(self, bytes_of: Callable[[T], int], *, least: int, most: int, most_bytes: int) -> None:
        self._bytes_of, self._least, self._most, self._most_bytes = bytes_of, least, most, most_bytes
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._under_way: dict[Hashable, Opening[T]] = {}

    def get(self, name: Hashable, make: Callable[[Opening[T]], T]) -> T:
        """The value of that name: kept, or made now, here, or by who makes it already. What ``make`` raises passes
        through."""
        opening, own = self._join(name, object(), anew=True)
        if own:
            self._make(name, opening, make)
        opening.wait()
        if opening.value is None:
            raise opening.fault or CoreError("Opening this was cancelled. Open it again.")
        return opening.value

    def begin(self, name: Hashable, make: Callable[[Opening[T]], T], *, who: str, anew: bool = False) -> Opening[T]:
        """As ``get``, but returns at once, and a thread makes it. What failed a moment ago has failed, unless it shall
        be tried ``anew``. ``who`` does not wait any longer says so with ``leave``."""
        opening, own = self._join(name, who, anew=anew)
        if own:
            threading.Thread(target=self._in_turn, args=(name, opening, make), daemon=True, name="opening").start()
        return opening

    def leave(self, opening: Opening[T], who: str) -> None:
        """``who`` does not wait any more. When nobody does, it ends before its next stage and nothing is kept."""
        with self._lock:
            opening.wanted.discard(who)

    def _join(self, name: Hashable, who: Hashable, *, anew: bool) -> tuple[Opening[T], bool]:
        """The opening of that name, and whether the caller has to make it."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                ready: Opening[T] = Opening()
                ready.value = self._kept[name]
                ready.end()
                return ready, False
            found = self._under_way.get(name)
            if found is not None and (found.active or not (anew or found.stale())):
                found.wanted.add(who)
                return found, False
            fresh = self._under_way[name] = Opening[T]()
            fresh.wanted.add(who)
            return fresh, True

    def _in_turn(self, name: Hashable, opening: Opening[T], make: Callable[[Opening[T]], T]) -> None:
        with self._turns:
            self._make(name, opening, make)

    def _make(self, name: Hashable, opening: Opening[T], make: Callable[[Opening[T]], T]) -> None:
        try:
            opening.value = make(opening)
        except BaseException as fault:  # raised again by who waits for it, or told on the page
            opening.fault = fault
            if not isinstance(fault, CoreError):
                log.warning("opening failed", exc_info=True)
        with self._lock:
            if self._under_way.get(name) is opening and not _worth_telling(opening.fault):
                del self._under_way[name]
            if opening.value is not None and opening.wanted:
                self._keep(name, opening.value)
        opening.end()

    def _keep(self, name: Hashable, value: T) -> None:
        self._kept[name] = value
        while len(self._kept) > self._least and (len(self._kept) > self._most or self._bytes() > self._most_bytes):
            self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(self._bytes_of(value) for value in self._kept.values())


def _worth_telling(fault: BaseException | None) -> bool:
    return isinstance(fault, Exception) and not isinstance(fault, Cancelled)
