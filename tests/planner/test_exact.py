"""The planner against all plans of small random problems, and on large ones against its own bounds."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from benchmarks.planner_instances import small
from coordinator.planner import exact, solver
from coordinator.planner.answer import Duals, NoPlanError, Split
from coordinator.planner.exact import solve
from coordinator.planner.figures import figures, segments_of
from coordinator.planner.goal import Goal
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
    found = [check(costs, answer(costs)) for costs in (small(seed) for seed in range(150))]
    assert sum(found) > 80
    assert not all(found)


@needs_scipy
def test_the_solver_is_equal_to_all_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without the methods that count."""
    monkeypatch.setattr(exact, "EXACT_STATES", 0)
    dual = solved = 0
    for seed in range(200, 280):
        costs = small(seed, goal=Goal(error_budget=random.Random(seed).choice((0.0, 0.02, 0.05))))
        split = answer(costs)
        solved += check(costs, split)
        if split is not None:
            assert split.method == "milp"
            dual += split.bounds[-1].duals is not None
    assert solved > 40
    assert dual > 20
