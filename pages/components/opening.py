"""A network that is being opened, as a page shows it: what is being done, for how long, and a way to give it up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from core import CoreError, Opening, Subject, leave_opening
from core.keep import workspace as records
from core.keep.workspace import Workspace
from pages.components import forms, session, work

STOPPED, CHOSEN = "opening_stopped", "opening_chosen"  # among what a reload may forget


def opened(record: Workspace) -> Subject | None:
    """The subject of ``record``. None until it is open, with what is happening, or what went wrong, shown in its
    place."""
    asked = [record.model_source, record.weights_path, record.data_source]
    if session.temporary(STOPPED) == asked:
        _stopped()
        return None
    found = work.opening(record)
    if not found.wait(work.PATIENCE_S):

        def give_up() -> None:
            leave_opening(found, session.owner())
            session.set_temporary(STOPPED, asked)

        follow(found, Path(record.model_source or work.FIRST_MODEL).name, give_up, "page")
    elif found.value is None:
        st.error(str(found.error), icon=":material/error:")
    return found.value


def ready(record: Workspace) -> Subject | None:
    """The subject if it is open, or opens in a moment; the page says the rest."""
    if session.temporary(STOPPED) == [record.model_source, record.weights_path, record.data_source]:
        return None
    found = work.opening(record)
    found.wait(work.PATIENCE_S)
    return found.value


def follow(found: Opening[Subject], name: str, give_up: Callable[[], None], key: str) -> None:
    """How far an opening is; when it has ended, the page runs again."""

    @st.fragment(run_every=work.POLL_S)
    def card() -> None:
        if not found.active:
            st.rerun()
        with st.container(border=True, key=f"card-opening-{key}"):
            words, stop = st.columns([5, 1], vertical_alignment="center")
            words.markdown(f"**Opening {name}** · {found.seconds:.0f} s")
            words.caption(f"{found.stage} ...")
            if stop.button("Cancel", key=f"cancel-opening-{key}", width="stretch"):
                give_up()
                st.rerun()

    card()


def _stopped() -> None:
    st.info("Opening was cancelled.", icon=":material/info:")
    st.button("Open it after all", icon=":material/play_arrow:", on_click=lambda: session.set_temporary(STOPPED, None))


# The form of the page Model: the choice is remembered while it opens, and what was open stays in use until then


def begin(choice: forms.Choice) -> None:
    """Open what the form said; ``finish`` takes it over."""
    session.set_temporary(CHOSEN, choice)
    session.set_temporary(STOPPED, None)
    choice.begin(anew=True)


def finish() -> Subject | None:
    """Take over what the form said, if it is open by now. None while it is not, or when nothing was asked for. Raises
    CoreError with a sentence for the user, once."""
    choice: forms.Choice | None = session.temporary(CHOSEN)
    if choice is None:
        return None
    found = choice.begin()
    if not found.wait(work.PATIENCE_S):

        def give_up() -> None:
            leave_opening(found, forms.waiting())
            session.set_temporary(CHOSEN, None)

        follow(found, choice.shown, give_up, "form")
        return None
    session.set_temporary(CHOSEN, None)
    if found.value is None:
        raise CoreError(choice.in_words(str(found.error)))
    session.update(
        lambda record: records.open_model(
            record, choice.model, choice.data, weights_path=choice.weights, weights_name=choice.name
        )
    )
    return found.value
