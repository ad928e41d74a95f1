"""What other pipelines use: the figures of their plans, the fair share, and the costs of one more pipeline."""

from __future__ import annotations

import random
from dataclasses import astuple
from typing import Any

import pytest

from coordinator.planner.cost import build_costs
from coordinator.planner.make import make_plan
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.tables.memory import segment_memory
from coordinator.planner.tables.sharing import Usage, beside, shared, together, usage_of_plan
from slicemq.errors import PlanError
from tests.planner.instances import random_graph, random_profile, weights_memory

SPEC = NodeSpec("a", 10**9, {"all": 1.0}, 1e6, 2e6)


def row(nodes: list[str], **more: Any) -> dict[str, Any]:
    return {
        "id": "s" + "".join(nodes),
        "nodes": nodes,
        "compute_ms": 20.0,
        "bytes_in": 1000,
        "bytes_out": 500,
        **more,
    }


def test_a_plan_uses_its_stages_times_at_its_rate() -> None:
    plan = {"period_ms": 40.0, "slices": [row(["a"]), row(["b"], compute_ms=40.0), row(["a"], bytes_out=0)]}
    used = usage_of_plan(plan)
    assert astuple(used["a"]) == pytest.approx((1.0, 12_500, 50_000, 1))
    assert astuple(used["b"]) == pytest.approx((1.0, 12_500, 25_000, 1))
    assert astuple(usage_of_plan(plan, 0.25)["b"]) == pytest.approx((0.25, 3125, 6250, 1))


def test_a_plan_of_no_time_leaves_others_their_share() -> None:
    plan = {"period_ms": 1e-320, "slices": [row(["a"], compute_ms=0.0, bytes_out=0)]}
    spec = beside(SPEC, usage_of_plan(plan)["a"])
    assert (spec.busy, spec.busy_up, spec.busy_down) == (0.0, 0.0, SPEC.down / 2)


def test_a_replica_uses_its_turns() -> None:
    plan = {"period_ms": 10.0, "turns": 4, "slices": [row(["a", "b"], turns=[[0, 1, 2], [3]])]}
    used = usage_of_plan(plan)
    assert used["a"].computing == pytest.approx(1.5)
    assert used["b"].computing == pytest.approx(0.5)


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"slices": 3},
        {"period_ms": 0, "slices": [row(["a"])]},
        {"period_ms": True, "slices": [row(["a"]), 7]},
        {"period_ms": 10.0, "slices": [row(["a"], compute_ms="x", bytes_in=None, bytes_out=-5)]},
        {"period_ms": 10.0, "slices": [{"nodes": 5}]},
    ],
)
def test_what_is_not_a_plan_uses_no_time(plan: dict[str, Any]) -> None:
    assert all(usage == Usage(pipelines=1) for usage in usage_of_plan(plan).values())


def test_usages_add_up() -> None:
    one, two = {"a": Usage(0.5, 10, 20, 1)}, {"a": Usage(0.25, 1, 2, 1), "b": Usage(0.1, 0, 0, 1)}
    assert together([one, two]) == {"a": Usage(0.75, 11, 22, 2), "b": Usage(0.1, 0, 0, 1)}


@pytest.mark.parametrize(
    ("usage", "busy", "up", "down"),
    [
        (Usage(0.2, 1e5, 1e5, 1), 0.2, 1e5, 1e5),
        (Usage(1.0, 9e5, 9e6, 1), 0.5, 5e5, 1e6),
        (Usage(9.0, 9e5, 9e6, 3), 0.75, 7.5e5, 1.5e6),
        (Usage(), 0.0, 0.0, 0.0),
    ],
)
def test_one_more_pipeline_gets_at_least_a_fair_share(usage: Usage, busy: float, up: float, down: float) -> None:
    spec = beside(SPEC, usage)
    assert (spec.busy, spec.busy_up, spec.busy_down) == (busy, up, down)
    assert spec.free_up == 1e6 - up
    assert spec.free_down == 2e6 - down


def test_costs_are_those_of_a_node_with_what_is_left() -> None:
    """Half of everything taken: the same tables as for a node of half the speed and half the links."""
    for seed in range(20):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(1, 10))
        profile, memory = random_profile(rng, graph), segment_memory(graph, weights_memory)
        half = beside(SPEC, Usage(1.0, 1e9, 1e9, 1))
        poor = NodeSpec("a", 10**9, {"all": 0.5}, 5e5, 1e6)
        (got,) = build_costs(graph, profile, Fleet((half,)), memory, PlanOptions()).types
        (want,) = build_costs(graph, profile, Fleet((poor,)), memory, PlanOptions()).types
        for name in ("compute", "period", "down", "up", "latency", "steps"):
            assert getattr(got, name) == pytest.approx(getattr(want, name)), name


def test_a_plan_goes_round_the_node_that_is_busy() -> None:
    rng = random.Random(7)
    graph = random_graph(rng, 8)
    profile = random_profile(rng, graph)
    nodes = tuple(NodeSpec(name, 10**9, {"all": 1.0}, 1e9, 1e9) for name in "ab")
    options = PlanOptions(max_slices=1, shapes=("pipeline",))
    for taken, left in (("a", "b"), ("b", "a")):
        fleet = shared(Fleet(nodes), {taken: Usage(0.9, 0, 0, 1)})
        plan = make_plan(graph, profile, fleet, memory=weights_memory, options=options)
        assert plan.slices[0].nodes == (left,)


@pytest.mark.parametrize("field", ["busy", "busy_up", "busy_down"])
def test_a_node_cannot_be_busy_altogether(field: str) -> None:
    with pytest.raises(PlanError, match="node a: busy"):
        NodeSpec("a", 1, {}, 1.0, 1.0, **{field: 1.0})  # type: ignore[arg-type]
