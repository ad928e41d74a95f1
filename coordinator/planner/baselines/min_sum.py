"""The partition of arXiv 2210.12219, section on partitioning: the least sum of transfers (PURE).

As described: vertices are the intervals between two cut points that fit a node, with the smallest memory of the
cluster for all; one leads to another where it ends, and costs the transfer there. A dynamic program finds the
path of least sum (not of least maximum). That there are enough nodes is tested on the finished path only.
"""

from __future__ import annotations

import numpy as np

from coordinator.planner.answer import NoPlanError
from coordinator.planner.baselines.common import Mask, allowed_everywhere, nodes_of, sent
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table


def partition(costs: Costs) -> list[tuple[int, int]]:
    """The arcs; raises NoPlanError when none lead to the end, or more than there are nodes."""
    arcs = least_sum(allowed_everywhere(costs), sent(costs))
    if arcs is None or len(arcs) > min(len(nodes_of(costs)), costs.max_slices):
        raise NoPlanError(proved=False)
    return arcs


def least_sum(allowed: Mask, transfers: Table) -> list[tuple[int, int]] | None:
    """The allowed arcs from the first state to the last whose transfers (by arc) have the least sum."""
    last = len(allowed) - 1
    weights = np.where(allowed, transfers, np.inf)
    best = np.full(last + 1, np.inf)
    best[0] = 0.0
    source = np.zeros(last + 1, dtype=int)
    for state in range(1, last + 1):
        sums = best[:state] + weights[:state, state]
        source[state] = int(np.argmin(sums))
        best[state] = sums[source[state]]
    if not np.isfinite(best[last]):
        return None
    arcs = []
    while last:
        arcs.append((int(source[last]), last))
        last = int(source[last])
    return arcs[::-1]
