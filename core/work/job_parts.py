"""What a long job had found when the server or its worker died: kept in the store, so that it goes on from there."""

from __future__ import annotations

import logging
import time
from typing import Any

from core.keep.store import Store, StoreError

log = logging.getLogger(__name__)
EVERY_S = 2.0  # between two writes of one job's part
PREFIX = "part-"  # of the kind under which parts lie beside results


class Parts:
    """Parts by verb and key. Nothing here raises: a part that cannot be kept costs time, no more."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._written: dict[tuple[str, str], float] = {}

    def known(self, verb: str, key: str | None) -> Any:
        """The newest part, or None."""
        if self._store is None or key is None:
            return None
        try:
            return self._store.result(PREFIX + verb, key)
        except StoreError as error:
            log.warning("%s", error)
            return None

    def keep(self, verb: str, key: str | None, part: Any, *, last: bool = False) -> None:
        """Write ``part`` unless one was written a moment ago; ``last``: in any case."""
        if self._store is None or key is None or part is None:
            return
        now = time.monotonic()
        if not last and now - self._written.get((verb, key), -EVERY_S) < EVERY_S:
            return
        self._written[verb, key] = now
        try:
            self._store.put_result(PREFIX + verb, key, part)
        except StoreError as error:
            log.warning("%s", error)

    def drop(self, verb: str, key: str | None) -> None:
        """The whole is there, or the part was of no use."""
        if self._store is None or key is None:
            return
        self._written.pop((verb, key), None)
        try:
            self._store.drop_result(PREFIX + verb, key)
        except StoreError as error:
            log.warning("%s", error)
