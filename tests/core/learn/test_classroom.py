"""Teachers' links: what they carry comes back, and nothing that a stranger writes into one gets through."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from core.errors import CoreError
from core.learn.classroom import (
    BUDGETS,
    CONTROLS,
    FROZEN,
    HIDDEN,
    LONGEST,
    Assignment,
    checked,
    from_parameters,
    is_link,
    to_parameters,
    to_query,
)

TASK = Assignment("demo/digits-resnet", lesson="norms", criterion="weight-l2", seed=7, budget=("params", 0.25),
                  drop=0.075, frozen=("scan", "criterion"), hidden=("export",))  # fmt: skip


@pytest.mark.parametrize("task", [
    TASK, Assignment("demo/digits-vgg"), replace(TASK, data="random?size=64", weights="random", drop=0.0),
    replace(TASK, model="torchvision/resnet50", frozen=(), hidden=tuple(one.name for one in CONTROLS)),
    *(replace(TASK, budget=(name, 1 / 3)) for name in BUDGETS),
])  # fmt: skip
def test_a_link_carries_the_whole_task(task: Assignment) -> None:
    parameters = dict(parse_qsl(to_query(task)))
    back = from_parameters(parameters)
    assert back == checked(replace(task, budget=(task.budget[0], round(task.budget[1], 6))))
    assert is_link(parameters) and len(to_query(task)) < LONGEST
    assert Assignment.from_dict(task.to_dict()) == checked(task)
    assert parameters.get("class") is None and "class" in to_parameters(task, "bako-timu-resa")


def test_what_is_held_and_what_is_wanted_in_words() -> None:
    assert [TASK.held(name) for name in ("scan", "export", "starts")] == [FROZEN, HIDDEN, ""]
    assert TASK.goal == {"params": 0.25, "accuracy_drop": 0.075}
    assert TASK.goal_words == "at most 25 % of the parameters, at most 7.5 points of accuracy lost"
    assert "1 point of" in replace(TASK, drop=0.01).goal_words
    with pytest.raises(CoreError, match="no control called 'brakes'"):
        TASK.held("brakes")


GOOD = to_parameters(TASK)
HOSTILE = {
    "a path": {"model": "/etc/passwd"},
    "a climb": {"model": "demo/../../secret"},
    "a family nobody has": {"model": "evil/net"},
    "weights from a file": {"weights": "/tmp/model.pt"},
    "weights to download": {"weights": "pretrained"},
    "images from a folder": {"data": "/home"},
    "images under a root": {"data": "CIFAR10?root=/data"},
    "images by the gigabyte": {"data": "random?size=500000"},
    "a class that is not there": {"weights": "class"},
    "markup": {"lesson": "![x](http://example.org/x.png)"},
    "html": {"criterion": "<script>alert(1)</script>"},
    "no such lesson": {"lesson": "juggling"},
    "no such criterion": {"criterion": "vibes"},
    "no such control": {"freeze": "brakes"},
    "frozen and hidden": {"hide": "scan"},
    "a negative seed": {"seed": "-1"},
    "a seed beyond": {"seed": "99999999999"},
    "not a number": {"params": "nan"},
    "endless": {"params": "1e9"},
    "more than all": {"params": "1.5"},
    "nothing may remain": {"params": "0"},
    "a drop of more than all": {"drop": "2"},
    "two budgets": {"macs": "0.5"},
    "no budget": {"params": ""},
    "control characters": {"lesson": "norms\x00"},
    "very long": {"freeze": "scan," * 2000},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_bad_link_is_one_clear_sentence(change: dict[str, str]) -> None:
    parameters = {name: value for name, value in (GOOD | change).items() if value}
    with pytest.raises(CoreError) as caught:
        from_parameters(parameters)
    said = str(caught.value)
    assert len(said) < 400 and "\n" not in said
    assert not any(sign in said for sign in "<>![]("), "nothing of it may be taken for markup"


def test_files_travel_by_class_alone() -> None:
    own = replace(TASK, weights="/home/me/weights.safetensors", weights_name="mine.pt", data="/home/me/set.npz?size=32")
    assert own.needs_class and not TASK.needs_class
    with pytest.raises(CoreError, match="Open a class"):
        to_parameters(own)
    parameters = to_parameters(own, "bako-timu-resa")
    assert not any("/home" in value for value in parameters.values())
    with pytest.raises(CoreError, match="only with its class"):
        from_parameters(parameters)


@pytest.mark.parametrize("spoiled", [
    {"budget": ["hours", 1]}, {"budget": "macs"}, {"seed": "x"}, {"lesson": "juggling"}, {"frozen": ["brakes"]},
    {"drop": -1}, {"budget": ["macs", float("nan")]},
])  # fmt: skip
def test_a_spoiled_task_is_refused(spoiled: dict) -> None:
    with pytest.raises(CoreError):
        Assignment.from_dict({**TASK.to_dict(), **spoiled})
