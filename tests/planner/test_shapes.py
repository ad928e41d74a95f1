"""Shapes compared: parallel pipelines against every partition, the winner, its reason, limits, pins, plan files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.planner_instances import small, star
from coordinator.planner import make_plan
from coordinator.planner.answer import Layout, NoPlanError
from coordinator.planner.goal import OBJECTIVES, Goal
from coordinator.planner.methods import solver
from coordinator.planner.methods.split import split
from coordinator.planner.model import Fleet, NodeSpec, Overheads, PlanOptions
from coordinator.planner.plan import Plan
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.compare import NOT_SEARCHED, compare
from coordinator.planner.shapes.drafts import broken_limits, nodes_of, value
from coordinator.planner.shapes.parallel import parallel, with_bound
from coordinator.planner.shapes.prices import highest_proof
from slicemq.errors import PlanError
from tests.planner.instances import weights_memory
from tests.planner.test_make import MB, chain, nodes
from tests.planner.test_stateful import stateful

FAMILIES = {
    "one-node",
    "whole-model-copies",
    "contiguous-one-per-node",
    "replicated-stages",
    "parallel-pipelines",
}


def best_rates(costs: Costs) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """For each set of nodes (bits) the rate of the best pipeline on some of them, over all orders and cuts."""
    kinds = [k for k, kind in enumerate(costs.types) for _ in kind.ids]
    table = np.stack([kind.period for kind in costs.types])
    rates = np.where(np.isfinite(table), 1.0 / np.maximum(table, 1e-12), 0.0)
    reached = np.zeros((1 << len(kinds), costs.n + 1))
    reached[:, 0] = np.inf
    for mask in range(1, 1 << len(kinds)):
        for k, kind in enumerate(kinds):
            if mask >> k & 1:
                before = reached[mask ^ (1 << k)]
                slowest = np.minimum(before[:, None], rates[kind]).max(axis=0)
                reached[mask] = np.maximum(reached[mask], np.maximum(before, slowest))
    return np.asarray(reached[:, costs.n])


def best_sum(costs: Costs) -> float:
    """The largest sum of rates over all partitions of the nodes."""
    rates = best_rates(costs)
    best = np.zeros_like(rates)
    for mask in range(1, len(rates)):
        part = mask
        while part:
            best[mask] = max(best[mask], rates[part] + best[mask ^ part])
            part = (part - 1) & mask
    return float(best[-1])


def cases(count: int, graph: bool | None = None) -> Iterator[Costs]:
    for seed in range(count):
        costs = small(seed, errors=False, broker=False, graph=graph)
        if 2 <= sum(kind.count for kind in costs.types) <= 5 and costs.n <= 20:
            yield replace(costs, goal=Goal(within=0.0), max_slices=9)


def test_pipelines_side_by_side_against_all_partitions() -> None:
    ratios = []
    for costs in cases(40):
        best = best_sum(costs)
        bound = highest_proof(costs, "lanes").period
        if best == 0:
            continue
        assert bound <= 1 / best * (1 + 1e-9)
        try:
            layout = with_bound(costs, parallel(costs, split))
        except NoPlanError:
            continue
        served = sorted(turn for lane in layout.lanes for share in lane[0].shares for turn in share.turns)
        assert served == list(range(layout.turns))
        assert len(set(nodes_of(layout))) == len(nodes_of(layout))
        assert layout.lower_bound <= 1 / best * (1 + 1e-9)
        assert layout.period >= 1 / best * (1 - 1e-9)
        ratios.append(layout.period * best)
    assert len(ratios) > 6
    # Whole turns cost something, and one pipeline may be as good as two.
    assert np.exp(np.mean(np.log(ratios))) < 1.1


def test_equal_nodes_are_grouped_exactly() -> None:
    compared = 0
    for costs in cases(40, graph=False):
        kind = replace(costs.types[0], ids=("a", "b", "c", "d"))
        equal = replace(costs, types=(kind,))
        best = best_sum(equal)
        try:
            layout = with_bound(equal, parallel(equal, split))
        except NoPlanError:
            continue
        compared += 1
        assert layout.lower_bound <= 1 / best * (1 + 1e-9) <= layout.period * (1 + 2e-9)
        assert max(bound.value for bound in layout.bounds if bound.proof == "counts") == pytest.approx(
            min(1 / best, layout.period)
        )
    assert compared > 5


def figures(layout: Layout) -> tuple[float, float]:
    return layout.period, layout.lower_bound


def test_the_winner_is_the_best_that_may_be_used_and_bounds_hold() -> None:
    won = set()
    for seed in range(20):
        costs = small(seed, errors=False)
        try:
            winner, others = compare(costs, split)
        except NoPlanError:
            continue
        won.add(winner.family)
        assert len(others) == 4
        assert winner.reason
        assert winner.lower_bound <= winner.period * (1 + 1e-12)
        for other in others:
            assert other.reason or other.lanes
            if other.lanes and not other.reason:
                assert other.period >= winner.period * (1 - 1e-3)
        only, _ = compare(costs, split, ("one-node", "pipeline"))
        assert only.turns == 1
        assert only.period >= winner.period * (1 - 1e-3)
    assert len(won) >= 3


def test_a_brief_plan_is_the_same_and_leaves_out_what_may_not_be_used() -> None:
    for seed in range(8):
        costs = small(seed, errors=False)
        try:
            winner, others = compare(costs, split, ("one-node", "pipeline"))
        except NoPlanError:
            with pytest.raises(NoPlanError):
                compare(costs, split, ("one-node", "pipeline"), brief=True)
            continue
        brief, left = compare(costs, split, ("one-node", "pipeline"), brief=True)
        assert replace(brief, reason="") == replace(winner, reason="")
        searched = [one for one in left if one.reason == NOT_SEARCHED]
        assert len(searched) == 2
        assert not any(one.lanes for one in searched)
        assert len(left) == len(others)
        # Where all may be used nothing is left out.
        assert compare(costs, split, brief=True) == compare(costs, split)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_and_limits_are_kept(objective: str) -> None:
    from coordinator.planner.methods.exact import solve

    made = 0
    for seed in range(0, 12, 2):
        costs = small(seed, binding=False, errors=False, graph=False)
        free, _ = compare(costs, solve)
        goal = Goal(objective, max_period=free.period * 2, max_nodes=3)  # type: ignore[arg-type]
        limited = replace(costs, goal=goal)
        try:
            winner, others = compare(limited, solve)
        except NoPlanError:
            continue
        made += 1
        assert not broken_limits(limited, winner)
        for other in others:
            if other.lanes and not other.reason:
                assert value(goal, other) >= value(goal, winner) * (1 - 2 * goal.within)
        assert winner.lower_bound <= value(goal, winner) * (1 + 1e-9)
    assert made > 1


def test_limits_that_leave_no_pipeline_are_said_of_every_shape() -> None:
    graph, profile = chain([MB] * 4)
    fleet = nodes(3, 10 * MB)
    with pytest.raises(PlanError) as raised:
        make_plan(graph, profile, fleet, memory=weights_memory, options=PlanOptions(goal=Goal(max_period=1e-3)))
    text = str(raised.value)
    for shape in (
        "one node: it has a period of",
        "copies of the whole model: it has a period of",
        "a pipeline: no single pipeline has",
    ):
        assert shape in text


def test_copies_win_where_the_model_fits_everywhere_and_the_plan_says_why() -> None:
    graph, profile = chain([MB] * 8)
    plan = make_plan(graph, profile, nodes(*[100 * MB] * 3), memory=weights_memory)
    (item,) = plan.slices
    assert (plan.family, plan.turns, item.turns) == ("whole-model-copies", 3, ((0,), (1,), (2,)))
    assert "fits every node" in plan.reason
    assert "times the rate of" in plan.reason
    assert plan.period_ms == pytest.approx(80 / 3 * Overheads().computing, rel=0.01)
    assert plan.gap < 1e-3
    assert {plan.family, *(other.family for other in plan.alternatives)} == FAMILIES
    assert Plan.from_json(plan.to_json(), graph=graph) == plan


@pytest.mark.parametrize("shape", ["replicas", "parallel"])
def test_without_copies_all_nodes_share_slices_of_the_model(shape: str) -> None:
    """Two operators of 10 ms; nodes of speed 1, 1, 1/2, 1/2. Two pipelines of like nodes do 100 + 50 frames a
    second, and so do two stages with a fast and a slow node each; copies would do 50 + 50 + 25 + 25.
    """
    graph, profile = chain([MB, MB])
    speeds = {"fast-1": 1.0, "fast-2": 1.0, "slow-1": 0.5, "slow-2": 0.5}
    fleet = Fleet(tuple(NodeSpec(name, 100 * MB, {"all": speed}, 1e9, 1e9) for name, speed in speeds.items()))
    free = Overheads(message=0.0, receive_per_byte=0.0, send_per_byte=0.0, computing=1.0)
    options = PlanOptions(shapes=("one-node", "pipeline", shape), overheads=free)
    plan = make_plan(graph, profile, fleet, memory=weights_memory, options=options)
    assert plan.family == {"replicas": "replicated-stages", "parallel": "parallel-pipelines"}[shape]
    assert plan.period_ms == pytest.approx(1e3 / 150, rel=1e-4)
    assert {len(item.operators) for item in plan.slices} == {1}
    assert {node for item in plan.slices for node in item.nodes} == set(speeds)
    assert plan.lower_bound_ms <= plan.period_ms


def test_without_copies_no_model_of_one_operator_is_shared_out() -> None:
    graph, profile = chain([MB])
    options = PlanOptions(shapes=("one-node", "replicas", "parallel"))
    plan = make_plan(graph, profile, nodes(*[100 * MB] * 3), memory=weights_memory, options=options)
    assert [len(item.nodes) for item in plan.slices] == [1]
    assert "copies of the whole model would be better" in plan.reason


def test_a_plan_of_replicated_stages_is_read_again() -> None:
    graph, profile = chain([3 * MB, MB, 3 * MB])
    fleet = Fleet(tuple(NodeSpec(f"n{k}", 4 * MB, {"all": 1.0}, 1e9, 1e9) for k in range(4)))
    plan = make_plan(graph, profile, fleet, memory=weights_memory)
    assert plan.family in ("replicated-stages", "parallel-pipelines")
    assert Plan.from_json(plan.to_json(), graph=graph) == plan
    assert {node for item in plan.slices for node in item.nodes} == {"n0", "n1", "n2", "n3"}
    assert "no node can run the whole model" in plan.alternatives[0].reason
    ids = [bundle.id for bundle in plan.bundles]
    assert len(set(ids)) == len(ids)
    assert plan.energy_j > 0


def test_pins_leave_pipelines_and_shapes_that_may_not_win_are_shown() -> None:
    graph, profile = chain([MB] * 6)
    fleet = nodes(*[100 * MB] * 3)
    plan = make_plan(graph, profile, fleet, memory=weights_memory, options=PlanOptions(pins={"s0": "pi-2"}))
    assert plan.slices[0].nodes == ("pi-2",)
    by_family = {other.family: other for other in plan.alternatives}
    assert by_family["whole-model-copies"].period_ms is not None
    assert "pins" in by_family["whole-model-copies"].reason
    assert "pinned" in by_family["replicated-stages"].reason
    options = PlanOptions(shapes=("pipeline",))
    piped = make_plan(graph, profile, fleet, memory=weights_memory, options=options)
    assert piped.family == "contiguous-one-per-node"
    assert "would be better" in piped.reason
    small_nodes = nodes(*[5 * MB] * 3)
    with pytest.raises(PlanError, match=r"no plan of the shapes copies: .*no node can run the whole model"):
        make_plan(graph, profile, small_nodes, memory=weights_memory, options=PlanOptions(shapes=("copies",)))


def test_stateful_models_are_not_shared_out() -> None:
    graph, profile = stateful([MB] * 4)
    plan = make_plan(graph, profile, nodes(*[100 * MB] * 3), memory=weights_memory)
    assert (plan.turns, len(plan.slices), len(plan.alternatives)) == (1, 1, 1)
    with pytest.raises(PlanError, match="keeps state between frames"):
        make_plan(
            graph,
            profile,
            nodes(*[100 * MB] * 3),
            memory=weights_memory,
            options=PlanOptions(shapes=("copies",)),
        )


def test_the_same_problem_gives_the_same_plan() -> None:
    costs = star(4, 8, 10)
    first, second = (compare(costs, split) for _ in range(2))
    assert first == second
    for layout, other in itertools.pairwise([first[0], second[0]]):
        assert figures(layout) == figures(other)
    assert math.isfinite(first[0].period)


def test_without_scipy_plans_are_as_good_and_bounds_still_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = star(4, 8, 10)
    with_scipy, _ = compare(costs, split)
    monkeypatch.setattr(solver, "_FOUND", False)
    without, _ = compare(costs, split, seconds=1.0)
    assert without.period <= with_scipy.period * (1 + 1e-9)
    assert 0 < without.lower_bound <= without.period
