"""Random graphs, randomly cut, run in a real interpreter: what the cluster answers is what the whole answers."""

from __future__ import annotations

import ai_edge_litert.schema_py_generated as schema
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.graph import Graph, read_graph
from converters.memory import memory_table, slice_memory
from converters.runtime import random_inputs
from converters.slicing import edges, groups_at, legal_positions, parts, slice_model
from tests.converters.machine import assert_same, run_cluster, run_whole
from tests.converters.tiny import Tiny


@st.composite
def models(draw: st.DrawFn) -> bytes:
    """Branches, joins, several inputs and outputs, shared and optional constants, constant and dead operators."""
    tiny = Tiny()
    pool = [tiny.input((1, 4)) for _ in range(draw(st.integers(1, 3)))]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))

    def pick() -> int:
        # Late tensors more often, so that graphs grow deep as well as wide.
        return pool[-1 - min(draw(st.integers(0, 6)), len(pool) - 1)]

    constant = tiny.constant(rng.standard_normal((1, 4)).astype(np.float32))
    half = tiny.constant((rng.standard_normal((4, 4)) / 2).astype(np.float16))
    weights = tiny.op("DEQUANTIZE", [half], (4, 4), options=schema.DequantizeOptionsT())
    wide = tiny.constant((rng.standard_normal((4, 8)) / 2).astype(np.float32))
    bias = tiny.constant(rng.standard_normal(4).astype(np.float32))
    axis = tiny.constant(np.array(1, np.int32))
    join = schema.ConcatenationOptionsT(axis=1)
    made = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["add", "unary", "constant", "dense", "join", "split"]))
        if kind == "add":
            pool.append(tiny.op("ADD", [pick(), pick()], options=schema.AddOptionsT()))
        elif kind == "unary":
            pool.append(tiny.op(draw(st.sampled_from(["RELU", "TANH", "LOGISTIC"])), [pick()]))
        elif kind == "constant":
            pool.append(tiny.op("MUL", [pick(), constant], options=schema.MulOptionsT()))
        elif kind == "dense":
            pool.append(tiny.dense(pick(), weights, draw(st.sampled_from([-1, bias]))))
        elif kind == "join":
            joined = tiny.op("CONCATENATION", [pick(), pick()], (1, 8), options=join)
            pool.append(tiny.dense(joined, wide, bias))
        else:
            joined = tiny.op("CONCATENATION", [pick(), pick()], (1, 8), options=join)
            halves = [tiny.tensor((1, 4)), tiny.tensor((1, 4))]
            tiny.op("SPLIT", [axis, joined], outputs=halves, options=schema.SplitOptionsT(numSplits=2))
            pool += halves
        made.append(pool[-1])
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return tiny.build(outputs)


def _any_groups(draw: st.DrawFn, graph: Graph) -> list[list[int]]:
    """Groups that need not be neighbours: each step goes to a group no earlier than those that it reads from."""
    home: dict[int, int] = {}
    for step in graph.steps:
        sources = [home[graph.producer[t]] for t in graph.operators[step].inputs if graph.producer.get(t) in home]
        least = max(sources, default=0)
        home[step] = draw(st.integers(least, least + 2))
    names = sorted(set(home.values()))
    return [[step for step in graph.steps if home[step] == name] for name in names]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_partition_answers_like_the_whole(data: st.DataObject) -> None:
    content = data.draw(models())
    graph = read_graph(content)
    if data.draw(st.booleans(), label="contiguous"):
        legal = legal_positions(graph)
        cuts = data.draw(st.lists(st.sampled_from(legal), unique=True, max_size=4)) if legal else []
        groups = groups_at(graph, sorted(cuts))
    else:
        groups = data.draw(st.composite(_any_groups)(graph))
    slices = slice_model(content, graph, groups)
    frame = random_inputs(graph, 7)
    assert_same(run_whole(content, graph, frame), run_cluster(graph, groups, slices, frame))
    for piece in slices:
        again = read_graph(piece.data)
        assert len(again.operators) == len(piece.operators)
        assert not any(op.dead for op in again.operators)


@settings(max_examples=60, deadline=None)
@given(content=models())
def test_bundles_are_those_of_the_crossing_tensors(content: bytes) -> None:
    graph = read_graph(content)
    for position in legal_positions(graph):
        groups = groups_at(graph, [position])
        inside = [e for e in edges(graph, groups) if e.source == 0]
        assert {t for e in inside for t in e.tensors} == set(graph.crossing(position))
        assert all(e.targets == (1,) for e in inside)
        every = [t for e in edges(graph, groups) for t in e.tensors]
        assert len(every) == len(set(every))


@settings(max_examples=40, deadline=None)
@given(content=models())
def test_the_memory_table_is_the_memory_of_each_run_of_steps(content: bytes) -> None:
    graph = read_graph(content)
    table = memory_table(graph)
    n = len(graph.steps)
    for i in range(n):
        for j in range(i + 1, n + 1):
            assert table[i, j] == slice_memory(graph, graph.steps[i:j])
        assert table[i, i] == 0
    for part in parts(graph, [graph.steps]):
        assert slice_memory(graph, part.operators) == table[0, n]
