"""DEFER's even split, arXiv 2201.06769: as many parts as nodes, of as many layers each (PURE).

As described: the parts are typed in by hand; the authors cut ResNet50 on 8 nodes at every second residual
addition, which is an even number of units for each. Neither times nor memory are looked at, and the nodes follow
each other in the order in which they were given.

Completed here: a part ends at the cut point nearest to its even share of the steps. With fewer cut points than
nodes, there are fewer parts.
"""

from __future__ import annotations

import numpy as np

from coordinator.planner.answer import Split
from coordinator.planner.baselines.common import cut_states, judged, later_states, nodes_of, steps_done
from coordinator.planner.problem import Costs


def defer(costs: Costs, *, seed: int = 0) -> Split:
    """The even split (`seed` is not used); raises NoPlanError when it does not fit."""
    del seed
    done, legal = steps_done(costs), cut_states(costs)
    parts = min(len(nodes_of(costs)), costs.max_slices)
    cuts = [0]
    for number in range(1, parts):
        choices = np.flatnonzero(later_states(costs, cuts[-1]) & legal & (done < done[costs.n]))
        if not len(choices):
            break
        share = number * done[costs.n] / parts
        cuts.append(int(choices[np.argmin(np.abs(done[choices] - share))]))
    arcs = list(zip(cuts, [*cuts[1:], costs.n], strict=True))
    return judged(costs, arcs, range(len(arcs)))
