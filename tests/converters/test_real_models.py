"""Real models from packages: chains equal the whole, and slicing is fast and small."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks.models import real_models
from converters.graph import read_graph
from converters.memory import slice_memory
from converters.profile import estimate, measure
from converters.runtime import random_inputs
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, legal_positions, slice_model
from converters.verify import link, verify_chain
from tests.converters.machine import assert_same, load, run_cluster, run_whole

_MODELS = {name: model for name, model in real_models().items() if model.packaged and not name.startswith("wake-")}


@pytest.mark.parametrize("name", _MODELS)
@pytest.mark.parametrize("seed", range(2))
def test_chain_equals_the_whole(name: str, seed: int) -> None:
    assert _MODELS[name].path.is_file(), _MODELS[name].hint
    data = open_model(_MODELS[name].path)
    graph = resolve_shapes(data, read_graph(data), load)
    rng = random.Random(seed)
    for slices in (2, 5):
        groups = groups_at(graph, sorted(rng.sample(legal_positions(graph), slices - 1)))
        pieces = slice_model(data, graph, groups)
        frame = random_inputs(graph, seed)
        if slices == 5:
            assert_same(run_whole(bytes(data), graph, frame), run_cluster(graph, groups, pieces, frame))
        else:
            report = verify_chain(data, graph, [link(p) for p in pieces], load, [("random", frame)])
            assert report.equal, report.differences


def test_float16_and_sparse_weights_go_with_their_readers() -> None:
    for name, constant in (("face-full-range", 178), ("face-full-range-sparse", 228), ("birdnet", 0)):
        graph = read_graph(open_model(_MODELS[name].path))
        assert sum(op.constant for op in graph.operators) == constant


def test_shapes_that_birdnet_computes() -> None:
    data = open_model(_MODELS["birdnet"].path)
    graph = read_graph(data)
    resolved = resolve_shapes(data, graph, load)
    assert sum(op.macs for op in graph.operators) < 30e6 < 400e6 < sum(op.macs for op in resolved.operators)


def test_cutting_birdnet_is_fast() -> None:
    data = open_model(_MODELS["birdnet"].path)
    start = time.perf_counter()
    graph = read_graph(data)
    pieces = slice_model(data, graph, groups_at(graph, [100, 200, 300]))
    assert time.perf_counter() - start < 2
    assert sum(len(p.data) for p in pieces) < 1.01 * len(data)


def test_measured_and_estimated_profiles_of_a_face_model() -> None:
    data = open_model(_MODELS["face-back"].path)
    graph = resolve_shapes(data, read_graph(data), load)
    measured, estimated = measure(data, graph, load, budget=0.5), estimate(graph)
    total = sum(measured.seconds.values())
    assert set(measured.seconds) == set(estimated.seconds) == set(graph.steps)
    # Shares of the total, operator by operator, overlap for the most part.
    scale = total / sum(estimated.seconds.values())
    shared = sum(min(measured.seconds[i], estimated.seconds[i] * scale) for i in graph.steps)
    assert shared > 0.5 * total


def test_memory_of_real_models_is_within_reason() -> None:
    bounds = (("birdnet", 120e6, 190e6), ("birdnet-metadata", 70e6, 90e6), ("iris-landmark", 8e6, 14e6))
    for name, least, most in bounds:
        data = open_model(_MODELS[name].path)
        graph = resolve_shapes(data, read_graph(data), load)
        assert least < slice_memory(graph, graph.steps) < most, name
