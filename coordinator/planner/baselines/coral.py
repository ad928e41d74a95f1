"""The profiling partitioner of Google's Edge TPU tools (libcoral, 2021): even stages by bisecting a target (PURE).

As described: a target for the time of a segment is bisected. At each target, segments are taken greedily, each
the longest whose time on the device is within the target; it is reached when they cover the model with as many
segments as there are devices. Transfers are not looked at, and the devices of one host are alike.

Completed here: the devices are the nodes in the order in which they were given, each with its own times; a node
that can hold nothing within the target is passed over.
"""

from __future__ import annotations

import numpy as np

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines.common import Mask, allowed_on, judged, nodes_of, steps_done
from coordinator.planner.problem import Costs

PROBES = 50
"""How many targets are tried at most."""


def coral(costs: Costs, *, seed: int = 0) -> Split:
    """The split of the least target that was reached (`seed` is not used); raises NoPlanError when none is."""
    del seed
    kinds = nodes_of(costs)
    allowed = {kind: allowed_on(costs, kind) for kind in set(kinds)}
    times = [float(costs.types[kind].compute[mask].max(initial=0.0)) for kind, mask in allowed.items()]
    low, high = 0.0, max(times, default=0.0)
    best = _cover(costs, kinds, allowed, high)
    if best is None:
        raise NoPlanError(proved=False)
    for _ in range(PROBES):
        if high - low <= 1e-6 * high:
            break
        middle = (low + high) / 2
        found = _cover(costs, kinds, allowed, middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return judged(costs, *best)


def _cover(
    costs: Costs, kinds: list[int], allowed: dict[int, Mask], target: float
) -> tuple[list[tuple[int, int]], list[int]] | None:
    """Arcs and nodes of segments that are each the longest within the target, or None if the end is not reached."""
    done = steps_done(costs)
    arcs: list[tuple[int, int]] = []
    nodes: list[int] = []
    state = 0
    for node, kind in enumerate(kinds):
        choices = np.flatnonzero(allowed[kind][state] & (costs.types[kind].compute[state] <= target))
        if not len(choices):
            continue
        end = int(choices[np.argmax(done[choices])])
        arcs.append((state, end))
        nodes.append(node)
        state = end
        if state == costs.n:
            return (arcs, nodes) if len(arcs) <= costs.max_slices else None
    return None
