"""Latency tables of other devices: one for each network and workspace, beside what this machine measured."""

from __future__ import annotations

import threading
from collections import OrderedDict

from core.errors import MeasureError
from core.keep.store import open_store
from core.keep.subject import Subject, digest
from core.measure.cost.tables import LatencyTable

KIND = "device_table"
READ = 8  # tables kept as records, for everybody
_read: OrderedDict[str, LatencyTable] = OrderedDict()
_lock = threading.Lock()


def keep_device_table(subject: Subject, owner: str, here: LatencyTable, text: bytes, device: str) -> LatencyTable:
    """Read a CSV of times taken on ``device`` and keep it for ``owner``; replaces the one kept before.

    here: a table of the same network measured on this machine. Raises MeasureError with the line when it does not fit.
    """
    try:
        found = here.from_csv(text.decode("utf-8-sig"), device)
    except UnicodeDecodeError as error:
        raise MeasureError(
            "Expected a latency CSV as text in UTF-8; found other bytes. Save it as CSV (UTF-8)."
        ) from error
    open_store().put_result(KIND, _key(subject, owner), found.to_dict())
    _remember(_key(subject, owner), found)
    return found


def device_table(subject: Subject, owner: str) -> LatencyTable | None:
    """The imported table; None when there is none. Raises MeasureError when the stored one cannot be read."""
    key = _key(subject, owner)
    with _lock:
        if key in _read:
            return _read[key]
    found = open_store().result(KIND, key)
    if found is None:
        return None
    table = LatencyTable.from_dict(found)
    _remember(key, table)
    return table


def drop_device_table(subject: Subject, owner: str) -> None:
    """Forget the imported table."""
    with _lock:
        _read.pop(_key(subject, owner), None)
    open_store().drop_result(KIND, _key(subject, owner))


def _remember(key: str, table: LatencyTable) -> None:
    with _lock:
        _read[key] = table
        while len(_read) > READ:
            _read.popitem(last=False)


def _key(subject: Subject, owner: str) -> str:
    return f"{KIND}-{digest(subject.key, owner)}"
