"""Random cuts on random nodes: the lower baseline of arXiv 2210.12219 (PURE).

As described: partitions are filled by capacity to get their number, each cut is drawn uniformly inside the range
of its partition, and the nodes are drawn uniformly. The drawn partitions are not looked at again for memory.

Completed here: nodes are drawn without repeating one, and of fewer cut points than partitions a drawing fails.
"""

from __future__ import annotations

import random

import numpy as np

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines.common import (
    allowed_everywhere,
    cut_states,
    judged,
    later_states,
    nodes_of,
    steps_done,
)
from coordinator.planner.problem import Costs


def random_plan(costs: Costs, *, seed: int = 0) -> Split:
    """One drawing; raises NoPlanError when it does not fit."""
    return judged(costs, *draw(costs, seed=seed))


def draw(costs: Costs, *, seed: int = 0) -> tuple[list[tuple[int, int]], list[int]]:
    """Arcs and nodes (places in `nodes_of`), whether or not they fit the nodes' memory.

    Raises NoPlanError when the model cannot be filled into as many nodes as there are.
    """
    rng = random.Random(seed)
    ends = fill(costs)
    nodes = nodes_of(costs)
    if len(ends) > min(len(nodes), costs.max_slices):
        raise NoPlanError(proved=False)
    done, legal = steps_done(costs), cut_states(costs)
    cuts = [0]
    for first, last in zip([0, *ends], ends[:-1], strict=False):
        inside = later_states(costs, cuts[-1]) & legal & (done > done[first]) & (done <= done[last])
        choices = np.flatnonzero(inside).tolist()
        if not choices:
            raise NoPlanError(proved=False)
        cuts.append(rng.choice(choices))
    arcs = list(zip(cuts, [*cuts[1:], costs.n], strict=True))
    return arcs, rng.sample(range(len(nodes)), len(arcs))


def fill(costs: Costs) -> list[int]:
    """Where partitions end that are each as long as the smallest node can hold."""
    allowed, done = allowed_everywhere(costs), steps_done(costs)
    ends, state = [], 0
    while state != costs.n:
        choices = np.flatnonzero(allowed[state])
        if not len(choices):
            raise NoPlanError(proved=False)
        state = int(choices[np.argmax(done[choices])])
        ends.append(state)
    return ends
