"""The planning method for one pipeline behind a broker: it chooses how by itself (PURE but for a clock).

Few unlike nodes: the counts of `split.py`, and `labels.py` where there are limits beside the period. More of them:
bounds from the flow program and plans from the solver (`threshold.py`, `aims.py`). Without SciPy: the counts, and
the merged counts and local search of `split.py`. With links between pairs of nodes: `pairwise.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from coordinator.planner.answer import Bound, Method, NoPlanError, Split
from coordinator.planner.goal import Goal
from coordinator.planner.methods import solver
from coordinator.planner.methods.aims import LABELS, least_aim, nicest
from coordinator.planner.methods.broker import meeting_period
from coordinator.planner.methods.figures import SLACK, aim_tables, figures, keeps, lossless, segments_of, to_split
from coordinator.planner.methods.flow import Limit
from coordinator.planner.methods.labels import least, relayed_limit
from coordinator.planner.methods.layers import layered, unlayered
from coordinator.planner.methods.reach import Budget, OutOfBudgetError, Segments, state_count
from coordinator.planner.methods.split import EXACT_STATES, split
from coordinator.planner.methods.threshold import Threshold, limits_of
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

SECONDS = 10.0
"""How long the search takes at most for 50 nodes and 80 states; more where there is more to look at."""
MOST_SECONDS = 60.0
SEARCH = 0.8
"""The share of the time that goes into the objective; the rest is for what is made nicer within its tolerance."""
NICER = 0.3
"""The most of the time that the second takes, and at most so many seconds:"""
NICER_SECONDS = 4.0
_USUAL = 50 * 80**2


class LimitsError(NoPlanError):
    """Limits of the goal leave no plan; `reason` names the limit and the best value that can be had."""

    def __init__(self, reason: str) -> None:
        super().__init__(proved=True)
        self.args = (reason,)
        self.reason = reason


def solve(
    costs: Costs,
    *,
    seconds: float | None = None,
    certify: bool = True,
    clock: Callable[[], float] = time.process_time,
) -> Split:
    """The best plan of `costs` by its goal that can be found within about `seconds` on `clock`, with its bound.

    Small problems are solved exactly however long that takes (less than a second). `certify`: a bound that counting
    proves is proved by duals too where that is possible. Raises NoPlanError when there is no plan or none was
    found, LimitsError when only the goal's limits leave none.
    """
    if costs.hops is not None:
        from coordinator.planner.pairs.pairwise import solve as pairwise

        return pairwise(costs)
    if not costs.types or costs.n == 0:
        raise NoPlanError(proved=True)
    goal = costs.goal
    if goal.max_nodes is not None and goal.max_nodes < costs.max_slices:
        costs = replace(costs, max_slices=goal.max_nodes)
    given = seconds_for(costs) if seconds is None else seconds
    try:
        return _Solve(costs, clock() + given, certify, clock).run()
    except NoPlanError as error:
        if not error.proved or not _limited(goal):
            raise
        reason = _why(costs, given, clock)
        if not reason:
            raise
        raise LimitsError(reason) from error


def seconds_for(costs: Costs) -> float:
    """How long the search takes at most when nothing else is said."""
    size = sum(kind.count for kind in costs.types) * costs.n**2
    return min(MOST_SECONDS, SECONDS * max(1.0, size / _USUAL))


class _Solve:
    def __init__(self, costs: Costs, deadline: float, certify: bool, clock: Callable[[], float]) -> None:
        self._costs = costs
        # Cuts that may not be used are out of the tables, for methods that know nothing of errors.
        self._plain = lossless(costs)
        self._deadline = deadline
        self._certify = certify
        self._clock = clock
        self._limits = limits_of(costs)

    def run(self) -> Split:
        found = self._small()
        if found is not None:
            return found
        if self._costs.goal.objective == "throughput":
            return self._period() if solver.available() else self._without_solver()
        return self._aim() if solver.available() else self._without_solver()

    def _small(self) -> Split | None:
        """The answer by counting, if that is cheap enough."""
        costs = self._plain
        if state_count([kind.count for kind in costs.types]) > EXACT_STATES:
            return None
        try:
            if costs.goal.objective != "throughput":
                return self._small_aim()
            if self._limits or costs.errors is not None:
                return self._small_limited()
        except OutOfBudgetError:
            return None
        return self._counted()

    def _counted(self) -> Split | None:
        costs = self._plain
        found = split(costs)
        if found.method != "exact-counts":
            return None
        if found.lower_bound > costs.goal.max_period * (1 + SLACK):
            raise NoPlanError(proved=True)
        segments = segments_of(costs, found)
        allowed = min(costs.goal.max_period, found.lower_bound * (1 + costs.goal.within))
        moved = any(kind.moves is not None for kind in costs.types)
        if moved or figures(costs, segments).period > allowed * (1 + SLACK):
            segments = nicest(costs, segments, allowed, self._deadline, self._clock)
            if figures(costs, segments).period > costs.goal.max_period * (1 + SLACK):
                return None
        return self._answer(segments, [Bound(found.lower_bound, "counts")])

    def _small_aim(self) -> Split:
        costs, goal = self._plain, self._plain.goal
        limits = [*self._limits, *relayed_limit(costs, goal.max_period)]
        segments = least(costs, goal.max_period, [aim_tables(costs, goal.objective)], limits, Budget(LABELS))
        if segments is None:
            raise NoPlanError(proved=True)
        value = figures(costs, segments).of(goal.objective)
        segments = nicest(costs, segments, goal.max_period, self._deadline, self._clock)
        return self._answer(segments, [Bound(value, "counts")])

    def _small_limited(self) -> Split:
        """The least period under limits: a search over the arcs' periods with labels for each question."""
        costs, goal = self._plain, self._plain.goal
        budget = Budget(LABELS)
        relayed: tuple[Table, ...] = (costs.relayed,) * len(costs.types)
        memo: dict[float, Segments | None] = {}

        def at(period: float) -> Segments | None:
            if period not in memo:
                memo[period] = least(costs, period, [relayed], self._limits, budget)
            return memo[period]

        periods = [k.period[np.isfinite(k.period) & (k.period <= goal.max_period)] for k in costs.types]
        values: Table = np.unique(np.concatenate(periods))
        if not len(values) or at(float(values[-1])) is None:
            raise NoPlanError(proved=True)

        def delivered(period: float) -> float:
            found = at(period)
            return math.inf if found is None else sum(float(costs.relayed[i, j]) for i, j, _ in found)

        # Without a broker any rate will do that makes every plan's bytes count for nothing.
        best, at_most = meeting_period(values, costs.broker_rate or math.inf, delivered)
        if best > goal.max_period * (1 + SLACK):
            raise NoPlanError(proved=True)
        segments = at(at_most)
        assert segments is not None
        best = figures(costs, segments).period
        segments = nicest(costs, segments, best * (1 + goal.within), self._deadline, self._clock)
        return self._answer(segments, [Bound(best, "counts")])

    def _answer(self, segments: Segments, bounds: list[Bound]) -> Split:
        """A plan whose bound was counted, and, where there is one, a proof of the same bound by duals."""
        lower = bounds[-1].value
        throughput = self._costs.goal.objective == "throughput"
        if self._certify and solver.available() and throughput and not self._costs.slice_pins:
            dual = Threshold(self._costs, (), self._deadline, self._clock).certify(lower)
            if dual is not None:
                bounds = sorted([dual, *bounds], key=lambda bound: bound.value)
        return to_split(self._costs, segments, lower, "exact-counts", bounds)

    def _period(self) -> Split:
        costs = self._plain if self._costs.slice_pins else self._costs
        work = layered(costs) if costs.slice_pins else costs
        if work is None:
            return self._without_solver()
        begun = self._clock()
        limits = limits_of(work)
        search = Threshold(work, limits, begun + SEARCH * (self._deadline - begun), self._clock)
        found = search.run()
        segments = found.segments
        if segments is None:
            return self._without_solver(found.bounds)
        period = figures(work, segments).period * (1 + costs.goal.within)
        segments = nicest(work, segments, period, self._nicer_until(begun), self._clock)
        bounds = found.bounds
        if costs.slice_pins:
            segments = unlayered(costs, segments)
            bounds = [Bound(b.value, "branch-and-bound") for b in bounds[-1:]]
        method: Method = "heuristic" if found.by_rules and not found.ended else "milp"
        return to_split(self._costs, segments, found.lower, method, bounds)

    def _aim(self) -> Split:
        costs = self._plain if self._costs.slice_pins else self._costs
        work = layered(costs) if costs.slice_pins else costs
        if work is None:
            return self._without_solver()
        begun = self._clock()
        found = least_aim(work, begun + SEARCH * (self._deadline - begun), self._clock)
        if found.segments is None:
            return self._without_solver(found.bounds)
        segments = nicest(work, found.segments, costs.goal.max_period, self._nicer_until(begun), self._clock)
        bounds = found.bounds
        if costs.slice_pins:
            segments = unlayered(costs, segments)
            bounds = [Bound(b.value, "branch-and-bound") for b in bounds[-1:]]
        return to_split(self._costs, segments, found.lower, "milp", bounds)

    def _nicer_until(self, begun: float) -> float:
        return min(self._deadline, self._clock() + min(NICER_SECONDS, NICER * (self._deadline - begun)))

    def _without_solver(self, bounds: list[Bound] | None = None) -> Split:
        """The plan of the least period, if it keeps the limits; its bound only if the period is the objective."""
        costs = self._plain
        if costs.errors is not None:
            # Plans with lossy cuts are not looked at.
            strict = replace(costs, goal=replace(costs.goal, error_budget=0.0))
            found = split(lossless(strict))
            free = split(replace(costs, errors=None)).lower_bound
        else:
            found = split(costs)
            free = found.lower_bound
        segments = segments_of(costs, found)
        if not keeps(costs, segments):
            raise NoPlanError(proved=False)
        known = list(bounds or [])
        if costs.goal.objective == "throughput" and free > max((b.value for b in known), default=0.0):
            known.append(Bound(free, "counts"))
        lower = max((b.value for b in known), default=0.0)
        exact = found.method == "exact-counts" and costs.errors is None and costs.goal.objective == "throughput"
        return to_split(self._costs, segments, lower, "exact-counts" if exact else "heuristic", known)


def _limited(goal: Goal) -> bool:
    limits = (goal.max_period, goal.max_latency, goal.max_energy)
    return goal.max_nodes is not None or any(math.isfinite(limit) for limit in limits)


def _why(costs: Costs, seconds: float, clock: Callable[[], float]) -> str:
    """Which limit leaves no plan, and the best value beside the others; empty: there is no plan at all."""
    goal = costs.goal
    names: list[tuple[str, Goal]] = []
    if math.isfinite(goal.max_period):
        rate = 1 / goal.max_period if goal.max_period > 0 else math.inf
        wish = f"period of at most {goal.max_period * 1e3:.4g} ms ({rate:.4g} frames/s)"
        names.append((wish, replace(goal, objective="throughput", max_period=math.inf)))
    if math.isfinite(goal.max_latency):
        wish = f"latency of at most {goal.max_latency * 1e3:.4g} ms"
        names.append((wish, replace(goal, objective="latency", max_latency=math.inf)))
    if math.isfinite(goal.max_energy):
        wish = f"energy of at most {goal.max_energy:.4g} J"
        names.append((wish, replace(goal, objective="energy", max_energy=math.inf)))
    if goal.max_nodes is not None:
        names.append((f"at most {goal.max_nodes} nodes", replace(goal, objective="nodes", max_nodes=None)))
    for wish, free in names:
        most = costs.max_slices if free.max_nodes is not None else min(costs.n, sum(k.count for k in costs.types))
        relaxed = replace(costs, goal=free, max_slices=most)
        try:
            found = _Solve(relaxed, clock() + seconds, False, clock).run()
        except NoPlanError:
            continue
        value = figures(relaxed, segments_of(relaxed, found)).of(free.objective)
        texts = {"nodes": f"{value:.0f} nodes", "energy": f"{value:.4g} J"}
        best = texts.get(free.objective, f"{value * 1e3:.4g} ms")
        return f"no single pipeline has {wish}; the least found is {best}" + (
            " with the other limits" if len(names) > 1 else ""
        )
    free = Goal(error_budget=goal.error_budget)
    try:
        _Solve(replace(costs, goal=free), clock() + seconds, False, clock).run()
    except NoPlanError:
        return ""
    return f"no single pipeline has {' and '.join(wish for wish, _ in names)} together"


__all__ = ["Limit", "LimitsError", "solve"]
