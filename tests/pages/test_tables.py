"""Numbers as people read them."""

from __future__ import annotations

import pytest

from pages.components import tables


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"), (7, "7"), (9999, "9,999"), (12_345, "12.3 k"), (999_900, "1.00 M"), (1_240_000, "1.24 M"),
        (4.09e9, "4.09 G"), (0.25, "0.250"), (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_counts_have_three_digits(n: float | None, text: str) -> None:
    assert tables.count(n) == text


def test_shares_changes_and_points_carry_signs() -> None:
    assert tables.percent(0.96249) == "96.2 %"
    assert tables.change(-0.38, 0) == "−38 %"
    assert tables.points(0.012) == "+1.2"
    assert tables.points(-0.0001) == "0.0"
    assert tables.relative(50, 100) == "−50 %"
    assert tables.relative(100, 100) is None


def test_times_and_sizes() -> None:
    assert tables.ms(3.214) == "3.21 ms"
    assert tables.ms(0.0123) == "0.0123 ms"
    assert tables.ms(1234.5) == "1,234 ms"
    assert tables.size(512) == "512 bytes"
    assert tables.size(2_500_000) == "2.38 MB"


def test_accuracy_and_latency_say_their_spread() -> None:
    accuracy = {"value": 0.963, "low": 0.94, "high": 0.978, "images": 1360}
    assert tables.accuracy_text(accuracy) == "96.3 % [94.0, 97.8] on 1,360 images"
    assert tables.accuracy_text(None) == "–"
    assert tables.latency_text({"median_ms": 3.2, "low_ms": 3.1, "high_ms": 3.4}) == "3.20 ms [3.10, 3.40]"
