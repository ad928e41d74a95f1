"""Exchanges on plans over links between pairs of nodes: what is found is a plan, within the period asked for."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from benchmarks.planner_instances import pairwise as random_instance
from benchmarks.planner_instances import small
from coordinator.planner.goal import Goal
from coordinator.planner.methods.reach import Budget, Segments
from coordinator.planner.pairs.pairlocal import Work, exchange
from coordinator.planner.pairs.routes import Tables, decide
from coordinator.planner.problem import Costs
from tests.planner.test_pairwise import least_period

WORK = 100_000_000


def is_plan(costs: Costs, plan: Segments) -> bool:
    nodes = [k for _, _, k in plan]
    joined = all(a[1] == b[0] for a, b in itertools.pairwise(plan))
    ends = plan[0][0] == 0 and plan[-1][1] == costs.n
    return joined and ends and len(set(nodes)) == len(nodes) <= costs.max_slices


def test_only_true_plans_within_the_period() -> None:
    best_found = tried = 0
    for seed in range(120):
        costs = small(seed, hops=True, errors=False, goal=Goal(within=0.0))
        tables = Tables(costs)
        first = decide(tables.network(math.inf), Budget(1_000_000), []).plan
        if first is None:
            continue
        best = least_period(costs)
        assert exchange(tables, first, best * 0.999, Work(WORK)) is None
        found = exchange(tables, first, best, Work(WORK))
        tried += 1
        if found is not None:
            best_found += 1
            assert is_plan(costs, found), seed
            assert tables.period_of(found) == best, seed
    assert best_found > 0.8 * tried > 0


def test_poor_plans_become_good_ones_and_the_same_each_time() -> None:
    costs = random_instance(2, 12, 20)
    tables = Tables(costs)
    plan = decide(tables.network(math.inf), Budget(1_000_000), []).plan
    assert plan is not None
    target = 0.5 * tables.period_of(plan)
    found = exchange(tables, plan, target, Work(WORK))
    assert found is not None
    assert is_plan(costs, found)
    assert tables.period_of(found) <= target
    assert found == exchange(tables, plan, target, Work(WORK))


def test_work_is_bounded_and_pins_are_left_alone() -> None:
    costs = random_instance(2, 12, 20)
    tables = Tables(costs)
    plan = decide(tables.network(math.inf), Budget(1_000_000), []).plan
    assert plan is not None
    assert exchange(tables, plan, 0.5 * tables.period_of(plan), Work(0)) is None
    pinned = Tables(replace(costs, slice_pins={0: plan[0][2]}))
    assert exchange(pinned, plan, 0.5 * tables.period_of(plan), Work(WORK)) is None
