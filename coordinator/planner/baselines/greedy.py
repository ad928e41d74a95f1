"""The greedy "joint optimisation" that arXiv 2210.12219 compares with (PURE).

As described: the same partition of least summed transfers; then, from every node as a start, the walk that goes
on to the unused neighbour of the highest bandwidth; the start whose slowest hop is quickest is kept.

Completed here: ties go to the node that comes first.
"""

from __future__ import annotations

import itertools

import numpy as np

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines.common import bandwidths, judged, sent
from coordinator.planner.baselines.min_sum import partition
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table


def greedy(costs: Costs, *, seed: int = 0) -> Split:
    """The best of the walks (`seed` is not used); raises NoPlanError when there is none or it does not fit."""
    del seed
    arcs = partition(costs)
    table = sent(costs)
    transfers = [float(table[arc]) for arc in arcs[:-1]]
    rates = bandwidths(costs)
    walks = [walk(rates, start, len(transfers)) for start in range(len(rates))]
    best = min((slowest(rates, path, transfers), number) for number, path in enumerate(walks))
    if not np.isfinite(best[0]):
        raise NoPlanError(proved=False)
    return judged(costs, arcs, walks[best[1]])


def walk(rates: Table, start: int, hops: int) -> list[int]:
    """The nodes of a walk that takes the fastest link to an unused node at every hop."""
    path = [start]
    free = np.ones(len(rates), dtype=bool)
    for _ in range(hops):
        free[path[-1]] = False
        path.append(int(np.argmax(np.where(free, rates[path[-1]], -1.0))))
    return path


def slowest(rates: Table, path: list[int], transfers: list[float]) -> float:
    """Seconds of the slowest hop."""
    links = [float(rates[a, b]) for a, b in itertools.pairwise(path)]
    return max(
        (size / link if link > 0 else np.inf for size, link in zip(transfers, links, strict=True)), default=0.0
    )
