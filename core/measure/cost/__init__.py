"""Counts by arithmetic, latency by measurement, prediction by table."""

from core.measure.cost.counts import cost_terms as cost_terms
from core.measure.cost.counts import count_cost as count_cost
from core.measure.cost.latency import machine_identity as machine_identity
from core.measure.cost.latency import measure_latency as measure_latency
from core.measure.cost.latency import measure_together as measure_together
from core.measure.cost.lookup import latency_terms as latency_terms
from core.measure.cost.lookup import predict_latency as predict_latency
from core.measure.cost.staircase import Staircase as Staircase
from core.measure.cost.staircase import latency_staircase as latency_staircase
from core.measure.cost.staircase import snap_plan as snap_plan
from core.measure.cost.tables import LatencyTable as LatencyTable
from core.measure.cost.timing import build_latency_table as build_latency_table
