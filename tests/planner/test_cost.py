"""Costs of segments: tables against the definitions, speeds, supports, legal positions."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from converters.delegation import RUNTIMES
from converters.graph import Operator
from converters.memory import slice_memory
from coordinator.planner.cost import build_costs
from coordinator.planner.make import make_plan
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.tables.memory import memory_by_runtime, segment_memory
from coordinator.planner.tables.segments import FRAME_BYTES, any_of, traffic, wire_bytes
from slicemq.errors import PlanError
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import TensorSpec
from tests.planner.instances import (
    Oracle,
    make_graph,
    random_fleet,
    random_graph,
    random_profile,
    weights_memory,
)


def test_tables_equal_the_definitions() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(1, 14))
        profile, fleet = random_profile(rng, graph), random_fleet(rng, 3, 10**9)
        options = PlanOptions()
        costs = build_costs(graph, profile, fleet, segment_memory(graph, weights_memory), options)
        oracle = Oracle(graph, profile, options.overheads)
        for kind in costs.types:
            assert {node.kind() for node in fleet.nodes if node.id in kind.ids} == {kind.spec.kind()}
            for i, j in itertools.combinations(range(costs.n + 1), 2):
                compute, down, up, relayed = oracle.times(i, j, kind.spec)
                assert kind.compute[i, j] == pytest.approx(compute, rel=1e-9)
                assert kind.down[i, j] == pytest.approx(down, rel=1e-9)
                assert kind.up[i, j] == pytest.approx(up, rel=1e-9)
                assert costs.relayed[i, j] == pytest.approx(relayed, rel=1e-9)
                assert kind.period[i, j] == max(kind.compute[i, j], kind.down[i, j], kind.up[i, j])
                assert kind.latency[i, j] == pytest.approx(compute + down + up + kind.spec.rtt)
        assert sum(kind.count for kind in costs.types) == 3


def test_an_arcs_latency_and_energy_are_those_of_the_tables() -> None:
    rng = random.Random(3)
    graph = random_graph(rng, 6)
    fleet = random_fleet(rng, 3, 10_000_000)
    table = segment_memory(graph, weights_memory)
    costs = build_costs(graph, random_profile(rng, graph), fleet, table, PlanOptions())
    saved = np.full_like(costs.types[0].compute, 1e-4)
    for kind in [*costs.types, *(replace(kind, saved=saved) for kind in costs.types)]:
        for start, end in itertools.combinations(range(costs.n + 1), 2):
            assert kind.latency_of(start, end) == kind.latency[start, end]
            assert kind.energy_of(start, end) == kind.energy[start, end]


def test_a_skip_connection_is_published_once_and_forwarded_by_nobody() -> None:
    graph = make_graph(
        [
            ("CONV_2D", (0,), (1,), False),
            ("CONV_2D", (1,), (2,), False),
            ("CONV_2D", (2,), (3,), False),
            ("ADD", (1, 3), (4,), False),
        ],
        [100, 4000, 200, 300, 400],
        inputs=(0,),
        outputs=(4,),
    )
    size = [wire_bytes(tensor) for tensor in graph.tensors]
    found = traffic(graph)
    assert found.bytes_out[0, 1] == size[1] + FRAME_BYTES, "two consumers, one publish"
    assert found.bytes_in[1, 2] == size[1] + FRAME_BYTES
    assert found.bytes_out[1, 2] == size[2] + FRAME_BYTES, "the skipped tensor is not handed on"
    assert found.bytes_in[2, 3] == size[2] + FRAME_BYTES
    assert found.bytes_in[3, 4] == size[1] + size[3] + FRAME_BYTES
    assert found.bytes_in[1, 4] == size[1] + FRAME_BYTES, "once, although two steps use it"
    assert found.bytes_out[3, 4] == size[4] + FRAME_BYTES
    assert found.bytes_out[0, 4] == found.results[0, 4] == size[4] + FRAME_BYTES
    assert found.results[0, 3] == 0


def test_wire_bytes_are_near_the_bytes_of_a_real_frame() -> None:
    graph = make_graph([("CONV_2D", (0,), (1,), False)], [4000, 40], inputs=(0,), outputs=(1,))
    tensor = graph.tensors[0]
    header = FrameHeader("camera-1", 2**63, 2**20, 1.7e9, "12-0123abcd")
    spec = TensorSpec(0, tensor.name, "float32", (1, 1000))
    real = sum(len(part) for part in encode_frame(header, [(spec, np.zeros((1, 1000), np.float32))]))
    planned = traffic(graph).bytes_in[0, 1]
    assert real <= planned <= real + 150


def test_a_node_without_an_operator_gets_no_segment_with_it() -> None:
    graph = make_graph(
        [
            ("CONV_2D", (0,), (1,), False),
            ("DENSIFY", (-1,), (2,), True),
            ("CONV_2D", (1, 2), (3,), False),
            ("CUSTOM", (3,), (4,), False),
        ],
        [40] * 5,
        inputs=(0,),
        outputs=(4,),
    )
    profile = random_profile(random.Random(0), graph)
    old = NodeSpec("old", 10**9, {"all": 9.0}, 1e6, 1e6, runtime="tflite_runtime")
    new = replace(old, id="new", runtime="ai_edge_litert")
    lacks = {"old": {"DENSIFY"}, "new": {"CUSTOM"}}

    def supports(node: NodeSpec, operator: Operator) -> bool:
        return operator.name not in lacks[node.id]

    costs = build_costs(
        graph, profile, Fleet((old, new)), segment_memory(graph, weights_memory), PlanOptions(), supports
    )
    runs = {
        kind.spec.id: {(i, j) for i, j in itertools.combinations(range(4), 2) if np.isfinite(kind.period[i, j])}
        for kind in costs.types
    }
    assert runs == {"old": {(0, 1), (2, 3)}, "new": {(0, 1), (0, 2), (1, 2)}}
    assert not any(kind.whole for kind in costs.types)


def test_no_cut_where_a_tensor_cannot_travel() -> None:
    graph = make_graph(
        [("CONV_2D", (0,), (1,), False), ("X", (1,), (2,), False), ("Y", (2,), (3,), False)],
        [40] * 4,
        inputs=(0,),
        outputs=(3,),
    )
    tensors = list(graph.tensors)
    tensors[1] = replace(tensors[1], dtype="resource")
    graph = replace(graph, tensors=tuple(tensors))
    costs = build_costs(
        graph,
        random_profile(random.Random(0), graph),
        random_fleet(random.Random(0), 1, 10**9),
        segment_memory(graph, weights_memory),
        PlanOptions(),
    )
    possible = {(i, j) for i, j in itertools.combinations(range(4), 2) if np.isfinite(costs.types[0].period[i, j])}
    assert possible == {(0, 2), (0, 3), (2, 3)}


def test_headroom_keeps_a_share_of_the_memory_free() -> None:
    graph = make_graph([("X", (0,), (1,), False)], [4000, 4000], (0,), (1,), weights=[6000])
    fleet = Fleet((NodeSpec("a", 10_000, {"all": 1.0}, 1e6, 1e6),))
    table = segment_memory(graph, weights_memory)
    profile = random_profile(random.Random(0), graph)
    assert table[0, 1] == 10_000
    assert build_costs(graph, profile, fleet, table, PlanOptions()).types[0].whole
    assert not build_costs(graph, profile, fleet, table, PlanOptions(headroom=0.01)).types[0].whole


def test_memory_of_the_converters_is_the_same_by_table_and_by_call() -> None:
    graph = random_graph(random.Random(5), 9)
    by_call = segment_memory(graph, lambda g, group: slice_memory(g, group))
    assert (segment_memory(graph) == by_call).all()
    assert by_call[0, 9] > 0


def test_each_nodes_runtime_has_its_own_memory() -> None:
    graph = random_graph(random.Random(5), 9)
    nodes = [
        NodeSpec(n, 10**9, {"all": 1.0}, 1e6, 1e6, runtime=r) for n, r in zip("abc", (*RUNTIMES, ""), strict=True)
    ]
    tables = memory_by_runtime(graph, nodes)
    assert {r: (table == segment_memory(graph, runtime=r)).all() for r, table in tables.items()} == {
        "ai_edge_litert": True,
        "tflite_runtime": True,
        "": True,
    }
    assert (tables[""] == np.maximum(*(tables[r] for r in RUNTIMES))).all()
    profile = random_profile(random.Random(0), graph)
    costs = build_costs(graph, profile, Fleet(tuple(nodes)), tables, PlanOptions())
    assert all((kind.memory == tables[kind.spec.runtime]).all() for kind in costs.types)
    assert (costs.memory == np.minimum.reduce(list(tables.values()))).all()


def test_a_node_takes_what_fits_in_its_own_runtime() -> None:
    graph = random_graph(random.Random(5), 9)
    needed = {r: slice_memory(graph, graph.steps, r) for r in RUNTIMES}
    small, large = sorted(RUNTIMES, key=lambda r: needed[r])
    assert needed[small] < needed[large]
    for runtime, fits in ((small, True), (large, False)):
        node = NodeSpec("a", needed[small], {"all": 1.0}, 1e6, 1e6, runtime=runtime)
        tables = memory_by_runtime(graph, [node])
        costs = build_costs(graph, random_profile(random.Random(0), graph), Fleet((node,)), tables, PlanOptions())
        assert costs.types[0].whole == fits


def test_a_plan_says_the_memory_in_the_runtime_of_each_slices_node() -> None:
    graph = random_graph(random.Random(5), 9)
    profile = random_profile(random.Random(0), graph)
    for runtime in RUNTIMES:
        node = NodeSpec("a", 10**9, {"all": 1.0}, 1e6, 1e6, runtime=runtime)
        (item,) = make_plan(graph, profile, Fleet((node,))).slices
        assert item.memory_mb == pytest.approx(slice_memory(graph, item.operators, runtime) / 1e6, abs=0.002)


def test_any_of() -> None:
    table = any_of(4, [1, 3])
    for i, j in itertools.combinations(range(5), 2):
        assert table[i, j] == bool({1, 3} & set(range(i, j)))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"pins": {"s0": "zz"}}, "pin to node zz: no node has this id"),
        ({"pins": {"s0": "a"}, "exclude": frozenset({"a"})}, "pin to node a: it is excluded"),
        ({"exclude": frozenset({"zz"})}, "exclude zz: the fleet has no such node"),
        ({"pins": {"first": "a"}}, "pin first=a: expected a slice such as s0, or a range"),
        ({"pins": {"s0": "a", "0": "b"}}, "slice s0 is pinned to a already"),
        ({"pins": {"5-2": "a"}}, "pin 5-2=a: the range ends before it starts"),
        ({"pins": {"0-9": "a"}}, "pin 0-9=a: the model has operators 0 to 1"),
        ({"pins": {"0-0": "a"}}, "only operators fed by constants"),
        ({"max_slices": 0}, "max_slices: expected at least 1, got 0"),
        ({"headroom": 1.0}, "headroom: expected at least 0 and less than 1"),
    ],
)
def test_options_that_are_wrong_are_named(options: dict[str, object], names: str) -> None:
    graph = make_graph([("D", (-1,), (1,), True), ("X", (0, 1), (2,), False)], [40] * 3, (0,), (2,))
    fleet = Fleet(tuple(NodeSpec(name, 10**6, {"all": 1.0}, 1e6, 1e6) for name in "ab"))
    with pytest.raises(PlanError) as caught:
        build_costs(
            graph,
            random_profile(random.Random(0), graph),
            fleet,
            segment_memory(graph, weights_memory),
            PlanOptions(**options),  # type: ignore[arg-type]
        )
    assert names in str(caught.value)


def test_a_class_without_a_speed_runs_as_its_plain_kind() -> None:
    node = NodeSpec("a", 1, {"conv": 2.0, "conv-int8": 20.0, "moving": 0.5}, 1.0, 1.0)
    assert node.speed("conv-int8") == 20.0
    assert node.speed("conv-dynamic") == 2.0
    assert node.speed("dense-int8") == node.mean_speed == 1.0
    assert NodeSpec("a", 1, {"conv-int8": 4.0}, 1.0, 1.0).mean_speed == 4.0
    assert NodeSpec("a", 1, {}, 1.0, 1.0).speed("conv") == 1.0
