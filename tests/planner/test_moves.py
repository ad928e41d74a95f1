"""Bytes to ship: tables against the definition, with prefixes of the steps and with other states."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from converters.graph import Graph
from converters.profile import Profile
from coordinator.planner.cost import build_costs
from coordinator.planner.goal import Goal
from coordinator.planner.make import make_plan
from coordinator.planner.methods.exact import solve
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.problem import Costs, State
from coordinator.planner.tables.memory import segment_memory
from coordinator.planner.tables.moves import FILE_BYTES, with_moves
from tests.planner.instances import make_graph, random_graph, random_profile, weights_memory


def costs_of(graph: Graph, rng: random.Random, *held: frozenset[tuple[int, ...]]) -> Costs:
    nodes = tuple(NodeSpec(f"n{k}", 10**9, {"all": 1.0}, 1e6, 1e6, held=slices) for k, slices in enumerate(held))
    memory = segment_memory(graph, weights_memory)
    return build_costs(graph, random_profile(rng, graph), Fleet(nodes), memory, PlanOptions())


def expected(graph: Graph, costs: Costs, i: int, j: int, held: frozenset[tuple[int, ...]]) -> float:
    operators = [graph.steps[place] for place in costs.steps_of(i, j)]
    if tuple(sorted(operators)) in held:
        return 0.0
    return FILE_BYTES + sum(graph.operators[index].weight_bytes for index in operators)


def test_an_arc_costs_its_weights_unless_its_file_is_there() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(2, 9))
        n = len(graph.steps)
        i, k = sorted(rng.sample(range(n + 1), 2))
        held = frozenset({tuple(sorted(graph.steps[i:k])), tuple(sorted(graph.steps))})
        costs = with_moves(costs_of(graph, rng, held, frozenset()), graph)
        for kind in costs.types:
            assert kind.moves is not None
            for a in range(n):
                for b in range(a + 1, n + 1):
                    assert kind.moves[a, b] == pytest.approx(expected(graph, costs, a, b, kind.spec.held))
        assert next(kind for kind in costs.types if kind.spec.held).moves[i, k] == 0.0  # type: ignore[index]


def test_states_that_are_no_prefixes_and_several_codecs() -> None:
    """Two branches: the state after the second one alone, and each inner state in two codecs."""
    graph = make_graph(
        [("CONV_2D", (0,), (1,), False), ("CONV_2D", (0,), (2,), False), ("ADD", (1, 2), (3,), False)],
        [4, 4, 4, 4],
        inputs=(0,),
        outputs=(3,),
        weights=[100, 10, 1],
    )
    held = frozenset({(1,), (0, 2), (5, 6), ()})
    costs = costs_of(graph, random.Random(1), held)
    states = (State(0), State(1), State(2), State(2, "f16"), State(3), State(7))
    n = len(states) - 1
    costs = with_moves(replace(costs, n=n, states=states), graph)
    moves = costs.types[0].moves
    assert moves is not None
    for i, before in enumerate(states):
        for j in range(i + 1, n + 1):
            if before.done & ~states[j].done or before.done == states[j].done:
                continue
            assert moves[i, j] == pytest.approx(expected(graph, costs, i, j, held)), (i, j)
    assert moves[0, 2] == moves[0, 3] == moves[1, 4] == 0.0, "operator 1 is there, wherever it stands"
    assert moves[2, 5] == moves[3, 5] == 0.0
    assert moves[0, 1] == FILE_BYTES + 100


def test_nothing_held_leaves_the_costs_as_they_are() -> None:
    graph = random_graph(random.Random(3), 5)
    costs = costs_of(graph, random.Random(3), frozenset())
    assert with_moves(costs, graph) is costs


def chain(count: int) -> Graph:
    """Operators in a row, each with weights of its own size."""
    return make_graph(
        [("CONV_2D", (k,), (k + 1,), False) for k in range(count)],
        [400] * (count + 1),
        inputs=(0,),
        outputs=(count,),
        weights=[10_000 + 100 * k for k in range(count)],
    )


def placed(graph: Graph, fleet: Fleet, within: float) -> dict[str, tuple[int, ...]]:
    """Node -> its operators, by the exact planner."""
    profile = Profile(dict.fromkeys(graph.steps, 1e-3), "test", measured=False, overhead=0.0)
    plan = make_plan(
        graph,
        profile,
        fleet,
        memory=weights_memory,
        options=PlanOptions(goal=Goal(within=within)),
        planner=solve,
    )
    return {item.nodes[0]: item.operators for item in plan.slices}


@pytest.mark.parametrize("lost", ["n0", "n1", "n2"])
def test_a_loss_among_equal_nodes_moves_only_what_was_lost(lost: str) -> None:
    """Whatever node is lost, the spare takes its slice, and every other one stays where it is."""
    graph = chain(9)
    nodes = [NodeSpec(f"n{k}", 40_000, {"all": 1.0}, 1e9, 1e9) for k in range(4)]
    before = placed(graph, Fleet(tuple(nodes[:3])), 1e-3)
    assert len(before) == 3
    left = [replace(node, held=frozenset({before[node.id]} if node.id in before else ())) for node in nodes]
    after = placed(graph, Fleet(tuple(node for node in left if node.id != lost)), 0.05)
    assert after == {**{node: slices for node, slices in before.items() if node != lost}, "n3": before[lost]}


@pytest.mark.parametrize(("speed", "stays"), [(0.97, True), (0.8, False)])
def test_a_slice_stays_where_that_costs_no_more_than_the_stated_share(speed: float, stays: bool) -> None:
    """The node that has the file is slower than another one: 3 % are accepted, 25 % are not."""
    graph = chain(4)
    whole = tuple(graph.steps)
    nodes = (
        NodeSpec("has", 10**6, {"all": speed}, 1e9, 1e9, held=frozenset({whole})),
        NodeSpec("fast", 10**6, {"all": 1.0}, 1e9, 1e9),
    )
    profile = Profile(dict.fromkeys(graph.steps, 1e-3), "test", measured=False, overhead=0.0)
    options = PlanOptions(goal=Goal(within=0.05), max_slices=1, shapes=("pipeline",))
    plan = make_plan(graph, profile, Fleet(nodes), memory=weights_memory, options=options, planner=solve)
    assert plan.slices[0].nodes == ("has" if stays else "fast",)
