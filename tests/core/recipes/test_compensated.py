"""The network that is only masked and edited answers as the one that is built and compensated."""

from __future__ import annotations

import pytest
import torch

from core.apply.reconstruct import reconstruct_model
from core.errors import Cancelled
from core.evaluate import evaluate_model
from core.load import load_data, load_model
from core.measure.residuals import Residuals
from core.plan import target_groups
from core.plan.lossmodel import POWER, POWER_ALONE
from core.recipes import RECIPES, job
from core.recipes.compensated import CompensatedNetwork
from core.records import ImageData, LoadedModel, Trace, fingerprint_state
from core.trace import trace_channels


@pytest.fixture(scope="module")
def known() -> tuple[LoadedModel, Trace, ImageData, CompensatedNetwork]:
    loaded, data = load_model("demo/digits-resnet"), load_data("digits", limit=150)
    trace = trace_channels(loaded.module, loaded.example)
    groups = target_groups(trace, "gathers")
    return loaded, trace, data, CompensatedNetwork(trace, groups, data.calibration, data.selection)


def test_it_measures_what_building_gives(known: tuple[LoadedModel, Trace, ImageData, CompensatedNetwork]) -> None:
    loaded, trace, data, network = known
    dense = evaluate_model(loaded.module, data.selection)
    assert network.measure({}).correct == dense.correct
    names = list(network.order)
    counts: dict[str, int] = {}
    for name in [names[0], names[3], names[-1], names[1]]:  # forwards, and back to the first layer
        counts[name] = max(1, trace.group(name).units // 3)
        found = network.measure(counts)
        plan = network.plan(counts)
        built = reconstruct_model(loaded.module, trace, plan, data.calibration, "compensation")
        assert found.images == dense.images
        assert abs(found.loss - evaluate_model(built, data.selection).loss) < 0.2, name
    assert network.measure({}).loss == pytest.approx(dense.loss, abs=1e-5)


def test_going_on_equals_starting_anew(known: tuple[LoadedModel, Trace, ImageData, CompensatedNetwork]) -> None:
    loaded, trace, _, network = known
    before = fingerprint_state(loaded.module.state_dict())
    groups = target_groups(trace, "gathers")
    widths = torch.Generator().manual_seed(0)
    for _ in range(3):
        counts = {g.id: int(torch.randint(1, g.units + 1, (1,), generator=widths)) for g in groups}
        found = network.measure(counts)
        for run in network._runs:
            run._restart()
        assert network.measure(counts) == found or found.loss == pytest.approx(network.measure(counts).loss, abs=1e-6)
    assert fingerprint_state(loaded.module.state_dict()) == before


def test_it_stops_when_asked(known: tuple[LoadedModel, Trace, ImageData, CompensatedNetwork]) -> None:
    _, trace, data, _ = known
    groups = target_groups(trace, "inside")
    with pytest.raises(Cancelled):
        CompensatedNetwork(trace, groups, data.calibration, data.selection, cancelled=lambda: True)


@pytest.mark.parametrize(("name", "power"), [("cap", POWER_ALONE), ("chapr-qr", POWER)])
def test_what_nothing_behind_mends_weighs_more(name: str, power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths of compensated networks are foretold with a higher power: large errors count for more there."""
    asked: list[float] = []
    monkeypatch.setattr(job, "measure_residuals", lambda *_, **__: Residuals({}, {}, 1))
    monkeypatch.setattr(job, "rebuilt_curves", lambda *_, power: asked.append(power) or {})
    loaded, data = load_model("demo/digits-resnet"), load_data("digits", limit=30)
    job.Job(RECIPES[name], loaded, data, {"macs": 0.5}, None, None, 0).curves(None, 0.0, 1.0)
    assert asked == [power] and POWER < 1.0 < POWER_ALONE
