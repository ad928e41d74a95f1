"""What codecs cost: bytes are those that the codecs make, times are those that somebody measured."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from converters.codec_errors import CodecMeasures
from converters.graph import Tensor
from coordinator.planner.goal import Goal
from coordinator.planner.model import PlanOptions
from coordinator.planner.tables.codec_costs import (
    COSTS,
    KEPT,
    RATE,
    changes,
    codec_sets,
    crossing,
    packed_bytes,
    seconds,
)
from coordinator.planner.tables.segments import TENSOR_BYTES, wire_bytes
from coordinator.planner.tables.states import down_sets
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
    assert set(COSTS) == set(codecs.CODECS)
    assert all(cost.encode > cost.decode > 0 for name, cost in COSTS.items() if name != "raw")


@pytest.mark.parametrize("codec", ["raw", "f16", "int16", "int8", "int8c"])
@pytest.mark.parametrize("tensor", [TENSOR, OTHER], ids=["float32", "int32"])
def test_bytes_are_those_of_the_codec(codec: str, tensor: Tensor) -> None:
    used, data = codecs.encode(codec, plain(tensor))
    assert packed_bytes(tensor, codec) == len(data) + TENSOR_BYTES + len(tensor.name)
    assert changes(tensor, codec) == (used != "raw")
    assert packed_bytes(tensor, "raw") == wire_bytes(tensor)


def test_lz4_shrinks_what_was_measured_to_shrink() -> None:
    head = TENSOR_BYTES + len(TENSOR.name)
    ratios = {"lz4": {TENSOR.index: 0.33}, "zfp3": {TENSOR.index: 0.25}, "zstd": {TENSOR.index: 1.2}}
    assert packed_bytes(TENSOR, "lz4") == packed_bytes(TENSOR, "lz4", {"lz4": {7: 0.1}}) == wire_bytes(TENSOR)
    assert packed_bytes(TENSOR, "lz4", ratios) == 1320 + head
    assert packed_bytes(OTHER, "lz4", ratios) == 1320 + head
    assert packed_bytes(TENSOR, "f16", ratios) == 2000 + head
    assert packed_bytes(TENSOR, "zfp3", ratios) == 1000 + head
    assert packed_bytes(OTHER, "zfp3", ratios) == wire_bytes(OTHER), "not float32"
    assert packed_bytes(TENSOR, "zstd", ratios) == wire_bytes(TENSOR), "raw where it would grow"
    assert packed_bytes(TENSOR, "lz4s", ratios) == wire_bytes(TENSOR), "not measured"


def test_a_frame_with_a_codec_is_as_large_as_planned() -> None:
    header = FrameHeader("camera-1", 2**63, 2**20, 1.7e9, "12-0123abcd")
    spec = TensorSpec(1, TENSOR.name, "float32", TENSOR.shape)
    for codec in ("raw", "f16", "int16", "int8", "int8c"):
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


def test_at_most_three_codecs_and_those_that_serve_best() -> None:
    graph = make_graph([("ADD", (k,), (k + 1,), False) for k in range(8)], [400_000] * 9, (0,), (8,))
    down = down_sets(graph)
    inner = down.done[1:-1]
    tensors = range(1, 8)
    ratios = {
        name: dict.fromkeys(tensors, share)
        for name, share in {"lz4": 0.99, "lz4s": 0.9, "zstd": 0.8, "zfp4": 0.5, "zfp3": 0.38, "zfp2": 0.28}.items()
    }
    sizes = {"f16": 1e-3, "int16": 2e-5, "int8": 5e-3, "int8c": 5e-3, "zfp4": 1e-4, "zfp3": 1e-3, "zfp2": 5e-3}
    measures = CodecMeasures(ratios, {name: dict.fromkeys(inner, error) for name, error in sizes.items()})

    def chosen(budget: float, *names: str, rate: float = RATE) -> dict[str, tuple[int, ...]]:
        options = PlanOptions(codecs=("raw", *(names or codecs.CODECS[1:])), goal=Goal(error_budget=budget))
        return codec_sets(graph, down, options, measures, rate)

    assert set(chosen(0.01)) == {"int8", "zstd", "int16"}, "fewest bytes, no loss, little loss"
    assert set(chosen(0.01, rate=1e6)) == {"int8", "zstd", "zfp3"}, "worth its time on a slow link"
    assert set(chosen(0.01, rate=1e8)) == {"int8", "lz4", "int16"}, "zstd takes longer than it saves"
    assert "int8" not in chosen(0.004)
    assert set(chosen(1.0)) == {"int8", "zstd", "int16"}, "where all keep to the budget, one that hardly errs"
    assert set(chosen(1e-5)) == {"lz4", "lz4s", "zstd"}, "there are no more that lose nothing"
    assert set(chosen(0.01, "f16", "lz4", "zfp2")) == {"f16", "lz4", "zfp2"}, "who names three gets them"
    for budget in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1.0):
        found = chosen(budget)
        assert 0 < len(found) <= KEPT
        assert all(set(sets) <= set(inner) for sets in found.values())
        assert all(codecs.is_lossless(name) or sizes[name] <= budget for name in found)
