"""Made-up rows, curves and costs for the harness page and for what its tests expect."""

from __future__ import annotations

import math
import random

DENSE = 0.986
WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)


def make_rows(count: int, scanned: bool = True) -> list[dict]:
    rng = random.Random(7)
    rows = []
    for index in range(count):
        depth = index / max(1, count - 1)
        units = WIDTHS[int(depth * (len(WIDTHS) - 1))]
        name = f"features.{3 * index}" if count <= 20 else f"layer{1 + int(3.99 * depth)}.{index}.conv{1 + index % 3}"
        fragile = math.exp(rng.uniform(-3.6, 0.6)) * (0.35 if index else 0.8)
        curve = [
            (x, y := DENSE - min(0.886, fragile * x**2.2), y - 0.012, min(1.0, y + 0.012))
            for x in (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
        ]
        fixed = index == count - 1
        members = [name] if index % 4 else [name, f"shortcut.{index}", f"stage.{index}.conv3"]
        rows.append(
            {
                "id": f"g{index}", "name": name, "units": units, "locked": fixed, "members": members,
                "reason": "feeds the output: its channels are the classes" if fixed else None,
                "curve": None if not scanned and index % 3 == 0 else curve,
            }
        )  # fmt: skip
    return rows


def cost_terms(rows: list[dict]) -> dict:
    macs, params, latency = [(27 * 1024, 0, -1)], [(27, 0, -1)], [(0.05, -1, -1)]
    for index in range(1, len(rows)):
        area = max(1, 1024 >> (2 * (3 * index // len(rows))))
        macs.append((9 * area, index - 1, index))
        params.append((9, index - 1, index))
        latency.append((9 * area * 2e-9, index - 1, index))
    return {"macs_terms": macs, "params_terms": params, "latency_terms": latency}
