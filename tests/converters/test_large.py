"""Files whose weights lie behind the flatbuffer, as those of more than 2 GB have them."""

from __future__ import annotations

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.graph import read_graph
from converters.runtime import random_inputs
from converters.slicing import groups_at, legal_positions, slice_model
from slicemq.errors import ModelError
from tests.converters.chains import run_chains
from tests.converters.machine import assert_same, run_whole
from tests.converters.tiny import Tiny
from tests.runtimes import EACH_RUNTIME

_WEIGHTS = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)


def _model() -> tuple[Tiny, list[int]]:
    """Three dense layers; the first two have equal weights in two buffers."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    for weights in (_WEIGHTS, _WEIGHTS, -_WEIGHTS):
        x = tiny.dense(x, tiny.constant(weights))
    return tiny, [x]


def test_weights_behind_the_flatbuffer_are_read_and_written_into_slices() -> None:
    tiny, outputs = _model()
    near = tiny.build(outputs)
    far = tiny.build_with_weights_behind(outputs)
    graph, expected = read_graph(far), read_graph(near)
    assert [op.weight_bytes for op in graph.operators] == [op.weight_bytes for op in expected.operators] == [64] * 3
    pieces = slice_model(far, graph, groups_at(graph, legal_positions(graph)))
    usual = slice_model(near, expected, groups_at(expected, legal_positions(expected)))
    assert [piece.data for piece in pieces] == [piece.data for piece in usual]
    # In one slice, equal contents behind the flatbuffer are one buffer.
    (whole,) = slice_model(far, graph, [graph.steps])
    assert whole.data.count(_WEIGHTS.tobytes()) == 1
    frame = random_inputs(graph, 0)
    assert_same(run_whole(near, expected, frame), run_whole(whole.data, graph, frame))


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_slices_of_such_a_file_give_what_it_gives(runtime: str) -> None:
    tiny, outputs = _model()
    (outcome,) = run_chains(runtime, [tiny.build_with_weights_behind(outputs)], frames=2)
    assert (outcome.error, outcome.differences, outcome.legal) == ("", (), (1, 2))


def test_custom_options_behind_the_flatbuffer() -> None:
    tiny = Tiny()
    y = tiny.op("MyOperator", [tiny.input((1, 4))])
    tiny.operators[0].customOptions = np.frombuffer(b"options of mine", np.uint8)
    near, far = tiny.build([y]), tiny.build_with_weights_behind([y])
    pieces = [slice_model(data, read_graph(data), [[0]])[0].data for data in (near, far)]
    assert pieces[0] == pieces[1]
    assert b"options of mine" in pieces[0]


def test_what_lies_outside_the_file_is_refused() -> None:
    tiny, outputs = _model()
    far = tiny.build_with_weights_behind(outputs)
    with pytest.raises(ModelError, match=r"buffer \d: bytes \d+ to \d+ of a file of \d+ bytes: truncated"):
        read_graph(far[:-16])
    tiny = Tiny()
    tiny.buffers.append(schema.BufferT(offset=1 << 62, size=1 << 62))
    with pytest.raises(ModelError, match="buffer 1: bytes"):
        read_graph(tiny.build([tiny.op("RELU", [tiny.input((1, 4))])]))
    tiny = Tiny()
    y = tiny.op("MyOperator", [tiny.input((1, 4))])
    tiny.operators[0].largeCustomOptionsOffset, tiny.operators[0].largeCustomOptionsSize = 400, 1 << 20
    with pytest.raises(ModelError, match=r"operator 0 \(MyOperator\): bytes 400 to"):
        read_graph(tiny.build([y]))


def test_buffers_that_overlap_cannot_make_a_small_file_large() -> None:
    """Each would be copied into the slice: 0.2 MB would become 200 MB."""
    tiny = Tiny()
    x = tiny.input((1, 4))
    for i in range(2000):
        tiny.buffers.append(schema.BufferT(offset=100_000 + i, size=100_000))
        tiny.tensor((100_000,), "UINT8", buffer=len(tiny.buffers) - 1)
    data = tiny.build([tiny.op("RELU", [x])])
    with pytest.raises(ModelError, match="more elements than the file has bytes"):
        read_graph(data + bytes(300_000))
