"""The whole model on each of several nodes that take frames in turn (PURE).

The best is immediate. A node that takes c seconds for a frame does at most P/c of a period's frames, so no plan on
the nodes S has a period below 1 / sum of 1/c over S, whatever the shares; and the broker delivers what every frame
needs. What separates a plan from this bound is that shares are whole turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from coordinator.planner.answer import Bound, Layout, NoPlanError
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.drafts import Stage, best_of, lay_out, value

FAMILY = "whole-model-copies"
EXACT = 1e-9
FEW = 12
"""So many nodes are tried in every number."""


def copies(costs: Costs) -> Layout:
    """The best copies for the goal of `costs`. Raises NoPlanError when no node holds the model, or limits forbid.

    `lower_bound` is of the objective and holds for any shares of frames, whole turns or not.
    """
    goal, n = costs.goal, costs.n
    able = [k for k, kind in enumerate(costs.types) if math.isfinite(float(kind.period[0, n]))]
    able = [k for k in able if costs.types[k].latency_of(0, n) <= goal.max_latency]
    if not able or goal.error_budget < 0:
        raise NoPlanError(proved=True)
    seconds = {k: float(costs.types[k].period[0, n]) for k in able}
    bound = _bound(costs, able, seconds)
    if math.isinf(bound):
        raise NoPlanError(proved=True)
    found: dict[tuple[int, ...], Layout] = {}
    for key in (seconds, _column(costs, able, "latency"), _column(costs, able, "energy")):
        nodes = [k for k in sorted(able, key=lambda k: (key[k], seconds[k], k)) for _ in costs.types[k].ids]
        _try_sizes(costs, nodes[: goal.max_nodes], bound, found)
    best = best_of(costs, list(found.values()))
    if best is None:
        raise NoPlanError(proved=False)
    return best


def _column(costs: Costs, able: Sequence[int], name: str) -> dict[int, float]:
    return {k: float(getattr(costs.types[k], name)[0, costs.n]) for k in able}


def _try_sizes(costs: Costs, nodes: Sequence[int], bound: float, found: dict[tuple[int, ...], Layout]) -> None:
    """Lay out the first m nodes for every m, or, of many nodes, for the m that can be the best.

    With a node more the period never grows, so the fewest nodes for a period are found by bisection.
    """

    def of(size: int) -> Layout:
        chosen = tuple(sorted(nodes[:size]))
        if chosen not in found:
            found[chosen] = _layout(costs, chosen, bound)
        return found[chosen]

    sizes = len(nodes)
    if sizes <= FEW:
        for size in range(1, sizes + 1):
            of(size)
        return
    goal = costs.goal
    for wanted in {of(sizes).period * (1 + goal.within), goal.max_period}:
        low, high = 0, sizes
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if of(middle).period <= wanted else (middle, high)
    size = 1
    while size < sizes:
        of(size)
        size *= 2


def _layout(costs: Costs, nodes: Sequence[int], bound: float) -> Layout:
    # Lanes of one stage on one node each are the same plan as one stage on all of them, and need one slice less.
    found = lay_out(costs, FAMILY, [(Stage(0, costs.n, tuple(nodes)),)], bound, bounds=(Bound(bound, "work"),))
    exact = value(costs.goal, found) <= bound * (1 + EXACT)
    return replace(found, method="exact-counts") if exact else found


def _bound(costs: Costs, able: Sequence[int], seconds: dict[int, float]) -> float:
    """No shares of frames over any of the nodes have a lower objective; infinite when limits leave no shares."""
    goal, n = costs.goal, costs.n
    energies = _column(costs, able, "energy")
    relayed = float(costs.relayed[0, n]) / costs.broker_rate if costs.broker_rate else 0.0
    most = goal.max_nodes
    fastest = sorted(seconds[k] for k in able for _ in costs.types[k].ids)
    least = max(_period(fastest[:most]), relayed)
    if min(energies.values()) > goal.max_energy * (1 + EXACT) or least > goal.max_period * (1 + EXACT):
        return math.inf
    if goal.objective == "latency":
        order = sorted((costs.types[k].latency_of(0, n), k) for k in able)
        taken: list[float] = []
        for latency, k in order:
            taken += [seconds[k]] * costs.types[k].count
            if max(_period(sorted(taken)[:most]), relayed) <= goal.max_period * (1 + EXACT):
                return latency
        return math.inf
    if goal.objective == "nodes":
        counts = range(1, len(fastest) + 1)
        return float(next(m for m in counts if _period(fastest[:m]) <= goal.max_period * (1 + EXACT)))
    if goal.objective == "energy":
        return _least_energy(costs, able, seconds, energies, goal.max_period)
    return least


def _period(seconds: Sequence[float]) -> float:
    """The least period of nodes that take these seconds for a frame."""
    return 0.0 if min(seconds) <= 0 else 1.0 / math.fsum(1.0 / value for value in seconds)


def _least_energy(
    costs: Costs, able: Sequence[int], seconds: dict[int, float], energies: dict[int, float], period: float
) -> float:
    """The least mean energy of a frame at a period: the thriftiest nodes take as much as they can."""
    left, total = 1.0, 0.0
    for k in sorted(able, key=lambda k: energies[k]):
        share = min(left, costs.types[k].count * (period / seconds[k] if seconds[k] > 0 else math.inf))
        total += share * energies[k]
        left -= share
        if left <= 0:
            return total
    return total if left <= EXACT else math.inf
