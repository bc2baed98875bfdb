"""What was timed since a latency table was made: every measured plan makes the next predictions better."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from core.errors import CoreError
from core.keep.recent import Recent
from core.keep.store import Store, StoreError
from core.measure.cost.lookup import corrected
from core.measure.cost.tables import LatencyTable
from core.measure.cost.wall import Timing
from core.records import Latency, Plan, Trace

log = logging.getLogger(__name__)
KIND = "timings"  # in the store, under the key of the latency table
KEPT = 8  # the newest say most
TABLES_KEPT = 8  # corrected tables, for everybody
FRESH_S = 1.0  # what another process timed may be noticed so late
_tables: Recent[LatencyTable] = Recent(TABLES_KEPT)
_looked: dict[tuple[Path, str], tuple[float, LatencyTable, LatencyTable]] = {}  # when, at which table, what came of it
_lock = threading.Lock()


def note_timing(store: Store, key: str, trace: Trace, plan: Plan, times: Sequence[Latency]) -> None:
    """Remember that the network of ``plan`` was timed. times: dense network first, pruned last; one = the dense alone.

    key: of the network's latency table. That it cannot be kept is no reason to fail: it is only written to the log.
    """
    dense, pruned = times[0], times[-1]
    _looked.pop((store.path, key), None)
    widths = {name: len(kept) for name, kept in plan.kept.items() if len(kept) < trace.group(name).units}
    about = (dense.repeats, dense.threads, dense.batch, dense.device, datetime.now(UTC).isoformat(timespec="seconds"))
    found = Timing(widths, pruned.median_ms, dense.median_ms, dense.low_ms, dense.high_ms, *about)
    try:
        older = store.result(KIND, key)
        store.put_result(KIND, key, [*(older if isinstance(older, list) else []), asdict(found)][-KEPT:])
    except StoreError as error:
        log.warning("%s", error)


def newest_table(store: Store, key: str, trace: Trace, table: LatencyTable) -> LatencyTable:
    """``table`` corrected by what was timed since it was made: see ``corrected``. What cannot be read is left out."""
    seen, now = _looked.get((store.path, key)), time.monotonic()
    if seen is not None and seen[1] is table and now - seen[0] < FRESH_S:
        return seen[2]
    found = _corrected(store, key, trace, table)
    with _lock:
        if len(_looked) >= TABLES_KEPT:
            _looked.clear()
        _looked[store.path, key] = (now, table, found)
    return found


def _corrected(store: Store, key: str, trace: Trace, table: LatencyTable) -> LatencyTable:
    notes = store.result(KIND, key) or []
    made = table.wall.when if table.wall is not None else ""
    notes = [note for note in notes if isinstance(note, dict) and str(note.get("when", "")) >= made]
    name = (key, made, table.knots, *((note["when"], note.get("plan_ms")) for note in notes))

    def make() -> LatencyTable:
        try:
            return corrected(trace, table, [Timing.from_dict(note) for note in notes])
        except CoreError as error:
            log.warning("%s", error)
            return table

    return _tables.get(name, make)
