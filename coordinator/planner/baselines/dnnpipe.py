"""DNNPipe (Journal of Systems Architecture, 2025): a dynamic program over subsets of nodes (PURE).

As described: for each subset of the nodes and each cut point, the least slowest stage of the model up to there;
2^N subsets. Two prunings of the paper take for granted that memory never binds.

Completed here: transfers count (the paper leaves them out), by what each pair of nodes takes; the prunings are
left out, since with them a plan is missed when memory binds; of more than 10 unlike nodes only the best ones are
looked at (those that can run the most arcs the quickest, then those with the fastest links), because 2^N sets are
not possible for all.
"""

from __future__ import annotations

import numpy as np

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines.common import allowed_on, bandwidths, judged, nodes_of
from coordinator.planner.baselines.counted import MOST_STEPS, least_bottleneck, steps_of_counts
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table


def dnnpipe(costs: Costs, *, seed: int = 0) -> Split:
    """The best plan on the nodes looked at (`seed` is not used); raises NoPlanError when they have none."""
    del seed
    kinds = nodes_of(costs)
    chosen = ranked(costs)
    while steps_of_counts([1] * len(chosen)) > MOST_STEPS:
        chosen.pop()
    if not chosen:
        raise NoPlanError(proved=True)
    chosen.sort()
    periods = [np.where(allowed_on(costs, kinds[k]), costs.types[kinds[k]].period, np.inf) for k in chosen]

    def hop(a: int, b: int) -> Table:
        if costs.hops is None:
            return np.zeros(costs.n + 1)
        return costs.hops.seconds(kinds[chosen[a]], kinds[chosen[b]])

    found = least_bottleneck(periods, [1] * len(chosen), hop, costs.max_slices)
    if found is None:
        raise NoPlanError(proved=False)
    return judged(costs, [(i, j) for i, j, _ in found], [chosen[k] for _, _, k in found])


def ranked(costs: Costs) -> list[int]:
    """Places in `nodes_of`: the nodes that run the most arcs the quickest and have the fastest links come first."""
    kinds = nodes_of(costs)
    rates = bandwidths(costs).sum(axis=1)
    longest = max((_longest(kind.period) for kind in costs.types), default=0.0)
    useful = {k: _useful(costs.types[k].period, longest) for k in set(kinds)}
    return sorted(range(len(kinds)), key=lambda node: (-useful[kinds[node]], -rates[node], node))


def _longest(period: Table) -> float:
    return float(period[np.isfinite(period)].max(initial=0.0))


def _useful(period: Table, longest: float) -> float:
    """Arcs that can run, the quick ones counting nearly twice."""
    finite = np.triu(period, k=1)[np.triu(np.isfinite(period), k=1)]
    return float((2.0 - finite / longest).sum()) if longest > 0 else float(len(finite))
