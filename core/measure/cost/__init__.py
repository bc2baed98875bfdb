"""Counts by arithmetic, latency by measurement, prediction by table."""

from core.measure.cost.counts import cost_terms as cost_terms
from core.measure.cost.counts import count_cost as count_cost
