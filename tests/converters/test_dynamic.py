"""Dynamic models: slices are handled by the runtime as their whole is, so they round as it does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.graph import read_graph
from converters.slicing import groups_at, legal_positions, slice_model
from tests.converters import flows
from tests.converters.tiny import Tiny, chain

_I32 = schema.TensorType.INT32


def _ints(tiny: Tiny, *values: int) -> int:
    return tiny.constant(np.array(values, np.int32))


def _reshaped(kind: str) -> bytes:
    """x -> TANH -> RESHAPE to a shape that `kind` computes from the shape of x -> TANH."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    y = tiny.op("TANH", [x])
    shape = tiny.op("SHAPE", [x], (2,), dtype="INT32", options=schema.ShapeOptionsT(outType=_I32))
    slicing = schema.StridedSliceOptionsT()
    if kind == "constant":
        shape = _ints(tiny, 1, 4)
    elif kind == "strided_slice":
        bounds = [_ints(tiny, 0), _ints(tiny, 2), _ints(tiny, 1)]
        shape = tiny.op("STRIDED_SLICE", [shape, *bounds], (2,), dtype="INT32", options=slicing)
    elif kind == "gather":
        shape = tiny.op("GATHER", [shape, _ints(tiny, 0, 1)], (2,), dtype="INT32", options=schema.GatherOptionsT())
    elif kind == "mul":
        shape = tiny.op("MUL", [shape, _ints(tiny, 1, 1)], (2,), dtype="INT32", options=schema.MulOptionsT())
    elif kind == "concatenation":
        bounds = [_ints(tiny, 0), _ints(tiny, 1), _ints(tiny, 1)]
        first = tiny.op("STRIDED_SLICE", [shape, *bounds], (1,), dtype="INT32", options=slicing)
        options = schema.ConcatenationOptionsT(axis=0)
        shape = tiny.op("CONCATENATION", [first, _ints(tiny, 4)], (2,), dtype="INT32", options=options)
    elif kind == "add":
        shape = tiny.op("ADD", [shape, _ints(tiny, 0, 0)], (2,), dtype="INT32", options=schema.AddOptionsT())
    elif kind == "maximum":
        shape = tiny.op("MAXIMUM", [shape, _ints(tiny, 1, 1)], (2,), dtype="INT32")
    elif kind == "constant maximum":
        shape = tiny.op("MAXIMUM", [_ints(tiny, 1, 4), _ints(tiny, 1, 1)], (2,), dtype="INT32")
    elif kind == "cast":
        wide = tiny.op("CAST", [shape], (2,), dtype="INT64", options=schema.CastOptionsT())
        shape = tiny.op("CAST", [wide], (2,), dtype="INT32", options=schema.CastOptionsT())
    return tiny.build([tiny.op("TANH", [tiny.op("RESHAPE", [y, shape])])])


_STATIC = ("constant", "shape", "strided_slice", "gather", "mul", "concatenation")
_DYNAMIC = ("add", "maximum", "constant maximum", "cast")


@pytest.mark.parametrize("kind", [*_STATIC, *_DYNAMIC])
def test_which_models_are_dynamic(kind: str) -> None:
    assert read_graph(_reshaped(kind)).dynamic == (kind in _DYNAMIC)


_CHILD = """
import sys
from tflite_runtime.interpreter import Interpreter
for line in sys.stdin:
    interpreter = Interpreter(model_content=bytes.fromhex(line.strip()))
    interpreter.allocate_tensors()
    print(any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details()), flush=True)
"""


@pytest.mark.skipif(importlib.util.find_spec("tflite_runtime") is None, reason="tflite_runtime is not installed")
def test_tflite_runtime_delegates_slices_exactly_when_it_delegates_the_whole() -> None:
    """The rules of converters.dynamic, against the runtime that they were found in."""
    expected, contents = [], []
    for kind in (*_STATIC, *_DYNAMIC):
        data = _reshaped(kind)
        graph = read_graph(data)
        contents.append(data)
        expected.append(not graph.dynamic)
        for position in legal_positions(graph):
            for piece in slice_model(data, graph, groups_at(graph, [position])):
                # A slice without an operator that XNNPACK has is not delegated in any case.
                if "TANH" in {graph.operators[i].name for i in piece.operators}:
                    contents.append(piece.data)
                    expected.append(not graph.dynamic)
    lines = "\n".join(content.hex() for content in contents)
    done = subprocess.run([sys.executable, "-c", _CHILD], input=lines, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(e) for e in expected]


def test_shapes_do_not_cross_cuts_of_static_models() -> None:
    graph = read_graph(_reshaped("shape"))
    names = [graph.operators[i].name for i in graph.steps]
    assert names == ["TANH", "SHAPE", "RESHAPE", "TANH"]
    assert legal_positions(graph) == (1, 3)
    dynamic = read_graph(_reshaped("cast"))
    assert legal_positions(dynamic) == tuple(range(1, len(dynamic.steps)))


def test_slices_of_static_models_have_no_operators_of_ours() -> None:
    data = chain(3)
    graph = read_graph(data)
    assert [len(read_graph(p.data).operators) for p in slice_model(data, graph, [[0], [1, 2]])] == [1, 2]
    data = _reshaped("cast")
    graph = read_graph(data)
    (piece,) = slice_model(data, graph, [graph.steps])
    again = read_graph(piece.data)
    assert [op.name for op in again.operators if op.dead] == ["MAXIMUM", "RESHAPE"]
    assert again.dynamic
    assert len(again.steps) == len(graph.steps)


def test_which_subgraphs_make_a_model_dynamic() -> None:
    """As tflite_runtime sees it; test_subgraphs.py shows in that runtime that slices then round as their whole."""
    expected = {
        flows.loop(): (False, 3),
        flows.loop("dynamic"): (True, 0),
        flows.loop("growing"): (True, 0),
        flows.loop(before="dynamic"): (False, 1),
        flows.branches(): (False, 3),
        flows.branches("dynamic"): (True, 0),
        flows.branches("different"): (True, 0),
        flows.streams(): (False, 2),
        flows.lookup(): (True, 0),
    }
    graphs = [read_graph(data) for data in expected]
    assert [(graph.dynamic, graph.undelegated) for graph in graphs] == list(expected.values())
    # In a slice without the dynamic subgraph that stood first, a tiny one stands for it.
    data = flows.loop(before="dynamic")
    graph = read_graph(data)
    middle = slice_model(data, graph, groups_at(graph, [1, 2]))[1]
    assert read_graph(middle.data).undelegated == 1
