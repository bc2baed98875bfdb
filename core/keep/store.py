"""What must survive a restart: measured results by content, workspaces by token, classes by code. One SQLite file.

Measured values go in as JSON, compressed, and come out as the same JSON; nothing is ever unpickled. Every call is one
short transaction, so several threads and processes may share the file (WAL mode). ``synchronous=NORMAL``: a crash of
the program loses nothing that was saved; a power cut may lose the last moments but never damages the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from core.config import HOME_VARIABLE, home_folder
from core.errors import CoreError

T = TypeVar("T")
log = logging.getLogger(__name__)

# The layout's version is part of the name: a later layout begins its own file and leaves this one readable.
FILE_NAME = "store-1.sqlite"
MAX_RESULT_BYTES = 256 * 2**20
MAX_WORKSPACE_BYTES = 8 * 2**20
MAX_WORKSPACES = 10_000
BUSY_S = 10.0
FRESH_S, FRESH_KEPT = 0.25, 4096  # what this process looked up a moment ago; what it wrote itself it knows at once
WORKSPACE = "workspace"  # among what was looked up: a token's revision
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
TABLES = """
CREATE TABLE IF NOT EXISTS results (
    kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, created REAL NOT NULL, PRIMARY KEY (kind, key));
CREATE TABLE IF NOT EXISTS workspaces (
    token TEXT PRIMARY KEY, state BLOB NOT NULL, revision INTEGER NOT NULL, updated REAL NOT NULL);
CREATE INDEX IF NOT EXISTS results_by_age ON results (created);
CREATE TABLE IF NOT EXISTS classes (
    code TEXT PRIMARY KEY, key_hash TEXT NOT NULL, task TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    closed INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS class_members (
    code TEXT NOT NULL, who TEXT NOT NULL, name TEXT NOT NULL, name_key TEXT NOT NULL,
    PRIMARY KEY (code, who), UNIQUE (code, name_key));
CREATE TABLE IF NOT EXISTS class_plans (
    number INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT NOT NULL, who TEXT NOT NULL, plan TEXT NOT NULL,
    told TEXT NOT NULL, made REAL NOT NULL, UNIQUE (code, who, plan));
"""
# What a person made and nothing can measure again: carried over from a damaged file, column by column.
MADE = {
    "workspaces": "token, state, revision, updated",
    "classes": "code, key_hash, task, created, used, closed, version",
    "class_members": "code, who, name, name_key",
    "class_plans": "number, code, who, plan, told, made",
}


class StoreError(CoreError):
    """Saved work could not be read or written."""


class Conflict(StoreError):  # noqa: N818 - a request to look again, not a fault
    """The workspace was changed elsewhere since it was read; read it again and repeat the change."""


class Store:
    """Results and workspaces in the SQLite file ``path``, which is made when missing.

    A damaged file is moved aside (``notice`` then says so, in one sentence for people), what can still be read of its
    workspaces is carried over, and a new file is begun. Raises StoreError when the file cannot be used at all.
    """

    def __init__(self, path: str | Path, *, max_result_bytes: int = MAX_RESULT_BYTES) -> None:
        self.path = Path(path)
        self.max_result_bytes = max_result_bytes
        self.notice: str | None = None
        self._lock = threading.Lock()
        self._fresh: dict[tuple[str, str], tuple[float, int]] = {}
        self._connection: sqlite3.Connection | None = None
        self._run(lambda connection: None)

    def put_result(self, kind: str, key: str, value: Any) -> bool:
        """Keep a measured ``value`` (plain JSON, not None) under ``kind`` and ``key``, replacing an older one.

        The oldest results leave when all together exceed ``max_result_bytes``. False when this one alone is larger
        than that and was not kept. Raises StoreError when it cannot be written.
        """
        packed = _pack(value)
        if len(packed) > self.max_result_bytes:
            return False

        def write(connection: sqlite3.Connection) -> bool:
            connection.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (kind, key, packed, time.time()))
            connection.execute(
                "DELETE FROM results WHERE rowid IN (SELECT rowid FROM (SELECT rowid, SUM(length(value)) OVER "
                "(ORDER BY created DESC, rowid DESC) AS with_newer FROM results) WHERE with_newer > ?)",
                (self.max_result_bytes,),
            )
            return True

        self._forget(kind, key)
        try:
            return self._run(write, writes=True)
        finally:
            self._forget(kind, key)

    def result(self, kind: str, key: str) -> Any:
        """The value kept under ``kind`` and ``key``, or None. That another process has put one there may be noticed
        ``FRESH_S`` late."""
        if self._just_seen(kind, key) is not None:
            return None
        query = "SELECT value FROM results WHERE kind = ? AND key = ?"
        row = self._run(lambda connection: connection.execute(query, (kind, key)).fetchone(), single=True)
        if row is None:
            self._note(kind, key, 0)
            return None
        return self._unpack(row[0])

    def drop_result(self, kind: str, key: str) -> None:
        """Forget one value; nothing happens when there is none."""
        query = "DELETE FROM results WHERE kind = ? AND key = ?"
        self._run(lambda connection: connection.execute(query, (kind, key)), writes=True)

    def save_workspace(self, token: str, state: dict[str, Any], revision: int) -> int:
        """Save ``state`` (plain JSON) if the stored revision is still ``revision`` (0: none stored); the new revision.

        Raises Conflict when it is another one, StoreError when the state is too large or cannot be written.
        """
        packed = _pack(state)
        if len(packed) > MAX_WORKSPACE_BYTES:
            raise StoreError(
                f"This workspace is too large to save: {len(packed) / 2**20:.1f} MiB, at most "
                f"{MAX_WORKSPACE_BYTES // 2**20} MiB. Remove named plans you no longer need."
            )

        def write(connection: sqlite3.Connection) -> int:
            if revision == 0:
                query = "INSERT OR IGNORE INTO workspaces VALUES (?, ?, 1, ?)"
                changed = connection.execute(query, (token, packed, time.time()))
                connection.execute(
                    "DELETE FROM workspaces WHERE token IN "
                    "(SELECT token FROM workspaces ORDER BY updated DESC LIMIT -1 OFFSET ?)",
                    (MAX_WORKSPACES,),
                )
            else:
                query = "UPDATE workspaces SET state = ?, revision = revision + 1, updated = ? "
                query += "WHERE token = ? AND revision = ?"
                changed = connection.execute(query, (packed, time.time(), token, revision))
            if changed.rowcount != 1:
                raise Conflict(
                    "This work was changed in another window since it was shown here. Look again, then edit."
                )
            return revision + 1

        self._forget(WORKSPACE, token)
        saved = self._run(write, writes=True)
        self._note(WORKSPACE, token, saved)
        return saved

    def workspace(self, token: str) -> tuple[dict[str, Any], int] | None:
        """State and revision saved under ``token``, or None."""
        query = "SELECT state, revision FROM workspaces WHERE token = ?"
        row = self._run(lambda connection: connection.execute(query, (token,)).fetchone())
        return None if row is None else (self._unpack(row[0]), row[1])

    def revision(self, token: str) -> int:
        """The stored revision of a workspace, 0 when there is none. Far cheaper than reading it. What another process
        saved may be noticed ``FRESH_S`` late; saving on top of it is refused all the same."""
        seen = self._just_seen(WORKSPACE, token)
        if seen is not None:
            return seen
        query = "SELECT revision FROM workspaces WHERE token = ?"
        row = self._run(lambda connection: connection.execute(query, (token,)).fetchone(), single=True)
        found = 0 if row is None else int(row[0])
        self._note(WORKSPACE, token, found)
        return found

    # A page asks for the same things again and again within one run, and thirty pages at once wait for one connection.

    def _just_seen(self, kind: str, key: str) -> int | None:
        seen = self._fresh.get((kind, key))
        return seen[1] if seen is not None and time.monotonic() - seen[0] < FRESH_S else None

    def _note(self, kind: str, key: str, what: int) -> None:
        if len(self._fresh) >= FRESH_KEPT:
            self._fresh = {}
        self._fresh[kind, key] = (time.monotonic(), what)

    def _forget(self, kind: str, key: str) -> None:
        self._fresh.pop((kind, key), None)

    def transact(self, action: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        """``action`` on the open file as one transaction, all or nothing; for tables with a module of their own.

        ``writes``: it changes something. What ``action`` raises passes through, and nothing is changed then.
        """
        return self._run(action, writes=writes)

    def close(self) -> None:
        """Release the file; the next call opens it again."""
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        self._fresh = {}
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unpack(self, packed: bytes) -> Any:
        try:
            return json.loads(zlib.decompress(packed))
        except (zlib.error, ValueError, TypeError) as error:
            raise StoreError(
                f"An entry in {self.path} is damaged and cannot be read. Measure or make it again."
            ) from error

    def _run(self, action: Callable[[sqlite3.Connection], T], *, writes: bool = False, single: bool = False) -> T:
        """``single``: it is one reading statement, and needs no transaction around it."""
        with self._lock:
            try:
                return self._attempt(action, writes, single)
            except sqlite3.DatabaseError as error:
                if _code(error) not in DAMAGE:
                    raise self._unusable(error) from error
            try:
                self._heal()
                return self._attempt(action, writes, single)
            except (sqlite3.Error, OSError) as error:
                raise self._unusable(error) from error

    def _attempt(self, action: Callable[[sqlite3.Connection], T], writes: bool, single: bool) -> T:
        if self._connection is None:
            self._connection = _connect(self.path)
        if single:
            return action(self._connection)
        with _transaction(self._connection, writes):
            return action(self._connection)

    def _heal(self) -> None:
        """Move the damaged file aside, unless another process has done so already."""
        self._disconnect()
        self._fresh = {}
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(_connect(self.path)) as fresh:
            if fresh.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                return
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{ending}", f"{aside}{ending}")
        kept = {table: list(_readable(aside, table)) for table in MADE}
        with contextlib.closing(_connect(self.path)) as fresh, _transaction(fresh, True):
            for table, rows in kept.items():
                places = ", ".join("?" * len(MADE[table].split(",")))
                fresh.executemany(f"INSERT OR IGNORE INTO {table} ({MADE[table]}) VALUES ({places})", rows)
        told = [f"{len(kept[name])} saved {name} were carried over" for name in ("workspaces", "classes") if kept[name]]
        saved = ", ".join(told) or "nothing could be carried over"
        self.notice = (
            f"The file with stored results was damaged. It was moved to {aside} and a new one begun; {saved}. "
            "Measurements are made again when they are needed."
        )
        log.warning(self.notice)

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(
            f"Saved work could not be read or written in {self.path}: {error}. "
            "Check that the disk has room and that the folder may be written to, then try again."
        )


_stores: dict[Path, Store] = {}
_stores_lock = threading.Lock()
_last: tuple[str | None, Store, float] | None = None  # looking at the folder takes as long as looking into the store


def open_store() -> Store:
    """The process-wide store in the home folder. Raises CoreError when that folder cannot be used."""
    global _last
    named = os.environ.get(HOME_VARIABLE)
    now = time.monotonic()
    if _last is not None and _last[0] == named:
        if now - _last[2] < FRESH_S:
            return _last[1]
        if _last[1].path.parent.is_dir():
            _last = (named, _last[1], now)
            return _last[1]
    path = home_folder() / FILE_NAME
    with _stores_lock:
        if path not in _stores:
            _stores[path] = Store(path)
        _last = (named, _stores[path], now)
        return _stores[path]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(TABLES)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Two processes that begin the same new file collide here, and SQLite's own waiting does not cover this switch."""
    end = time.monotonic() + BUSY_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, writes: bool) -> Iterator[None]:
    """All or nothing. Writers ask for the lock at once: a reader that turns writer could be refused without a wait."""
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _readable(path: Path, table: str) -> Iterator[tuple[Any, ...]]:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as damaged:
        yield from damaged.execute(f"SELECT {MADE[table]} FROM {table}")


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), level=1)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
