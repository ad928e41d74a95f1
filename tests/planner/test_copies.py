"""Whole-model copies against all subsets of nodes, and the limits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from benchmarks.planner_instances import small, star
from coordinator.planner.answer import Layout, NoPlanError
from coordinator.planner.goal import OBJECTIVES, Goal
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.copies import copies
from coordinator.planner.shapes.drafts import Stage, broken_limits, lay_out, nodes_of, value


def roomy(seed: int, goal: Goal | None = None) -> Costs:
    """A small problem in which the whole model fits every node."""
    return small(seed, binding=False, graph=False, errors=False, goal=goal)


def able(costs: Costs) -> list[int]:
    return [k for k, kind in enumerate(costs.types) for _ in kind.ids if math.isfinite(kind.period[0, costs.n])]


def subsets(costs: Costs) -> list[Layout]:
    """Copies on every subset of the nodes."""
    nodes = able(costs)
    chosen = {c for size in range(1, len(nodes) + 1) for c in itertools.combinations(nodes, size)}
    return [lay_out(costs, "any", [(Stage(0, costs.n, kinds),)]) for kinds in sorted(chosen)]


def attempt(costs: Costs) -> tuple[Layout | None, bool]:
    try:
        return copies(costs), False
    except NoPlanError as error:
        return None, error.proved


@pytest.mark.parametrize("seed", range(40))
def test_no_subset_has_a_smaller_period(seed: int) -> None:
    costs = roomy(seed, Goal(within=0.0))
    found = copies(costs)
    assert found.period <= min(layout.period for layout in subsets(costs)) * (1 + 1e-9)
    assert found.lower_bound <= found.period
    nodes = able(costs)
    ideal = 1 / sum(1 / float(costs.types[k].period[0, costs.n]) for k in nodes)
    if costs.broker_rate:
        ideal = max(ideal, float(costs.relayed[0, costs.n]) / costs.broker_rate)
    assert found.lower_bound == pytest.approx(ideal)
    (stage,) = found.lanes[0]
    assert sorted(turn for share in stage.shares for turn in share.turns) == list(range(found.turns))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_limits_are_kept_and_bounds_hold(objective: str) -> None:
    solved = 0
    for seed in range(25):
        free = roomy(seed)
        some = sorted(subsets(free), key=lambda layout: layout.period)
        middle = some[len(some) // 2]
        for limits in (
            {},
            {"max_period": middle.period},
            {"max_latency": middle.latency},
            {"max_nodes": 2},
            {"max_energy": middle.energy, "max_period": some[-1].period},
        ):
            costs = replace(free, goal=Goal(objective, within=0.0, **limits))  # type: ignore[arg-type]
            every = [layout for layout in subsets(costs) if not broken_limits(costs, layout)]
            found, proved = attempt(costs)
            if found is None:
                assert not (proved and every)
                continue
            solved += 1
            assert not broken_limits(costs, found)
            best = min(value(costs.goal, layout) for layout in every)
            assert found.lower_bound <= best * (1 + 1e-9)
            if not limits:
                assert value(costs.goal, found) <= best * (1 + 1e-9)
    assert solved > 60


def test_equal_nodes_add_up_and_a_hopeless_one_is_left_out() -> None:
    costs = roomy(3)
    kind = costs.types[0]
    equal = replace(costs, types=(replace(kind, ids=("a", "b", "c", "d")),), broker_rate=None)
    found = copies(equal)
    assert (found.turns, nodes_of(found), found.method) == (4, ("a", "b", "c", "d"), "exact-counts")
    assert found.period == pytest.approx(float(kind.period[0, costs.n]) / 4)
    slow = replace(kind, ids=("slow",), period=kind.period * 1000)
    with_slow = copies(replace(equal, types=(kind, slow), broker_rate=None))
    assert "slow" not in nodes_of(with_slow)
    assert with_slow.lower_bound < with_slow.period


def test_the_broker_limits_and_no_more_nodes_are_taken_than_it_can_feed() -> None:
    costs = roomy(3)
    kind = replace(costs.types[0], ids=("a", "b", "c", "d"))
    rate = 1.9 * float(costs.relayed[0, costs.n]) / float(kind.period[0, costs.n])
    found = copies(replace(costs, types=(kind,), broker_rate=rate))
    assert found.period == pytest.approx(float(kind.period[0, costs.n]) / 1.9)
    assert len(nodes_of(found)) == 2


def test_a_model_that_fits_nowhere_has_no_copies() -> None:
    with pytest.raises(NoPlanError) as caught:
        copies(star(1, 6, 20))
    assert caught.value.proved


def test_many_unlike_nodes_are_within_what_whole_turns_cost() -> None:
    costs = star(2, 50, 30)
    types = tuple(replace(kind, period=kind.compute, memory=kind.memory * 0) for kind in costs.types)
    found = copies(replace(costs, types=types))
    assert found.turns <= 200
    assert found.lower_bound <= found.period <= found.lower_bound * 1.25
