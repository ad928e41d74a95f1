"""Plans over links between pairs of nodes, against brute force; their proofs, gone through in rationals."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from benchmarks.planner_instances import pairwise as random_instance
from benchmarks.planner_instances import small
from coordinator.planner.answer import Bound, NoPlanError, Split
from coordinator.planner.goal import Goal
from coordinator.planner.pairs.pairflow import pack_walks
from coordinator.planner.pairs.pairwise import LABELS, QUESTIONS, solve
from coordinator.planner.problem import Costs
from slicemq.errors import PlanError

EXACT = Goal(within=0.0)


def least_period(costs: Costs) -> float:
    """The least period of all plans (infinite: there is none), by going through them."""
    assert costs.hops is not None
    rates, crosses, pins = costs.hops.rates, costs.hops.bytes, dict(costs.slice_pins)
    errors = np.zeros(costs.n + 1) if costs.errors is None else costs.errors
    best = math.inf

    def further(s: int, nodes: tuple[int, ...], slowest: float, error: float) -> None:
        nonlocal best
        number = len(nodes)
        if slowest >= best or error > costs.goal.error_budget:
            return
        if s == costs.n:
            if all(pin < number for pin in pins):
                best = slowest
            return
        if number == costs.max_slices:
            return
        for k, kind in enumerate(costs.types):
            if k in nodes or pins.get(number, k) != k or (number not in pins and k in pins.values()):
                continue
            hop = 0.0
            if nodes and crosses[s] > 0:
                hop = crosses[s] / rates[nodes[-1], k] if rates[nodes[-1], k] > 0 else math.inf
            for j in range(s + 1, costs.n + 1):
                stage = float(kind.period[s, j])
                if math.isfinite(stage) and math.isfinite(hop):
                    added = float(errors[j]) if j < costs.n else 0.0
                    further(j, (*nodes, k), max(slowest, stage, hop), error + added)

    further(0, (), 0.0, 0.0)
    return best


def period_of(costs: Costs, found: Split) -> float:
    """The period of a plan, from the tables; checks that it is one."""
    assert costs.hops is not None
    ids = [kind.ids[0] for kind in costs.types]
    nodes = [ids.index(node) for node in found.nodes]
    assert len(set(nodes)) == len(nodes) == len(found.segments) <= costs.max_slices
    assert [found.segments[0][0], found.segments[-1][1]] == [0, costs.n]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found.segments))
    assert all(nodes[number] == node for number, node in costs.slice_pins.items())
    if costs.errors is not None:
        assert sum(costs.errors[i] for i, _ in found.segments[1:]) <= costs.goal.error_budget
    values = [float(costs.types[k].period[i, j]) for (i, j), k in zip(found.segments, nodes, strict=True)]
    for (_, s), (a, b) in zip(found.segments, itertools.pairwise(nodes), strict=False):
        if costs.hops.bytes[s] > 0:
            values.append(float(costs.hops.bytes[s] / costs.hops.rates[a, b]))
    return max(values)


def proves(costs: Costs, bound: Bound) -> bool:
    """Whether the duals say that no plan has a smaller period than the bound: `answer.Duals`, in rationals."""
    assert costs.hops is not None
    assert bound.duals is not None
    duals, value, n = bound.duals, Fraction(bound.value), costs.n
    assert len(duals.starts) == len(duals.ends) == len(costs.types)
    errors = [Fraction(0)] * (n + 1)
    if costs.errors is not None:
        errors[:n] = [Fraction(float(error)) for error in costs.errors[:n]]
    paid = Fraction(duals.slices * costs.max_slices) + duals.error * Fraction(costs.goal.error_budget)
    for k, kind in enumerate(costs.types):
        assert duals.starts[k][0] == duals.potentials[0]
        assert duals.ends[k][n] == duals.potentials[1]
        price = Fraction(0)
        for i, j in itertools.combinations(range(n + 1), 2):
            stage = float(kind.period[i, j])
            if math.isfinite(stage) and Fraction(stage) < value:
                gain = duals.ends[k][j] - duals.starts[k][i] - duals.slices - duals.error * errors[j]
                price = max(price, gain)
        paid += price
        for b, s in itertools.product(range(len(costs.types)), range(1, n)):
            rate, size = Fraction(float(costs.hops.rates[k, b])), Fraction(float(costs.hops.bytes[s]))
            # Slack of one part in 10^12 for the division in floating point.
            within = size == 0 or (rate > 0 and size < value * rate * (1 - Fraction(1, 10**12)))
            if b != k and within and duals.starts[b][s] > duals.ends[k][s]:
                return False
    return duals.potentials[1] - duals.potentials[0] > paid


def random_small(seed: int) -> Costs:
    rng = random.Random(seed)
    goal = Goal(within=0.0, error_budget=rng.choice((0.0, 0.02, 0.05)))
    costs = small(seed, hops=True, goal=goal)
    if rng.random() < 0.2:
        costs = replace(costs, max_slices=rng.randint(1, 3))
    if rng.random() < 0.2:
        costs = replace(costs, slice_pins={rng.randint(0, 1): rng.randrange(len(costs.types))})
    return costs


def attempt(costs: Costs, labels: int = LABELS, questions: int = QUESTIONS) -> tuple[Split | None, bool]:
    """The plan, or whether it is said that there is none."""
    try:
        return solve(costs, labels=labels, questions=questions), False
    except NoPlanError as error:
        return None, error.proved


def equals_brute_force(seeds: range) -> None:
    plans = proofs = 0
    for seed in seeds:
        costs = random_small(seed)
        best = least_period(costs)
        found, none = attempt(costs)
        assert none == math.isinf(best), seed
        if found is None:
            continue
        plans += 1
        assert found.method == "routes", seed
        assert found.period == found.lower_bound == best == period_of(costs, found), seed
        for bound in found.bounds:
            assert bound.value <= best, seed
            if bound.proof == "lp-duals":
                proofs += 1
                assert proves(costs, bound), seed
    assert plans > len(seeds) / 3
    assert proofs > len(seeds) / 8


def test_equal_to_brute_force() -> None:
    equals_brute_force(range(200))


@pytest.mark.slow
def test_equal_to_brute_force_on_many() -> None:
    equals_brute_force(range(10_000, 16_000))


def test_unlike_nodes_are_planned_with_a_gap_of_at_most_one_percent() -> None:
    costs = random_instance(1, 14, 24)
    found = solve(costs)
    assert found.period == pytest.approx(period_of(costs, found))
    assert found.lower_bound >= 0.99 * found.period
    duals = [bound for bound in found.bounds if bound.proof == "lp-duals"]
    assert duals
    assert all(proves(costs, bound) for bound in duals)
    claimed = replace(duals[0], value=found.period * 1.01)
    assert not proves(costs, claimed)


def test_searches_without_a_budget_still_say_only_what_is_true() -> None:
    for seed in range(60):
        costs = random_small(seed)
        best = least_period(costs)
        found, none = attempt(costs, labels=0, questions=3)
        assert not none or math.isinf(best)
        if found is not None:
            assert found.lower_bound <= best <= found.period == period_of(costs, found)


def test_fewer_slices_within_the_stated_share() -> None:
    for seed in range(40):
        costs = random_small(seed)
        loose = replace(costs, goal=replace(costs.goal, within=0.5))
        best, found = attempt(costs)[0], attempt(loose)[0]
        assert (best is None) == (found is None)
        if best is None or found is None:
            continue
        assert len(found.segments) <= len(best.segments)
        assert best.period <= found.period == period_of(costs, found) <= 1.5 * best.period
        assert found.lower_bound <= best.period


def test_limits_and_what_is_refused() -> None:
    costs = random_small(3)
    best = least_period(costs)
    assert solve(replace(costs, goal=replace(costs.goal, max_period=best))).period == best
    with pytest.raises(NoPlanError) as caught:
        solve(replace(costs, goal=replace(costs.goal, max_period=best * 0.999)))
    assert caught.value.proved
    for goal in (Goal("latency"), Goal("energy"), Goal(max_latency=1.0), Goal(max_energy=1.0)):
        with pytest.raises(PlanError, match=r"links between pairs of nodes"):
            solve(replace(costs, goal=goal))
    with pytest.raises(PlanError, match=r"a rate for each pair"):
        solve(replace(costs, hops=None))
    roomy = small(1, hops=True, binding=False, errors=False, goal=replace(EXACT, max_nodes=1))
    assert len(solve(roomy).segments) == 1


def test_flow_on_walks_is_the_linear_program() -> None:
    linprog = pytest.importorskip("scipy.optimize").linprog
    for seed in range(40):
        rng = np.random.default_rng(seed)
        counts = rng.integers(0, 3, size=(rng.integers(1, 40), rng.integers(1, 9))).astype(float)
        counts[:, 0] += counts.sum(axis=1) == 0
        amount, prices, use = pack_walks(counts, 1e-6)
        answer = linprog(-np.ones(len(counts)), A_ub=counts.T, b_ub=np.ones(counts.shape[1]))
        assert amount == pytest.approx(-answer.fun, rel=1e-5)
        assert (use <= 1 + 1e-9).all()
        assert (counts @ prices >= 1 - 1e-9).all()
        assert prices.sum() >= -answer.fun * (1 - 1e-9)
