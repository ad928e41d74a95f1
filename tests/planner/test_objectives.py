"""Latency, nodes and energy, and the period under limits on them, against all plans."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from benchmarks.planner_instances import small, star
from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.goal import OBJECTIVES, Goal, Objective
from coordinator.planner.methods import exact, solver
from coordinator.planner.methods.exact import LimitsError, solve
from coordinator.planner.methods.figures import figures, segments_of
from coordinator.planner.problem import Costs
from tests.planner.brute import all_plans, within


def drawn(seed: int, objective: Objective) -> Costs:
    """A problem with limits that often bind, taken from the spread of its plans."""
    rng = random.Random(f"{objective} {seed}")
    costs = small(seed, goal=Goal(error_budget=rng.choice((0.0, 0.03))))
    plans = [plan for _, plan in all_plans(costs)]
    if not plans:
        return replace(costs, goal=Goal(objective=objective))
    some = rng.choice(plans)
    loose = rng.choice((0.9, 1.2, 2.0))
    limits: dict[str, float] = {}
    for name, value in (("max_period", some.period), ("max_latency", some.latency), ("max_energy", some.energy)):
        if rng.random() < 0.4:
            limits[name] = value * loose
    nodes = some.nodes if rng.random() < 0.3 else None
    goal = Goal(objective, max_nodes=nodes, error_budget=costs.goal.error_budget, **limits)
    return replace(costs, goal=goal)


def check(costs: Costs) -> Split | None:
    goal = costs.goal
    plans = [plan for _, plan in all_plans(costs) if within(goal, plan)]
    if not plans:
        with pytest.raises(NoPlanError) as raised:
            solve(costs, seconds=60.0)
        assert raised.value.proved
        return None
    found = solve(costs, seconds=60.0)
    best = min(plan.of(goal.objective) for plan in plans)
    mine = figures(costs, segments_of(costs, found))
    assert any(math.isclose(mine.of(goal.objective), plan.of(goal.objective)) for plan in plans)
    assert mine.of(goal.objective) <= best * (1 + goal.within) * (1 + 3e-6)
    assert found.lower_bound == pytest.approx(best, rel=1e-5)
    for bound in found.bounds:
        assert bound.value <= best * (1 + 1e-9)
    return found


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "by the solver"])
def test_equal_to_all_plans(objective: Objective, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not counted:
        if not solver.available():
            pytest.skip("without SciPy")
        monkeypatch.setattr(exact, "EXACT_STATES", 0)
    found = [check(drawn(seed, objective)) for seed in range(300, 330)]
    assert sum(split is not None for split in found) > 12
    assert any(split is None for split in found)


def test_limits_that_leave_no_plan_are_named() -> None:
    costs = next(costs for costs in map(small, range(100)) if len(list(all_plans(costs))) > 20)
    least = min(plan.latency for _, plan in all_plans(costs))
    with pytest.raises(LimitsError, match=r"latency of at most .* the least found is .* ms") as raised:
        solve(replace(costs, goal=Goal(max_latency=least * 0.9)))
    assert f"{least * 1e3:.4g} ms" in raised.value.reason
    assert raised.value.proved


def test_fewest_bytes_to_ship_within_the_share() -> None:
    moved = 0
    for seed in range(40):
        costs = small(seed, broker=False, graph=False, errors=False, goal=Goal(within=0.3))
        held = random.Random(seed).randrange(len(costs.types))
        types = tuple(
            replace(kind, moves=costs.memory * (0.0 if number == held else 1.0))
            for number, kind in enumerate(costs.types)
        )
        costs = replace(costs, types=types)
        plans = [plan for _, plan in all_plans(costs)]
        if not plans:
            continue
        best = min(plan.period for plan in plans)
        found = solve(costs)
        mine = figures(costs, segments_of(costs, found))
        assert found.period <= best * 1.3 * (1 + 1e-9)
        least = min(plan.moves for plan in plans if plan.period <= best * 1.3)
        assert mine.moves == pytest.approx(least)
        assert found.lower_bound == pytest.approx(best)
        moved += least < min(plan.moves for plan in plans if plan.period == best)
    assert moved > 2


def test_an_aim_that_is_nothing_everywhere() -> None:
    costs = star(1, 16, 12, goal=Goal("energy"))
    spec = [replace(kind.spec, watts=0.0, joules_per_byte=0.0) for kind in costs.types]
    free = replace(costs, types=tuple(replace(kind, spec=own) for kind, own in zip(costs.types, spec, strict=True)))
    found = exact.solve(free)
    assert found.lower_bound == 0.0
    assert found.segments[-1][1] == costs.n
