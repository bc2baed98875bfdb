"""The store: round trips, bounds, several processes, damage."""

from __future__ import annotations

import math
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from core.config import home_folder
from core.errors import CoreError
from core.keep.store import Conflict, Store, StoreError, open_store

ROOT = Path(__file__).parents[3]
TOKEN = "a" * 22


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def test_results_come_back_as_they_went_in(path: Path) -> None:
    store = Store(path)
    value = {"curve": [0.5, 0.25], "per_class": [math.inf], "text": "µ", "none": None}
    assert store.put_result("scan", "k", value)
    assert store.result("scan", "k") == value
    assert store.result("score", "k") is None
    store.put_result("scan", "k", [1])
    store.close()
    assert Store(path).result("scan", "k") == [1]
    store.drop_result("scan", "k")
    assert store.result("scan", "k") is None


def test_the_oldest_results_leave(path: Path) -> None:
    store = Store(path, max_result_bytes=2000)
    values = {str(i): os.urandom(300).hex() for i in range(8)}
    for key, value in values.items():
        assert store.put_result("scan", key, value)
    kept = [key for key in values if store.result("scan", key) is not None]
    assert kept == list(values)[-len(kept) :] and 3 <= len(kept) < 8
    assert not store.put_result("scan", "huge", os.urandom(3000).hex())
    assert [key for key in values if store.result("scan", key) is not None] == kept


def test_a_workspace_is_not_overwritten_by_an_older_window(path: Path) -> None:
    store, other = Store(path), Store(path)
    assert store.workspace(TOKEN) is None and store.revision(TOKEN) == 0
    assert store.save_workspace(TOKEN, {"n": 1}, 0) == 1
    assert other.workspace(TOKEN) == ({"n": 1}, 1)
    assert other.save_workspace(TOKEN, {"n": 2}, 1) == 2
    for stale in (0, 1, 7):
        with pytest.raises(Conflict, match="another window"):
            store.save_workspace(TOKEN, {"n": 9}, stale)
    assert store.workspace(TOKEN) == ({"n": 2}, 2)
    with pytest.raises(StoreError, match="too large"):
        store.save_workspace(TOKEN, {"n": os.urandom(9 * 2**20).hex()}, 2)


COUNT = """if True:
    import sys
    from core.keep.store import Conflict, Store
    store = Store(sys.argv[1])
    for i in range(40):
        store.put_result("count", f"{sys.argv[2]} {i}", i)
        while True:
            found = store.workspace("t")
            state, revision = found or ({"n": 0}, 0)
            try:
                store.save_workspace("t", {"n": state["n"] + 1}, revision)
                break
            except Conflict:
                pass
"""


def test_two_processes_lose_nothing(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    programs = [subprocess.Popen([sys.executable, "-c", COUNT, path, str(i)], env=environment) for i in range(2)]
    assert [program.wait(60) for program in programs] == [0, 0]
    store = Store(path)
    assert store.workspace("t") == ({"n": 80}, 80)
    assert all(store.result("count", f"{who} {i}") == i for who in range(2) for i in range(40))


def test_threads_share_one_store(path: Path) -> None:
    store = Store(path)

    def write(who: int) -> None:
        for i in range(25):
            store.put_result("count", f"{who} {i}", [who, i])

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.result("count", f"{who} {i}") == [who, i] for who in range(4) for i in range(25))


def test_a_killed_writer_leaves_all_or_nothing(path: Path) -> None:
    """The process dies inside the transaction, after the insert and before the commit."""
    Store(path).put_result("scan", "before", 1)
    program = (
        "import os, sys; from core.keep import store; s = store.Store(sys.argv[1]);"
        "s._run(lambda c: (c.execute('DELETE FROM results'), os._exit(9)), writes=True)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 9
    assert Store(path).result("scan", "before") == 1


def test_fifty_kills_during_saves_lose_no_plan_that_was_acknowledged(path: Path) -> None:
    """kill -9 at any moment: the store opens, and holds the last save that was told of or a later one, whole."""
    program = (
        "import sys; from core.keep.store import Store; s = Store(sys.argv[1]); t = sys.argv[2];"
        "found = s.workspace(t); n = found[1] if found else 0\n"
        "while True:\n"
        "  n = s.save_workspace(t, {'n': n + 1, 'plans': [n + 1] * 2000}, n); print(n, flush=True)"
    )
    rng, acknowledged, here = random.Random(0), 0, {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(50):
        writer = subprocess.Popen([sys.executable, "-c", program, path, TOKEN], stdout=subprocess.PIPE, env=here)
        assert writer.stdout is not None
        for _ in range(rng.randint(1, 6)):
            acknowledged = int(writer.stdout.readline())
        time.sleep(rng.uniform(0, 0.003))
        writer.kill()
        told = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        acknowledged = int(told[-1]) if told and told[-1].isdigit() else acknowledged
        store = Store(path)
        found = store.workspace(TOKEN)
        assert store.notice is None and found is not None
        state, revision = found
        assert revision >= acknowledged and state == {"n": revision, "plans": [revision] * 2000}
        store.close()


def test_rubbish_is_moved_aside_and_a_new_file_begun(path: Path) -> None:
    path.write_bytes(b"this is no database " * 500)
    store = Store(path)
    assert store.notice is not None and "damaged" in store.notice and "nothing could be carried over" in store.notice
    moved = [other for other in path.parent.iterdir() if ".damaged-" in other.name]
    assert [other.read_bytes()[:10] for other in moved] == [b"this is no"]
    store.put_result("scan", "k", 1)
    fresh = Store(path)
    assert fresh.result("scan", "k") == 1 and fresh.notice is None


def test_damage_found_later_keeps_the_workspaces_that_can_be_read(path: Path) -> None:
    store = Store(path)
    store.save_workspace(TOKEN, {"n": 1}, 0)
    for i in range(50):
        store.put_result("scan", str(i), os.urandom(5000).hex())
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'results'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    assert store.result("scan", "1") is None
    assert store.notice is not None and "1 saved workspaces" in store.notice
    assert store.workspace(TOKEN) == ({"n": 1}, 1)
    assert store.put_result("scan", "1", 2) and store.result("scan", "1") == 2


def test_a_damaged_entry_says_so_and_harms_no_other(path: Path) -> None:
    store = Store(path)
    store.put_result("scan", "good", 1)
    store.put_result("scan", "bad", 1)
    store._run(lambda c: c.execute("UPDATE results SET value = 'xx' WHERE key = 'bad'"), writes=True)
    with pytest.raises(StoreError, match="entry"):
        store.result("scan", "bad")
    assert store.result("scan", "good") == 1


def test_home_is_private_and_a_bad_one_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "deep" / "home"))
    assert open_store() is open_store()
    assert home_folder() == (tmp_path / "deep" / "home").resolve()
    assert stat.S_IMODE(home_folder().stat().st_mode) == 0o700
    assert open_store().path.parent == home_folder()
    open_store().close()
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "file"))
    with pytest.raises(CoreError, match="PRUNESCOPE_HOME"):
        open_store()


def test_a_path_that_cannot_be_a_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not be read or written"):
        Store(tmp_path)
