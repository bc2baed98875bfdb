"""Drawn pictures of ten classes: six plain shapes and four textures, in colour, 48 x 48. Made, never stored.

Every picture is a figure on a soft two-colour ground with clutter behind it, something in front of part of it, and
noise. Colour, place, size, turn, contrast and noise vary freely, so none of them tells the class; the shape's outline,
or the texture inside a random outline, does. Small, noisy or half-hidden figures are hard on purpose.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

CLASSES = ("disc", "square", "triangle", "ring", "star", "cross", "stripes", "checker", "dots", "waves")
SIZE = 48
PER_CLASS = 400
SEED = 11
CHUNK = 20  # pictures drawn at once: few enough for the processor's cache, which halves the time
NOISE = 0.07  # standard deviation in the noisiest picture, of values in 0..1
# Whoever changes how a picture is drawn raises the number: stored scans belong to the pictures they were made on.
IDENTITY = f"shapes 2 {PER_CLASS} {SEED} {SIZE} {NOISE}"


@cache
def make_shapes(per_class: int = PER_CLASS, seed: int = SEED) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """images: uint8, N x 48 x 48 x 3, read-only; labels: int64, N. N = 10 x per_class; the same for the same seed."""
    chunks = -(-per_class // CHUNK)
    drawn = [
        np.concatenate([_draw_class(kind, np.random.default_rng([seed, kind, chunk])) for chunk in range(chunks)])
        for kind in range(len(CLASSES))
    ]
    drawn = [pictures[:per_class] for pictures in drawn]
    # Classes take turns, so that any run of consecutive pictures is balanced.
    images = np.stack(drawn, axis=1).reshape(-1, SIZE, SIZE, 3)
    labels = np.tile(np.arange(len(CLASSES), dtype=np.int64), per_class)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def _draw_class(kind: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    count = CHUNK
    x, y = _pixel_grid()
    scale = rng.uniform(0.46, 0.86, (count, 1, 1)).astype(np.float32)
    u, v = _turned(x, y, rng, count, scale, reach=0.26)
    cover = _soft(_outline(kind, u, v, rng), scale)
    ground, figure, other = _colours(rng, count)
    picture = _ground(rng, count, ground)
    inside = figure[:, None, None, :]
    if kind >= 6:
        pattern = _texture(kind, u, v, rng)[..., None]
        inside = inside * pattern + other[:, None, None, :] * (1 - pattern)
    shade = (1 + 0.22 * (v * rng.uniform(-1, 1, (count, 1, 1)).astype(np.float32)))[..., None]
    picture += cover[..., None] * (np.clip(inside * shade, 0, 1) - picture)
    _occlude(picture, rng, count)
    noise = rng.uniform(0.005, NOISE, (count, 1, 1, 1)).astype(np.float32)
    picture += noise * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def _pixel_grid() -> tuple[Array, Array]:
    """Pixel centres from -1 to 1: two 1 x 48 x 48 arrays, x to the right and y down."""
    line = ((np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x[None], y[None]


def _turned(
    x: Array, y: Array, rng: np.random.Generator, count: int, scale: Array, reach: float
) -> tuple[Array, Array]:
    """The grid seen from each figure: moved, turned and scaled so that the figure fills -1..1."""
    cx, cy = rng.uniform(-reach, reach, (2, count, 1, 1)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    dx, dy = x - cx, y - cy
    return dx * cos + dy * sin, dy * cos - dx * sin


def _soft(distance: Array, scale: Array) -> Array:
    """Signed distance (negative inside, in figure units) -> coverage 0..1 with an edge one pixel wide."""
    return np.clip(0.5 - distance * scale * SIZE / 2, 0, 1)


def _outline(kind: int, u: Array, v: Array, rng: np.random.Generator) -> Array:
    """Signed distance, near enough, to the outline of shape ``kind``; textures get a random blob."""
    radius = np.sqrt(u * u + v * v)
    if kind == 0:
        return radius - 0.82
    if kind == 1:
        return np.maximum(np.abs(u), np.abs(v)) - 0.74
    if kind == 2:
        return np.maximum(np.abs(u) * 0.866 + v * 0.5, -v) - 0.5
    if kind == 3:
        return np.abs(radius - 0.68) - rng.uniform(0.14, 0.26, (len(u), 1, 1)).astype(np.float32)
    angle = np.arctan2(v, u)
    if kind == 4:
        fifth = np.float32(2 * np.pi / 5)
        wedge = np.abs(np.mod(angle, fifth) - fifth / 2) / (fifth / 2)  # 0 at a tip, 1 in a notch
        return (radius - (1.0 - 0.56 * wedge)) * 0.7
    if kind == 5:
        arm = rng.uniform(0.2, 0.32, (len(u), 1, 1)).astype(np.float32)
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 0.92, b - arm), np.maximum(b - 0.92, a - arm))
    bumps = np.float32(0)
    for order in (2, 3, 5):
        size, phase = rng.uniform(0, 1, (2, len(u), 1, 1)).astype(np.float32)
        bumps = bumps + size * 0.16 * np.cos(order * angle + 2 * np.pi * phase)
    return radius - 0.88 + bumps * 0.8


def _texture(kind: int, u: Array, v: Array, rng: np.random.Generator) -> Array:
    """What colours the inside of a textured figure: 0..1, where 1 is the first colour."""
    count = len(u)
    pace, phase = (rng.uniform(low, high, (count, 1, 1)).astype(np.float32) for low, high in ((5.5, 9.0), (0, 6.28)))
    a, b = pace * u + phase, pace * v + 1.7 * phase
    if kind == 6:
        wave = np.sin(a)
    elif kind == 7:
        wave = np.sin(a) * np.sin(b) * 1.6
    elif kind == 8:
        wave = (np.cos(a) + np.cos(b) - 0.75) * 1.2
    else:
        wave = np.sin(a + 1.35 * np.sin(0.8 * b))
    return np.clip(0.5 + 2.2 * wave, 0, 1)


def _colours(rng: np.random.Generator, count: int) -> tuple[Array, Array, Array]:
    """Ground, figure and second colour, N x 3 each, apart in hue; the second also in brightness."""
    hue = rng.uniform(0, 1, count)
    ground = _rgb(hue, rng.uniform(0.1, 0.5, count), rng.uniform(0.3, 0.95, count))
    bright = rng.uniform(0.35, 1.0, count)
    figure_hue = hue + rng.uniform(0.2, 0.8, count)
    figure = _rgb(figure_hue, rng.uniform(0.5, 0.95, count), bright)
    against = np.where(bright > 0.65, rng.uniform(0.1, 0.5, count), rng.uniform(0.7, 1.0, count))
    other = _rgb(figure_hue + rng.uniform(0.2, 0.8, count), rng.uniform(0.2, 0.9, count), against)
    return ground, figure, other


def _rgb(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> Array:
    """Hue, saturation, value (each N) -> N x 3 in 0..1."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    chroma = np.clip(np.minimum(k, 4 - k), 0, 1)
    return (value[:, None] * (1 - saturation[:, None] * chroma)).astype(np.float32)


def _ground(rng: np.random.Generator, count: int, colour: Array) -> Array:
    """N x 48 x 48 x 3: a gradient between two neighbouring colours, with soft patches and thin strokes of clutter."""
    x, y = _pixel_grid()
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    ramp = (0.5 + 0.35 * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
    end = np.clip(colour + rng.uniform(-0.3, 0.3, colour.shape).astype(np.float32), 0, 1)
    picture = (colour[:, None, None, :] * (1 - ramp) + end[:, None, None, :] * ramp).astype(np.float32)
    for _ in range(3):
        size = rng.uniform(0.05, 0.28, (count, 1, 1)).astype(np.float32)
        u, v = _turned(x, y, rng, count, size, reach=1.0)
        stretch = rng.uniform(0.25, 1.0, (count, 1, 1)).astype(np.float32)
        patch = _soft(np.sqrt(u * u + (v / stretch) ** 2) - 1, size * stretch)
        tint = rng.uniform(0, 1, (count, 1, 1, 3)).astype(np.float32)
        picture += (patch * rng.uniform(0.15, 0.55, (count, 1, 1)).astype(np.float32))[..., None] * (tint - picture)
    return picture


def _occlude(picture: Array, rng: np.random.Generator, count: int) -> None:
    """Lays a straight band over one picture in three, in place."""
    x, y = _pixel_grid()
    hidden = np.flatnonzero(rng.uniform(0, 1, count) < 0.33)
    one = np.ones((len(hidden), 1, 1), np.float32)
    thickness = rng.uniform(0.04, 0.16, one.shape).astype(np.float32)
    u, _ = _turned(x, y, rng, len(hidden), one, reach=0.5)
    band = _soft(np.abs(u) - thickness, one)[..., None]
    tint = rng.uniform(0, 1, (len(hidden), 1, 1, 3)).astype(np.float32)
    picture[hidden] += band * (tint - picture[hidden])
