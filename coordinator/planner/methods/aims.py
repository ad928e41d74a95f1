"""Plans of the least sum over their arcs: latency, energy, nodes, bytes to ship (PURE but for its clock)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from coordinator.planner.answer import Bound, NoPlanError
from coordinator.planner.methods import solver
from coordinator.planner.methods.figures import SLACK, aim_tables, figures, keeps, moves_tables
from coordinator.planner.methods.flow import Flow, Limit
from coordinator.planner.methods.labels import least, relayed_limit
from coordinator.planner.methods.reach import Budget, OutOfBudgetError, Segments
from coordinator.planner.methods.threshold import GRACE, limits_of, without_max_nodes
from coordinator.planner.methods.whole import ask
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

LABELS = 300_000
"""How many steps of the label search one small question may take."""
ROUNDING = 1e-9
_SOLVERS = 1e-7
"""The share of an objective that the solver may be off."""


@dataclass
class Aimed:
    """A plan (None: none found), what no plan's aim is below, the proofs, and whether plan and bound meet."""

    segments: Segments | None
    lower: float
    bounds: list[Bound]
    ended: bool


def least_aim(costs: Costs, deadline: float, clock: Callable[[], float] = time.process_time) -> Aimed:
    """The plan of the least latency, energy or number of nodes that keeps the goal's limits.

    Asks for the solver. Raises NoPlanError when it is certain that there is none.
    """
    aim = aim_tables(costs, costs.goal.objective)
    period, limits = costs.goal.max_period, limits_of(costs)
    begun = clock()
    free = without_max_nodes(costs)
    relaxed = Flow(free, aim=aim, deadline=begun + 0.5 * (deadline - begun), clock=clock)
    known = relaxed.least(period)
    if math.isinf(known.bound) and known.bound > 0:
        raise NoPlanError(proved=True)
    bounds = []
    if known.duals is not None:
        value = relaxed.proved(known.duals, period)
        if costs.goal.objective == "nodes":
            value = float(math.ceil(value * (1 - ROUNDING)))
        if value > 0:
            bounds.append(Bound(value, "lp-duals", known.duals))
    flow = replace(relaxed, costs=costs, limits=limits, deadline=math.inf)
    wall = time.monotonic()
    answer = ask(flow, period, aim, deadline - clock())
    if answer.segments is None and not answer.ended:
        # Any plan is better than none, and on a busy machine the solver has had little of the time.
        some = ask(flow, period, None, GRACE * max(deadline - begun, time.monotonic() - wall))
        answer = replace(answer, segments=some.segments) if some.segments is not None else some
    if answer.segments is None and answer.ended and math.isinf(answer.bound):
        raise NoPlanError(proved=True)
    found = answer.segments if answer.segments is not None and keeps(costs, answer.segments) else None
    proved = bounds[-1].value if bounds else 0.0
    value = math.inf if found is None else figures(costs, found).of(costs.goal.objective)
    asserted = answer.bound
    if costs.goal.objective == "nodes" and math.isfinite(asserted):
        asserted = float(math.ceil(asserted - 1e-6))
    if asserted > proved * (1 + ROUNDING) and math.isfinite(asserted):
        # The solver answers within its own tolerance.
        bounds.append(Bound(min(asserted, value) * (1 - _SOLVERS), "branch-and-bound"))
    lower = min(bounds[-1].value if bounds else 0.0, value)
    return Aimed(found, lower, bounds, found is not None and value <= lower * (1 + 1e-6))


def nicest(
    costs: Costs, segments: Segments, period: float, deadline: float, clock: Callable[[], float] = time.process_time
) -> Segments:
    """Of the plans as good as the goal's `within` allows: the fewest bytes to ship, nodes, and the least latency.

    `segments` is the plan to start from, `period` the longest period. Exact while the time lasts; never a worse
    plan.
    """
    objective = costs.goal.objective
    limits = list(limits_of(costs))
    if objective != "throughput":
        value = figures(costs, segments).of(objective)
        limits.append(Limit(aim_tables(costs, objective), value * (1 + costs.goal.within) + ROUNDING * abs(value)))
    wishes: list[tuple[Table, ...]] = []
    moves = moves_tables(costs)
    if moves is not None:
        wishes.append(moves)
    wishes += [aim_tables(costs, "nodes"), aim_tables(costs, "latency")]
    period = min(period, costs.goal.max_period)
    try:
        limited = [*limits, *relayed_limit(costs, period)]
        found = least(costs, period, wishes, limited, Budget(LABELS))
    except OutOfBudgetError:
        return _one_by_one(costs, segments, period, wishes, limits, deadline, clock)
    return found if found is not None and _valid(costs, found, period, limits) else segments


def _one_by_one(
    costs: Costs,
    segments: Segments,
    period: float,
    wishes: Sequence[tuple[Table, ...]],
    limits: list[Limit],
    deadline: float,
    clock: Callable[[], float],
) -> Segments:
    best = segments
    if not solver.available() or costs.slice_pins:
        return best
    for number, wish in enumerate(wishes):
        left = deadline - clock()
        if left <= 0.05:
            break
        flow = Flow(costs, tuple(limits), clock=clock)
        value = _sum(wish, best)
        answer = ask(flow, period, wish, left / (len(wishes) - number), gap=1e-4)
        found = answer.segments
        if found is not None and _valid(costs, found, period, limits) and _sum(wish, found) <= value:
            best, value = found, _sum(wish, found)
        limits = [*limits, Limit(wish, value)]
    return best


def _valid(costs: Costs, segments: Segments, period: float, limits: Sequence[Limit]) -> bool:
    if not keeps(costs, segments) or figures(costs, segments).period > period * (1 + SLACK):
        return False
    return all(_sum(limit.tables, segments) <= limit.most + SLACK * abs(limit.most) for limit in limits)


def _sum(tables: Sequence[Table], segments: Segments) -> float:
    return sum(float(tables[k][i, j]) for i, j, k in segments)
