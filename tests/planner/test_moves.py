"""Bytes to ship: tables against the definition, with prefixes of the steps and with other states."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from converters.graph import Graph
from coordinator.planner.cost import build_costs
from coordinator.planner.memory import segment_memory
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.moves import FILE_BYTES, with_moves
from coordinator.planner.problem import Costs, State
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
