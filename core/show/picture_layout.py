"""Where things stand in the picture of a network: columns by depth, lanes for branches, tracks for what jumps ahead."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence

from core.show.picture_flow import Flow


def column_of(flow: Flow) -> list[int]:
    """Each node's column: one right of the rightmost node that reaches it. What no input reaches (a table computed
    from weights) stands just before its reader."""
    before, after = _neighbours(flow)
    columns = [0] * len(flow.nodes)
    reached = [index == 0 for index in range(len(flow.nodes))]
    for index in range(len(flow.nodes)):
        roots = [source for source in before[index] if reached[source]]
        reached[index] |= bool(roots)
        columns[index] = 1 + max((columns[source] for source in roots), default=-1 if index == 0 else 0)
    for index in reversed(range(len(flow.nodes))):
        if not reached[index] and after[index]:
            columns[index] = max(0, min(columns[target] for target in after[index]) - 1)
    columns[-1] = max([*columns[:-1], 0]) + 1  # the output closes the picture
    return columns


def lane_of(flow: Flow, columns: Sequence[int]) -> list[int]:
    """Each node's lane. Chains along the longest path keep theirs, the longest of all lane 0; a branch takes the
    lowest lane that is free from where it leaves to where it meets the others."""
    before, after = _neighbours(flow)
    count = len(flow.nodes)
    depth_left = [0] * count
    for index in reversed(range(count)):
        depth_left[index] = 1 + max((depth_left[target] for target in after[index]), default=0)
    follows = {}
    for index in range(count):
        if after[index]:
            ahead = max(after[index], key=lambda target: (depth_left[target], -target))
            if max(before[ahead], key=lambda source: (columns[source], -source)) == index:
                follows[index] = ahead
    heads = set(range(count)) - set(follows.values())
    lanes = [0] * count
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for head in sorted(heads, key=lambda index: (columns[index] if index else -1, -depth_left[index])):
        chain = [head]
        while chain[-1] in follows:
            chain.append(follows[chain[-1]])
        end = max((columns[target] - 1 for target in after[chain[-1]]), default=columns[chain[-1]])
        span = (columns[head], max(end, columns[chain[-1]]))
        lane = 0
        while any(start <= span[1] and span[0] <= stop for start, stop in taken[lane]):
            lane += 1
        taken[lane].append(span)
        for index in chain:
            lanes[index] = lane
    return lanes


def route_wires(flow: Flow, columns: Sequence[int], lanes: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Every wire with its route: the lane it runs in, or -1, -2, ... for a track above all lanes.

    Tracks are shared where wires do not overlap; shorter wires run nearer to the layers.
    """
    standing: dict[int, list[int]] = defaultdict(list)
    for column, lane in zip(columns, lanes, strict=True):
        insort(standing[lane], column)

    def free(lane: int, start: int, stop: int) -> bool:
        here = standing[lane]
        return bisect_left(here, stop) == bisect_right(here, start)

    routes: dict[tuple[int, int], int] = {}
    jumps = []
    for source, target in flow.wires:
        start, stop = columns[source], columns[target]
        if start < stop and free(lanes[source], start, stop):
            routes[source, target] = lanes[source]
        elif start < stop and free(lanes[target], start, stop):
            routes[source, target] = lanes[target]
        else:
            jumps.append((source, target))
    jumps.sort(key=lambda wire: (abs(columns[wire[1]] - columns[wire[0]]), wire))
    spans = [tuple(sorted((columns[source], columns[target]))) for source, target in jumps]
    for wire, track in zip(jumps, _stack([(2 * start, 2 * stop - 1) for start, stop in spans]), strict=True):
        routes[wire] = -1 - track
    return tuple((source, target, routes[source, target]) for source, target in flow.wires)


def band_levels(spans: Sequence[tuple[int, int]]) -> list[int]:
    """A level for each span (first and last column, both included) so that none overlap; short spans lowest."""
    order = sorted(range(len(spans)), key=lambda index: (spans[index][1] - spans[index][0], spans[index]))
    levels = [0] * len(spans)
    for index, level in zip(order, _stack([spans[index] for index in order]), strict=True):
        levels[index] = level
    return levels


def _stack(spans: Sequence[tuple[int, int]]) -> list[int]:
    """For each span in turn the lowest shelf on which it overlaps none before it. Ends are included."""
    shelves: list[tuple[list[int], list[int]]] = []
    result = []
    for start, stop in spans:
        number = next((n for n, shelf in enumerate(shelves) if _has_room(shelf, start, stop)), len(shelves))
        if number == len(shelves):
            shelves.append(([], []))
        starts, stops = shelves[number]
        at = bisect_left(starts, start)
        starts.insert(at, start)
        stops.insert(at, stop)
        result.append(number)
    return result


def _has_room(shelf: tuple[list[int], list[int]], start: int, stop: int) -> bool:
    starts, stops = shelf
    at = bisect_right(starts, stop)
    return at == 0 or stops[at - 1] < start


def _neighbours(flow: Flow) -> tuple[list[list[int]], list[list[int]]]:
    """(who reaches each node, whom each node reaches), without the wires that run back to a layer that ran before."""
    before: list[list[int]] = [[] for _ in flow.nodes]
    after: list[list[int]] = [[] for _ in flow.nodes]
    for source, target in flow.wires:
        if source < target:
            before[target].append(source)
            after[source].append(target)
    return before, after
