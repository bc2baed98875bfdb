"""Intervals for shares: how far the truth may lie from what a sample showed."""

from __future__ import annotations

from math import hypot, sqrt

Z95 = 1.959963984540054


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval (low, high) of a share: all p with |correct/n - p| <= z sqrt(p (1 - p) / n).

    correct of n trials succeeded; z = 1.959964 gives 95 %. Both ends lie in 0..1, also for 0 and n successes; n = 0
    tells nothing and gives (0, 1). Source: Wilson 1927, "Probable inference, the law of succession, and statistical
    inference", J. Am. Stat. Assoc. 22.
    """
    if n == 0:
        return 0.0, 1.0
    share, square = correct / n, z * z / n
    centre = (share + square / 2) / (1 + square)
    half = z * sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


Interval = tuple[float, float, float]  # value, low, high


def newcombe(first: Interval, second: Interval) -> tuple[float, float]:
    """Interval (low, high) of the difference first - second of two shares, each given as (value, low, high).

    With d = p1 - p2: low = d - sqrt((p1 - l1)^2 + (u2 - p2)^2), high = d + sqrt((u1 - p1)^2 + (p2 - l2)^2). It takes
    the two for independent; where they were measured on the same images and agree on most, it is wider than needed.
    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10,
    Statistics in Medicine 17.
    """
    (p1, l1, u1), (p2, l2, u2) = first, second
    difference = p1 - p2
    return difference - hypot(p1 - l1, u2 - p2), difference + hypot(u1 - p1, p2 - l2)


def paired_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / images for paired answers; never of width 0.

    The Wald interval after adding half an observation to each cell of the 2 x 2 table (Agresti and Min 2005,
    "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24).
    """
    n, down, up = images + 2.0, lost + 0.5, gained + 0.5
    middle = (up - down) / n
    spread = Z95 * sqrt(max(0.0, up + down - (up - down) ** 2 / n)) / n
    return max(-1.0, middle - spread), min(1.0, middle + spread)
