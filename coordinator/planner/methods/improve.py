"""Local search on a plan that is not known to be the best: exact in two smaller questions, in turn (PURE).

For fixed cuts, which node takes which segment is a bottleneck assignment; for a fixed order of nodes, where to
cut is a dynamic program (nodes may be left out). Each is solved exactly until neither helps.
"""

from __future__ import annotations

import numpy as np

from coordinator.planner.methods.reach import Segments
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

ROUNDS = 20
EXCHANGES = 10


def improve(costs: Costs, segments: Segments) -> Segments:
    """A plan of the same family that is never slower; with pinned slices, the plan itself."""
    if costs.slice_pins:
        return segments
    best = settle(costs, segments)
    for _ in range(EXCHANGES):
        following = _exchange(costs, best)
        if following is None:
            break
        best = settle(costs, following)
    return best


def settle(costs: Costs, segments: Segments) -> Segments:
    """A plan that is never slower, by assignment and cutting anew in turn; with pinned slices, the plan itself."""
    if costs.slice_pins:
        return segments
    best = segments
    for _ in range(ROUNDS):
        following = cut_in_order(costs, _order(costs, assign(costs, best)))
        if following is None or period_of(costs, following) >= period_of(costs, best):
            break
        best = following
    return best


def _exchange(costs: Costs, segments: Segments) -> Segments | None:
    """The best plan, if it is better, after the slowest stage's node has changed places with another one."""
    order = _order(costs, segments)
    times = [float(costs.types[k].period[i, j]) for i, j, k in segments]
    slowest = times.index(max(times))
    best, found = max(times), None
    for other in range(len(order)):
        if order[other] == order[slowest]:
            continue
        swapped = list(order)
        swapped[slowest], swapped[other] = order[other], order[slowest]
        following = cut_in_order(costs, swapped)
        if following is not None and period_of(costs, following) < best:
            best, found = period_of(costs, following), following
    return found


def period_of(costs: Costs, segments: Segments) -> float:
    """The slowest stage's time, the broker left aside."""
    return max(float(costs.types[k].period[i, j]) for i, j, k in segments)


def assign(costs: Costs, segments: Segments) -> Segments:
    """The same segments on the nodes that make the slowest stage quickest."""
    nodes = [number for number, kind in enumerate(costs.types) for _ in kind.ids]
    times = np.array([[costs.types[k].period[i, j] for k in nodes] for i, j, _ in segments])
    values = np.unique(times[np.isfinite(times)])
    low, high = -1, len(values) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if _matching(times <= values[middle]) is None:
            low = middle
        else:
            high = middle
    chosen = _matching(times <= values[high])
    if chosen is None:
        return segments
    return [(i, j, nodes[chosen[number]]) for number, (i, j, _) in enumerate(segments)]


def cut_in_order(costs: Costs, order: list[int]) -> Segments | None:
    """The best cuts when the types follow each other in `order`; each entry is one node, which may be unused."""
    n = costs.n
    reached: list[Table] = [np.where(np.arange(n + 1) == 0, 0.0, np.inf)]
    for kind in order:
        slowest = np.maximum(reached[-1][:, None], costs.types[kind].period)
        reached.append(np.minimum(reached[-1], slowest.min(axis=0)))
    if not np.isfinite(reached[-1][n]):
        return None
    segments: Segments = []
    end = n
    for place in range(len(order) - 1, -1, -1):
        if reached[place][end] <= reached[place + 1][end]:
            continue
        slowest = np.maximum(reached[place], costs.types[order[place]].period[:, end])
        start = int(np.argmin(slowest))
        segments.append((start, end, order[place]))
        end = start
    # Cuts beyond the allowed number come from nodes that were appended unused.
    return segments[::-1] if len(segments) <= costs.max_slices else None


def _order(costs: Costs, segments: Segments) -> list[int]:
    used = [kind for _, _, kind in segments]
    if len(used) >= costs.max_slices:
        return used
    rest = [number for number, kind in enumerate(costs.types) for _ in range(kind.count - used.count(number))]
    return used + rest[: costs.max_slices - len(used)]


def _matching(allowed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[int] | None:
    """A different column for each row, or None; by augmenting paths."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column in np.flatnonzero(allowed[row]).tolist():
            if column in seen:
                continue
            seen.add(column)
            if column not in owner or place(owner[column], seen):
                owner[column] = row
                return True
        return False

    for row in range(len(allowed)):
        if not place(row, set()):
            return None
    found = {row: column for column, row in owner.items()}
    return [found[row] for row in range(len(allowed))]
