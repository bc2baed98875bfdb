"""Accuracy and paired differences, against counts made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.evaluate import compare_models, evaluate_model
from core.evaluate.compare import paired_interval
from core.records import Accuracy, ImageData


class Says(nn.Module):
    """Answers with the number written in the first pixel, three classes."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(float(shift)))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        wanted = (x[:, 0, 0, 0] + self.shift).long() % 3
        return self.drop(torch.nn.functional.one_hot(wanted, 3).float())


def data(written: list[int], labels: list[int], classes: int = 3) -> ImageData:
    images = torch.tensor(written, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    names = tuple(str(k) for k in range(classes))
    return ImageData(images, torch.tensor(labels, dtype=torch.int64), names, "by hand", (0.0,), (1.0,))


def test_counts_by_hand() -> None:
    found = evaluate_model(Says(), data([0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 1]), batch_size=4)
    assert (found.correct, found.images, found.value) == (4, 6, 4 / 6)
    assert found.per_class[:2] == (2 / 3, 2 / 3) and math.isnan(found.per_class[2])
    right, wrong = math.log(math.e + 2) - 1, math.log(math.e + 2)
    assert found.loss == pytest.approx((4 * right + 2 * wrong) / 6)
    assert 0 < found.low < found.value < found.high < 1
    assert found.low == pytest.approx(0.3, abs=0.005) and found.high == pytest.approx(0.9032, abs=0.005)


def test_mode_comes_back_also_after_a_failure() -> None:
    module = Says().train()
    module.drop.eval()
    evaluate_model(module, data([0], [0]))
    with pytest.raises(MeasureError):
        evaluate_model(module, data([0], [5], 6))
    assert module.training and not module.drop.training and module.shift.requires_grad


def test_progress_ends_with_the_whole_and_limit_is_a_part() -> None:
    images = data([k % 3 for k in range(50)], [k % 3 if k % 5 else 0 for k in range(50)])
    seen: list[tuple[float, Accuracy]] = []
    whole = evaluate_model(Says(), images, batch_size=8, on_progress=lambda f, m, p: seen.append((f, p)))
    assert len(seen) == 7 and seen[-1] == (1.0, whole)
    assert [p.images for _, p in seen] == [8, 16, 24, 32, 40, 48, 50]
    few = evaluate_model(Says(), images, limit=16)
    assert few.images == 16 and (few.correct, few.loss) == (seen[1][1].correct, pytest.approx(seen[1][1].loss))


def test_cancel_keeps_what_is_there() -> None:
    calls = iter([False, False, True])
    with pytest.raises(Cancelled) as caught:
        evaluate_model(Says(), data([0] * 30, [0] * 30), batch_size=10, cancelled=lambda: next(calls))
    assert isinstance(caught.value.partial, Accuracy) and caught.value.partial.images == 20


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(MeasureError, match="has none"):
        evaluate_model(Says(), data([], []))
    with pytest.raises(MeasureError, match="only 3 outputs"):
        evaluate_model(Says(), data([0, 1], [0, 7], 8))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(MeasureError, match="does not take images of 1 x 4 x 4"):
        evaluate_model(net, data([0], [0]))
    with pytest.raises(MeasureError, match="one score per class"):
        evaluate_model(nn.Identity(), data([0], [0]))


def test_compare_counts_pairs() -> None:
    images = data([0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 2])
    found = compare_models(Says(), Says(1), images)
    # Says answers 0 1 2 0 1 2 (four right), Says(1) answers 1 2 0 1 2 0 (two right, both where the other is wrong).
    assert (found.a.correct, found.b.correct, found.lost, found.gained, found.flipped) == (4, 2, 4, 2, 6)
    assert found.difference == pytest.approx(-2 / 6) and found.low < found.difference < found.high
    same = compare_models(Says(), Says(), images)
    assert same.difference == 0 and same.flipped == 0 and same.p_value == 1.0 and same.low < 0 < same.high


def test_paired_interval_covers() -> None:
    """Of 95 % intervals about 95 % hold the truth."""
    generator = torch.Generator().manual_seed(0)
    images, p_lost, p_gained, held = 200, 0.06, 0.02, 0
    for _ in range(400):
        draw = torch.rand(images, generator=generator)
        lost, gained = int((draw < p_lost).sum()), int((draw > 1 - p_gained).sum())
        low, high = paired_interval(lost, gained, images)
        held += low <= p_gained - p_lost <= high
    assert 0.92 <= held / 400 <= 0.99
