"""Plans of stateful models: one frame is on its way at a time (protocol rule 6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from converters.dataflow import Variable
from converters.graph import Graph
from converters.profile import Profile
from coordinator.planner import make_plan
from coordinator.planner.model import PlanOptions
from slicemq.errors import InsufficientCapacityError
from tests.planner.instances import weights_memory
from tests.planner.test_make import MB, PIPED, chain, nodes


def stateful(weights: list[int]) -> tuple[Graph, Profile]:
    graph, profile = chain(weights)
    return replace(graph, variables=(Variable("variable 'sum'", (1,)),)), profile


@pytest.mark.parametrize(("memory", "slices"), [((100, 100, 100), 1), ((5, 5, 5), 2), ((3, 3, 3), 3)])
def test_the_fewest_slices_that_fit_are_taken(memory: tuple[int, ...], slices: int) -> None:
    fleet = nodes(*(m * MB for m in memory))
    graph, profile = stateful([MB] * 8)
    plan = make_plan(graph, profile, fleet, memory=weights_memory)
    assert (len(plan.slices), plan.window) == (slices, 1)
    # Without state more slices are faster.
    assert len(make_plan(*chain([MB] * 8), fleet, memory=weights_memory, options=PIPED).slices) == 3


def test_a_frame_takes_as_long_as_all_its_stages() -> None:
    options = PlanOptions(max_slices=2, pins={"s0": "pi-1", "s1": "pi-2"})
    fleet = nodes(*[100 * MB] * 2)
    plan = make_plan(*stateful([MB] * 8), fleet, memory=weights_memory, options=options)
    without = make_plan(*chain([MB] * 8), fleet, memory=weights_memory, options=options)
    assert plan.period_ms == plan.latency_ms > without.period_ms
    assert plan.lower_bound_ms <= plan.period_ms
    assert plan.gap == pytest.approx(plan.period_ms / plan.lower_bound_ms - 1, abs=1e-3)
    (alone,) = plan.alternatives
    assert alone.period_ms == alone.latency_ms


def test_the_faster_node_gets_it() -> None:
    fleet = nodes(*[100 * MB] * 3)
    fast = replace(fleet, nodes=(fleet.nodes[0], replace(fleet.nodes[1], speeds={"all": 4.0}), fleet.nodes[2]))
    plan = make_plan(*stateful([MB] * 8), fast, memory=weights_memory)
    assert [item.nodes for item in plan.slices] == [("pi-2",)]


@pytest.mark.parametrize("options", [PlanOptions(max_slices=2), PlanOptions(pins={"s0": "pi-1", "s1": "pi-2"})])
def test_who_asks_for_slices_gets_them(options: PlanOptions) -> None:
    plan = make_plan(*stateful([MB] * 8), nodes(*[100 * MB] * 2), memory=weights_memory, options=options)
    assert len(plan.slices) == 2


def test_too_little_memory_is_called_so() -> None:
    with pytest.raises(InsufficientCapacityError, match="not enough capacity"):
        make_plan(*stateful([MB] * 8), nodes(2 * MB, 2 * MB), memory=weights_memory)
