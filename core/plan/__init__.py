"""Stage 4: decide which units stay; a Plan is a record and changes nothing."""

from core.plan.budget import plan_budget as plan_budget
from core.plan.ratios import plan_counts as plan_counts
from core.plan.ratios import plan_fractions as plan_fractions
from core.plan.ratios import plan_uniform as plan_uniform
