"""Watch a recipe at work: how one layer's channels were chosen and rebuilt, how the whole network fell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from core import Subject, list_criteria
from pages.components import charts, choices, session, tables
from pages.components.story_charts import errors_figure, fall, layers, path_figure, soft_epochs, trials

LAYER = "recover_layer"
MOST_UNITS = 96  # listed one by one
CRITERIA = {row.name: row.title for row in list_criteria()}
METHODS = {
    "lasso": "the LASSO path",
    "qr": "pivoted QR",
    "greedy": "forward greedy with compensation",
    "plan": "the plan as given",
}
Story = Mapping[str, Any]


def show(subject: Subject, result: Mapping[str, Any], named: str) -> None:
    """All there is to watch of a recipe's run, finished or not. named: what downloaded pictures are called."""
    curve = result.get("curve") or []
    if curve:
        draw, words = WAYS[curve[0]["kind"]]
        st.plotly_chart(draw(curve), key=f"curve-{named}", config=charts.config(f"curve-{named}"), alt=words)
        st.caption(words)
    if result.get("stories"):
        _layers(subject, result["stories"], named)


WAYS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "maps": (
        fall,
        "Each point: some of the least important maps left, and a few minibatches were trained. Accuracy on selection "
        "images, where it was looked at.",
    ),
    "epochs": (
        soft_epochs,
        "After every epoch the faintest filters are set to zero. All are trained on, so that they may come back.",
    ),
    "trials": (
        trials,
        "The search builds, rebuilds and measures whole plans, and corrects by each what it foretells of the next.",
    ),
    "layers": (
        layers,
        "Layer by layer, halving: the largest share is kept whose network still reaches the layer's threshold.",
    ),
}


def _layers(subject: Subject, stories: Sequence[Story], named: str) -> None:
    st.markdown("##### Watch a layer")
    options = {str(at): story_title(subject, story) for at, story in enumerate(stories)}
    default = next((str(at) for at, story in enumerate(stories) if story["path"]), "0")
    picked = choices.chosen(LAYER, list(options), default)
    st.selectbox(
        "Layer",
        list(options),
        format_func=options.__getitem__,
        key=f"menu_{LAYER}",
        on_change=_remember,
        args=(subject, [story["group"] for story in stories]),
        width=560,
        label_visibility="collapsed",
    )
    story = stories[int(picked)]
    figure = path_figure(story)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        if figure is None:
            st.caption("This method draws no path: it sorts the channels by a score and keeps the highest.")
            _units(story)
        else:
            st.plotly_chart(figure, key="story-path", config=charts.config(f"path-{named}"), alt=story_sentence(story))
    with right:
        st.plotly_chart(
            errors_figure(stories, int(picked)),
            key="story-errors",
            config=charts.config(f"errors-{named}"),
            alt="Error of each layer before and after its weights were rebuilt",
        )
    st.markdown(story_sentence(story))
    if figure is not None:
        _units(story)


def _remember(subject: Subject, groups: Sequence[str]) -> None:
    """The layer, and its group as the one selected everywhere."""
    choices.remember(LAYER)
    group = groups[int(session.widget_value(f"menu_{LAYER}"))]
    if group in {one.id for one in subject.trace.prunable}:
        session.select_group(group)


def story_title(subject: Subject, story: Story) -> str:
    """ "features.3: 16 of 32 inputs stay" """
    if not story["group"]:
        return f"{story['layer']}: fitted again, reads all it did"
    return f"{story['layer']}: {story['kept']} of {tables.plural(story['units'], 'channel')} stay"


def story_sentence(story: Story) -> str:
    """What happened at the layer, in one sentence."""
    how = METHODS.get(story["method"], f"the criterion {CRITERIA.get(story['method'], story['method'])}")
    chosen = f"{story['kept']} of {story['units']} channels stay, chosen by {how}. " if story["group"] else ""
    raw, rebuilt = story["raw_error"], story["rebuilt_error"]
    if not raw:
        return f"**{story['layer']}.** {chosen}Its weights were not rebuilt."
    gain = f", {raw / rebuilt:.1f} times less" if 0 < rebuilt < raw else ""
    return (
        f"**{story['layer']}.** {chosen}Error of its outputs {100 * raw:.3g} % of their variance as cut, "
        f"{100 * rebuilt:.3g} % rebuilt{gain}, over {story['rows']:,} sampled positions."
    )


def _units(story: Story) -> None:
    if not story["group"]:
        return
    order, kept = list(story["order"]), story["kept"]
    shown = ", ".join(str(unit) for unit in order[:kept][:MOST_UNITS])
    more = f" and {kept - MOST_UNITS} more" if kept > MOST_UNITS else ""
    st.caption(f"Stay, the first chosen first: {shown}{more}.")
