"""What every importance criterion owes, whatever it computes. A new row of the table is tested here unasked."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from core.errors import Cancelled, CoreError, MeasureError
from core.measure.importance import list_criteria, score_channels
from core.plan.ratios import plan_uniform
from core.records import ImageData, Scores
from core.trace import trace_channels
from tests.traced import traced
from tests.untouched import awkward, same, state_of
from tests.zoo import NETS, ZOO, ZooNet, images, outputs

ROWS = list_criteria()
EVERY_CRITERION = pytest.mark.parametrize("name", [row.name for row in ROWS])
SOME_NETS = [
    ZOO[name]
    for name in (
        "Plain", "OneD", "InvertedResidual", "Grouped", "Transposed", "ResidualProjection", "DenseBlock",
        "ChannelShuffle", "TokenBlock",
    )
]  # fmt: skip
ON_SOME_NETS = pytest.mark.parametrize("net", SOME_NETS, ids=lambda net: net.name)


def pictures(net: ZooNet) -> ImageData:
    return _pictures(net.name)


@functools.cache
def _pictures(name: str) -> ImageData:
    net, count = ZOO[name], 12
    batch = images(net.shape, count, seed=5)
    answers = outputs(net.build(), batch)[0]
    labels = answers.flatten(1).argmax(1) if answers.dim() == 2 else torch.zeros(count, dtype=torch.int64)
    labels = labels.roll(1)  # some right, some wrong: losses and gradients are neither zero nor all alike
    return ImageData(batch, labels, tuple("abcdef"), "zoo", (0.0,) * net.shape[1], (1.0,) * net.shape[1])


def scored(name: str, net: ZooNet, **options: Any) -> Scores:
    return score_channels(traced(net), pictures(net), name, **options)


def alike(a: Scores, b: Scores, tolerance: float = 0.0) -> bool:
    return a.scores.keys() == b.scores.keys() and all(
        torch.allclose(a.scores[key], b.scores[key], rtol=tolerance, atol=tolerance) for key in a.scores
    )


@EVERY_CRITERION
@ON_SOME_NETS
def test_one_finite_score_per_unit(name: str, net: ZooNet) -> None:
    trace = traced(net)
    scores = score_channels(trace, pictures(net), name)
    assert scores.criterion == name
    for group in trace.prunable:
        values = scores.scores[group.id]
        assert values.shape == (group.units,) and values.dtype == torch.float64, group.id
        assert bool(torch.isfinite(values).all()) and not values.requires_grad
    plan = plan_uniform(trace, scores, 0.5)
    assert all(len(kept) < trace.group(group).units for group, kept in plan.kept.items())


@EVERY_CRITERION
@ON_SOME_NETS
def test_the_same_seed_gives_the_same_scores(name: str, net: ZooNet) -> None:
    torch.manual_seed(1)
    first = scored(name, net, seed=3)
    again = trace_channels(net.build(), net.example)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert alike(first, score_channels(again, pictures(net), name, seed=3))
    assert torch.equal(before, torch.random.get_rng_state()), "it draws from everybody's random numbers"


@EVERY_CRITERION
@ON_SOME_NETS
def test_the_network_and_the_images_are_untouched(name: str, net: ZooNet) -> None:
    module, data = awkward(net), pictures(net)
    trace = trace_channels(module, net.example)
    before, shown = state_of(module), data.images.clone()
    score_channels(trace, data, name)
    assert same(before, state_of(module)) and torch.equal(shown, data.images)
    assert not data.images.requires_grad
    with pytest.raises(Cancelled):
        score_channels(trace, data, name, cancelled=lambda: True)
    assert same(before, state_of(module))


@EVERY_CRITERION
def test_nothing_stays_behind_after_a_failure(name: str) -> None:
    """Images of the wrong size break the run half-way, for criteria that look at images."""
    net = ZOO["Plain"]
    module = awkward(net)
    trace = trace_channels(module, net.example)
    before = state_of(module)
    wrong = ImageData(torch.zeros(4, 5, 8, 8), torch.zeros(4, dtype=torch.int64), ("a",), "wrong", (0.0,), (1.0,))
    if next(row for row in ROWS if row.name == name).value.needs_images:
        with pytest.raises(CoreError):
            score_channels(trace, wrong, name)
    else:
        score_channels(trace, wrong, name)
    assert same(before, state_of(module))


@EVERY_CRITERION
@ON_SOME_NETS
def test_the_batch_size_does_not_matter(name: str, net: ZooNet) -> None:
    assert alike(scored(name, net, batch_size=12), scored(name, net, batch_size=5), tolerance=1e-4)


@EVERY_CRITERION
def test_every_net_is_scored_or_refused_in_words(name: str) -> None:
    for net in NETS:
        try:
            scores = scored(name, net)
        except CoreError as error:
            assert len(str(error).split()) > 6, f"{net.name}: {error}"
        else:
            assert all(bool(torch.isfinite(values).all()) for values in scores.scores.values()), net.name


@EVERY_CRITERION
def test_images_are_asked_for_where_they_are_needed(name: str) -> None:
    net = ZOO["Plain"]
    trace = traced(net)
    empty = pictures(net).take(torch.zeros(0, dtype=torch.int64))
    if next(row for row in ROWS if row.name == name).value.needs_images:
        for data in (None, empty):
            with pytest.raises(MeasureError, match="image"):
                score_channels(trace, data, name)
        assert score_channels(trace, pictures(net), name).images_used > 0
    else:
        assert score_channels(trace, None, name).images_used == 0


@EVERY_CRITERION
def test_progress_grows_to_one_and_options_are_checked(name: str) -> None:
    net = ZOO["ResidualProjection"]
    trace = traced(net)
    seen: list[float] = []
    score_channels(trace, pictures(net), name, on_progress=lambda fraction, *_: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0 and min(seen) >= 0
    with pytest.raises(MeasureError, match="option"):
        score_channels(trace, pictures(net), name, no_such_option=1)


@EVERY_CRITERION
def test_it_is_documented_and_cited(name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    assert row.title and row.summary.endswith(".") and row.formula and row.source


def test_an_unknown_criterion_lists_the_nearest() -> None:
    net = ZOO["Plain"]
    with pytest.raises(CoreError, match=r"'weight-l3'\. Nearest: weight-l"):
        score_channels(traced(net), None, "weight-l3")


@EVERY_CRITERION
@pytest.mark.parametrize("old", [False, True])
def test_a_weight_stored_as_direction_and_length_scores_as_the_weight_it_makes(name: str, old: bool) -> None:
    """Weight norm, in either of PyTorch's ways: the same function has the same scores."""

    def build(normed: bool) -> nn.Module:
        torch.manual_seed(7)
        convs = [nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 4, 3)]
        for conv in convs[1:] if normed else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                wrapped = (nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm)(conv)
            assert wrapped is conv
        layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)).eval()

    batch = images((1, 3, 10, 10), 12, seed=5)
    data = ImageData(batch, torch.arange(12) % 4, tuple("abcd"), "zoo", (0.0,) * 3, (1.0,) * 3)
    traces = [trace_channels(build(normed), batch[:1]) for normed in (False, True)]
    plain, normed = (score_channels(trace, data, name) for trace in traces)
    groups = [group for group in traces[1].prunable if group.id in {g.id for g in traces[0].prunable}]
    assert groups
    for group in groups:
        found, wanted = normed.scores[group.id], plain.scores[group.id]
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())), group.id
        assert name in {"first-k"} or bool(wanted.abs().sum() > 0)
