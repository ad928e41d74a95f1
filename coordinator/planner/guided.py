"""Plans of large problems by a beam search that prices guide (PURE).

At a period just below the bound, the flow program's prices say how scarce each node is. A partial plan that has
spent less is the better one; at each state a few partial plans are kept.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from coordinator.planner.flow import Flow, Prices
from coordinator.planner.reach import Segments

WIDTH = 60
"""How many partial plans each state keeps."""
PER_LABEL = 12
"""Of each type of ends, how many nodes a partial plan may take next: the cheapest."""


def guided(flow: Flow, period: float, prices: Prices | None = None, width: int = WIDTH) -> Segments | None:
    """A plan within `period`, or None: none was found. Limits other than nodes and slices are not looked at."""
    costs = flow.costs
    n, counts = costs.n, [kind.count for kind in costs.types]
    paid = np.full(len(counts), 1.0 / sum(counts)) if prices is None else prices.kinds
    allowed = np.stack([flow.allowed(k, period) for k in range(len(counts))])
    ways = allowed.sum(axis=0)
    # What few nodes can run is dear to reach the end from; the rest to pay is at least that of any nodes.
    rest = _rest(allowed, paid)
    order = np.argsort(paid, kind="stable")
    labels: list[list[tuple[float, int, int, tuple[int, ...], int]]] = [[] for _ in range(n + 1)]
    labels[0] = [(0.0, 0, 0, (), 0)]
    serial = 0
    for s in range(n):
        kept = heapq.nsmallest(width, labels[s])
        labels[s] = kept
        for number, (spent, slices, _, used, _) in enumerate(kept):
            if slices >= costs.max_slices:
                continue
            for j in np.flatnonzero(ways[s] > 0).tolist():
                if not math.isfinite(rest[j]):
                    continue
                taken = 0
                for k in order.tolist():
                    if not allowed[k, s, j] or used.count(k) >= counts[k]:
                        continue
                    serial += 1
                    labels[j].append((spent + paid[k] + 0.0, slices + 1, serial, (*used, k), s * width + number))
                    taken += 1
                    if taken >= PER_LABEL:
                        break
    if not labels[n]:
        return None
    _, _, _, used, before = min(labels[n])
    segments: Segments = []
    end = n
    for k in reversed(used):
        s, number = divmod(before, width)
        segments.append((s, end, k))
        before, end = labels[s][number][4], s
    return segments[::-1]


def _rest(
    allowed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    paid: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> list[float]:
    """What the way from each state to the end costs at least."""
    n = allowed.shape[1] - 1
    least = np.where(allowed, paid[:, None, None], np.inf).min(axis=0)
    rest = np.full(n + 1, np.inf)
    rest[n] = 0.0
    for j in range(n, 0, -1):
        rest[:j] = np.minimum(rest[:j], rest[j] + least[:j, j])
    return [float(value) for value in rest]
