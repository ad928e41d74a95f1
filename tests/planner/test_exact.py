"""The planner against all plans of small random problems, and on large ones against its own bounds."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from benchmarks.planner_instances import small, star
from coordinator.planner.answer import Duals, NoPlanError, Split
from coordinator.planner.goal import Goal
from coordinator.planner.methods import exact, solver
from coordinator.planner.methods.exact import LimitsError, solve
from coordinator.planner.methods.figures import figures, segments_of
from coordinator.planner.problem import Costs
from tests.planner.brute import all_plans, within

needs_scipy = pytest.mark.skipif(not solver.available(), reason="without SciPy")


def refutes(costs: Costs, duals: Duals, period: float) -> bool:
    """The inequality of `Duals` for plans of a period below `period`, in rationals and arc by arc."""
    n, potentials = costs.n, duals.potentials
    total = Fraction(potentials[n] - potentials[0])
    for kind in costs.types:
        price = Fraction(0)
        for i in range(n):
            for j in range(i + 1, n + 1):
                if kind.period[i, j] < period:
                    pays = duals.broker * Fraction(float(costs.relayed[i, j])) + duals.slices
                    if costs.errors is not None:
                        pays += duals.error * Fraction(float(costs.errors[j]))
                    price = max(price, potentials[j] - potentials[i] - pays)
        total -= kind.count * price
    if costs.broker_rate is not None:
        total -= duals.broker * Fraction(period) * Fraction(costs.broker_rate)
    return total - duals.slices * costs.max_slices - duals.error * Fraction(costs.goal.error_budget) > 0


def answer(costs: Costs) -> Split | None:
    try:
        return solve(costs, seconds=30.0)
    except NoPlanError as error:
        if not error.proved:
            raise
        return None


def check(costs: Costs, found: Split | None) -> bool:
    """The least period among all plans; of those within the share, the fewest nodes, then the least latency."""
    plans = [figures for _, figures in all_plans(costs) if within(costs.goal, figures)]
    if not plans:
        assert found is None
        return False
    assert found is not None
    best = min(plan.period for plan in plans)
    mine = figures(costs, segments_of(costs, found))
    assert any(math.isclose(mine.period, p.period) and math.isclose(mine.latency, p.latency) for p in plans)
    assert found.period == pytest.approx(mine.period)
    assert found.latency == pytest.approx(mine.latency)
    assert found.lower_bound == pytest.approx(best, rel=1e-9 if costs.broker_rate is None else 3e-6)
    assert found.period <= best * (1 + costs.goal.within) * (1 + 3e-6)
    for bound in found.bounds:
        assert bound.value <= best * (1 + 1e-9)
        assert bound.duals is None or refutes(costs, bound.duals, bound.value)
    if costs.broker_rate is None:
        close = [p for p in plans if p.period <= best * (1 + costs.goal.within)]
        assert mine.nodes == min(p.nodes for p in close)
        assert mine.latency <= min(p.latency for p in close if p.nodes == mine.nodes) * (1 + 1e-6)
    return True


def test_equal_to_all_plans() -> None:
    found = [check(costs, answer(costs)) for costs in (small(seed) for seed in range(60))]
    assert sum(found) > 30
    assert not all(found)


@needs_scipy
def test_the_solver_is_equal_to_all_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without the methods that count."""
    monkeypatch.setattr(exact, "EXACT_STATES", 0)
    dual = solved = 0
    for seed in range(200, 260):
        costs = small(seed, goal=Goal(error_budget=random.Random(seed).choice((0.0, 0.02, 0.05))))
        split = answer(costs)
        solved += check(costs, split)
        if split is not None:
            assert split.method == "milp"
            dual += split.bounds[-1].duals is not None
    assert solved > 30
    assert dual > 15


@needs_scipy
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "by the solver"])
def test_pinned_slices(counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not counted:
        monkeypatch.setattr(exact, "EXACT_STATES", 0)
    solved = 0
    for seed in range(400, 450):
        rng = random.Random(seed)
        costs = small(seed)
        # A pinned type is one node.
        single = [k for k, kind in enumerate(costs.types) if kind.count == 1]
        rng.shuffle(single)
        pins = dict(zip(rng.sample(range(3), 2), single, strict=False))
        solved += check(replace(costs, slice_pins=pins), answer(replace(costs, slice_pins=pins)))
    assert solved > 10


def test_without_scipy_plans_are_plans_and_bounds_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "_FOUND", False)
    monkeypatch.setattr(exact, "EXACT_STATES", 0)
    solved = 0
    for seed in range(500, 540):
        costs = small(seed, goal=Goal(error_budget=random.Random(seed).choice((0.0, 0.03))))
        plans = [plan for _, plan in all_plans(costs)]
        try:
            found = solve(costs)
        except NoPlanError as error:
            solved -= bool(plans) and error.proved
            continue
        assert any(math.isclose(found.period, plan.period) for plan in plans)
        assert found.lower_bound <= min(plan.period for plan in plans) * (1 + 1e-9)
        solved += 1
    assert solved > 20


def test_without_scipy_small_problems_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "_FOUND", False)
    assert sum(check(costs, answer(costs)) for costs in map(small, range(600, 620))) > 8


@needs_scipy
def test_twenty_unlike_nodes_leave_no_gap_and_the_proof_holds() -> None:
    costs = star(1, 20, 40)
    found = solve(costs, seconds=60.0)
    plan = figures(costs, segments_of(costs, found))
    assert found.method == "milp"
    assert found.lower_bound <= plan.period <= found.lower_bound * (1 + costs.goal.within) * (1 + 1e-9)
    bound = found.bounds[0]
    assert bound.duals is not None
    assert refutes(costs, bound.duals, bound.value)
    assert not refutes(costs, bound.duals, plan.period * 1.01)


def test_limits_alone_leave_no_plan() -> None:
    costs = star(1, 5, 20)
    best = solve(costs).lower_bound
    with pytest.raises(LimitsError, match=f"the least found is {best * 1e3:.4g} ms"):
        solve(replace(costs, goal=Goal(max_period=best * 0.99, within=0.0)))
    held = solve(replace(costs, goal=Goal(max_period=best, within=0.5)))
    assert held.period == pytest.approx(best)


def test_no_plan_at_all_is_proved() -> None:
    costs = star(1, 20, 40)
    types = tuple(replace(kind, period=np.full_like(kind.period, np.inf)) for kind in costs.types)
    with pytest.raises(NoPlanError) as raised:
        solve(replace(costs, types=types))
    assert raised.value.proved
