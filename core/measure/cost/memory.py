"""Memory that stays with the process while something is timed or scanned.

glibc gives large buffers back to the system when they are freed, or keeps them, depending on what the process did
before; a network whose buffers come and go pays page faults for each of them, up to a third of its time, and its twin
does not. Held still, times are the networks' own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names for its settings
NEVER = -1
LARGEST_HEAP = 32 << 20  # larger buffers come from the system whatever is asked for
AFTER = 64 << 20  # free memory that glibc keeps once it has seen large buffers


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Freed memory stays with the process inside; what is free afterwards goes back. Elsewhere than on glibc: nothing.

    glibc's own adjusting of its thresholds ends with the first call; they then stay where large buffers had put them.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, LARGEST_HEAP)
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, AFTER)
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version, libc.mallopt, libc.malloc_trim  # noqa: B018 - asked whether they are there
    except (OSError, AttributeError, TypeError):
        return None
    return libc
