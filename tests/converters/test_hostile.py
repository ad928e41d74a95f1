"""Hostile bytes: damaged, truncated and lying models end as ModelError, in bounded memory and time."""

from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path

import ai_edge_litert.schema_py_generated as schema
import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import pytest

from benchmarks.models import real_models
from converters.folding import fold_shapes
from converters.graph import read_graph
from converters.memory import slice_memory
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, legal_positions, slice_model
from edge_node.runtime import open_interpreter
from slicemq.errors import ModelError
from tests.converters import flows
from tests.converters.tiny import Tiny, chain, diamond, half_weights

_SMALL = real_models()["face-short-range"].path


def _attempt(data: bytes) -> bool:
    """Whether the model was cut; anything but success and ModelError fails the test."""
    try:
        graph = read_graph(data)
        legal = legal_positions(graph)
        slice_model(data, graph, groups_at(graph, legal[len(legal) // 2 :][:1]))
    except ModelError:
        return False
    return True


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_of_a_real_model(seed: int) -> None:
    original = Path(_SMALL).read_bytes()
    rng = random.Random(seed)
    survived = 0
    for _ in range(25):
        damaged = bytearray(original)
        for _ in range(rng.choice((1, 1, 4, 32))):
            # The tables are at both ends of the file; the middle is mostly weights.
            place = rng.choice((rng.randrange(4096), rng.randrange(len(damaged)), -1 - rng.randrange(60_000)))
            damaged[place] = rng.randrange(256)
        survived += _attempt(bytes(damaged))
    assert survived < 25


@pytest.mark.parametrize("original", [chain(), diamond(), half_weights()], ids=["chain", "diamond", "half"])
def test_every_truncation_and_every_flipped_byte_of_a_tiny_model(original: bytes) -> None:
    for length in range(0, len(original), 3):
        _attempt(original[:length])
    rng = random.Random(1)
    for place in range(len(original)):
        damaged = bytearray(original)
        damaged[place] ^= 1 << rng.randrange(8)
        _attempt(bytes(damaged))
    assert _attempt(original)


def test_huge_vectors_are_refused_at_once() -> None:
    original = diamond()
    refused = 0
    for place in range(0, len(original) - 4, 4):
        damaged = bytearray(original)
        damaged[place : place + 4] = (0x7FFFFFFF).to_bytes(4, "little")
        start = time.perf_counter()
        tracemalloc.start()
        refused += not _attempt(bytes(damaged))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 << 20
        assert time.perf_counter() - start < 2
    assert refused > 10


def test_tables_that_share_one_large_vector_are_refused() -> None:
    """A file of 1 MB must not become a graph or a slice of gigabytes."""
    builder = flatbuffers.Builder(1 << 20)
    shared = builder.CreateNumpyVector(np.zeros(100_000, np.float32))
    schema.QuantizationParametersStart(builder)
    schema.QuantizationParametersAddScale(builder, shared)
    quantization = schema.QuantizationParametersEnd(builder)
    tensors = []
    for _ in range(5000):
        schema.TensorStart(builder)
        schema.TensorAddQuantization(builder, quantization)
        tensors.append(schema.TensorEnd(builder))
    content = _model_of(builder, tensors)
    with pytest.raises(ModelError, match="more elements than the file has bytes"):
        read_graph(content)


def _shared_options() -> bytes:
    """300 operators that share one vector of 100,000 numbers as their options."""
    tiny = Tiny()
    x = tiny.input((1, 4))
    for _ in range(300):
        x = tiny.op("RESHAPE", [x])
    shared = _PackedOnce(np.zeros(100_000, np.int32))
    for operator in tiny.operators:
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.ReshapeOptions, shared
    return tiny.build([x])


def test_operators_that_share_long_options_are_refused() -> None:
    """Each copy of an operator copies its options: 0.4 MB would become 120 MB."""
    content = _shared_options()
    assert len(content) < 600_000
    graph = read_graph(content)
    with pytest.raises(ModelError, match="it grows when it is copied"):
        slice_model(content, graph, groups_at(graph, []))


def test_a_mapped_file_can_be_closed_after_an_error(tmp_path: Path) -> None:
    """Views of the file that an error's traceback holds would turn it into a BufferError on closing."""
    path = tmp_path / "model.tflite"
    path.write_bytes(_shared_options())
    with pytest.raises(ModelError, match="it grows"), open_model(path) as data:
        slice_model(data, read_graph(data), [range(300)])
    damaged = bytearray(_SMALL.read_bytes())
    for place in range(200, 4000, 7):
        damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ModelError), open_model(path) as data:
        read_graph(data)


class _PackedOnce:
    """RESHAPE's options, packed at the first call; further ones give the same place in the file."""

    def __init__(self, shape: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> None:
        self._options = schema.ReshapeOptionsT(newShape=shape)
        self._offset: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the name of the generated classes
        if self._offset is None:
            self._offset = int(self._options.Pack(builder))
        return self._offset


def test_long_chains_of_constant_operators_are_refused() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    c = tiny.constant(np.zeros((1, 4), np.float32))
    for _ in range(2000):
        c = tiny.op("RELU", [c])
    content = tiny.build([tiny.op("ADD", [x, c])])
    with pytest.raises(ModelError, match="too many constants stand behind it"):
        read_graph(content)


def _model_of(builder: flatbuffers.Builder, tensors: list[int]) -> bytes:

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    tensor_vector = vector(tensors)
    numbers = builder.CreateNumpyVector(np.array([0], np.int32))
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensor_vector)
    schema.SubGraphAddInputs(builder, numbers)
    schema.SubGraphAddOutputs(builder, numbers)
    subgraphs = vector([schema.SubGraphEnd(builder)])
    schema.BufferStart(builder)
    buffers = vector([schema.BufferEnd(builder)])
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_calls_and_variables_cannot_make_a_small_file_large() -> None:
    """Thousands of operators that each call thousands of subgraphs, or use thousands of variables."""
    tiny = Tiny()
    x = tiny.input((1, 4))
    hub, middle = tiny.subgraph("hub")
    for _ in range(600):
        number, leaf = tiny.subgraph("leaf")
        leaf.handle("v")
        middle.op("CALL", [], outputs=[], options=schema.CallOptionsT(subgraph=number))
    for _ in range(600):
        x = tiny.op("CALL", [x], options=schema.CallOptionsT(subgraph=hub))
    _refused_cheaply(tiny.build([x]), "call subgraphs in too many ways")
    tiny = Tiny()
    x = tiny.input((1, 4))
    hub, middle = tiny.subgraph("hub")
    for i in range(600):
        middle.assign(middle.handle(f"v{i}"), middle.constant(np.zeros(1, np.float32)))
    for _ in range(600):
        x = tiny.op("CALL", [x], options=schema.CallOptionsT(subgraph=hub))
    _refused_cheaply(tiny.build([x]), "use variables in too many ways")


def _refused_cheaply(data: bytes, words: str) -> None:
    tracemalloc.start()
    with pytest.raises(ModelError, match=words):
        read_graph(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20


@pytest.mark.parametrize(
    "original",
    [flows.streams(), flows.branches("nested"), flows.stateful_branch(), flows.lookup()],
    ids=["streams", "branches", "stateful", "lookup"],
)
def test_flipped_bytes_of_models_with_subgraphs_and_state(original: bytes) -> None:
    rng = random.Random(3)
    survived = 0
    for _ in range(150):
        damaged = bytearray(original)
        for _ in range(rng.choice((1, 1, 4))):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 255, rng.randrange(256)))
        survived += _attempt(bytes(damaged))
    assert 0 < survived < 150


def _made(shape: tuple[int, ...]) -> bytes:
    tiny = Tiny()
    x = tiny.input(shape, name="x")
    return tiny.build([tiny.op("TANH", [tiny.op("RELU", [x], shape)], shape)])


def test_sizes_that_no_machine_has_are_refused() -> None:
    with pytest.raises(ModelError, match=r"takes \d+ bytes, at most 10\^12"):
        read_graph(_made((2**20, 2**20, 2**20)))
    graph = read_graph(_made((2**18, 2**18)))
    assert graph.tensors[0].nbytes == 2**38
    assert slice_memory(graph, graph.steps) > 2**38


def test_a_constant_with_data_has_a_size() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    c = tiny.constant(np.zeros(4, np.float32), name="c")
    tiny.tensors[c].shape = np.array([-1], np.int32)
    with pytest.raises(ModelError, match=r"\(c\): shape \[-1\] with an open size, although it has data"):
        read_graph(tiny.build([tiny.op("ADD", [x, c])]))


def test_inputs_that_no_message_carries_are_refused_before_they_are_made() -> None:
    data = _made((2**24 + 1, 4))
    with pytest.raises(ModelError, match="a frame's inputs take 268435472 bytes: an MQTT message carries at most"):
        resolve_shapes(data, read_graph(data), open_interpreter)


def test_shapes_of_nothing_and_into_state_are_not_folded() -> None:
    for inputs, outputs in (([], [(2,)]), ([0], [(2,), (2,)])):
        tiny = Tiny()
        x = tiny.input((1, 4), name="x")
        made = [tiny.tensor(shape, "INT32") for shape in outputs]
        tiny.op("SHAPE", [x] * len(inputs), outputs=made)
        y = tiny.op("TANH", [x])
        assert fold_shapes(read_graph(tiny.build([y, made[0]]))).values == {}
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    kept = tiny.variable((2,), "INT32")
    tiny.op("SHAPE", [x], outputs=[kept])
    y = tiny.op("RESHAPE", [tiny.op("TANH", [x]), kept])
    assert fold_shapes(read_graph(tiny.build([y]))).values == {}
