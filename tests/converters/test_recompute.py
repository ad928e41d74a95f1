"""Operators that run again in every slice that reads them, instead of being sent: what crosses, and equality."""

from __future__ import annotations

from dataclasses import replace

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.graph import Graph, read_graph
from converters.recompute import with_recomputed
from converters.runtime import Load
from converters.slicing import cut_positions, edges, groups_at, parts, slice_model
from converters.verify import link, verify_chain
from edge_node.runtime import open_interpreter
from slicemq.errors import CutError
from tests.converters.tiny import Tiny


def _skip() -> bytes:
    """x -> CAST to float -> three TANH, and the cast padded to twice its width for the end: both are recomputed."""
    tiny = Tiny()
    x = tiny.input((1, 4), "UINT8", name="x")
    cast = tiny.op("CAST", [x], (1, 4), tensor="cast")
    wide = tiny.op("PAD", [cast, tiny.constant(np.array([[0, 0], [2, 2]], np.int32))], (1, 8), tensor="wide")
    y = cast
    for _ in range(3):
        y = tiny.op("TANH", [y])
    padded = tiny.op("PAD", [y, tiny.constant(np.array([[0, 0], [4, 0]], np.int32))], (1, 8), tensor="padded")
    return tiny.build([tiny.op("ADD", [wide, padded], (1, 8), options=schema.AddOptionsT())])


def _names(graph: Graph, tensors: tuple[int, ...]) -> list[str]:
    return [graph.tensors[t].name for t in tensors]


def test_the_smaller_tensor_crosses() -> None:
    graph = read_graph(_skip())
    assert [op.name for op in graph.operators if op.recomputed] == ["CAST", "PAD", "PAD"]
    assert [graph.operators[i].name for i in graph.steps] == ["TANH", "TANH", "TANH", "ADD"]
    made = graph.operators[graph.steps[0]].outputs[0]
    assert graph.crossing(1) == (made,)
    assert _names(graph, graph.reads[graph.steps[3]])[:1] == ["x"]
    bundles = edges(graph, groups_at(graph, [1, 3]))
    assert [
        (edge.source, edge.targets, sum(graph.tensors[t].nbytes for t in edge.tensors)) for edge in bundles
    ] == [
        (None, (0, 2), 4),
        (0, (1,), 16),
        (1, (2,), 16),
    ]


def test_each_reader_runs_it_and_the_bits_are_the_whole_models() -> None:
    data = _skip()
    graph = read_graph(data)
    groups = groups_at(graph, [1, 2, 3])
    counted = [[graph.operators[i].name for i in part.operators] for part in parts(graph, groups)]
    assert counted == [["CAST", "TANH"], ["TANH"], ["TANH"], ["CAST", "PAD", "PAD", "ADD"]]
    frames = [
        (f"frame {seed}", {0: np.random.default_rng(seed).integers(0, 256, (1, 4)).astype(np.uint8)})
        for seed in range(5)
    ]
    load: Load = open_interpreter
    chain = [link(piece) for piece in slice_model(data, graph, groups)]
    report = verify_chain(data, graph, chain, load, frames)
    assert report.equal, report.differences


def test_a_cut_behind_it_is_a_cut_where_it_runs() -> None:
    graph = read_graph(_skip())
    assert cut_positions(graph, ["padded"]) == [3]
    with pytest.raises(CutError, match="every slice that reads it runs itself"):
        cut_positions(graph, ["cast"])


def test_groups_may_name_it_or_not() -> None:
    graph = read_graph(_skip())
    steps = list(graph.steps)
    everything = [i for i, op in enumerate(graph.operators) if not op.constant]
    named = [everything[: everything.index(steps[1])], everything[everything.index(steps[1]) :]]
    assert parts(graph, named) == parts(graph, [steps[:1], steps[1:]])


def _single(name: str, dtype: str, made: str, shape: tuple[int, ...], *, last: bool = False) -> Graph:
    """x of [1, 4] -> the operator -> TANH and RELU; with `last` what the operator makes is an output too."""
    tiny = Tiny()
    x = tiny.input((1, 4), dtype)
    inputs = [x, tiny.constant(np.array(shape, np.int32))] if name in ("TILE", "BROADCAST_TO") else [x]
    y = tiny.op(name, inputs, shape, dtype=made)
    outputs = [tiny.op("TANH", [y], shape, dtype=made), tiny.op("RELU", [y], shape, dtype=made)]
    return read_graph(tiny.build([*outputs, y] if last else outputs))


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (_single("CAST", "UINT8", "FLOAT32", (1, 4)), True),
        (_single("CAST", "INT64", "FLOAT32", (1, 4)), False),
        (_single("CAST", "INT32", "FLOAT32", (1, 4)), False),
        (_single("DEQUANTIZE", "INT8", "FLOAT32", (1, 4)), True),
        (_single("BROADCAST_TO", "FLOAT32", "FLOAT32", (3, 4)), True),
        (_single("CAST", "UINT8", "FLOAT32", (1, 4), last=True), False),
        (_single("EXP", "UINT8", "FLOAT32", (1, 4)), False),
        (_single("CAST", "STRING", "FLOAT32", (1, 4)), False),
        (_single("CAST", "UINT8", "FLOAT32", (-1, 4)), False),
    ],
)
def test_what_is_recomputed(graph: Graph, expected: bool) -> None:
    assert graph.operators[0].recomputed is expected
    assert (0 in graph.steps) is not expected


def test_sizes_that_differ_from_frame_to_frame_are_not_compared() -> None:
    graph = _single("CAST", "UINT8", "FLOAT32", (1, 4))
    (made,) = graph.operators[0].outputs
    tensors = tuple(replace(t, varying=(1,)) if t.index == made else t for t in graph.tensors)
    again = with_recomputed(replace(graph, tensors=tensors))
    assert not again.operators[0].recomputed
    assert 0 in again.steps


def test_a_model_of_nothing_else_keeps_its_step() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), "UINT8")
    graph = read_graph(tiny.build([tiny.op("CAST", [x])]))
    assert graph.steps == (0,)
