"""Shapes that a run finds: wrong ones, those that differ from frame to frame, and sizes that the user gives."""

from __future__ import annotations

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters import shapes
from converters.graph import read_graph
from converters.manifest import tensor_entry
from converters.runtime import random_inputs
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, legal_positions, slice_model
from converters.verify import bounded, link, verify_chain
from slicemq.errors import ModelError, UnsupportedOperatorError
from tests.converters import flows
from tests.converters.chains import run_chains
from tests.converters.machine import load
from tests.converters.tiny import Tiny
from tests.runtimes import EACH_RUNTIME


def _where(signed: bool = True) -> bytes:
    """The values above 0, doubled, and how many they are: [n, 2] places, [n] values."""
    tiny = Tiny()
    x = tiny.input((1, 8), name="x")
    y = tiny.op("TANH", [x], (1, 8))
    above = tiny.op("GREATER", [y, tiny.constant(np.array(0, np.float32))], (1, 8), dtype="BOOL")
    places = tiny.op("WHERE", [above], (1, 2), dtype="INT64")
    values = tiny.op("GATHER_ND", [y, places], (1,), options=schema.GatherNdOptionsT())
    if signed:
        tiny.tensors[places].shapeSignature = np.array([-1, 2], np.int32)
        tiny.tensors[values].shapeSignature = np.array([-1], np.int32)
    double = tiny.op("ADD", [values, values], (1,), options=schema.AddOptionsT())
    axis = tiny.constant(np.array([0], np.int32))
    total = tiny.op("SUM", [double, axis], (1,), options=schema.ReducerOptionsT(keepDims=True))
    return tiny.build([double, tiny.op("TANH", [total], (1,))])


@pytest.mark.parametrize("signed", [True, False])
def test_sizes_that_depend_on_the_frame_are_left_open(signed: bool) -> None:
    data = _where(signed)
    graph = resolve_shapes(data, read_graph(data), load)
    made = {op.name: graph.tensors[op.outputs[0]] for op in graph.operators}
    assert made["TANH"].frame_shape == (1,)
    assert made["GREATER"].frame_shape == (1, 8)
    assert made["WHERE"].frame_shape == (-1, 2)
    assert made["GATHER_ND"].frame_shape == made["ADD"].frame_shape == (-1,)
    # Costs go by what one frame had.
    assert made["WHERE"].shape[0] > 1
    assert made["WHERE"].nbytes == 16 * made["WHERE"].shape[0]
    assert tensor_entry(graph, made["WHERE"].index).shape == (-1, 2)


def test_frames_of_other_sizes_pass_the_chain() -> None:
    data = _where()
    graph = resolve_shapes(data, read_graph(data), load)
    frames = []
    for count in (0, 1, 8, 3):
        array = np.full((1, 8), -1, np.float32)
        array[0, :count] = np.arange(1, count + 1) / 4
        frames.append((f"{count} above 0", {graph.inputs[0]: array}))
    pieces = slice_model(data, graph, groups_at(graph, legal_positions(graph)))
    report = verify_chain(data, graph, [link(piece) for piece in pieces], load, frames)
    assert report.equal, report.differences


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_chains_of_dynamic_sizes(runtime: str) -> None:
    models = [_where(), _where(signed=False), _many_branches(), flows.branches("different")]
    for outcome in run_chains(runtime, models, frames=8):
        assert (outcome.error, outcome.differences) == ("", ())
        assert outcome.chains >= 4


def _many_branches() -> bytes:
    return flows.loop("growing")


def test_results_of_branches_of_two_shapes_are_left_open() -> None:
    data = flows.branches("different")
    graph = resolve_shapes(data, read_graph(data), load)
    assert graph.tensors[graph.outputs[0]].frame_shape == (-1, 4)
    data = flows.branches()
    graph = resolve_shapes(data, read_graph(data), load)
    assert graph.tensors[graph.outputs[0]].frame_shape == (1, 4)
    assert all(not tensor.varying for tensor in graph.tensors)


def _open(declared: tuple[int, ...] = (1, 4)) -> bytes:
    tiny = Tiny()
    x = tiny.input(declared, name="x")
    tiny.tensors[x].shapeSignature = np.array([-1, 4], np.int32)
    y = tiny.op("TANH", [x], declared)
    tiny.tensors[y].shapeSignature = np.array([-1, 4], np.int32)
    return tiny.build([tiny.op("TANH", [y], declared)])


def test_open_sizes_of_inputs_are_the_declared_ones_or_the_users() -> None:
    data = _open()
    graph = read_graph(data)
    declared = resolve_shapes(data, graph, load)
    assert {declared.tensors[t].frame_shape for t in (*declared.inputs, *declared.outputs)} == {(1, 4)}
    five = resolve_shapes(data, graph, load, {graph.inputs[0]: (5, 4)})
    assert {five.tensors[t].frame_shape for t in (*five.inputs, *five.outputs)} == {(5, 4)}
    pieces = slice_model(data, five, groups_at(five, [1]))
    assert [load(piece.data).inputs[0].shape for piece in pieces] == [(5, 4), (5, 4)]
    frame = {five.inputs[0]: np.ones((5, 4), np.float32)}
    assert verify_chain(data, five, [link(piece) for piece in pieces], load, [("ones", frame)]).equal


def test_a_size_that_the_file_does_not_declare_is_1() -> None:
    data = _open((-1, 4))
    graph = resolve_shapes(data, read_graph(data), load)
    assert [graph.tensors[t].frame_shape for t in (*graph.inputs, *graph.outputs)] == [(1, 4), (1, 4)]


def test_shapes_that_an_input_cannot_have() -> None:
    data = _open()
    graph = read_graph(data)
    x = graph.inputs[0]
    for shape in ((5, 3), (5,), (0, 4), (5, 4, 1)):
        with pytest.raises(ModelError, match=r"input 0 \(x\): shape .*, expected float32 \[\?, 4\]"):
            resolve_shapes(data, graph, load, {x: shape})
    with pytest.raises(ModelError, match="tensor 1 is no input of the model"):
        resolve_shapes(data, graph, load, {1: (5, 4)})


def test_a_model_that_does_not_run_at_its_declared_sizes_says_which_are_open() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="audio")
    tiny.tensors[x].shapeSignature = np.array([1, -1], np.int32)
    blocks = tiny.constant(np.array([4, -1, 4], np.int32))
    data = tiny.build([tiny.op("RESHAPE", [x, blocks], (4, 1, 4))])
    graph = read_graph(data)
    with pytest.raises(ModelError, match=r"leaves sizes of its inputs open, .* \(audio \[1, 4\]\): give others"):
        resolve_shapes(data, graph, load)
    with pytest.raises(ModelError, match=r"with those that were given \(audio \[1, 5\]\): give others"):
        resolve_shapes(data, graph, load, {x: (1, 5)})
    assert resolve_shapes(data, graph, load, {x: (1, 32)}).tensors[x].shape == (1, 32)


def test_string_inputs_are_refused_by_name() -> None:
    tiny = Tiny()
    words = tiny.input((1,), "STRING", name="words")
    data = tiny.build([tiny.op("RESHAPE", [words, tiny.constant(np.array([1, 1], np.int32))], (1, 1))])
    with pytest.raises(ModelError, match=r"input 0 \(words\) is of type string, which cannot travel"):
        resolve_shapes(data, read_graph(data), load)


def test_operators_that_the_runtime_lacks_are_named() -> None:
    for name in ("MyOperator", "FlexErf"):
        tiny = Tiny()
        data = tiny.build([tiny.op(name, [tiny.input((1, 4))])])
        with pytest.raises(UnsupportedOperatorError, match=name.removeprefix("Flex")):
            resolve_shapes(data, read_graph(data), load)


def test_a_large_model_is_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (_where(), flows.streams(), flows.loop(), flows.lstm()):
        graph = read_graph(data)
        usual = resolve_shapes(data, graph, load)
        monkeypatch.setattr(shapes, "PIECE_BYTES", -1)
        assert resolve_shapes(data, graph, load) == usual
        monkeypatch.undo()


def test_a_model_that_runs_at_given_sizes_only_is_compared_at_these() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="audio")
    tiny.tensors[x].shapeSignature = np.array([1, -1], np.int32)
    blocks = tiny.constant(np.array([4, -1, 4], np.int32))
    y = tiny.op("TANH", [tiny.op("RESHAPE", [x, blocks], (4, 1, 4))], (4, 1, 4))
    data = tiny.build([tiny.op("LOGISTIC", [y], (4, 1, 4))])
    graph = resolve_shapes(data, read_graph(data), load, {x: (1, 32)})
    pieces = slice_model(data, graph, groups_at(graph, [1, 2]))
    frame = {x: np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 32)}
    report = verify_chain(data, graph, [link(piece) for piece in pieces], load, [("one", frame)])
    assert (report.frames, report.equal) == (1, True)


def _embedding(rows: int) -> bytes:
    """The rows of a table that an input of indices names."""
    tiny = Tiny()
    ids = tiny.input((1, 6), "INT32", name="ids")
    table = tiny.constant(np.arange(rows * 4, dtype=np.float32).reshape(rows, 4))
    found = tiny.op("GATHER", [table, ids], (1, 6, 4), options=schema.GatherOptionsT())
    return tiny.build([tiny.op("TANH", [found], (1, 6, 4))])


@pytest.mark.parametrize(("rows", "below"), [(200, 100), (50, 2), (1, 1)])
def test_random_indices_lie_in_the_table(rows: int, below: int) -> None:
    data = _embedding(rows)
    graph = resolve_shapes(data, read_graph(data), load)
    assert graph.integers_below == below
    assert bounded(data, read_graph(data), load).integers_below == below
    chain = [link(piece) for piece in slice_model(data, graph, groups_at(graph, [1]))]
    assert verify_chain(data, graph, chain, load, [("frame", random_inputs(graph, 1))]).equal


def test_a_model_that_takes_no_index_says_what_happened() -> None:
    data = _embedding(0)
    with pytest.raises(ModelError, match="gather index out of bounds"):
        resolve_shapes(data, read_graph(data), load)
