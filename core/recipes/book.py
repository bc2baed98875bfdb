"""The recipes: published methods as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.registry import Registry, Row


@dataclass(frozen=True)
class Recipe:
    """criterion: which units leave first: a way to choose of the front-to-back walk ("lasso", "qr", "greedy") or an
    importance criterion. ratios: how many per group, a row of RATIO_RULES. solver: what is rebuilt afterwards
    ("least-squares", "compensation", "batchnorm", None). groups: which may lose units, a row of GROUP_SETS. loop: a row
    of LOOPS. options: of the loop; its keywords and defaults."""

    criterion: str
    ratios: str = "sensitivity"
    solver: str | None = None
    groups: str = "all"
    loop: str = "once"
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``Recipe(**values)`` gives it back."""
        return {**self.__dict__, "options": dict(self.options)}


RECIPES: Registry[Recipe] = Registry("recipe")


def list_recipes() -> list[Row[Recipe]]:
    """Every recipe for menus, with title, summary and source."""
    return list(RECIPES)


RECIPES.add(
    Row("chapr-qr",
        Recipe("qr", "rebuilt-error", "least-squares", "gathers", "front-to-back", {"blend": True, "refit": True}),
        "CHaPR: pivoted QR",
        "A good first choice. Channels whose contributions span the others' stay; then least squares, also in layers "
        "that lost nothing but read what changed. Reconstructed from the abstract; widths ours.",
        source="Zhang, Davoodi, Hu 2019, arXiv 1908.03266; reconstructed from the abstract; widths ours")
)  # fmt: skip
RECIPES.add(
    Row("cp-lasso",
        Recipe("lasso", "rebuilt-error", "least-squares", "gathers", "front-to-back", {"blend": True, "refit": True}),
        "CP: LASSO and least squares",
        "Layer by layer, LASSO chooses the channels and least squares rebuilds the next layer, shortcuts included, and "
        "layers that only read what changed. Widths by equal marginal error; the paper's own are "
        "'Shallow : deep = 1 : 1.5'.",
        source="He, Zhang, Sun 2017, arXiv 1707.06168; widths ours")
)  # fmt: skip
RECIPES.add(
    Row("cap",
        Recipe("greedy", "rebuilt-error", "compensation", "gathers", "structural-search",
               {"blend": True, "renorm": True}),
        "CaP: greedy order and compensation",
        "Channels are ranked by what the rest can make up for; the next layers' weights follow in closed form. An "
        "accuracy to keep starts the paper's binary search; other budgets are met by equal marginal error.",
        source="Xie et al. 2021, arXiv 2108.13728; the search on selection images, other widths ours")
)  # fmt: skip
RECIPES.add(
    Row("balanced-rebuild",
        Recipe("qr", "rebuilt-error", "least-squares", "gathers", "search", {"blend": True, "refit": True}),
        "Search that corrects itself (ours)",
        "As CHaPR, with widths corrected by building and measuring a few whole networks; takes about twice as long.",
        source="ours; from Xie et al. 2021, arXiv 2108.13728, and He, Zhang, Sun 2017, arXiv 1707.06168")
)  # fmt: skip
RECIPES.add(
    Row("taylor-iterative",
        Recipe("taylor", "global", None, "all", "iterative", {"flops_lambda": 1e-3}),
        "Taylor, removed bit by bit",
        "A few of the least important maps leave at a time, with minibatches of training between.",
        source="Molchanov et al. 2017, arXiv 1611.06440")
)  # fmt: skip
RECIPES.add(
    Row("sfp",
        Recipe("weight-l2", "uniform", None, "inside", "soft", {"epochs": 10, "start": "weights"}),
        "SFP: soft filter pruning",
        "All weights train; after every epoch the faintest filters are silenced, and may come back. Then they leave.",
        source="He, Kang, Dong, Fu, Yang 2018, arXiv 1808.06866")
)  # fmt: skip
RECIPES.add(
    Row("weight-l2", Recipe("weight-l2"), "Weight norm", "Filters with the smallest weights leave; nothing is rebuilt.",
        source="Li et al. 2017, arXiv 1608.08710 (there with L1)")
)  # fmt: skip
RECIPES.add(
    Row("weight-l2-ls", Recipe("weight-l2", solver="least-squares"), "Weight norm, least squares",
        "As weight norm; then each reader's weights are fitted to what the dense network computed.",
        source="reconstruction of He, Zhang, Sun 2017, arXiv 1707.06168, section 3.1")
)  # fmt: skip
_BASELINES = (
    ("first-k", "First channels", "the last channels leave whatever they do", "as in He, Zhang, Sun 2017"),
    ("random", "Random channels", "channels leave at random", "seeded"),
)
for _name, _title, _words, _source in _BASELINES:
    RECIPES.add(
        Row(_name, Recipe(_name, "uniform", None, "inside"), _title, f"A baseline: {_words}.",
            source=f"baseline, {_source}")
    )  # fmt: skip
    RECIPES.add(
        Row(f"{_name}-ls", Recipe(_name, "uniform", "least-squares", "inside"), f"{_title}, least squares",
            f"A baseline: {_words}; then least squares.", source=f"baseline, {_source}")
    )  # fmt: skip
