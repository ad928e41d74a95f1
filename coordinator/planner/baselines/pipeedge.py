"""PipeEdge (DSD 2022, arXiv 2110.14895): a dynamic program over counts of device types (PURE).

As described: for the model up to each layer, each multiset of device types that are used and the type that comes
next, the least bottleneck; a stage adds the longer of its computing and of its transfer at the slower one of the
two types' bandwidths. Memory is looked at. The published scheduler indexes a list of hosts by the number of a
type; here types are indexed rightly.

Completed here: devices of one type are nodes that differ in nothing but id and links, and with links between
pairs a type has one bandwidth, the mean of its nodes' links, as the paper has it; within a type the nodes are
taken in the order in which they were given. With a broker, a type's own uplink and downlink count. Where the
counts are too many to go through, only the best nodes are looked at (as in `dnnpipe`).
"""

from __future__ import annotations

import numpy as np

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines.common import allowed_on, bandwidths, judged, nodes_of
from coordinator.planner.baselines.counted import MOST_STEPS, least_bottleneck, steps_of_counts
from coordinator.planner.baselines.dnnpipe import ranked
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table


def pipeedge(costs: Costs, *, seed: int = 0) -> Split:
    """The best plan by types (`seed` is not used); raises NoPlanError when there is none."""
    del seed
    kinds = nodes_of(costs)
    groups = _device_types(costs, kinds)
    if not groups:
        raise NoPlanError(proved=True)
    periods = []
    for members in groups:
        kind = kinds[members[0]]
        periods.append(np.where(allowed_on(costs, kind), costs.types[kind].period, np.inf))
    rates = bandwidths(costs)
    # A node's own entry is 0, and is not a link.
    means = [float(rates[members].sum()) / (len(members) * max(len(rates) - 1, 1)) for members in groups]

    def hop(a: int, b: int) -> Table:
        if costs.hops is None:
            return np.zeros(costs.n + 1)
        slower = min(means[a], means[b])
        return costs.hops.bytes / slower if slower > 0 else np.where(costs.hops.bytes > 0, np.inf, 0.0)

    found = least_bottleneck(periods, [len(members) for members in groups], hop, costs.max_slices)
    if found is None:
        raise NoPlanError(proved=False)
    left = [iter(members) for members in groups]
    return judged(costs, [(i, j) for i, j, _ in found], [next(left[k]) for _, _, k in found])


def _device_types(costs: Costs, kinds: list[int]) -> list[list[int]]:
    """The nodes that are looked at, by device type."""
    groups: dict[object, list[int]] = {}
    for node in ranked(costs):
        key: object = kinds[node]
        if costs.hops is not None:
            key = costs.types[kinds[node]].period.tobytes()
        groups.setdefault(key, []).append(node)
        if steps_of_counts([len(members) for members in groups.values()]) > MOST_STEPS:
            groups[key].pop()
            if not groups[key]:
                del groups[key]
    return [sorted(members) for members in groups.values()]
