"""How many threads the parts of a program work on."""

from __future__ import annotations

import threading

import pytest
import torch

from core.measure.scan.lanes import Lanes
from core.trace.modes import one_thread

BEFORE = torch.get_num_threads()


def newcomers() -> int:
    """What a thread that starts now has."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(autouse=True)
def put_back() -> object:
    yield
    torch.set_num_threads(BEFORE)


def test_one_thread_is_this_one_alone() -> None:
    torch.set_num_threads(3)
    with pytest.raises(ValueError, match="broken"), one_thread():
        assert torch.get_num_threads() == 1 and newcomers() == 3
        with one_thread():
            assert torch.get_num_threads() == 1 and newcomers() == 3
        raise ValueError("broken")
    assert torch.get_num_threads() == 3 and newcomers() == 3


def test_lanes_leave_others_as_they_were() -> None:
    torch.set_num_threads(3)
    with one_thread():
        lanes: Lanes[str] = Lanes(3)
        with lanes:
            assert torch.get_num_threads() == 1 and newcomers() == 3
            with lanes.alone():
                assert torch.get_num_threads() == 1 and newcomers() == 3
            found = [*lanes.put("a", lambda: torch.tensor(torch.get_num_threads())), *lanes.rest()]
        assert [(what, int(count)) for what, count in found] == [("a", 1)]
        assert torch.get_num_threads() == 1 and newcomers() == 3
    assert torch.get_num_threads() == 3 and newcomers() == 3
