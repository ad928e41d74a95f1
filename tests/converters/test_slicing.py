"""Cuts of hand-made models: who gets which tensor, and what is in a slice's file."""

from __future__ import annotations

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.flatbuffer import write_slice
from converters.graph import read_graph, with_shapes
from converters.runtime import random_inputs
from converters.slicing import (
    cut_positions,
    edges,
    groups_at,
    legal_positions,
    parts,
    result_parts,
    slice_model,
)
from slicemq.errors import CutError
from tests.converters.machine import assert_same, run_cluster, run_whole
from tests.converters.tiny import Tiny, chain, diamond, half_weights


def _check(data: bytes, groups: list[list[int]]) -> None:
    graph = read_graph(data)
    frame = random_inputs(graph, 1)
    slices = slice_model(data, graph, groups)
    assert_same(run_whole(data, graph, frame), run_cluster(graph, groups, slices, frame))


def test_groups_at() -> None:
    graph = read_graph(chain(5))
    assert groups_at(graph, []) == [[0, 1, 2, 3, 4]]
    assert groups_at(graph, [2, 4]) == [[0, 1], [2, 3], [4]]
    for wrong in ([0], [5], [3, 2], [2, 2], [-1]):
        with pytest.raises(CutError, match="rising positions between 1 and 4"):
            groups_at(graph, wrong)


def test_skip_connection_goes_straight_to_its_reader() -> None:
    data = diamond()
    graph = read_graph(data)
    groups = groups_at(graph, [1, 3])
    found = [(e.source, e.targets, e.tensors) for e in edges(graph, groups)]
    # x to both ends; a to the middle only; b and c to the last.
    assert found == [(None, (0, 2), (0,)), (0, (1,), (1,)), (1, (2,), (2, 3))]
    assert [e.id for e in edges(graph, groups)] == ["b0", "b1", "b2"]
    assert result_parts(graph, groups) == ((2, (5,)),)
    _check(data, groups)


def test_parallel_branches_are_fed_by_one_bundle() -> None:
    data = diamond()
    graph = read_graph(data)
    groups = [[0], [1], [2], [3, 4]]
    found = [(e.source, e.targets, e.tensors) for e in edges(graph, groups)]
    assert found == [(None, (0, 3), (0,)), (0, (1, 2), (1,)), (1, (3,), (2,)), (2, (3,), (3,))]
    _check(data, groups)


def test_constant_operators_go_with_each_reader() -> None:
    data = half_weights()
    graph = read_graph(data)
    pieces = slice_model(data, graph, [[1], [2], [3]])
    assert [p.operators for p in pieces] == [(0, 1), (2,), (0, 3)]
    assert pieces[0].inputs == (0,)
    _check(data, [[1], [2], [3]])


def test_a_slice_holds_only_what_it_needs() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    first = tiny.constant(np.full((1, 4), 2, np.float32))
    second = tiny.constant(np.full((1, 4), 3, np.float32))
    y = tiny.op("ADD", [x, first], options=schema.AddOptionsT())
    z = tiny.op("MUL", [y, second], options=schema.MulOptionsT())
    data = tiny.build([tiny.op("ADD", [z, second], options=schema.AddOptionsT())])
    graph = read_graph(data)
    model = schema.ModelT.InitFromPackedBuf(slice_model(data, graph, [[0], [1, 2]])[1].data)
    assert [t.name.decode() for t in model.subgraphs[0].tensors] == ["t2", "t3", "t4", "t5"]
    assert len(model.operatorCodes) == 2
    # The empty buffer, and the one constant that two operators share.
    assert [b.data is None for b in model.buffers] == [True, False]
    assert bytes(model.buffers[1].data) == np.full((1, 4), 3, np.float32).tobytes()
    assert model.signatureDefs is None


def test_a_slice_keeps_quantization_signature_names_and_metadata() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="ein/gäng")
    weights = tiny.constant(np.ones((4, 4), np.int8))
    tiny.tensors[weights].quantization = schema.QuantizationParametersT(
        scale=np.array([0.1, 0.2, 0.3, 0.4], np.float32), zeroPoint=np.zeros(4, np.int64), quantizedDimension=0
    )
    y = tiny.dense(x, weights)
    tiny.tensors[y].shapeSignature = np.array([-1, 4], np.int32)
    z = tiny.op("RELU", [y])
    for name, content in ((b"min_runtime_version", b"1.5.0\0"), (b"TFLITE_METADATA", bytes(100))):
        tiny.metadata.append(schema.MetadataT(name=name, buffer=tiny.buffer(content)))
    data = tiny.build([z])
    model = schema.ModelT.InitFromPackedBuf(slice_model(data, read_graph(data), [[0], [1]])[0].data)
    tensors = model.subgraphs[0].tensors
    assert [t.name.decode() for t in tensors] == ["ein/gäng", "t1", "t2"]
    np.testing.assert_array_equal(tensors[1].quantization.scale, np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    assert tensors[2].shapeSignature.tolist() == [-1, 4]
    assert [m.name for m in model.metadata] == [b"min_runtime_version"]
    assert bytes(model.buffers[model.metadata[0].buffer].data) == b"1.5.0\0"


def test_weights_start_at_multiples_of_16() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    for size in (1, 3, 4):
        c = tiny.constant(np.random.default_rng(size).standard_normal((1, size)).astype(np.float32))
        x = tiny.op("ADD", [x, c] if size != 3 else [x, x], options=schema.AddOptionsT())
    data = tiny.build([x])
    content = slice_model(data, read_graph(data), [[0, 1, 2]])[0].data
    model = schema.Model.GetRootAs(content, 0)
    seen = 0
    for i in range(model.BuffersLength()):
        if model.Buffers(i).DataLength():
            where = content.index(model.Buffers(i).DataAsNumpy().tobytes())
            assert where % 16 == 0
            seen += 1
    assert seen == 2


def test_slices_depend_on_the_model_and_the_groups_only() -> None:
    data = diamond()
    graph = read_graph(data)
    first, second = (slice_model(data, graph, [[0, 1], [2, 3, 4]]) for _ in range(2))
    assert [p.sha256 for p in first] == [p.sha256 for p in second]
    assert len({p.sha256 for p in first}) == 2


def test_output_that_is_also_consumed_later() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    y = tiny.op("RELU", [x])
    z = tiny.op("TANH", [y])
    data = tiny.build([y, z])
    graph = read_graph(data)
    assert result_parts(graph, [[0], [1]]) == ((0, (y,)), (1, (z,)))
    assert [(e.source, e.targets, e.tensors) for e in edges(graph, [[0], [1]])] == [
        (None, (0,), (x,)),
        (0, (1,), (y,)),
    ]
    _check(data, [[0], [1]])


def test_outputs_that_no_step_makes_belong_to_the_last_slice() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    other = tiny.input((1, 2))
    wide = tiny.constant(np.arange(4, dtype=np.int64))
    c = tiny.op("CAST", [wide], (4,), dtype="INT32", options=schema.CastOptionsT())
    y = tiny.op("RELU", [x])
    z = tiny.op("TANH", [y])
    data = tiny.build([z, c, other, wide, y])
    graph = read_graph(data)
    groups = groups_at(graph, [1])
    assert result_parts(graph, groups) == ((0, (y,)), (1, (z, c, other, wide)))
    assert parts(graph, groups)[1].operators == (0, 2)
    _check(data, groups)


def test_an_input_that_nothing_reads_is_in_no_bundle() -> None:
    tiny = Tiny()
    x, unused = tiny.input((1, 4)), tiny.input((1, 4))
    data = tiny.build([tiny.op("RELU", [x])])
    graph = read_graph(data)
    assert all(unused not in e.tensors for e in edges(graph, [[0]]))
    _check(data, [[0]])


def test_refuses_groups_that_are_no_partition() -> None:
    graph = read_graph(diamond())
    for groups, words in (
        ([[0, 1], [2, 3]], "operators in no group: 4"),
        ([[0, 1, 2], [2, 3, 4]], "operator 2 is in group 0 and in group 1"),
        ([[0, 1, 2, 3, 4], []], "group 1 has no operator"),
        ([[0, 1, 2, 3, 4, 9]], "operator 9, the model has 5"),
        ([[1, 2], [0, 3, 4]], "expected groups in the order in which they can run"),
        ([[0, 3], [1, 2], [4]], "expected groups in the order in which they can run"),
    ):
        with pytest.raises(CutError, match=words):
            parts(graph, groups)


def test_refuses_a_slice_without_inputs_and_a_cut_that_cannot_travel() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    shape = tiny.constant(np.array([1, 4], np.int32))
    noise = tiny.op("RANDOM_UNIFORM", [shape], options=schema.RandomOptionsT())
    graph = read_graph(tiny.build([tiny.op("ADD", [x, noise], options=schema.AddOptionsT())]))
    assert legal_positions(graph) == ()
    with pytest.raises(CutError, match="group 0 reads nothing"):
        parts(graph, [[0], [1]])
    tiny = Tiny()
    x = tiny.input((1, 4))
    words = tiny.op("TO_STRING", [x], dtype="STRING")
    graph = read_graph(tiny.build([tiny.op("TO_FLOAT", [words])]))
    assert legal_positions(graph) == ()
    with pytest.raises(CutError, match=r"tensor 1 \(t1\) would cross a cut, and string cannot travel"):
        parts(graph, [[0], [1]])


def test_cuts_by_name_and_index() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    names = ["block_1/add", "block_2/add", "twice", "twice", "last"]
    tensors = [tiny.tensor((1, 4), name=name) for name in names]
    for tensor in tensors:
        x = tiny.op("RELU", [x], outputs=[tensor])
    c = tiny.constant(np.zeros((1, 4), np.float32), name="weights")
    graph = read_graph(tiny.build([tensors[-1]]))
    assert cut_positions(graph, ["block_2/add", "block_1/add"]) == [1, 2]
    assert cut_positions(graph, [str(tensors[3]), "block_1/add", "block_1/add"]) == [1, 4]
    for text, words in (
        ("block_3/add", r"no tensor has this name; near names: block_\d/add"),
        ("BLOCK", "near names: block_1/add, block_2/add"),
        ("twice", f"2 tensors have this name; give one by its index: {tensors[2]}, {tensors[3]}"),
        ("x", "is an input of the model"),
        ("weights", rf"\(tensor {c}\) is a constant"),
        ("last", "made by the last operator"),
        ("999", "no tensor has this name"),
        ("", "no tensor has this name"),
        ("٣", "no tensor has this name"),
    ):
        with pytest.raises(CutError, match=words):
            cut_positions(graph, [text])


def test_input_shapes_are_the_graphs() -> None:
    data = chain(2)
    graph = read_graph(data)
    wider = with_shapes(graph, {2: (5, 4)})
    model = schema.ModelT.InitFromPackedBuf(write_slice(data, wider, [1], [2], [3]))
    assert model.subgraphs[0].tensors[1].shape.tolist() == [5, 4]
