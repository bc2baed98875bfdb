"""Stage 4: decide which units stay; a Plan is a record and changes nothing."""

from core.plan.budget import choose_counts as choose_counts
from core.plan.budget import plan_budget as plan_budget
from core.plan.lossmodel import LossCurve as LossCurve
from core.plan.lossmodel import foretold as foretold
from core.plan.lossmodel import rebuilt_curves as rebuilt_curves
from core.plan.lossmodel import scanned_curves as scanned_curves
from core.plan.ratios import plan_counts as plan_counts
from core.plan.ratios import plan_fractions as plan_fractions
from core.plan.ratios import plan_uniform as plan_uniform
from core.plan.rules import RATIO_RULES as RATIO_RULES
from core.plan.rules import list_ratio_rules as list_ratio_rules
from core.plan.search import search_counts as search_counts
from core.plan.structural import search_structure as search_structure
from core.plan.targets import GROUP_SETS as GROUP_SETS
from core.plan.targets import target_groups as target_groups
