"""A plan loses only what it gains something for."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from converters.codec_errors import CodecMeasures
from converters.profile import Profile
from coordinator.planner.answer import Layout
from coordinator.planner.cost import build_costs
from coordinator.planner.goal import Goal
from coordinator.planner.least_loss import least_loss
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.problem import Costs, State
from coordinator.planner.shapes.drafts import Stage, lay_out
from coordinator.planner.tables.memory import state_memory
from tests.planner.instances import make_graph, weights_memory

CODECS = ("raw", "f16", "int8")
STATES = (State(0), *(State(done, codec) for done in (0b1, 0b11) for codec in CODECS), State(0b111))


def problem(goal: Goal, sizes: tuple[int, int] = (400_000, 4_000)) -> Costs:
    """Three steps of 10 ms on three nodes; what crosses takes 40 ms and 0.4 ms on their links when it is raw."""
    rows = [("CONV_2D", (k,), (k + 1,), False) for k in range(3)]
    graph = make_graph(rows, [40, *sizes, 40], (0,), (3,))
    profile = Profile(dict.fromkeys(graph.steps, 0.01), "test", measured=True, overhead=0.0)
    fleet = Fleet(tuple(NodeSpec(f"n{k}", 10**9, {"all": 1.0}, 1e7, 1e7, codecs=CODECS) for k in range(3)))
    errors = {"f16": {1: 0.001, 3: 0.001}, "int8": {1: 0.02, 3: 0.03}}
    memory = state_memory(graph, STATES, weights_memory)
    return build_costs(
        graph, profile, fleet, memory, PlanOptions(goal=goal), None, STATES, CodecMeasures({}, errors)
    )


def pipeline(costs: Costs, first: str, second: str) -> Layout:
    cuts = [0, STATES.index(State(1, first)), STATES.index(State(3, second)), costs.n]
    lane = tuple(Stage(i, j, (0,)) for i, j in itertools.pairwise(cuts))
    return replace(lay_out(costs, "contiguous-one-per-node", [lane], 0.005), reason="why")


def codecs_of(layout: Layout) -> list[str]:
    return [STATES[stage.end].codec for stage in layout.lanes[0][:-1]]


def test_the_cut_that_bounds_the_period_keeps_its_codec() -> None:
    costs = problem(Goal(error_budget=0.1))
    given = pipeline(costs, "int8", "int8")
    found = least_loss(costs, given)
    assert codecs_of(given) == ["int8", "int8"]
    assert codecs_of(found) == ["int8", "raw"]
    assert found.period == pytest.approx(given.period, rel=1e-3)
    assert (found.reason, found.lower_bound, found.method) == ("why", given.lower_bound, given.method)
    assert [share.node for stage in found.lanes[0] for share in stage.shares] == ["n0", "n1", "n2"]


def test_less_loss_is_taken_where_none_is_too_dear() -> None:
    costs = problem(Goal(error_budget=0.1, within=1.5))
    given = pipeline(costs, "int8", "raw")
    # 10 ms; f16 takes 20 ms, raw 40 ms.
    assert codecs_of(least_loss(costs, given)) == ["f16", "raw"]
    assert codecs_of(least_loss(problem(Goal(error_budget=0.1, within=4.0)), given)) == ["raw", "raw"]


def test_limits_are_kept() -> None:
    goal = Goal(error_budget=0.1, within=4.0)
    given = pipeline(problem(goal), "int8", "int8")
    raw = least_loss(problem(goal), given)
    assert codecs_of(raw) == ["raw", "raw"]
    tight = replace(goal, max_latency=given.latency * 1.05)
    assert codecs_of(least_loss(problem(tight), given)) == ["int8", "raw"]


def test_nothing_to_gain() -> None:
    costs = problem(Goal(error_budget=0.1))
    assert costs.errors is not None
    given = pipeline(costs, "raw", "raw")
    assert least_loss(costs, given) is given
    assert least_loss(replace(costs, errors=None), given) is given
    nothing = Layout("replicated-stages", reason="none")
    assert least_loss(costs, nothing) is nothing


def test_arcs_that_are_not_possible_are_left_alone() -> None:
    costs = problem(Goal(error_budget=0.1))
    given = pipeline(costs, "int8", "int8")
    period = costs.types[0].period.copy()
    period[:, STATES.index(State(3, "raw"))] = np.inf
    only = replace(costs, types=(replace(costs.types[0], period=period),))
    assert codecs_of(least_loss(only, given)) == ["int8", "f16"]
    assert math.isfinite(given.period)
