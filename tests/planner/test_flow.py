"""The flow program: bounds that hold, integers that prove them, and arcs generated as needed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.planner_instances import small, star
from coordinator.planner.answer import Duals
from coordinator.planner.goal import Goal
from coordinator.planner.methods import flow as flow_module
from coordinator.planner.methods import solver
from coordinator.planner.methods.certify import Rows, bound_of, proves
from coordinator.planner.methods.figures import aim_tables
from coordinator.planner.methods.flow import Flow
from tests.planner.brute import all_plans

pytestmark = pytest.mark.skipif(not solver.available(), reason="without SciPy")


def test_a_refused_period_has_no_plan_and_an_extended_proof_holds() -> None:
    refused = extended = 0
    for seed in range(14):
        costs = small(seed, goal=Goal(error_budget=0.02))
        plans = [plan.period for _, plan in all_plans(costs)]
        flow = Flow(costs)
        finite = np.unique(np.concatenate([k.period[np.isfinite(k.period)] for k in costs.types]))
        for period in (float(value) for value in finite[:: max(1, len(finite) // 6)]):
            trial = flow.trial(period)
            assert trial.feasible or trial.duals is not None
            if trial.duals is None:
                continue
            refused += 1
            assert not any(plan <= period for plan in plans)
            reached = flow.extend(trial.duals, period, math.inf if not plans else 2 * max(plans))
            assert not any(plan < reached for plan in plans)
            assert reached == period or proves(costs, flow.rows, trial.duals, reached)
            extended += reached > period
    assert refused > 15
    assert extended > 8


def test_damaged_duals_prove_nothing_false() -> None:
    """Any integers at all: what they prove is true."""
    rng = np.random.default_rng(1)
    proved = 0
    for seed in range(20):
        costs = small(seed)
        best = min((plan.period for _, plan in all_plans(costs)), default=math.inf)
        rows = Rows.of(costs)
        for _ in range(10):
            potentials = tuple(int(p) for p in np.sort(rng.integers(0, 1000, costs.n + 1)))
            duals = Duals(potentials, slices=int(rng.integers(0, 50)), error=int(rng.integers(0, 50)))
            for period in (0.5 * best, best * (1 + 1e-9), 2 * best):
                if math.isfinite(period) and proves(costs, rows, duals, period):
                    proved += 1
                    assert period <= best
    assert proved > 5


@pytest.mark.parametrize("objective", ["latency", "energy", "nodes"])
def test_the_bound_on_an_aim_is_below_every_plan(objective: str) -> None:
    tight = 0
    for seed in range(15):
        costs = small(seed, broker=seed % 3 == 0)
        plans = [plan for _, plan in all_plans(costs)]
        if not plans:
            continue
        most = sorted(plan.period for plan in plans)[len(plans) // 2]
        aim = aim_tables(costs, objective)  # type: ignore[arg-type]
        known = Flow(costs, aim=aim).least(most)
        assert known.duals is not None
        value = bound_of(costs, Rows.of(costs), known.duals, most, aim)
        best = min(plan.of(objective) for plan in plans if plan.period <= most)  # type: ignore[arg-type]
        assert value <= best
        tight += value >= best * (1 - 1e-6)
    assert tight > 4


def test_generated_arcs_give_the_same_answers_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = star(3, 10, 24)
    finite = np.unique(np.concatenate([k.period[np.isfinite(k.period)] for k in costs.types]))
    periods = [float(finite[len(finite) * share // 16]) for share in range(1, 16, 2)]
    whole = [Flow(costs).trial(period) for period in periods]
    monkeypatch.setattr(flow_module, "ALL_AT_ONCE", 0)
    grown = Flow(costs)
    for period, trial in zip(periods, whole, strict=True):
        again = grown.trial(period)
        assert again.feasible == trial.feasible
        assert (again.duals is None) == (trial.duals is None)
    assert any(trial.feasible for trial in whole)
    assert any(trial.duals is not None for trial in whole)
    assert 0 < len(grown.pool) < Flow(costs).count(math.inf)
