"""Classes without accounts: a code to join by, nicknames, and the plans that learners hand in. Kept in the store.

A plan's numbers are what the store holds as measured for that very network; nothing is taken from a browser. Class data
stand in tables of their own, and name a learner by a digest of the workspace's token, never by the token.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import shutil
import sqlite3
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.errors import CoreError
from core.keep.store import Store
from core.keep.subject import split_address, uploads_folder
from core.learn.classroom import Assignment, checked

MAX_CLASSES, IDLE_S = 500, 30 * 86400.0
MAX_LEARNERS, MAX_PLANS = 200, 20  # of a class, of a learner
LONGEST_NAME = 24
SYLLABLES, CONSONANTS, VOWELS = 6, "bdfgklmnprstvwz", "aeiou"  # 75^6: 37 bits, and easy to say aloud
CODE_LETTERS = set(CONSONANTS + VOWELS)


@dataclass(frozen=True)
class Class:
    """``version`` rises with everything that changes on the board."""

    code: str
    task: Assignment
    closed: bool
    version: int


@dataclass(frozen=True)
class Entry:
    """A plan on the board. ``number``: in the order of handing in. ``who``: names the learner. ``told``: what was
    measured and counted, as ``core.learn.classroom_plans.measured_plan`` gives it. ``made``: seconds since 1970."""

    number: int
    who: str
    name: str
    told: Mapping[str, Any]
    made: float


# Classes


def open_class(store: Store, task: Assignment, owner: str) -> tuple[str, str]:
    """A new class for ``task``; its code, and the key that only its teacher has. ``owner``: the teacher's workspace,
    whose uploaded files the class keeps copies of. Raises CoreError when this server keeps as many as it may."""
    code, key = new_code(), secrets.token_urlsafe(16)
    kept = _with_own_files(checked(task), owner, code)
    now = time.time()

    def write(connection: sqlite3.Connection) -> list[str]:
        left = _make_room(connection, now)
        row = (code, _hash(key), json.dumps(kept.to_dict()), now, now)
        connection.execute("INSERT INTO classes (code, key_hash, task, created, used) VALUES (?, ?, ?, ?, ?)", row)
        return left

    try:
        gone = store.transact(write, writes=True)
    except BaseException:
        _drop_files([code])
        raise
    _drop_files(gone)
    return code, key


def find_class(store: Store, code: str) -> Class:
    """Raises CoreError when there is none of that code."""
    plain = plain_code(code)
    query = "SELECT task, closed, version FROM classes WHERE code = ?"
    row = store.transact(lambda connection: connection.execute(query, (plain,)).fetchone())
    if row is None:
        raise _no_class()
    return Class(plain, Assignment.from_dict(json.loads(row[0])), bool(row[1]), int(row[2]))


def is_teacher(store: Store, code: str, key: str) -> bool:
    """Whether ``key`` is the one of the class's teacher."""
    query = "SELECT key_hash FROM classes WHERE code = ?"
    row = store.transact(lambda connection: connection.execute(query, (plain_code(code),)).fetchone())
    return row is not None and hmac.compare_digest(str(row[0]), _hash(key))


def close_class(store: Store, code: str, key: str, closed: bool = True) -> None:
    """From now on nothing more is handed in, or again it may be. Raises CoreError without the teacher's key."""
    _check_teacher(store, code, key)
    query = "UPDATE classes SET closed = ?, version = version + 1 WHERE code = ?"
    store.transact(lambda connection: connection.execute(query, (int(closed), plain_code(code))), writes=True)


def remove_class(store: Store, code: str, key: str) -> None:
    """Take the class away with all that was handed in. Raises CoreError without the teacher's key."""
    _check_teacher(store, code, key)
    store.transact(lambda connection: _delete(connection, plain_code(code)), writes=True)
    _drop_files([plain_code(code)])


# Learners


def join(store: Store, code: str, token: str, name: str) -> str:
    """Take part under a nickname, or change it; the nickname as it is kept. Raises CoreError for one that is not 1 to
    24 printable characters or is taken, and when the class is full or closed."""
    plain, shown, who = plain_code(code), nickname(name), learner(code, token)
    key = unicodedata.normalize("NFKC", shown).casefold()

    def write(connection: sqlite3.Connection) -> None:
        _check_open(connection, plain)
        query = "SELECT who FROM class_members WHERE code = ? AND name_key = ?"
        taken = connection.execute(query, (plain, key)).fetchone()
        if taken is not None and taken[0] != who:
            raise CoreError("Somebody in this class has that nickname already. Choose another one.")
        query = "SELECT COUNT(*) FROM class_members WHERE code = ? AND who != ?"
        if connection.execute(query, (plain, who)).fetchone()[0] >= MAX_LEARNERS:
            raise CoreError(f"This class is full: it holds {MAX_LEARNERS} learners. Ask your teacher.")
        connection.execute(
            "INSERT INTO class_members (code, who, name, name_key) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (code, who) DO UPDATE SET name = excluded.name, name_key = excluded.name_key",
            (plain, who, shown, key),
        )
        query = "SELECT 1 FROM class_plans WHERE code = ? AND who = ? LIMIT 1"
        if connection.execute(query, (plain, who)).fetchone() is not None:  # the board shows the former name
            _touch(connection, plain)

    store.transact(write, writes=True)
    return shown


def member_name(store: Store, code: str, token: str) -> str:
    """The nickname of a workspace in the class; "" when it has not joined."""
    query = "SELECT name FROM class_members WHERE code = ? AND who = ?"
    row = store.transact(lambda c: c.execute(query, (plain_code(code), learner(code, token))).fetchone())
    return "" if row is None else str(row[0])


def nickname(text: str) -> str:
    """The nickname as it is kept: no spaces around it, single ones inside. Raises CoreError otherwise."""
    shown = " ".join(unicodedata.normalize("NFC", text).split(" ")).strip()
    shown = " ".join(part for part in shown.split(" ") if part)
    if not 1 <= len(shown) <= LONGEST_NAME or not shown.isprintable():
        raise CoreError(f"Expected a nickname of 1 to {LONGEST_NAME} printable characters. Choose another one.")
    if not any(letter.isalnum() for letter in shown):
        raise CoreError("Expected a nickname with a letter or a digit in it. Choose another one.")
    if sum(unicodedata.combining(letter) > 0 for letter in shown) > len(shown) // 3:
        raise CoreError("Expected a nickname without piles of accents. Choose another one.")
    return shown


# Plans


def hand_in(store: Store, code: str, token: str, plan: str, told: Mapping[str, Any]) -> bool:
    """Put a plan on the board; False when this learner has handed in that very one before. ``plan``: names the network.
    Raises CoreError when the class is closed, the learner has not joined, or has handed in as many as one may."""
    plain, who = plain_code(code), learner(code, token)

    def write(connection: sqlite3.Connection) -> bool:
        _check_open(connection, plain)
        query = "SELECT 1 FROM class_members WHERE code = ? AND who = ?"
        if connection.execute(query, (plain, who)).fetchone() is None:
            raise CoreError("Choose a nickname first; then hand in your plan.")
        query = "SELECT plan FROM class_plans WHERE code = ? AND who = ?"
        mine = [row[0] for row in connection.execute(query, (plain, who))]
        if plan in mine:
            return False
        if len(mine) >= MAX_PLANS:
            raise CoreError(
                f"You have handed in {MAX_PLANS} plans, the most one may. Your teacher can take some off the board."
            )
        row = (plain, who, plan, json.dumps(dict(told)), time.time())
        connection.execute("INSERT INTO class_plans (code, who, plan, told, made) VALUES (?, ?, ?, ?, ?)", row)
        _touch(connection, plain)
        return True

    return store.transact(write, writes=True)


def handed_in(store: Store, code: str, token: str) -> set[str]:
    """Names of the plans that a learner has on the board."""
    query = "SELECT plan FROM class_plans WHERE code = ? AND who = ?"
    rows = store.transact(lambda c: c.execute(query, (plain_code(code), learner(code, token))).fetchall())
    return {str(row[0]) for row in rows}


def entries(store: Store, code: str) -> list[Entry]:
    """Everything on the board, in the order of handing in."""
    query = (
        "SELECT number, p.who, name, told, made FROM class_plans p JOIN class_members m "
        "ON m.code = p.code AND m.who = p.who WHERE p.code = ? ORDER BY number"
    )
    rows = store.transact(lambda connection: connection.execute(query, (plain_code(code),)).fetchall())
    return [Entry(int(number), who, name, json.loads(told), made) for number, who, name, told, made in rows]


def count_learners(store: Store, code: str) -> int:
    """How many have joined."""
    query = "SELECT COUNT(*) FROM class_members WHERE code = ?"
    return int(store.transact(lambda c: c.execute(query, (plain_code(code),)).fetchone()[0]))


def remove_entry(store: Store, code: str, key: str, number: int) -> None:
    """Take one plan off the board. Raises CoreError without the teacher's key; nothing happens when it is gone."""
    _check_teacher(store, code, key)
    plain = plain_code(code)

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM class_plans WHERE code = ? AND number = ?", (plain, number))
        _touch(connection, plain)

    store.transact(write, writes=True)


# Names


def new_code() -> str:
    """A code for a class: "bako-timu-resa"."""
    parts = [secrets.choice(CONSONANTS) + secrets.choice(VOWELS) for _ in range(SYLLABLES)]
    return "-".join("".join(parts[at : at + 2]) for at in range(0, SYLLABLES, 2))


def plain_code(text: str) -> str:
    """A code as it is kept, whatever the case, spaces and dashes it was typed with. Raises CoreError for no code."""
    letters = "".join(letter for letter in text.lower() if letter not in " -")
    if len(letters) != 2 * SYLLABLES or not set(letters) <= CODE_LETTERS:
        raise _no_class()
    return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def learner(code: str, token: str) -> str:
    """Names a workspace inside one class; nobody can tell the token from it."""
    return sha256(f"{plain_code(code)} {token}".encode()).hexdigest()[:32]


def _no_class() -> CoreError:
    return CoreError("There is no class of that code here. Check the code, or ask your teacher for the link.")


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def _check_teacher(store: Store, code: str, key: str) -> None:
    if not is_teacher(store, code, key):
        raise CoreError("Only this class's teacher may do that. Open the teacher's own link.")


def _check_open(connection: sqlite3.Connection, code: str) -> None:
    row = connection.execute("SELECT closed FROM classes WHERE code = ?", (code,)).fetchone()
    if row is None:
        raise _no_class()
    if row[0]:
        raise CoreError("This class is closed: nothing more is handed in. The board stays to be looked at.")


def _touch(connection: sqlite3.Connection, code: str) -> None:
    connection.execute("UPDATE classes SET version = version + 1, used = ? WHERE code = ?", (time.time(), code))


def _make_room(connection: sqlite3.Connection, now: float) -> list[str]:
    """Codes of the classes that leave for a new one: those that nobody joined, then those long not used."""
    count = connection.execute("SELECT COUNT(*) FROM classes").fetchone()[0]
    if count < MAX_CLASSES:
        return []
    empty = "SELECT code FROM classes WHERE code NOT IN (SELECT code FROM class_members) ORDER BY used LIMIT 1"
    idle = "SELECT code FROM classes WHERE used < ? ORDER BY used LIMIT 1"
    row = connection.execute(idle, (now - IDLE_S,)).fetchone() or connection.execute(empty).fetchone()
    if row is None:
        raise CoreError(
            f"This server keeps {MAX_CLASSES} classes, all of them in use. Remove one that is over, or use the link "
            "without a class."
        )
    _delete(connection, row[0])
    return [str(row[0])]


def _delete(connection: sqlite3.Connection, code: str) -> None:
    for table in ("class_plans", "class_members", "classes"):
        connection.execute(f"DELETE FROM {table} WHERE code = ?", (code,))


# Files


def _with_own_files(task: Assignment, owner: str, code: str) -> Assignment:
    """With the teacher's uploaded files copied: where they lie names the teacher's own work, which no learner may
    know."""
    source, _, _ = split_address(task.data)
    tail = task.data[len(source) :]
    return replace(
        task,
        model=_copied(task.model, owner, code),
        weights=_copied(task.weights, owner, code),
        data=_copied(source, owner, code) + tail,
    )


def _copied(text: str, owner: str, code: str) -> str:
    if not text or not Path(text).is_file() or uploads_folder(owner).resolve() not in Path(text).resolve().parents:
        return text
    kept = uploads_folder(f"class-{code}") / Path(text).name
    shutil.copyfile(text, kept)
    return str(kept)


def _drop_files(codes: list[str]) -> None:
    for code in codes:
        folder = uploads_folder(f"class-{code}")
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
