"""Replicated stages against every way to group nodes, and bounds against every plan."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.planner_instances import small, star
from coordinator.planner.answer import Layout, NoPlanError
from coordinator.planner.goal import Goal
from coordinator.planner.methods import solver
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.drafts import broken_limits, nodes_of
from coordinator.planner.shapes.groups import Cuts, rate_table, share_out
from coordinator.planner.shapes.prices import family_bound, highest_proof
from coordinator.planner.shapes.replicas import replicas, with_bound


def by_force(costs: Costs) -> float:
    """The least period of any groups of nodes on any path, for shares of any size; the broker left aside."""
    kinds = [k for k, kind in enumerate(costs.types) for _ in kind.ids]
    every = range(1 << len(kinds))
    table = np.stack([kind.period for kind in costs.types])
    rates = np.where(np.isfinite(table), 1.0 / np.maximum(table, 1e-12), 0.0)
    sums = np.stack(
        [
            sum((rates[kinds[k]] for k in range(len(kinds)) if mask >> k & 1), np.zeros_like(rates[0]))
            for mask in every
        ]
    )
    later = np.triu(np.ones(table.shape[1:], dtype=bool), k=1)
    with np.errstate(divide="ignore"):
        seconds = np.where((sums > 0) & later, 1.0 / sums, np.inf)
    best = np.full((len(every), costs.n + 1), np.inf)
    best[:, 0] = 0.0
    # best[mask, j]: nodes of the mask serve the path to j. Stages are counted by the rounds.
    reached = best.copy()
    for _ in range(costs.max_slices):
        following = reached.copy()
        for mask in every:
            part = mask
            while part:
                slowest = np.maximum(reached[mask ^ part][:, None], seconds[part])
                following[mask] = np.minimum(following[mask], slowest.min(axis=0))
                part = (part - 1) & mask
        reached = following
    return float(reached[-1, costs.n])


def attempt(costs: Costs, seconds: float = 0.0) -> Layout | None:
    try:
        return with_bound(costs, replicas(costs, seconds=seconds))
    except NoPlanError:
        return None


def whole(layout: Layout, costs: Costs) -> None:
    """Every stage serves each turn once, no node is used twice, and the arcs lead from start to end."""
    nodes = nodes_of(layout)
    assert len(set(nodes)) == len(nodes)
    (lane,) = layout.lanes
    assert [lane[0].start, *(stage.end for stage in lane)] == [*(stage.start for stage in lane), costs.n]
    for stage in lane:
        assert sorted(turn for share in stage.shares for turn in share.turns) == list(range(layout.turns))


def test_bounds_hold_and_plans_are_near_the_best_of_all_groups() -> None:
    ratios, found_of = [], 0
    for seed in range(40):
        costs = small(seed, broker=False, errors=False, goal=Goal(within=0.0))
        if sum(kind.count for kind in costs.types) > 5 or costs.n > 20:
            continue
        best = by_force(costs)
        assert highest_proof(costs, "groups").period <= best * (1 + 1e-9)
        assert highest_proof(costs, "lanes").period <= best * (1 + 1e-9)
        layout = attempt(costs)
        if layout is None:
            # Where memory is scarce, local search may find nothing although there is a plan.
            found_of += math.isfinite(best)
            continue
        whole(layout, costs)
        assert layout.lower_bound <= best * (1 + 1e-9)
        assert layout.period >= best * (1 - 1e-9)
        ratios.append(layout.period / best)
    assert len(ratios) > 12
    assert found_of <= 2
    assert np.exp(np.mean(np.log(ratios))) < 1.05


def test_equal_nodes_are_cut_exactly() -> None:
    compared = 0
    for seed in range(60):
        costs = small(seed, broker=False, errors=False, graph=False, goal=Goal(within=0.0))
        count = sum(kind.count for kind in costs.types)
        if count > 5:
            continue
        kind = replace(costs.types[0], ids=tuple(f"e{k}" for k in range(count)))
        equal = replace(costs, types=(kind,))
        best = by_force(equal)
        layout = attempt(equal)
        assert (layout is None) == math.isinf(best)
        if layout is None:
            continue
        compared += 1
        assert layout.lower_bound == pytest.approx(best)
        # Stages of a and b nodes need a cycle of a multiple of both, which 64 turns nearly always allow.
        assert layout.period == pytest.approx(best, rel=1e-6)
    assert compared > 15


@pytest.mark.skipif(not solver.available(), reason="the program needs SciPy")
def test_the_program_finds_the_best_and_its_bound_holds() -> None:
    compared = 0
    for seed in range(25):
        costs = small(seed, broker=False, errors=False, graph=False, goal=Goal(within=0.0))
        if not 3 <= sum(kind.count for kind in costs.types) <= 5:
            continue
        best = by_force(costs)
        if math.isinf(best):
            continue
        layout = attempt(costs, seconds=8.0)
        assert layout is not None
        whole(layout, costs)
        assert max(bound.value for bound in layout.bounds) <= best * (1 + 1e-6)
        assert layout.period >= best * (1 - 1e-9)
        compared += 1
    assert compared > 3


def test_bounds_hold_without_a_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [small(seed, broker=False, errors=False) for seed in range(8)]
    cases = [costs for costs in cases if sum(kind.count for kind in costs.types) <= 4 and costs.n <= 12]
    cases.append(star(1, 12, 15))
    exact = [highest_proof(costs, "groups").period for costs in cases]
    monkeypatch.setattr(solver, "_FOUND", False)
    for costs, with_solver in zip(cases, exact, strict=True):
        without = highest_proof(costs, "groups", cells=2_000_000).period
        if math.isfinite(with_solver):
            assert with_solver * 0.8 <= without <= with_solver * (1 + 1e-4)
        else:
            assert math.isinf(without)
        assert attempt(costs, seconds=1.0) is None or math.isfinite(with_solver)


def test_the_broker_counts_in_plans_and_bounds() -> None:
    limited = 0
    for seed in range(12):
        costs = small(seed, broker=True, binding=False, errors=False, graph=False)
        layout = attempt(costs)
        if layout is None or costs.broker_rate is None:
            continue
        relayed = sum(float(costs.relayed[stage.start, stage.end]) for stage in layout.lanes[0])
        assert layout.period >= relayed / costs.broker_rate * (1 - 1e-12)
        least = min(
            sum(float(costs.relayed[i, j]) for i, j in itertools.pairwise(path))
            for size in range(costs.n)
            for inner in itertools.combinations(range(1, costs.n), size)
            for path in [(0, *inner, costs.n)]
        )
        bound = highest_proof(costs, "groups").period
        limited += bound >= least / costs.broker_rate * (1 - 1e-4)
        assert layout.lower_bound <= layout.period
    assert limited > 0


def test_limits_and_other_objectives() -> None:
    costs = star(3, 8, 10)
    free = replicas(costs)
    few = replicas(replace(costs, goal=Goal(max_nodes=len(nodes_of(free)))))
    assert len(nodes_of(few)) <= len(nodes_of(free))
    for goal in (Goal("nodes", max_period=free.period * 1.5), Goal("latency"), Goal("energy", max_period=1.0)):
        limited = replace(costs, goal=goal)
        found = with_bound(limited, replicas(limited))
        assert not broken_limits(limited, found)
        assert found.lower_bound <= {
            "nodes": len(nodes_of(found)),
            "latency": found.latency,
            "energy": found.energy,
        }[goal.objective] * (1 + 1e-9)
    with pytest.raises(NoPlanError):
        replicas(replace(costs, goal=Goal(max_period=free.period / 1000)))
    assert family_bound(replace(costs, goal=Goal("nodes", max_period=free.period)), "groups") <= len(nodes_of(free))


def test_shares_move_to_the_slowest_stage() -> None:
    rates = np.array([[4.0, 4.0], [4.0, 4.0], [1.0, 9.0]])
    assert share_out(rates, [0, -1, -1]) in ([0, 1, 1], [0, 0, 1], [1, 0, 1])
    costs = star(1, 6, 10)
    cuts = Cuts(rate_table(costs, range(costs.n + 1)), [0, 1, 2, 3, 4, 5], 3)
    assert math.isinf(cuts.period(6)) or len(cuts.stages(6)) <= 3
