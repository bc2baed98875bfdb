"""Random networks that once broke the law, kept as they were found."""

from __future__ import annotations

import pytest

from tests.random_blocks.basic import Act, Conv, Depthwise, Grouped, Transposed
from tests.random_blocks.branches import ConvNeXt, Merge, Shared, Twice, UNet
from tests.random_blocks.reshaped import Gate, Halves, Shuffle
from tests.random_blocks.tokens import Mixer, Transformer
from tests.random_blocks.weights import Product, Strict
from tests.random_blocks.writes import Move
from tests.random_law import hold_the_law
from tests.random_nets import Case, NetSpec


def attention(
    style: str, heads: int, each: int, hidden: int | str = "none", norm: str = "none", bias: bool = False
) -> Transformer:
    """Without a class token and without positions."""
    return Transformer(style, heads, each, hidden, norm, token=False, position=False, bias=bias)


CASES = {
    "two widths in one quotient": Case(
        net=NetSpec(
            dims=2,
            blocks=(
                attention("qkv_width", 2, 2),
                Conv(
                    width=4,
                    kernel=1,
                    stride=1,
                    padding="zeros",
                    dilation=1,
                    bias=True,
                    norm="none",
                    act="none",
                    wrap="none",
                ),
            ),
            head="mean",
        ),
        removed=0.5,
        seed=3,
    ),
    "two widths of three": Case(
        net=NetSpec(
            dims=3,
            blocks=(
                attention("qkv_width", 3, 1),
                Grouped(groups=3, each=1, kernel=1, norm="batch", act="abs"),
                Product(kind="tied", width=6),
                attention("qkv_width", 3, 1),
            ),
            head="auxiliary",
        ),
        removed=1.0,
        seed=263,
    ),
    "a complaint before a bare norm": Case(
        net=NetSpec(
            dims=3,
            blocks=(
                Twice(
                    body=(
                        Strict(how="assert"),
                        UNet(
                            body=(Move(kind="unfold_space"),),
                            how="cat",
                            up="interpolate",
                            norm="group_one",
                            act="relu_",
                        ),
                    ),
                    between=False,
                ),
                Depthwise(multiplier=2, stride=2, norm="instance", act="clamp", pointwise="none"),
            ),
            head="flatten",
        ),
        removed=1.0,
        seed=4389,
    ),
    "a quotient rounded down": Case(
        net=NetSpec(
            dims=2,
            blocks=(
                Act(act="none"),
                Move(kind="first_half"),
                ConvNeXt(hidden=6, norm="batch", grn=True),
                attention("qkv_width", 3, 3, hidden=4, norm="layer"),
            ),
            head="mean",
        ),
        removed=1.0,
        seed=4818,
    ),
    "rows and places of one number": Case(
        net=NetSpec(
            dims=3,
            blocks=(
                Gate(kind="pair_mean"),
                attention("qkv", 1, 3, hidden=6, norm="layer"),
                Conv(
                    width=6,
                    kernel=1,
                    stride=2,
                    padding="replicate",
                    dilation=2,
                    bias=True,
                    norm="instance_affine",
                    act="relu",
                    wrap="none",
                ),
                Shared(how="cat"),
                Merge(
                    branches=(
                        (
                            Halves(how="unequal", shuffled=True),
                            UNet(
                                body=(Mixer(kind="encoder"),), how="sum", up="transposed", norm="group_one", act="crelu"
                            ),
                        ),
                        (Twice(body=(Move(kind="interleave_channels"),), between=True), Shuffle(groups=3, fixed=True)),
                        (
                            Halves(how="unequal", shuffled=True),
                            UNet(
                                body=(Mixer(kind="encoder"),), how="sum", up="transposed", norm="group_one", act="crelu"
                            ),
                        ),
                    ),
                    how="sum_",
                ),
            ),
            head="mean",
        ),
        removed=0.25,
        seed=5048,
    ),
    "a quotient rounded down, behind a pyramid": Case(
        net=NetSpec(
            dims=1,
            blocks=(
                Product(kind="standardised", width=3),
                UNet(
                    body=(
                        attention("qkv_chunk", 2, 1, hidden=6, bias=True),
                        Transposed(groups="two", each=1, stride=1, norm="batch", act="dropout"),
                    ),
                    how="sum",
                    up="interpolate",
                    norm="local_response",
                    act="leaky_",
                ),
                Product(kind="low_rank", width=3),
                attention("qkv_width", 3, 2, hidden=6, bias=True),
            ),
            head="pyramid",
        ),
        removed=0.75,
        seed=5119,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_holds_now(name: str) -> None:
    hold_the_law(CASES[name])
