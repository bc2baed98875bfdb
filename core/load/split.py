"""Which image belongs to which part, and which images a limit keeps.

The parts are a property of the data alone: no seed reaches them, so that an image a network was trained on can never
turn up in the report part. Both functions order images so that every prefix is balanced over the classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.records import PARTS

Indices = NDArray[np.int64]
SHARES = (0.6, 0.2, 0.2)


def partition(labels: Indices, held_out: NDArray[np.bool_] | None = None) -> dict[str, Indices]:
    """Calibration, selection and report: disjoint, sorted, balanced over the classes, none empty from 3 images on.

    labels: N. The shares are 60, 20 and 20 %. held_out: N, True for images of the data's own test set, when it has one:
    then calibration is all the others, and selection and report are its halves.
    """
    if held_out is not None and held_out.any() and not held_out.all():
        outside = np.flatnonzero(held_out)
        ordered = outside[balanced_order(labels[outside], seed=0)]
        half = (len(ordered) + 1) // 2
        pieces = [np.flatnonzero(~held_out), ordered[:half], ordered[half:]]
    else:
        ordered = balanced_order(labels, seed=0)
        count = len(ordered)
        first = int(np.clip(round(SHARES[0] * count), 1, max(count - 2, 1)))
        second = int(np.clip(round((SHARES[0] + SHARES[1]) * count), first + 1, max(count - 1, first + 1)))
        pieces = [ordered[:first], ordered[first:second], ordered[second:]]
    return {name: np.sort(piece) for name, piece in zip(PARTS, pieces, strict=True)}


def balanced_order(labels: Indices, seed: int) -> Indices:
    """A random order of 0..N-1 in which every prefix holds each class in proportion, to within one image.

    Systematic sampling: the r-th image of a class of n stands at (r + offset) / n, with one random offset per class.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.uniform()) / len(members)
    return np.argsort(place, kind="stable").astype(np.int64)


def keep_limited(labels: Indices, parts: list[Indices], limit: int, seed: int) -> list[Indices]:
    """At most ``limit`` images of the parts together, each part in proportion and at least one of each."""
    total = sum(len(part) for part in parts)
    if limit >= total:
        return parts
    exact = [limit * len(part) / total for part in parts]
    counts = [max(1, int(share)) for share in exact]
    while sum(counts) != limit:
        step = 1 if sum(counts) < limit else -1
        behind = [step * (exact[k] - counts[k]) if counts[k] + step > 0 else -np.inf for k in range(len(parts))]
        counts[int(np.argmax(behind))] += step
    return [
        np.sort(part[balanced_order(labels[part], seed)[:count]]) for part, count in zip(parts, counts, strict=True)
    ]
