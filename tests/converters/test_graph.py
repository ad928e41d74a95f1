"""The graph of hand-made models: what is constant, dead, read, made and counted."""

from __future__ import annotations

from pathlib import Path

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.costs import multiply_adds
from converters.graph import operator_class, read_graph, with_shapes
from converters.schema import open_model
from converters.slicing import slice_model
from slicemq.errors import ModelError
from tests.converters.tiny import Tiny, chain, diamond, half_weights


def test_chain() -> None:
    data = chain(3)
    graph = read_graph(data)
    assert graph.size == len(data)
    assert [op.name for op in graph.operators] == ["ADD"] * 3
    assert graph.steps == (0, 1, 2)
    assert [graph.tensors[t].name for t in graph.inputs] == ["x"]
    shared = graph.tensors[1]
    assert (shared.name, shared.constant, shared.weight_bytes, shared.nbytes) == ("c", True, 16, 16)
    assert all(op.weight_bytes == 16 for op in graph.operators)
    assert tuple(graph.crossings) == ((), (2,), (3,), ())
    assert graph.crossing_bytes == (0, 16, 16, 0)


def test_constant_operators_are_not_steps() -> None:
    graph = read_graph(half_weights())
    assert [op.constant for op in graph.operators] == [True, False, False, False]
    assert graph.steps == (1, 2, 3)
    assert graph.constant_operators(graph.operators[3].inputs) == {0}
    assert graph.operators[1].weight_bytes == 32  # the float16 bytes, through the DEQUANTIZE
    assert graph.tensors[graph.operators[0].outputs[0]].constant


def test_dead_operators_are_not_steps() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    y = tiny.op("RELU", [x])
    dead = tiny.op("TANH", [y])
    tiny.op("TANH", [dead])
    graph = read_graph(tiny.build([y]))
    assert [op.dead for op in graph.operators] == [False, True, True]
    assert graph.steps == (0,)


def test_a_tensor_without_producer_or_data_is_constant() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    empty = tiny.tensor((0,), "INT32")
    graph = read_graph(
        tiny.build([tiny.op("RESHAPE", [x, empty], options=schema.ReshapeOptionsT(newShape=[1, 4]))])
    )
    assert graph.tensors[empty].constant
    assert graph.tensors[empty].weight_bytes == 0


def test_random_operators_are_never_constant() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    shape = tiny.constant(np.array([1, 4], np.int32))
    noise = tiny.op("RANDOM_UNIFORM", [shape], options=schema.RandomOptionsT(seed=1, seed2=1))
    graph = read_graph(tiny.build([tiny.op("ADD", [x, noise], options=schema.AddOptionsT())]))
    assert graph.steps == (0, 1)


def test_skip_connections_cross_every_cut_between() -> None:
    graph = read_graph(diamond())
    # a is read by b and c; b waits for d; x comes from the client, so it does not cross.
    assert [graph.crossing(p) for p in range(6)] == [(), (1,), (1, 2), (2, 3), (4,), ()]


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "expected"),
    [
        ("CONV_2D", [(1, 8, 8, 3), (16, 3, 3, 3), (16,)], [(1, 4, 4, 16)], 4 * 4 * 16 * 27),
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 16), (1, 3, 3, 16)], [(1, 8, 8, 16)], 8 * 8 * 16 * 9),
        ("FULLY_CONNECTED", [(2, 10), (5, 10), None], [(2, 5)], 100),
        ("TRANSPOSE_CONV", [(4,), (8, 2, 2, 3), (1, 5, 5, 3)], [(1, 10, 10, 8)], 5 * 5 * 3 * 8 * 4),
        ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], 2 * 3 * 4 * 5),
        ("BATCH_MATMUL", [(2, 4, 3), (2, 4, 5)], [(2, 3, 5)], 2 * 3 * 4 * 5),
        ("CONV_3D", [(1, 4, 4, 4, 2), (3, 3, 3, 2, 6)], [(1, 4, 4, 4, 6)], 64 * 6 * 54),
        ("ADD", [(1, 4), (1, 4)], [(1, 4)], 0),
        ("CONV_2D", [(1, 8, 8, 3), None], [(1, 4, 4, 16)], 0),
        ("FULLY_CONNECTED", [(-1, 10), (5, 10)], [(-1, 5)], 50),
    ],
)
def test_multiply_adds(
    name: str,
    inputs: list[tuple[int, ...] | None],
    outputs: list[tuple[int, ...] | None],
    expected: int,
) -> None:
    assert multiply_adds(name, inputs, outputs) == expected


def test_operator_classes() -> None:
    names = ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MyCustomOp"]
    assert [operator_class(n) for n in names] == ["conv", "depthwise", "dense", "elementwise", "elementwise"]


def test_with_shapes_recounts_bytes_and_macs() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    weights = tiny.constant(np.zeros((4, 4), np.float32))
    graph = read_graph(tiny.build([tiny.dense(x, weights)]))
    bigger = with_shapes(graph, {x: (3, 4), graph.outputs[0]: (3, 4)})
    assert (graph.operators[0].macs, bigger.operators[0].macs) == (16, 48)
    assert bigger.tensors[x].nbytes == 48


def _refuse(data: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_graph(data)


def test_refuses_models_that_cannot_be_cut_rightly() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    _refuse(tiny.build([tiny.op("DELEGATE", [x])]), r"operator 0 \(DELEGATE\): a model compiled for a delegate")
    tiny = Tiny()
    handle = tiny.input((), "RESOURCE")
    tiny.op("READ_VARIABLE", [handle], options=schema.ReadVariableOptionsT())
    _refuse(tiny.build([1]), r"tensor 0 \(t0\), a variable's handle, is an input or output")
    tiny = Tiny()
    tiny.buffers.append(schema.BufferT(offset=4096, size=16))
    data = tiny.build([tiny.op("RELU", [tiny.input((1, 4))])])
    _refuse(data, r"buffer 1: bytes 4096 to 4112 of a file of \d+ bytes: truncated")


def test_refuses_what_does_not_hold_together() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    _refuse(tiny.build([tiny.op("RELU", [99])]), r"operator 0 \(RELU\): tensor 99 does not exist")
    tiny = Tiny()
    x, y = tiny.input((1, 4)), tiny.tensor((1, 4))
    ring = tiny.op("ADD", [x, y], options=schema.AddOptionsT())
    tiny.op("RELU", [ring], outputs=[y])
    _refuse(tiny.build([ring]), r"operator 0 \(ADD\) waits for its own result")
    tiny = Tiny()
    x = tiny.input((1, 4))
    y = tiny.op("RELU", [x])
    tiny.op("TANH", [x], outputs=[y])
    _refuse(tiny.build([y]), "which has a value already")
    tiny = Tiny()
    bad = tiny.tensor((2, 4), buffer=tiny.buffer(bytes(16)))
    _refuse(tiny.build([tiny.op("ADD", [tiny.input((1, 4)), bad])]), r"takes 32 bytes, its buffer has 16")
    tiny = Tiny()
    _refuse(tiny.build([tiny.op("RELU", [tiny.tensor((1, 4), buffer=7)])]), "buffer 7, the model has 1")
    tiny = Tiny()
    x = tiny.input((1, 4))
    _refuse(tiny.build([77]), "the model's outputs: tensor 77")
    tiny = Tiny()
    x = tiny.input((1, 4))
    tiny.op("RELU", [x])
    _refuse(tiny.build([]), "no outputs")
    tiny = Tiny()
    tiny.tensors = [schema.TensorT(shape=np.ones(70, np.int32), name="deep")]
    _refuse(tiny.build([0]), r"tensor 0 \(deep\): 70 dimensions")


def test_refuses_other_files() -> None:
    _refuse(b"", "not a TFLite model")
    _refuse(b"PK\x03\x04" * 10, "identifier 'TFL3'")
    _refuse(b"\x1c\0\0\0TFL3", "damaged|subgraphs")


def test_open_model_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing\.tflite: cannot read"):
        open_model(tmp_path / "missing.tflite")
    (tmp_path / "empty.tflite").write_bytes(b"")
    with pytest.raises(ModelError, match="an empty file"):
        open_model(tmp_path / "empty.tflite")
    (tmp_path / "chain.tflite").write_bytes(chain(2))
    assert read_graph(open_model(tmp_path / "chain.tflite")).steps == (0, 1)


def test_signatures_and_metadata() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="serving_x:0")
    y = tiny.op("RELU", [x], tensor="Identity")
    tiny.sign("serve", {"image": x}, {"score": y})
    tiny.metadata.append(schema.MetadataT(name="min_runtime_version", buffer=tiny.buffer(b"1.5.0\0")))
    tiny.metadata.append(schema.MetadataT(name="NOTES", buffer=tiny.buffer(bytes(100))))
    data = tiny.build([y])
    graph = read_graph(data)
    assert [(s.key, dict(s.inputs), dict(s.outputs)) for s in graph.signatures] == [
        ("serve", {x: "image"}, {y: "score"})
    ]
    assert [graph.public_name(t) for t in (x, y)] == ["image", "score"]
    assert graph.metadata == (("min_runtime_version", 6), ("NOTES", 100))
    # A slice keeps its tensors' own names, and of the metadata only what a runtime reads.
    (piece,) = slice_model(data, graph, [graph.steps])
    again = read_graph(piece.data)
    assert [again.tensors[t].name for t in (*again.inputs, *again.outputs)] == ["serving_x:0", "Identity"]
    assert again.metadata == (("min_runtime_version", 6),)
    assert not again.signatures


def test_damaged_signatures_and_metadata_are_refused() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    tiny.sign("serve", {"image": 99}, {})
    _refuse(tiny.build([tiny.op("RELU", [x])]), "signature 0: tensor 99, the model has 2")
    tiny = Tiny()
    x = tiny.input((1, 4))
    tiny.metadata.append(schema.MetadataT(name="NOTES", buffer=9))
    _refuse(tiny.build([tiny.op("RELU", [x])]), "metadata 0: buffer 9, the model has 1")
