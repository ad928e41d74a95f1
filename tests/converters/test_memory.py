"""Memory of slices: each term, both runtimes, the table, and what real slices take."""

from __future__ import annotations

import random
from pathlib import Path

import ai_edge_litert.schema_py_generated as litert
import numpy as np
import pytest

from benchmarks.models import real_models
from benchmarks.slice_costs import resident_growth
from converters.delegation import RUNTIMES, delegated
from converters.graph import read_graph
from converters.memory import memory_table, slice_memory
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, iter_slices
from converters.workspace import offsets
from edge_node.runtime import open_interpreter
from tests.converters.tiny import Tiny, chain, half_weights
from tests.runtimes import EACH_RUNTIME

_MODELS = real_models()


def dense(dtype: type = np.float32) -> bytes:
    tiny = Tiny()
    x = tiny.input((1, 1000))
    y = tiny.dense(x, tiny.constant(np.zeros((1000, 1000), dtype)), shape=(1, 1000))
    return tiny.build([tiny.op("TANH", [y], (1, 1000))])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_packed_weights_count_once(runtime: str) -> None:
    graph = read_graph(dense())
    whole, tanh = slice_memory(graph, [0, 1], runtime), slice_memory(graph, [1], runtime)
    assert 3_000_000 < tanh < 4_000_000
    assert whole - tanh == pytest.approx(4_000_000, rel=0.01)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_state_is_kept_beside_what_a_frame_takes(runtime: str) -> None:
    taken = {}
    for kind in ("none", "tensor", "resource"):
        tiny = Tiny()
        x = tiny.input((1, 250_000))
        if kind == "resource":
            handle = tiny.handle("sum")
            total = tiny.op("ADD", [x, tiny.read(handle, (1, 250_000))], (1, 250_000))
            tiny.assign(handle, total)
        else:
            other = x if kind == "none" else tiny.variable((1, 250_000))
            total = tiny.op("ADD", [x, other], (1, 250_000))
        graph = read_graph(tiny.build([total]))
        taken[kind] = slice_memory(graph, graph.steps, runtime)
    assert taken["tensor"] - taken["none"] == pytest.approx(1_000_000, rel=0.01)
    # The variable, and the copy that reading it makes.
    assert taken["resource"] - taken["none"] == pytest.approx(2_000_000, rel=0.02)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_of_called_subgraphs_belong_to_the_caller(runtime: str) -> None:
    sizes = {}
    for width in (10, 1000):
        tiny = Tiny()
        x = tiny.input((1, width), name="x")
        condition = tiny.input((1,), "BOOL", name="condition")
        numbers = []
        for name in ("then", "else"):
            number, branch = tiny.subgraph(name)
            y = branch.input((1, width))
            branch.outputs.append(
                branch.dense(y, branch.constant(np.zeros((width, width), np.float32)), shape=(1, width))
            )
            numbers.append(number)
        options = litert.IfOptionsT(thenSubgraphIndex=numbers[0], elseSubgraphIndex=numbers[1])
        graph = read_graph(tiny.build([tiny.op("IF", [condition, x], (1, width), options=options)]))
        sizes[width] = slice_memory(graph, graph.steps, runtime)
    assert sizes[1000] - sizes[10] >= 8_000_000


def test_int8_weights_of_float_data_are_read_from_the_file_by_the_older_runtime() -> None:
    graph = read_graph(dense(np.int8))
    layer, tanh = (graph.operators[i] for i in graph.steps)
    assert delegated(graph, layer, "ai_edge_litert")
    assert not delegated(graph, layer, "tflite_runtime")
    assert delegated(graph, tanh, "tflite_runtime")
    grown = {r: slice_memory(graph, [0], r) - slice_memory(graph, [1], r) for r in RUNTIMES}
    assert grown["ai_edge_litert"] == pytest.approx(1_000_000, rel=0.02)  # packed
    assert grown["tflite_runtime"] == pytest.approx(2_000_000, rel=0.02)  # the file, and ruy's copy


def test_expanded_weights_stay_beside_packed_ones_in_the_older_runtime_only() -> None:
    tiny = Tiny()
    x = tiny.input((1, 1000))
    half = tiny.constant(np.zeros((1000, 1000), np.float16))
    weights = tiny.op("DEQUANTIZE", [half], (1000, 1000))
    graph = read_graph(tiny.build([tiny.dense(x, weights, shape=(1, 1000))]))
    taken = {r: slice_memory(graph, graph.steps, r) for r in RUNTIMES}
    assert taken["tflite_runtime"] - taken["ai_edge_litert"] == pytest.approx(4_000_000, rel=0.2)


def test_shared_and_expanded_weights_count_once() -> None:
    graph = read_graph(half_weights())
    for runtime in RUNTIMES:
        one, both = slice_memory(graph, [1], runtime), slice_memory(graph, [1, 2, 3], runtime)
        assert both - one < 20_000  # operators, not weights
        assert slice_memory(graph, [0, 1], runtime) == one


def test_a_convolution_has_pointers() -> None:
    def model(kernel: int) -> int:
        tiny = Tiny()
        x = tiny.input((1, 100, 100, 1))
        w = tiny.constant(np.zeros((1, kernel, kernel, 1), np.float32))
        b = tiny.constant(np.zeros(1, np.float32))
        y = tiny.op("CONV_2D", [x, w, b], (1, 100, 100, 1), options=litert.Conv2DOptionsT(strideH=1, strideW=1))
        return slice_memory(read_graph(tiny.build([y])), [0])

    assert model(5) - model(1) == pytest.approx(100 * 100 * 25 * 8, rel=0.01)


def test_a_long_chain_is_not_the_sum_of_its_tensors_unless_they_pile_up() -> None:
    shape = (1, 100_000)
    short, long = read_graph(chain(2, shape)), read_graph(chain(12, shape))
    for runtime in RUNTIMES:
        grown = slice_memory(long, long.steps, runtime) - slice_memory(short, short.steps, runtime)
        assert grown < 900_000  # not 10 x 0.4 MB
        assert memory_table(long, runtime).shape == (13, 13)


def test_the_older_planner_piles_up_tensors_of_equal_size() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4, 4, 1))
    w = tiny.constant(np.zeros((1, 1, 1, 1), np.float32))
    for _ in range(5):
        x = tiny.op("CONV_2D", [x, w], (1, 4, 4, 1), options=litert.Conv2DOptionsT(strideH=1, strideW=1))
    graph = read_graph(tiny.build([x]))
    internal = {graph.operators[i].outputs[0] for i in graph.steps[:-1]}
    assert sorted(offsets(graph, internal).values()) == [(0, 64), (64, 128), (128, 192), (192, 256)]


def residual() -> bytes:
    """Integer operators, which tflite_runtime runs itself, and an ADD that may write over either input."""
    tiny, shape = Tiny(), (1, 5000)
    x = tiny.input(shape, "INT8")
    left = tiny.op("TANH", [x], shape, dtype="INT8")
    right = tiny.op("LOGISTIC", [x], shape, dtype="INT8")
    both = tiny.op("ADD", [left, right], shape, options=litert.AddOptionsT(), dtype="INT8")
    return tiny.build([tiny.op("TANH", [both], shape, dtype="INT8")])


@pytest.mark.parametrize("runtime", [*RUNTIMES, "", "another"])
@pytest.mark.parametrize("name", ["face-short-range", "face-landmark", "dense", "residual"])
def test_the_table_is_the_memory_of_each_run_of_steps(name: str, runtime: str) -> None:
    made = {"dense": dense, "residual": residual}
    graph = read_graph(made[name]() if name in made else open_model(_MODELS[name].path))
    table = memory_table(graph, runtime)
    count = len(graph.steps)
    rng = random.Random(7)
    pairs = [sorted(rng.sample(range(count + 1), 2)) for _ in range(60)]
    pairs += [[i, count] for i in range(min(count, 5))]
    for i, j in [(0, count), *pairs]:
        assert table[i, j] == slice_memory(graph, graph.steps[i:j], runtime)
    assert not np.tril(table).any()


def test_an_unknown_runtime_takes_what_the_larger_one_does() -> None:
    graph = read_graph(open_model(_MODELS["face-back"].path))
    each = [slice_memory(graph, graph.steps, runtime) for runtime in RUNTIMES]
    assert slice_memory(graph, iter(graph.steps), "") == max(each)
    assert each[0] != each[1]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", EACH_RUNTIME)
@pytest.mark.parametrize("name", ["face-back", "iris-landmark", "birdnet"])
def test_slices_take_what_is_said(name: str, runtime: str, tmp_path: Path) -> None:
    data = open_model(_MODELS[name].path)
    graph = resolve_shapes(data, read_graph(data), open_interpreter)
    groups = groups_at(graph, [len(graph.steps) // 3])
    for group, piece in zip(groups, iter_slices(data, graph, groups), strict=True):
        path = tmp_path / f"{piece.id}.tflite"
        path.write_bytes(piece.data)
        frames = sum(graph.tensors[t].nbytes for t in (*piece.inputs, *piece.outputs))
        measured = resident_growth(path, runtime) + 2 * frames
        assert slice_memory(graph, group, runtime) == pytest.approx(measured, rel=0.25, abs=1_000_000)
