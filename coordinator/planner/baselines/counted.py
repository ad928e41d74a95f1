"""The dynamic program over how many nodes of each kind are used, which PipeEdge and DNNPipe share (PURE).

With one node of each kind it goes over subsets of nodes. The best bottleneck is kept for each number of nodes of
each kind, the kind of the last one, and the state where its arc ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from coordinator.planner.tables.segments import Table

Hop = Callable[[int, int], Table]
"""The seconds of a hop between two kinds at every state."""

MOST_STEPS = 5200
"""How many times at most a stage is added to a set of counts: what 10 unlike nodes take."""


def steps_of_counts(counts: Sequence[int]) -> int:
    """How many times a stage is added to a set of counts."""
    states = 1
    for count in counts:
        states *= count + 1
    return sum(states // (count + 1) * count for count in counts)


def least_bottleneck(
    periods: Sequence[Table], counts: Sequence[int], hop: Hop, most_slices: int
) -> list[tuple[int, int, int]] | None:
    """The arcs (start, end, kind) of the least slowest stage or hop, or None.

    `periods[k]` are the seconds of each arc on kind k, infinite where it may not run.
    """
    last = len(periods[0]) - 1
    kinds = range(len(counts))
    nothing = (0,) * len(counts)
    # One entry per set of counts and kind of the last stage; the kind of the client is -1.
    best: dict[tuple[tuple[int, ...], int], Table] = {
        (nothing, -1): np.where(np.arange(last + 1) == 0, 0.0, np.inf)
    }
    hops = {(a, b): hop(a, b) for a in kinds for b in kinds if a != b or counts[a] > 1}

    def before(used: tuple[int, ...], kind: int) -> list[tuple[int, Table]]:
        """What a stage on `kind`, the last of `used`, may follow: the kind before, and the bottleneck by state."""
        less = (*used[:kind], used[kind] - 1, *used[kind + 1 :])
        if less == nothing:
            return [(-1, best[nothing, -1])]
        return [(a, np.maximum(best[less, a], hops[a, kind])) for a in kinds if (less, a) in best]

    # What is no better than a whole plan that is known leads to none that is.
    bound = np.inf
    for used in sorted(itertools.product(*(range(count + 1) for count in counts)), key=sum):
        if not 0 < sum(used) <= most_slices:
            continue
        for kind in kinds:
            ways = before(used, kind) if used[kind] else []
            if not ways:
                continue
            arrived = np.minimum.reduce([table for _, table in ways])
            starts = np.flatnonzero(arrived < bound)
            if len(starts):
                found = np.maximum(arrived[starts, None], periods[kind][starts]).min(axis=0)
                if (found < bound).any():
                    best[used, kind] = found
                    bound = min(bound, float(found[last]))
    least = min((float(table[last]), sum(key[0]), key) for key, table in best.items())
    if not np.isfinite(least[0]):
        return None
    (used, kind), end = least[2], last
    arcs: list[tuple[int, int, int]] = []
    while used != nothing:
        target = best[used, kind][end]
        choices = [(a, np.maximum(table, periods[kind][:, end])) for a, table in before(used, kind)]
        follows, start = next((a, int(np.argmin(times))) for a, times in choices if times.min() <= target)
        arcs.append((start, end, kind))
        used = (*used[:kind], used[kind] - 1, *used[kind + 1 :])
        kind, end = follows, start
    return arcs[::-1]
