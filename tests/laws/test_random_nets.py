"""The laws on 500 networks nobody wrote: every operator, in any order. Bench many_nets runs 20,000."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.random_blocks.basic import Act, Conv, Norm
from tests.random_blocks.branches import Merge, Shared
from tests.random_law import LawBroken, hold_the_law, plainest
from tests.random_nets import Case, NetSpec, blocks_of, build, cases, simplest

LOTS = [(dims, lot) for dims, lots in ((1, 2), (2, 6), (3, 2)) for lot in range(lots)]
SUMS = Counter[str]()


@pytest.mark.parametrize(("dims", "lot"), LOTS)
def test_the_law_holds(dims: int, lot: int) -> None:
    """50 networks. Small lots: hypothesis varies what it drew before, and these begin anew."""
    failures: list[str] = []

    @seed(lot)
    @settings(
        max_examples=50, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases(dims))
    def draw(case: Case) -> None:
        try:
            facts = hold_the_law(case)
        except LawBroken as error:
            failures.append(f"{error}\nhold_the_law({plainest(case, error.kind, 60) if not failures else case})")
            return
        SUMS.update(nets=1, groups=facts.prunable, plans=facts.plans, changed=facts.changed, open=facts.prunable > 0)

    draw()
    assert not failures, "\n\n".join(failures)


def test_the_law_was_put_to_the_test() -> None:
    """On the networks above: most have something to prune, and pruning it changes what they say."""
    if not SUMS["nets"]:
        pytest.skip("no network was drawn: the tests above did not run")
    assert SUMS["open"] > 0.6 * SUMS["nets"], "too few networks had anything to prune"
    assert SUMS["groups"] > SUMS["nets"]
    assert SUMS["changed"] > 0.9 * SUMS["plans"], "the law would hold by nothing being read"


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
