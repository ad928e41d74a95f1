"""What codecs cost: bytes are those that the codecs make, times are those that somebody measured."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from converters.graph import Tensor
from coordinator.planner.tables.codec_costs import COSTS, changes, crossing, packed_bytes, seconds
from coordinator.planner.tables.segments import TENSOR_BYTES, wire_bytes
from coordinator.planner.tables.states import CODEC_ORDER, down_sets
from slicemq import codecs
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import TensorSpec
from tests.planner.branching import branching_graph, stage
from tests.planner.instances import make_graph

TENSOR = make_graph([("ADD", (0,), (1,), False)], [4000, 4000], (0,), (1,)).tensors[1]
OTHER = replace(TENSOR, dtype="int32")


def plain(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    rng = np.random.default_rng(3)
    return np.asarray(rng.normal(0.0, 100.0, tensor.shape).astype(tensor.dtype))


def test_every_codec_has_its_costs() -> None:
    assert set(COSTS) == set(CODEC_ORDER) >= set(codecs.available())
    assert all(cost.encode > cost.decode > 0 for name, cost in COSTS.items() if name != "raw")


@pytest.mark.parametrize("codec", ["raw", "f16", "int8"])
@pytest.mark.parametrize("tensor", [TENSOR, OTHER], ids=["float32", "int32"])
def test_bytes_are_those_of_the_codec(codec: str, tensor: Tensor) -> None:
    used, data = codecs.encode(codec, plain(tensor))
    assert packed_bytes(tensor, codec) == len(data) + TENSOR_BYTES + len(tensor.name)
    assert changes(tensor, codec) == (used != "raw")
    assert packed_bytes(tensor, "raw") == wire_bytes(tensor)


def test_lz4_shrinks_what_was_measured_to_shrink() -> None:
    head = TENSOR_BYTES + len(TENSOR.name)
    assert packed_bytes(TENSOR, "lz4") == packed_bytes(TENSOR, "lz4", {7: 0.1}) == wire_bytes(TENSOR)
    assert packed_bytes(TENSOR, "lz4", {TENSOR.index: 0.33}) == 1320 + head
    assert packed_bytes(OTHER, "lz4", {TENSOR.index: 0.33}) == 1320 + head
    assert packed_bytes(TENSOR, "f16", {TENSOR.index: 0.33}) == 2000 + head


def test_a_frame_with_a_codec_is_as_large_as_planned() -> None:
    header = FrameHeader("camera-1", 2**63, 2**20, 1.7e9, "12-0123abcd")
    spec = TensorSpec(1, TENSOR.name, "float32", TENSOR.shape)
    for codec in ("raw", "f16", "int8"):
        real = sum(len(part) for part in encode_frame(header, [(spec, plain(TENSOR))], codec))
        assert real <= packed_bytes(TENSOR, codec) + 200 <= real + 150


def test_seconds_are_for_bytes_that_the_codec_changes() -> None:
    for codec, cost in COSTS.items():
        assert seconds(TENSOR, codec) == pytest.approx((4000 * cost.encode, 4000 * cost.decode))
    assert seconds(OTHER, "int8") == seconds(OTHER, "f16") == (0.0, 0.0)
    assert seconds(OTHER, "lz4") == seconds(TENSOR, "lz4")


def test_what_crosses_a_down_set() -> None:
    for seed in range(20):
        graph = branching_graph(random.Random(seed), 6)
        down = down_sets(graph, 1000)
        for done in down.done:
            everything, nothing = down.done[-1], 0
            taken, _, _ = stage(graph, done, everything)
            _, given, _ = stage(graph, nothing, done)
            assert set(crossing(graph, done)) == given == taken - set(graph.inputs)
