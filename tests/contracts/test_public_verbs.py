"""The names others rely on: they exist, take what was promised, and say what they do."""

from __future__ import annotations

import inspect

import pytest

import core

VERBS = {
    "load_model": ("source", "weights", "num_classes"),
    "load_data": ("source", "split", "limit", "seed"),
    "trace_channels": ("module", "example"),
    "count_cost": ("trace", "plan"),
    "score_channels": ("trace", "data", "criterion", "seed"),
    "scan_sensitivity": ("trace", "data", "fractions", "criterion", "on_progress", "cancelled"),
    "plan_uniform": ("trace", "scores", "removed_fraction"),
    "plan_fractions": ("trace", "scores", "fractions"),
    "plan_budget": ("trace", "scores", "sensitivity", "budget"),
    "prune_model": ("module", "trace", "plan"),
    "mask_model": ("module", "trace", "plan"),
    "reconstruct_model": ("module", "trace", "plan", "data", "method"),
    "evaluate_model": ("module", "data"),
    "measure_latency": ("module", "example"),
    "predict_latency": ("trace", "plan", "table"),
    "run_recipe": ("name", "loaded", "data", "budget", "on_progress", "cancelled", "seed"),
    "export_model": ("module", "plan", "directory", "formats"),
    "verify_export": ("directory",),
}


@pytest.mark.parametrize("name", VERBS)
def test_a_public_verb_takes_its_arguments_in_order(name: str) -> None:
    verb = getattr(core, name)
    taken = [parameter for parameter in inspect.signature(verb).parameters if parameter in VERBS[name]]
    assert tuple(taken) == VERBS[name]
    assert len(inspect.getdoc(verb) or "") > 40


def test_every_public_name_is_there() -> None:
    for name in core.__all__:
        assert getattr(core, name) is not None
    with pytest.raises(AttributeError, match="no public name"):
        _ = core.prune_everything
