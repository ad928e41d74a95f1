"""Real models from packages: chains equal the whole, and slicing is fast and small."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks import make_models, models
from benchmarks.chains import STATEFUL_FRAMES, Subject
from benchmarks.models import real_models
from converters.graph import read_graph
from converters.memory import slice_memory
from converters.profile import estimate, measure
from converters.runtime import feed, random_inputs
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, iter_slices, legal_positions, slice_model
from converters.verify import link, verify_chain
from tests.converters.machine import assert_same, load, run_cluster, run_whole

_PACKAGED = {name: model for name, model in real_models().items() if model.packaged}
_STREAMING = {name: model for name, model in _PACKAGED.items() if name.startswith("wake-")}
_MODELS = {name: model for name, model in _PACKAGED.items() if name not in _STREAMING}


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


@pytest.mark.parametrize("name", _STREAMING)
def test_a_streaming_model_keeps_its_state_in_slices(name: str) -> None:
    subject = Subject(_STREAMING[name], "ai_edge_litert")
    assert subject.graph.stateful
    assert len(subject.graph.together) == 6
    for seed, kind in ((0, "cuts"), (2, "branches" if name == "wake-okay-nabu" else "cuts")):
        for slices in (2, 6, 8):
            row = subject.row(slices, seed, {})
            assert (row.kind, row.frames, row.equal) == (kind, STATEFUL_FRAMES, True), row.detail


def test_a_streaming_model_answers_by_what_came_before() -> None:
    """Else the frames in a row would show nothing."""
    subject = Subject(_STREAMING["wake-alexa"], "ai_edge_litert")
    piece = next(iter_slices(subject.data, subject.graph, groups_at(subject.graph, [subject.legal[-3]])))
    frames = [arrays for _, arrays in subject.frames(0)]

    def answers(order: list[int]) -> list[bytes]:
        interpreter = load(piece.data)
        made = []
        for number in order:
            feed(interpreter, [frames[number][t] for t in piece.inputs])
            interpreter.invoke()
            made.append(interpreter.output(0).tobytes())
        return made

    assert answers([0, 1, 2, 3]) == answers([0, 1, 2, 3])
    assert answers([0, 1, 2, 3])[3] != answers([3])[0]
    assert answers([0, 1, 2, 3])[3] != answers([2, 1, 0, 3])[3]


@pytest.mark.slow
def test_keras_models_are_made_once_and_their_chains_equal_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if make_models.with_tensorflow() is None:
        pytest.skip("no TensorFlow")
    for module in (models, make_models):
        monkeypatch.setattr(module, "CACHE", tmp_path / "models")
    monkeypatch.setattr(make_models, "SOURCES", tmp_path / "keras")
    monkeypatch.setattr("sys.argv", ["make_models", "--only", "lstm,transformer-int8"])
    assert make_models.main() == 0
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "models").iterdir()}
    assert set(made) == {"lstm-float32.tflite", "transformer-int8.tflite"}
    assert list((tmp_path / "keras").iterdir()) == []
    capsys.readouterr()
    assert make_models.main() == 0
    assert "all models are in" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "models").iterdir()} == made
    for name in ("lstm", "transformer-int8"):
        subject = Subject(real_models()[name], "ai_edge_litert")
        for slices in (2, 5, 8):
            for seed in (0, 2):
                row = subject.row(slices, seed, {})
                assert row.equal, row.detail
                assert row.kind in ("cuts", "branches")
                assert row.frames


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
    bounds = (("birdnet", 70e6, 100e6), ("birdnet-metadata", 30e6, 40e6), ("iris-landmark", 8e6, 14e6))
    for name, least, most in bounds:
        data = open_model(_MODELS[name].path)
        graph = resolve_shapes(data, read_graph(data), load)
        assert least < slice_memory(graph, graph.steps) < most, name
