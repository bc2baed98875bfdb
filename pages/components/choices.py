"""Choices of a page that are remembered: widgets lose theirs when the page is left, the workspace keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from pages.components import session


def remember(name: str) -> None:
    """A widget's value into the workspace."""
    session.choose(**{name: session.widget_value(f"menu_{name}")})


def chosen(name: str, options: Sequence[str], default: str) -> str:
    """What was picked last for ``name``, and its widget set to it."""
    value = session.choice(name, default)
    value = value if value in options else default if default in options else options[0]
    session.set_widget_value(f"menu_{name}", value)
    return str(value)


def segments(name: str, label: str, options: Mapping[str, str], default: str = "") -> str:
    """One of a few, by name -> title."""
    picked = chosen(name, list(options), default)
    st.segmented_control(
        label,
        list(options),
        format_func=lambda option: options[option],
        key=f"menu_{name}",
        on_change=remember,
        args=(name,),
        required=True,
    )
    return picked


def number(name: str, label: str, default: float, *, step: float, most: float, format: str, help: str) -> float:
    """A number from 0 to ``most``."""
    value = session.choice(name, default)
    value = float(value) if isinstance(value, int | float) and 0 <= value <= most else default
    session.set_widget_value(f"menu_{name}", value)
    st.number_input(
        label,
        min_value=0.0,
        max_value=most,
        step=step,
        format=format,
        key=f"menu_{name}",
        on_change=remember,
        args=(name,),
        width=150,
        help=help,
    )
    return value


def switch(name: str, label: str) -> bool:
    """On or off, off at first."""
    value = session.choice(name, False) is True
    session.set_widget_value(f"menu_{name}", value)
    st.toggle(label, key=f"menu_{name}", on_change=remember, args=(name,))
    return value
