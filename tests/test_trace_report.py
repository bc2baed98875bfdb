"""The bench's verdicts: what counts as ok, what as missed, and what as not yet run."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from tests.bench.trace_chart import svg
from tests.bench.trace_report import bars, chart_points, failure, markdown, ratio


def entry(**changes: Any) -> dict[str, Any]:
    """A network that ours does in 0.5 s with the check (0.3 s without), the peer in 5 s."""
    seed = {"exact": 1e-6, "effect": 0.5, "finite": True, "count_agrees": True}
    ours = {"trace_s": 0.2, "prune_s": 0.3, "prune_unverified_s": 0.1, "trace_mb": 9.0, "prunable": 4, "groups": 5}
    ours |= {"seeds": [seed, {**seed, **changes.pop("seed", {})}], "params_left": 0.3}
    peer = {
        "ok": True,
        "forwards": True,
        "show_s": 1.0,
        "build_s": 3.0,
        "step_s": 1.0,
        "alone_s": 4.0,
        "total_s": 5.0,
        **changes.pop("peer", {}),
    }
    return {"ours": {**ours, **changes}, "peer": peer}


def zoo(**changes: Any) -> dict[str, dict[str, Any]]:
    """80 and 40 networks, of which the first differs by ``changes``."""
    names = [f"torchvision/net{at}" for at in range(77)]
    names += ["torchvision/resnet50", "torchvision/densenet201", "torchvision/resnet152"]
    models = {name: entry() for name in [*names, *(f"timm/net{at}" for at in range(40))]}
    models["torchvision/resnet50"]["ours"] |= {"trace_s": 0.1, "prune_s": 0.1}
    models["torchvision/resnet152"]["ours"]["cost_ms"] = 1.5
    return {**models, "torchvision/net0": entry(**changes)}


def marks(models: dict[str, dict[str, Any]]) -> list[str]:
    return [line[:4] for line in bars({"models": models})[0] if not line.startswith(" ")]


def test_a_full_run_within_all_bars_passes() -> None:
    lines, missed = bars({"models": zoo()})
    assert marks(zoo()) == ["PASS"] * 8, lines
    assert not missed


def test_each_way_to_fall_short_is_a_miss() -> None:
    for at, changes in (
        (0, {"seed": {"exact": 2e-4}}),
        (0, {"seed": {"exact": float("nan")}}),
        (0, {"seed": {"effect": 0.0}}),
        (0, {"seed": {"error": "RuntimeError: no"}}),
        (0, {"seed": {"count_agrees": False}}),
        (0, {"prunable": 0}),
        (0, {"error": "stopped after 900 s"}),
        (2, {"prune_s": 9.0}),
        (7, {"trace_mb": 201.0}),
    ):
        found = marks(zoo(**changes))
        assert found[at] == "MISS", (changes, found)
        assert bars({"models": zoo(**changes)})[1]


def test_what_was_not_run_is_open_and_two_timm_networks_may_fail() -> None:
    assert marks({"torchvision/net0": entry()})[:2] == ["OPEN", "OPEN"]
    assert marks({"torchvision/net0": entry(prunable=0)})[0] == "MISS"
    models = zoo()
    for at, expected in ((0, "PASS"), (1, "PASS"), (2, "MISS")):
        models[f"timm/net{at}"]["ours"]["prunable"] = 0
        assert marks(models)[1] == expected


def test_a_peer_that_fails_is_no_rival() -> None:
    assert ratio(entry()) == 10.0
    assert ratio(entry(), alone=True) == 8.0
    assert ratio(entry(peer={"forwards": False})) is None
    assert failure(entry(peer={"forwards": False})["ours"]) is None


def test_table_and_chart_hold_every_network() -> None:
    models = zoo(peer={"ok": False, "error": "ZeroDivisionError: no"})
    text = markdown(models, ["PASS"], "here")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 121
    assert len({row.count(" | ") for row in rows}) == 1
    assert "- `torchvision/net0`: ZeroDivisionError: no" in text
    titles = [
        node.text or ""
        for node in ElementTree.fromstring(svg(chart_points(models), ["torchvision/resnet50"])).iter()
        if node.tag.endswith("title")
    ]
    assert {title.partition(":")[0] for title in titles} >= set(models)
    assert "torchvision/net0: ours 0.500 s, the peer fails" in titles
