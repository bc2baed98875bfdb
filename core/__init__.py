"""The pruning engine. Knows no browser and no plotting.

load -> trace -> measure -> plan -> apply -> evaluate -> export; ``core.pipeline`` tells the whole story in one
function. The names below are the public ones; their meanings stay. They are imported when first used, so that what
needs no torch (the job queue, the store) starts without it.
"""

from __future__ import annotations

import importlib
from typing import Any

# Module -> the public names that live there.
_HOME = {
    "core.apply": "AS_CUT finetune_model list_repairs mask_model prune_model reconstruct_model",
    "core.apply.iterative": "prune_iteratively",
    "core.apply.soft": "train_softly",
    "core.show.comparison": (
        "COSTS Flip GAINED LOST OTHER SeenPlan classes_csv compare_answers flip_pictures flips_csv note_of "
        "pareto_front plans_csv seen_csv seen_plans widths_csv"
    ),
    "core.show.curves": (
        "BEYOND Limit LossEstimate Lost PERHAPS RankRow Room SURELY WITHIN columns_csv lost_points rank_csv "
        "rank_groups room"
    ),
    "core.keep.device_tables": "device_table drop_device_table keep_device_table",
    "core.show.desk": (
        "DeskRow Figure Headline PROPOSED START_PLANS StartPlan desk_plan desk_rows drag_terms even_counts every_count "
        "foretell_accuracy collapsed desk_figures headline pinned_plan propose removed_counts removed_from_kept "
        "widths_plan"
    ),
    "core.errors": "Cancelled CoreError",
    "core.show.estimates": "Correction foretold_drop learn_correction",
    "core.evaluate": "compare_models evaluate_model",
    "core.export": "Applied apply_recipe export_model how_to_load list_formats load_exported verify_export",
    "core.keep.homecoming": "take_back take_back_upload",
    "core.show.inventory": "LayerRow class_counts layer_rows part_sizes sample_pictures summarise_trace",
    "core.learn.answers": "Progress answered fitting goal_facts goal_met gone_on judge may_go_on options_of",
    "core.learn.classroom": "BUDGETS CONTROLS FROZEN HIDDEN Assignment from_parameters is_link to_query",
    "core.learn.classroom_board": (
        "LONGEST_NAME Class Entry close_class count_learners entries find_class hand_in handed_in is_teacher "
        "join learner member_name open_class plain_code remove_class remove_entry"
    ),
    "core.learn.classroom_handout": "handout_html",
    "core.learn.classroom_plans": "Board board_csv board_of dense_accuracy measured_plan plan_name",
    "core.learn.formula": "formula_html",
    "core.learn.lesson": "FACTS_VERSION Lesson LessonStep filled find_lesson list_lessons",
    "core.load": "list_data list_families list_models load_data load_model sanitise_weights",
    "core.measure.cost": "LatencyTable build_latency_table count_cost measure_latency predict_latency",
    "core.measure.cost.staircase": "Staircase latency_staircase",
    "core.measure.cost.wall": "Wall",
    "core.measure.importance": "list_criteria score_channels",
    "core.measure.importance.maps": "unscored_groups",
    "core.measure.importance.agreement": "Agreement compare_criteria",
    "core.measure.sensitivity": "Sensitivity scan_sensitivity",
    "core.keep.model_files": "MODEL_SUFFIXES ModelFile examine_model_file keep_model_file",
    "core.keep.networks": "has_network is_kept",
    "core.show.picture": "GroupRow Picture PictureWidths draw_network group_rows picture_widths",
    "core.plan": "GROUP_SETS RATIO_RULES list_ratio_rules plan_budget plan_counts plan_fractions plan_uniform",
    "core.show.portraits": "Mosaic Sight UnitPlaces filter_mosaics sights unit_places",
    "core.show.cookbook": "OWN OwnChoice RecipeCard own_choices recipe_cards runs_csv",
    "core.work.recipe_runs": "repair_of",
    "core.recipes": ("LOOPS Outcome RECIPES RUNGS Recipe Rung Unfinished climb_ladder list_recipes run_recipe"),
    "core.learn.progress": "pack_progress unpack_progress",
    "core.learn.print_picture": "lesson_pictures",
    "core.learn.scenes": "SCENES",
    "core.keep.project": "open_project pack_project",
    "core.show.reasons": "Reason plan_reasons reasons_csv",
    "core.records": "Accuracy Cost CurvePoint Group ImageData Latency LoadedModel Plan Scores Trace",
    "core.show.recovery": "MEASURED MISSING RUNNING SECONDS WAITING DenseLevel RungRow best_rung dense_level "
    "known_rungs ladder_csv missing_rungs rung_rows",
    "core.keep.recent": "Recent",
    "core.keep.shelf": "find_result is_shipped job_key",
    "core.keep.opening": "Opening",
    "core.keep.subject": (
        "Subject begin_opening data_address exports_folder leave_opening open_subject split_address uploads_folder"
    ),
    "core.keep.timings": "newest_table",
    "core.trace": "trace_channels",
    "core.keep.uploads": "keep_images keep_weights",
    "core.show.views": "ChannelRow Drop DropRow RankedUnit channel_rows curves_csv drop_rows member_rows ranked_units "
    "scan_scope score_quantiles scores_csv",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"core has no public name {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
