"""Times of another device are kept for one person and one network, and checked at the door."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core import build_latency_table, open_subject, predict_latency
from core.errors import MeasureError
from core.keep.device_tables import _read, device_table, drop_device_table, keep_device_table


@pytest.mark.usefixtures("home")
def test_a_table_of_another_device_is_kept_until_it_is_dropped() -> None:
    subject = open_subject("demo/digits-vgg")
    here = build_latency_table(subject.trace, threads=1, points=2, repeats=1, max_seconds=2.0)
    assert here.wall is not None and device_table(subject, "me") is None
    slower = replace(here, wall=replace(here.wall, factor=3 * here.wall.factor))
    with pytest.raises(MeasureError, match="line 1"):
        keep_device_table(subject, "me", here, b"no table", "a phone")
    with pytest.raises(MeasureError, match="UTF-8"):
        keep_device_table(subject, "me", here, b"\xff\xfe\x00", "a phone")
    assert device_table(subject, "me") is None
    keep_device_table(subject, "me", here, slower.to_csv().encode(), "a phone")
    _read.clear()  # as after a restart of the server
    found = device_table(subject, "me")
    assert found is not None and found.device == "a phone" and found is device_table(subject, "me")
    times = [predict_latency(subject.trace, None, table).median_ms for table in (here, found)]
    assert times[1] == pytest.approx(3 * times[0], rel=1e-3)
    assert device_table(subject, "another") is None
    drop_device_table(subject, "me")
    assert device_table(subject, "me") is None
