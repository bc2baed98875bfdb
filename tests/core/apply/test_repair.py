"""Every repair builds the plan's network, says so in the plan, and leaves the original alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.apply.repair import AS_CUT, REPAIRS, build_network
from core.errors import CoreError
from core.evaluate import evaluate_model
from core.load import load_data
from core.measure.importance import score_channels
from core.plan import plan_uniform
from core.records import ImageData, Plan, Trace, fingerprint_state
from core.trace import trace_channels
from tests.trained import small_resnet


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return small_resnet().module


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="module")
def trace(trained: nn.Module, data: ImageData) -> Trace:
    return trace_channels(trained, data.images[:1])


@pytest.fixture(scope="module")
def plan(trace: Trace) -> Plan:
    return plan_uniform(trace, score_channels(trace, None, "weight-l2"), 0.5)


@pytest.mark.parametrize("name", REPAIRS.names())
def test_a_repair_builds_the_network_of_the_plan(
    trained: nn.Module, trace: Trace, data: ImageData, plan: Plan, name: str
) -> None:
    before = fingerprint_state(trained.state_dict())
    module, told = build_network(trained, trace, plan, data.calibration, name)
    assert told == plan  # the same units stay, whatever is done to their weights
    assert ("repaired by" in told.origin) == (name != AS_CUT)
    assert sum(p.numel() for p in module.parameters()) < 0.3 * sum(p.numel() for p in trained.parameters())
    assert fingerprint_state(trained.state_dict()) == before


def test_least_squares_wins_back_what_the_cut_lost(
    trained: nn.Module, trace: Trace, data: ImageData, plan: Plan
) -> None:
    images = data.selection.take(torch.arange(120))
    parts = [build_network(trained, trace, plan, data.calibration, name)[0] for name in (AS_CUT, "least-squares")]
    cut, repaired = (evaluate_model(module, images).value for module in parts)
    assert repaired > 0.9 > cut + 0.2


def test_a_plan_that_removes_nothing_is_not_repaired(trained: nn.Module, trace: Trace, data: ImageData) -> None:
    module, told = build_network(trained, trace, Plan({}), data.calibration, "least-squares")
    assert told.origin == ""
    assert fingerprint_state(module.state_dict()) == fingerprint_state(trained.state_dict())


def test_an_unknown_repair_lists_the_nearest(trained: nn.Module, trace: Trace, data: ImageData, plan: Plan) -> None:
    with pytest.raises(CoreError, match="least-squares"):
        build_network(trained, trace, plan, data.calibration, "least-square")
