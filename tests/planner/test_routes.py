"""The label searches against walking through all plans, and what they must not say."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from coordinator.planner.methods.reach import Budget, Segments
from coordinator.planner.pairs.pairflow import Walks
from coordinator.planner.pairs.pairlabels import search
from coordinator.planner.pairs.routes import Network, decide

PLENTY = 10**9


def random_network(rng: random.Random, most_nodes: int = 5, most_states: int = 7) -> Network:
    n, nodes = rng.randint(1, most_states), rng.randint(1, most_nodes)
    arcs = np.zeros((nodes, n + 1, n + 1), dtype=bool)
    hops = np.zeros((n + 1, nodes, nodes), dtype=bool)
    likely, linked = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.9)
    for k, (i, j) in itertools.product(range(nodes), itertools.combinations(range(n + 1), 2)):
        arcs[k, i, j] = rng.random() < likely / (j - i) ** 0.5
    for s, a, b in itertools.product(range(1, n), range(nodes), range(nodes)):
        hops[s, a, b] = a != b and rng.random() < linked
    pins = {rng.randrange(3): rng.randrange(nodes)} if rng.random() < 0.2 else {}
    errors = np.array([rng.choice((0.0, 0.0, 1.0, 2.0)) for _ in range(n + 1)])
    most = rng.randint(1, nodes) if rng.random() < 0.3 else nodes
    return Network(arcs, hops, most, pins, errors, rng.choice((2.0, 4.0, 100.0)))


def is_plan(network: Network, plan: Segments) -> bool:
    nodes = [k for _, _, k in plan]
    follow = all(a[1] == b[0] and network.hops[b[0], a[2], b[2]] for a, b in itertools.pairwise(plan))
    return (
        plan[0][0] == 0
        and plan[-1][1] == network.n
        and follow
        and all(network.arcs[k, i, j] for i, j, k in plan)
        and len(set(nodes)) == len(nodes) <= network.max_slices
        and all(number < len(nodes) and nodes[number] == node for number, node in network.pins.items())
        and sum(network.errors[i] for i, _, _ in plan[1:]) <= network.error_budget
    )


def has_plan(network: Network) -> bool:
    def further(s: int, done: Segments) -> bool:
        if s == network.n:
            return is_plan(network, done)
        free = set(range(len(network.arcs))) - {k for _, _, k in done}
        steps = ((s, j, k) for k in free for j in range(s + 1, network.n + 1) if network.arcs[k, s, j])
        return any(further(j, [*done, (i, j, k)]) for i, j, k in steps)

    return further(0, [])


def test_every_answer_is_true() -> None:
    yes = no = 0
    for seed in range(500):
        rng = random.Random(seed)
        network = random_network(rng)
        there = has_plan(network)
        yes, no = yes + there, no + (not there)
        prices = np.array([rng.uniform(0.0, 1.0) for _ in range(network.nodes)])
        for verdict in (
            decide(network, Budget(PLENTY), []),
            decide(network, Budget(PLENTY), list(range(network.nodes))),
            search(network, Walks(network), prices, Budget(PLENTY)),
        ):
            if verdict.plan is not None:
                assert is_plan(network, verdict.plan), seed
            assert not (verdict.proved and there), seed
            if (network.errors[1:-1] <= 0).all() or network.error_budget > network.errors.sum():
                assert verdict.proved is not there, seed
                assert (verdict.plan is not None) is there, seed
    assert yes > 100
    assert no > 100


def test_a_walk_that_comes_back_is_no_plan() -> None:
    # Node 0 could run both slices if it might go to node 1 and back; there are two nodes and three slices.
    arcs = np.zeros((2, 4, 4), dtype=bool)
    arcs[0, 0, 1] = arcs[1, 1, 2] = arcs[0, 2, 3] = True
    hops = np.repeat(~np.eye(2, dtype=bool)[None], 4, axis=0)
    network = Network(arcs, hops, 3, {}, np.zeros(4), 0.0)
    verdict = decide(network, Budget(PLENTY), [])
    assert verdict.plan is None
    assert verdict.proved


@pytest.mark.parametrize("nodes", [63, 64, 65, 130])
def test_nodes_beyond_one_word(nodes: int) -> None:
    # A chain of slices in which only the last nodes can follow each other.
    n = 4
    arcs = np.zeros((nodes, n + 1, n + 1), dtype=bool)
    hops = np.zeros((n + 1, nodes, nodes), dtype=bool)
    order = [nodes - 1, 0, nodes - 2, nodes // 2]
    for s, node in enumerate(order):
        arcs[node, s, s + 1] = True
    for s, (a, b) in enumerate(itertools.pairwise(order), start=1):
        hops[s, a, b] = True
    network = Network(arcs, hops, nodes, {}, np.zeros(n + 1), 0.0)
    assert decide(network, Budget(PLENTY), []).plan == [(s, s + 1, node) for s, node in enumerate(order)]
    hops[2] = False
    assert decide(network, Budget(PLENTY), []).proved


def test_a_search_that_was_cut_short_proves_nothing() -> None:
    cut = beams = 0
    for seed in range(200):
        network = random_network(random.Random(seed))
        if has_plan(network):
            continue
        prices = np.ones(network.nodes)
        cut += not search(network, Walks(network), prices, Budget(0)).proved
        verdict = search(network, Walks(network), prices, Budget(PLENTY), width=1)
        assert verdict.plan is None
        beams += not verdict.proved
    assert cut > 5
    assert beams > 5
