"""Sample images as a page shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import streamlit as st
from PIL import Image

from core import GAINED, LOST, Subject, sample_pictures
from pages.components import tables

SHARP_EDGE = 160  # at most, for screens with more than one dot per pixel
SHOWN_EDGE = 96  # pixels sent per picture; small ones are enlarged without smoothing, so that pixels stay pixels


@st.cache_data(max_entries=16, show_spinner=False)
def _encoded(key: str, count: int, _subject: Subject) -> list[tuple[str, str]]:
    return [(_data_url(Image.fromarray(one.pixels)), one.label) for one in sample_pictures(_subject.data, count)]


def samples(subject: Subject, count: int) -> None:
    """``count`` images of what is open, classes in turn, each with its label."""
    st.html(tables.pictures_html(_encoded(subject.data.fingerprint, count, subject)))


def flips(found: Sequence[Any], kinds: Sequence[str]) -> None:
    """Images (as ``flip_pictures`` gives them) with what two plans say; a coloured edge and a word tell the kind."""
    said = {LOST: "lost", GAINED: "won"}
    cells = "".join(
        f'<figure class="{kind}"><img src="{_data_url(Image.fromarray(one.pixels))}" alt="{escape(one.label)}">'
        f"<figcaption>{escape(one.label)}<br><small>{said.get(kind, 'wrong both times')}</small></figcaption></figure>"
        for one, kind in zip(found, kinds, strict=False)
    )
    st.html(f'<div class="ps-pictures flips">{cells}</div>')


def show(pixels: Sequence[Any], captions: Sequence[Sequence[str]]) -> None:
    """Pictures (uint8, H x W x 3) in one row, each with the lines of its caption; ``captions`` may be empty."""
    said = captions or [()] * len(pixels)
    cells = "".join(
        f'<figure><img src="{_photo_url(Image.fromarray(one))}" alt="{escape(", ".join(lines))}">'
        f'<figcaption style="white-space: normal">{"<br>".join(map(escape, lines))}</figcaption></figure>'
        for one, lines in zip(pixels, said, strict=True)
    )
    across = f"grid-template-columns: repeat({max(1, len(pixels))}, minmax(0, 1fr))"
    st.html(f'<div class="ps-pictures" style="{across}">{cells}</div>')


def _photo_url(image: Image.Image) -> str:
    """Smooth pictures are ten times smaller as JPEG."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _data_url(image: Image.Image) -> str:
    if max(image.size) < SHOWN_EDGE:
        times = -(-SHOWN_EDGE // max(image.size))
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    else:  # twenty of 224 pixels would be three megabytes at every visit of a page
        image.thumbnail((SHARP_EDGE, SHARP_EDGE))
        return _photo_url(image)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
