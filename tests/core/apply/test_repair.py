"""Every repair builds the plan's network, says so in the plan, and leaves the original alone."""

from __future__ import annotations

import pytest
import torch

from core.apply.repair import AS_CUT, REPAIRS, build_network
from core.errors import CoreError
from core.evaluate import evaluate_model
from core.keep.subject import open_subject
from core.measure.importance import score_channels
from core.plan import plan_uniform
from core.records import Plan, fingerprint_state


@pytest.fixture(scope="module")
def subject():
    return open_subject("demo/digits-resnet")


@pytest.fixture(scope="module")
def plan(subject) -> Plan:
    return plan_uniform(subject.trace, score_channels(subject.trace, None, "weight-l2"), 0.5)


@pytest.mark.parametrize("name", REPAIRS.names())
def test_a_repair_builds_the_network_of_the_plan(subject, plan, name):
    before = fingerprint_state(subject.loaded.module.state_dict())
    module, told = build_network(subject.loaded.module, subject.trace, plan, subject.data.calibration, name)
    assert told == plan  # the same units stay, whatever is done to their weights
    assert ("repaired by" in told.origin) == (name != AS_CUT)
    assert sum(p.numel() for p in module.parameters()) < 0.3 * sum(
        p.numel() for p in subject.loaded.module.parameters()
    )
    assert fingerprint_state(subject.loaded.module.state_dict()) == before


def test_least_squares_wins_back_what_the_cut_lost(subject, plan):
    images = subject.data.selection.take(torch.arange(120))
    parts = [
        build_network(subject.loaded.module, subject.trace, plan, subject.data.calibration, name)[0]
        for name in (AS_CUT, "least-squares")
    ]
    cut, repaired = (evaluate_model(module, images).value for module in parts)
    assert repaired > 0.95 > cut + 0.2


def test_a_plan_that_removes_nothing_is_not_repaired(subject):
    module, told = build_network(
        subject.loaded.module, subject.trace, Plan({}), subject.data.calibration, "least-squares"
    )
    assert told.origin == ""
    assert fingerprint_state(module.state_dict()) == fingerprint_state(subject.loaded.module.state_dict())


def test_an_unknown_repair_lists_the_nearest(subject, plan):
    with pytest.raises(CoreError, match="least-squares"):
        build_network(subject.loaded.module, subject.trace, plan, subject.data.calibration, "least-square")
