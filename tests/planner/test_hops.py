"""Costs with links between pairs of nodes: what crosses each state and how fast each pair is."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from coordinator.planner.cost import build_costs
from coordinator.planner.model import Fleet, PlanOptions
from coordinator.planner.pairs.hops import crossing_bytes
from coordinator.planner.pairs.pairwise import solve
from coordinator.planner.problem import State
from coordinator.planner.tables.memory import segment_memory
from coordinator.planner.tables.segments import FRAME_BYTES, wire_bytes
from tests.planner.instances import make_graph, random_fleet, random_graph, random_profile, weights_memory


def linked(rng: random.Random, count: int, memory: int) -> Fleet:
    fleet = random_fleet(rng, count, memory)
    pairs = itertools.permutations([node.id for node in fleet.nodes], 2)
    return replace(fleet, links={pair: rng.uniform(1e5, 1e7) for pair in pairs if rng.random() < 0.6})


def test_what_a_later_slice_needs_is_passed_on() -> None:
    # What step 0 makes is read by steps 1 and 3, and tensor 2 is a result; so is the input read by the last step.
    graph = make_graph(
        [
            ("CONV_2D", (0,), (1,), False),
            ("CONV_2D", (1,), (2,), False),
            ("CONV_2D", (2,), (3,), False),
            ("ADD", (0, 1, 3), (4,), False),
        ],
        [1000 * (t + 1) for t in range(5)],
        (0,),
        (2, 4),
    )
    size = {t: wire_bytes(graph.tensors[t]) for t in range(5)}
    crosses = crossing_bytes(graph, ())
    always = FRAME_BYTES + size[0] + size[1]
    assert list(crosses) == [0, always, always + size[2], always + size[2] + size[3], 0]
    halved = crossing_bytes(graph, (State(0), State(0b11, "f16"), State(0b1111)))
    assert halved[1] < crosses[2]


def test_tables_equal_the_definitions() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(1, 10))
        profile, fleet = random_profile(rng, graph), linked(rng, 4, 10**9)
        if rng.random() < 0.5:
            fleet = replace(fleet, broker_rate=rng.uniform(1e5, 1e6))
        options = PlanOptions()
        memory = segment_memory(graph, weights_memory)
        costs = build_costs(graph, profile, fleet, memory, options)
        if not fleet.links:
            assert costs.hops is None
            continue
        assert costs.hops is not None
        assert [kind.ids for kind in costs.types] == [(node.id,) for node in fleet.nodes]
        place = {step: number for number, step in enumerate(graph.steps)}
        made = {t: place[s] for s in graph.steps for t in graph.operators[s].outputs if t >= 0}
        n, far = costs.n, costs.n
        for s in range(1, n):
            crossing = 0
            for t in {*made, *graph.inputs}:
                users = [place[u] for u in graph.consumers.get(t, ())] + ([far] if t in graph.outputs else [])
                if made.get(t, -1) < s and any(user >= s for user in users):
                    crossing += wire_bytes(graph.tensors[t])
            assert costs.hops.bytes[s] == FRAME_BYTES + crossing
        assert costs.hops.bytes[0] == costs.hops.bytes[n] == 0
        for (a, sender), (b, receiver) in itertools.permutations(enumerate(fleet.nodes), 2):
            through = min(sender.up, receiver.down, fleet.broker_rate or math.inf)
            assert costs.hops.rates[a, b] == fleet.links.get((sender.id, receiver.id), through)
        star = build_costs(graph, profile, replace(fleet, links={}), memory, options)
        inputs = FRAME_BYTES + sum(wire_bytes(graph.tensors[t]) for t in set(graph.inputs))
        results = FRAME_BYTES + sum(wire_bytes(graph.tensors[t]) for t in set(graph.outputs))
        by_id = {node: kind for kind in star.types for node in kind.ids}
        for kind in costs.types:
            assert np.array_equal(np.isfinite(kind.period), np.isfinite(by_id[kind.ids[0]].period))
            for i, j in itertools.combinations(range(n + 1), 2):
                assert kind.bytes_in[i, j] == (inputs if i == 0 else 0)
                assert kind.bytes_out[i, j] == (results if j == n else 0)
                into, out = costs.hops.bytes[i], costs.hops.bytes[j]
                overheads = options.overheads
                seconds = (
                    profile.overhead
                    + overheads.message * 2
                    + overheads.receive_per_byte * (into or inputs)
                    + overheads.send_per_byte * (out or results)
                )
                compute = kind.steps[i:j].sum() + seconds / kind.spec.mean_speed
                assert kind.compute[i, j] == pytest.approx(compute, rel=1e-9)


def test_a_fast_link_is_used() -> None:
    rng = random.Random(3)
    graph = make_graph([("CONV_2D", (t,), (t + 1,), False) for t in range(4)], [1000] * 5, (0,), (4,))
    fleet = random_fleet(rng, 3, 10**9)
    slow = tuple(replace(node, up=1e3, down=1e3) for node in fleet.nodes)
    first, last = slow[2].id, slow[0].id
    fleet = replace(fleet, nodes=slow, links={(first, last): 1e9})
    table = segment_memory(graph, weights_memory)
    both = replace(PlanOptions(), pins={"0-1": first, "2-3": last})
    found = solve(build_costs(graph, random_profile(rng, graph), fleet, table, both))
    assert found.nodes == (first, last)
