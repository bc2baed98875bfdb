"""Latency tables travel: as JSON of any version, and as CSV to another device and back, checked at the door."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from torch import Tensor, nn

from core.errors import MeasureError
from core.measure.cost import LatencyTable, build_latency_table, predict_latency
from core.measure.cost import table_csv as tables_module
from core.measure.cost.steps import uniform_plan
from core.measure.cost.tables import StepTimes
from core.records import Plan, Trace
from core.trace import trace_channels
from tests.ruled_times import ruled


class Shared(nn.Module):
    """Two layers read what the first makes, so each may choose among it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU())
        self.left, self.right = nn.Conv2d(12, 20, 3), nn.Conv2d(12, 20, 3)
        self.head = nn.Linear(20 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return self.head((self.left(x) + self.right(x)).flatten(1))


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_channels(Shared().eval(), torch.randn(1, 1, 8, 8))


@pytest.fixture(scope="module")
def table(trace: Trace) -> LatencyTable:
    return build_latency_table(trace, threads=1, points=2, repeats=3)


def edited(text: str, line: int, column: str, value: str) -> str:
    """``text`` with one cell changed; line 3 is the first row."""
    lines = text.splitlines()
    rows = list(csv.reader(lines[1:]))
    rows[line - 2][rows[0].index(column)] = value
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return f"{lines[0]}\n{out.getvalue()}"


def test_json(table: LatencyTable) -> None:
    assert LatencyTable.from_json(table.to_json()) == table
    for broken in ("", "[]", "{}", '{"steps": 3}'):
        with pytest.raises(MeasureError, match="latency table"):
            LatencyTable.from_json(broken)


def test_a_table_of_an_earlier_version_still_serves(trace: Trace, table: LatencyTable) -> None:
    """It knows no factors and no gathers, and its grid has no widths beside the blocks."""
    data = json.loads(table.to_json())
    for name in ("samples", "networks", "imported", "wall"):
        del data[name]
    data["steps"] = {key: step for key, step in data["steps"].items() if not key.startswith("gather")}
    for step in data["steps"].values():
        del step["in_network"]
        step["in"], step["out"] = step["in"][-1:], step["out"][-2:]
        step["ms"] = [row[-2:] for row in step["ms"][-1:]]
    old = LatencyTable.from_dict(data)
    plan = uniform_plan(trace, 0.5)
    gather = trace.gathers[0]
    assert predict_latency(trace, plan, old).median_ms > 0
    narrowed = Plan({**plan.kept, gather.id: (0,)})
    assert predict_latency(trace, narrowed, old).median_ms > 0


def test_csv_there_and_back(trace: Trace, table: LatencyTable) -> None:
    text = table.to_csv()
    rows = list(csv.DictReader(io.StringIO(text.split("\n", 1)[1])))
    assert len(rows) == sum(len(s.widths_in) * len(s.widths_out) for s in table.steps.values())
    back = table.from_csv(text, "a phone")
    assert back.imported and back.device == "a phone" and back.batch == table.batch
    assert back.wall == table.wall is not None, "what turns the table's clock into wall time travels along"
    for plan in (None, uniform_plan(trace, 0.5), uniform_plan(trace, 0.3)):
        found, want = predict_latency(trace, plan, back), predict_latency(trace, plan, table)
        assert found.median_ms == pytest.approx(want.median_ms, rel=1e-4) and found.device == "a phone"
    assert LatencyTable.from_json(back.to_json()) == back


def test_csv_without_facts_is_the_sum_of_its_operators(trace: Trace, table: LatencyTable) -> None:
    half = ruled(table, lambda *_: 0.5)
    plain = half.to_csv().split("\n", 1)[1]
    told = table.from_csv("\ufeff" + plain, "a phone")
    whole = 0.5 * sum(s.uses for s in half.steps.values() if not s.operator.startswith("gather"))
    assert predict_latency(trace, None, told).median_ms == pytest.approx(whole)
    assert told.knots == ((whole, whole),) and told.spread == (1.0, 1.0) and told.wall is None


@pytest.mark.parametrize(
    ("line", "column", "value", "said"),
    [
        (3, "key", "nothing", "line 3: .* is no operator of this network"),
        (4, "ms", "fast", "line 4: widths are whole numbers and ms a number"),
        (4, "ms", "-1", r"line 4: ms lies in 0\.\."),
        (4, "ms", "nan", r"line 4: ms lies in 0\.\."),
        (4, "width_out", "-3", r"line 4: widths lie in 0\.\."),
        (4, "width_out", "1.5", "line 4: widths are whole numbers"),
        (4, "width_out", "77777", "needs every pair|up to the widths"),
    ],
)
def test_a_bad_cell_is_named(table: LatencyTable, line: int, column: str, value: str, said: str) -> None:
    with pytest.raises(MeasureError, match=said):
        table.from_csv(edited(table.to_csv(), line, column, value), "a phone")


def test_bad_files(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    text = table.to_csv()
    facts, header, *rows = text.splitlines()
    for broken, said in (
        ("", "expected the columns"),
        ("# {\n" + header, "expected facts as JSON"),
        ("# 3\n" + header, "facts as a JSON object"),
        ("\n".join([facts, header.replace("ms", "seconds"), *rows]), "expected the columns"),
        ("\n".join([facts, header, rows[0], *rows]), "is there twice"),
        ("\n".join([facts, header, "a,b", *rows]), "line 3: expected 6 cells; found 2"),
        ("\n".join([facts, header, *rows[:-1]]), "lacks|has no row|up to the widths"),
        ("\n".join([facts, header]), "has no row"),
        ("\n".join(['# {"knots": [[2, 1], [1, 2]]}', header, *rows]), "knots rise"),
        ("\n".join(['# {"knots": 7}', header, *rows]), "expected knots as pairs"),
        ("\n".join(['# {"knots": [[1, Infinity]]}', header, *rows]), "positive milliseconds"),
        ("\n".join(['# {"batch": 3}', header, *rows]), "3 images at once"),
        ("\n".join(['# {"threads": "many"}', header, *rows]), "threads is a whole number"),
        ("\n".join(['# {"knots": [[1, 2]], "wall": {"factor": 0}}', header, *rows]), "line 1: .* dense network's time"),
    ):
        with pytest.raises(MeasureError, match=said):
            table.from_csv(broken, "a phone")
    monkeypatch.setattr(tables_module, "MAX_CSV_ROWS", 3)
    with pytest.raises(MeasureError, match="at most 3 are read"):
        table.from_csv(text, "a phone")
    monkeypatch.setattr(tables_module, "MAX_CSV_BYTES", 10)
    with pytest.raises(MeasureError, match="MB are read"):
        table.from_csv(text, "a phone")


def test_an_axis_of_one_kind_alone() -> None:
    """Grids of other makers may hold whole blocks only: what lies between is then interpolated among these."""
    step = StepTimes("convolution", 1, (0,), (8, 16, 24), ((1.0, 3.0, 4.0),))
    assert [step.at(0, width) for width in (1, 8, 12, 16, 20, 24)] == [1.0, 1.0, 2.0, 3.0, 3.5, 4.0]
