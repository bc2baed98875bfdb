"""The laws on 500 networks nobody wrote: every operator, in any order. Bench many_nets runs 20,000."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from tests.random_blocks.basic import Act, Conv, Norm
from tests.random_blocks.branches import Merge, Shared
from tests.random_nets import Case, NetSpec, blocks_of, build, cases, hold_the_law, simplest


@pytest.mark.parametrize(("dims", "count"), [(1, 100), (2, 300), (3, 100)])
def test_the_law_holds(dims: int, count: int) -> None:
    sums = Counter[str]()

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(cases(dims))
    def draw(case: Case) -> None:
        facts = hold_the_law(case)
        sums.update(nets=1, groups=facts.prunable, plans=facts.plans, changed=facts.changed, pruned=facts.prunable > 0)

    draw()
    assert sums["nets"] >= count
    assert sums["pruned"] > 0.6 * sums["nets"], "too few networks had anything to prune"
    assert sums["groups"] > sums["nets"]
    assert sums["changed"] > 0.9 * sums["plans"], "the law would hold by nothing being read"


CASE = Case(
    NetSpec(
        2,
        (
            Merge(((), (Conv(4, 3, 2, "reflect", 2, False, "batch", "gelu", "none"), Shared("cat"))), "scaled"),
            Norm("instance"),
            Act("prelu"),
        ),
        "flatten",
    ),
    0.5,
    7,
)


def test_a_case_prints_as_the_code_that_makes_it() -> None:
    words = {kind.__name__: kind for kind in (Case, NetSpec, *map(type, blocks_of(CASE)))}
    assert eval(repr(CASE), words) == CASE
    assert sum(p.numel() for p in build(CASE.net).parameters()) == sum(
        p.numel() for p in build(CASE.net, 1).parameters()
    )


def test_a_failing_case_is_made_small() -> None:
    """As if convolutions with a stride failed: nothing else is left."""

    def fails(case: Case) -> bool:
        return any(isinstance(block, Conv) and block.stride == 2 for block in blocks_of(case))

    plain = Conv(4, 1, 2, "zeros", 1, False, "none", "relu", "none")
    assert simplest(CASE, fails) == Case(NetSpec(2, (plain,), "mean"), 0.5, 0)
