"""Operators in any order in the file: the graph is sorted, slices are written so that a runtime can run them."""

from __future__ import annotations

import random

import ai_edge_litert.schema_py_generated as schema
import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import pytest

from converters.graph import read_graph
from converters.runtime import random_inputs
from converters.slicing import groups_at, legal_positions, slice_model
from converters.verify import link, verify_chain
from slicemq.errors import ModelError
from tests.converters import flows
from tests.converters.machine import assert_same, load, run_cluster, run_whole
from tests.converters.tiny import Tiny, chain, diamond, half_weights


def _shuffled(data: bytes, seed: int) -> bytes:
    """The same model with the operators of its main subgraph in another order in the file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    random.Random(seed).shuffle(model.subgraphs[0].operators)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    "data", [chain(6), diamond(), half_weights(), flows.loop()], ids=["chain", "diamond", "half", "loop"]
)
def test_any_order_gives_the_same_chain(data: bytes) -> None:
    original = read_graph(data)
    frame = random_inputs(original, 1)
    expected = run_whole(data, original, frame)
    for seed in range(6):
        mixed = _shuffled(data, seed)
        graph = read_graph(mixed)
        names = [graph.operators[i].name for i in graph.steps]
        assert sorted(names) == sorted(original.operators[i].name for i in original.steps)
        legal = legal_positions(graph)
        groups = groups_at(graph, legal[len(legal) // 2 :][:1])
        pieces = slice_model(mixed, graph, groups)
        assert_same(expected, run_cluster(graph, groups, pieces, frame))
        # What a runtime would make of an unsorted file is nothing to compare with: the whole is sorted first.
        report = verify_chain(mixed, graph, [link(piece) for piece in pieces], load, [("one", frame)])
        assert report.equal
        assert all(read_graph(piece.data).is_sorted for piece in pieces)


def test_sorted_files_keep_their_order() -> None:
    for data in (chain(5), diamond(), half_weights(), flows.loop()):
        graph = read_graph(data)
        assert graph.is_sorted
        assert graph.order == tuple(range(len(graph.operators)))
    assert not read_graph(_shuffled(chain(6), 1)).is_sorted


def test_reads_and_writes_of_a_variable_keep_their_order() -> None:
    """v = x, read v, v = 2 v, read v: whatever moves, the first read sees x and the second one twice as much."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    handle = tiny.handle("v")
    tiny.assign(handle, x)
    first = tiny.read(handle)
    tiny.assign(handle, tiny.op("ADD", [first, first], options=schema.AddOptionsT()))
    second = tiny.read(handle)
    data = tiny.build([tiny.op("TANH", [first]), tiny.op("TANH", [second])])
    graph = read_graph(data)
    steps = [step for step in graph.steps if step in graph.stateful_steps]
    assert steps == sorted(steps)
    (piece,) = slice_model(data, graph, [graph.steps])
    frame = {graph.inputs[0]: np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)}
    made = run_whole(piece.data, graph, frame)
    assert np.allclose(made[graph.outputs[0]], np.tanh(frame[graph.inputs[0]]))
    assert np.allclose(made[graph.outputs[1]], np.tanh(2 * frame[graph.inputs[0]]))


def test_a_value_that_is_written_before_it_is_made_is_refused() -> None:
    """The order of uses of a variable says one thing, the data another."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    handle = tiny.handle("v")
    late = tiny.tensor((1, 4))
    tiny.assign(handle, late)
    value = tiny.read(handle)
    tiny.op("ADD", [x, value], outputs=[late], options=schema.AddOptionsT())
    with pytest.raises(ModelError, match="waits for its own result: operators form a ring"):
        read_graph(tiny.build([late]))
