"""Plans taken arc by arc from the flow program's solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.planner_instances import small, star
from coordinator.planner.goal import Goal
from coordinator.planner.methods import solver
from coordinator.planner.methods.dive import Rest, dive
from coordinator.planner.methods.figures import keeps, lossless
from coordinator.planner.methods.flow import Flow
from coordinator.planner.methods.threshold import Threshold
from tests.planner.brute import all_plans

pytestmark = pytest.mark.skipif(not solver.available(), reason="without SciPy")


def test_what_it_finds_is_a_plan() -> None:
    """Of chains and graphs, with equal nodes, lossy cuts and scarce memory."""
    found = best = 0
    for seed in range(60):
        costs = small(seed, broker=False, goal=Goal(error_budget=(0.0, 0.02, 0.05)[seed % 3]))
        plans = [plan.period for _, plan in all_plans(costs)]
        least = min(plans, default=math.inf)
        period = (
            least if plans else max(float(k.period[np.isfinite(k.period)].max(initial=0.0)) for k in costs.types)
        )
        segments = dive(Flow(costs), period, math.inf)
        if segments is None:
            continue
        assert plans
        assert keeps(costs, segments)
        found += 1
        best += max(float(costs.types[k].period[i, j]) for i, j, k in segments) <= least
    assert found > 30
    assert best > 25


def test_the_rest_of_a_problem_has_the_plans_that_hold_the_stages() -> None:
    """A problem without some stages has as many plans as the problem has plans with these stages."""
    looked_at = 0
    for seed in range(40):
        costs = lossless(small(seed, broker=False, errors=False))
        flow = Flow(costs)
        paths = _paths(costs.n, flow)
        for stages in paths[:: max(1, len(paths) // 4)]:
            some = [stage for place, stage in enumerate(stages) if (place + seed) % 3]
            if not some or len(some) == len(stages):
                continue
            rest, pool = Rest.of(costs).without(some, flow.arcs(math.inf))
            smaller = Flow(rest.costs)
            mine = {tuple(sorted([*rest.original(path), *some])) for path in _paths(rest.costs.n, smaller)}
            assert mine == {tuple(path) for path in paths if set(some) <= set(path)}
            assert len(pool) == smaller.count(math.inf)
            looked_at += 1
    assert looked_at > 30


def test_a_large_problem_is_solved_to_its_bound() -> None:
    costs = star(1, 40, 80, goal=Goal(within=0.0))
    search = Threshold(costs, (), math.inf, clock=lambda: 0.0)
    found = search.run()
    assert found.ended
    assert found.by_rules
    assert found.segments is not None
    assert keeps(costs, found.segments)


def _paths(n: int, flow: Flow) -> list[list[tuple[int, int, int]]]:
    """All plans, stage by stage."""
    arcs = flow.arcs(math.inf)
    every = sorted(zip(arcs.starts.tolist(), arcs.ends.tolist(), arcs.kinds.tolist(), strict=True))
    counts = [kind.count for kind in flow.costs.types]
    found: list[list[tuple[int, int, int]]] = []

    def go(path: list[tuple[int, int, int]]) -> None:
        at = path[-1][1] if path else 0
        if at == n:
            found.append(path)
            return
        for i, j, k in every if len(path) < flow.costs.max_slices else ():
            if i == at and sum(k == other for _, _, other in path) < counts[k]:
                go([*path, (i, j, k)])

    go([])
    return found
