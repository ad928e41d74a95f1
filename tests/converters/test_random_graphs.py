"""Random graphs, randomly cut, run in both runtimes: what the cluster answers is what the whole answers.

A failing example is printed with the line that repeats it (`@reproduce_failure`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from converters.graph import Graph, read_graph
from converters.halves import witnessed
from converters.memory import memory_table, slice_memory
from converters.runtime import random_inputs
from converters.shapes import resolve_shapes
from converters.slicing import (
    Slice,
    edges,
    groups_at,
    iter_slices,
    legal_positions,
    parts,
    result_parts,
    slice_model,
)
from edge_node.runtime import RUNTIMES
from slicemq.errors import CutError
from tests.converters.machine import load
from tests.converters.random_models import random_model, shuffled
from tests.converters.runner import Runners
from tests.converters.tiny import Tiny

_HERE = [name for name in RUNTIMES if importlib.util.find_spec(name)]
_STATEFUL_FRAMES = 5
_UNFED = "reads nothing that changes"
# What fails is a tensor of a few numbers and a handful of operators already: shrinking it could take many minutes.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_quick = settings(
    max_examples=60, deadline=None, print_blob=True, phases=_PHASES, suppress_health_check=list(HealthCheck)
)
_long = settings(_quick, max_examples=1000)


@pytest.fixture(scope="module")
def runners() -> Iterator[Runners]:
    started = Runners()
    yield started
    started.close()


@st.composite
def models(draw: st.DrawFn) -> bytes:
    return random_model(
        draw(st.randoms(use_true_random=False)), calls=draw(st.booleans()), state=draw(st.booleans())
    )


def _any_groups(draw: st.DrawFn, graph: Graph) -> list[list[int]]:
    """Groups that need not be neighbours, in an order in which they can run."""
    home: dict[int, int] = {}
    for step in graph.steps:
        least = max((home[source] for source in _before(graph, step)), default=0)
        home[step] = draw(st.integers(least, least + 2))
    bound = [set(steps) for steps in graph.together]
    if not graph.dynamic:
        # A shape that a runtime knows before it runs must not come from outside.
        bound += [
            {graph.producer[t], *graph.consumers[t]}
            for t in graph.prepared
            if t in graph.consumers and graph.producer.get(t) in home
        ]
    while _raise(graph, home, bound):
        pass
    names = sorted(set(home.values()))
    return _fed(graph, [[step for step in graph.steps if home[step] == name] for name in names])


def _before(graph: Graph, step: int) -> set[int]:
    """The steps that make what `step` reads, also through operators that each slice runs for itself."""
    found: set[int] = set()
    todo = list(graph.operators[step].inputs)
    while todo:
        maker = graph.producer.get(todo.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            if maker not in graph.steps:
                todo += graph.operators[maker].inputs
    return found.intersection(graph.steps)


def _raise(graph: Graph, home: dict[int, int], bound: Sequence[set[int]]) -> bool:
    """Move steps to later groups until those that belong together are, and none comes before what it reads."""
    before = dict(home)
    for steps in bound:
        home.update(dict.fromkeys(steps, max(home[step] for step in steps)))
    for step in graph.steps:
        home[step] = max([home[step], *(home[source] for source in _before(graph, step))])
    return home != before


def _fed(graph: Graph, groups: list[list[int]]) -> list[list[int]]:
    """`groups` with the first ones joined until each reads something that changes from frame to frame."""
    while len(groups) > 1:
        try:
            parts(graph, groups)
        except CutError as error:
            if _UNFED not in str(error):
                raise
            groups = [sorted([*groups[0], *groups[1]], key=graph.steps.index), *groups[2:]]
        else:
            break
    return groups


def _check_bundles(graph: Graph, groups: Sequence[Sequence[int]]) -> None:
    """edges, result_parts and parts tell one story."""
    rows, bundles, results = parts(graph, groups), edges(graph, groups), dict(result_parts(graph, groups))
    for number, part in enumerate(rows):
        brought = [t for bundle in bundles if number in bundle.targets for t in bundle.tensors]
        assert sorted(brought) == sorted(part.inputs)
        taken = {t for bundle in bundles if bundle.source == number for t in bundle.tensors}
        assert taken | set(results.get(number, ())) == set(part.outputs)
    assert sorted(t for tensors in results.values() for t in tensors) == sorted(set(graph.outputs))
    for bundle in bundles:
        assert list(bundle.targets) == sorted(set(bundle.targets))
        assert bundle.source is None or bundle.source < bundle.targets[0]
        assert bundle.source is not None or set(bundle.tensors) <= set(graph.inputs)


def _check_slices(content: bytes, graph: Graph, groups: Sequence[Sequence[int]], slices: Sequence[Slice]) -> None:
    """What is written can be read, holds nothing superfluous, and is the same when it is written again."""
    assert [piece.data for piece in iter_slices(content, graph, groups)] == [piece.data for piece in slices]
    for piece in slices:
        again = read_graph(piece.data)
        added = (2 if graph.dynamic else 0) + len(witnessed(graph, piece.operators))
        assert len(again.operators) == len(piece.operators) + added
        assert len(again.inputs) == len(piece.inputs)
        assert len(again.outputs) == len(piece.outputs)


def _any_partition_answers_like_the_whole(data: st.DataObject, runners: Runners) -> None:
    runtime = data.draw(st.sampled_from(_HERE), label="runtime")
    state = data.draw(st.booleans(), label="state")
    rng = data.draw(st.randoms(use_true_random=False))
    content = whole = random_model(rng, calls=data.draw(st.booleans(), label="calls"), state=state)
    graph = read_graph(content)
    if not state and data.draw(st.booleans(), label="shuffled"):
        content = shuffled(content, rng)
        graph = read_graph(content)
    if data.draw(st.booleans(), label="resolved"):
        graph = resolve_shapes(content, graph, load)
    if not graph.steps:
        return
    if data.draw(st.booleans(), label="contiguous"):
        legal = legal_positions(graph)
        cuts = data.draw(st.lists(st.sampled_from(legal), unique=True, max_size=4)) if legal else []
        groups = groups_at(graph, sorted(cuts))
    else:
        groups = data.draw(st.composite(_any_groups)(graph))
    note(f"{[[(i, graph.operators[i].name) for i in group] for group in groups]}")
    try:
        slices = slice_model(content, graph, groups)
    except CutError as error:
        if len(groups) > 1 or _UNFED not in str(error):
            raise
        return
    _check_bundles(graph, groups)
    _check_slices(content, graph, groups, slices)
    frames = [random_inputs(graph, seed) for seed in range(_STATEFUL_FRAMES if graph.stateful else 1)]
    answers = runners.compare(runtime, whole, graph, groups, slices, frames)
    assert not answers.difference
    for tensor, nbytes in answers.travelled.items():
        assert graph.tensors[tensor].nbytes == nbytes


@_quick
@given(data=st.data())
def test_any_partition_answers_like_the_whole(runners: Runners, data: st.DataObject) -> None:
    _any_partition_answers_like_the_whole(data, runners)


@pytest.mark.slow
@_long
@given(data=st.data())
def test_a_thousand_partitions_answer_like_the_whole(runners: Runners, data: st.DataObject) -> None:
    _any_partition_answers_like_the_whole(data, runners)


@_quick
@given(content=models())
def test_bundles_are_those_of_the_crossing_tensors(content: bytes) -> None:
    graph = read_graph(content)
    for position in legal_positions(graph):
        groups = groups_at(graph, [position])
        try:
            found = edges(graph, groups)
        except CutError as error:
            if _UNFED not in str(error):
                raise
            continue
        inside = [e for e in found if e.source == 0]
        assert {t for e in inside for t in e.tensors} == set(graph.crossing(position))
        assert all(e.targets == (1,) for e in inside)
        every = [t for e in found for t in e.tensors]
        assert len(every) == len(set(every))


def test_an_input_that_is_only_kept() -> None:
    """What only serves to write a variable, and reads nothing but an input of the model."""
    tiny = Tiny()
    x = tiny.input((1, 4))
    y = tiny.op("TANH", [tiny.read(tiny.handle("v"))])
    tiny.assign(tiny.handle("v"), tiny.op("RELU", [x]))
    graph = read_graph(tiny.build([tiny.op("ADD", [x, y], options=schema.AddOptionsT())]))
    names = [graph.operators[i].name for i in graph.steps]
    assert sorted(names) == ["ADD", "ASSIGN_VARIABLE", "READ_VARIABLE", "RELU", "TANH"]
    assert names.index("READ_VARIABLE") < names.index("ASSIGN_VARIABLE")


@pytest.mark.parametrize("runtime", _HERE)
@pytest.mark.parametrize("dtype", ["FLOAT32", "INT32", "INT64", "BOOL"])
def test_a_transpose_of_integers_beside_a_softmax(runners: Runners, runtime: str, dtype: str) -> None:
    """tflite_runtime takes XNNPACK for no operator of a model that has one, and rounds differently then."""
    tiny = Tiny()
    x, y = tiny.input((64, 37)), tiny.input((1, 4), dtype)
    order = tiny.constant(np.array([1, 0], np.int32))
    turned = tiny.op("TRANSPOSE", [y, order], (4, 1), dtype=dtype, options=schema.TransposeOptionsT())
    soft = tiny.op("SOFTMAX", [x], (64, 37), options=schema.SoftmaxOptionsT(beta=1.0))
    content = tiny.build([turned, soft])
    graph = read_graph(content)
    groups = groups_at(graph, [1])
    slices = slice_model(content, graph, groups)
    answers = runners.compare(runtime, content, graph, groups, slices, [random_inputs(graph, 1)])
    assert not answers.difference


def test_a_half_bias_that_is_read_as_something_else_too(runners: Runners) -> None:
    """ai_edge_litert gives this CONV_2D to XNNPACK because another kind of operator reads its float16 bias too; in
    a slice with no other reader it would not, and the last bits would differ (`converters.halves`).
    """
    tiny = Tiny()
    rng = np.random.default_rng(0)
    x, y = tiny.input((1, 16, 16, 8)), tiny.input((8,))
    half = tiny.constant(rng.standard_normal(8).astype(np.float16))
    bias = tiny.op("DEQUANTIZE", [half], (8,), options=schema.DequantizeOptionsT())
    weights = tiny.constant(rng.standard_normal((8, 3, 3, 8)).astype(np.float32))
    options = schema.Conv2DOptionsT(strideW=1, strideH=1, dilationWFactor=1, dilationHFactor=1)
    conv = tiny.op("CONV_2D", [x, weights, bias], (1, 16, 16, 8), options=options)
    product = tiny.op("MUL", [y, bias], (8,), options=schema.MulOptionsT())
    content = tiny.build([conv, product])
    graph = read_graph(content)
    groups = groups_at(graph, [1])
    slices = slice_model(content, graph, groups)
    answers = runners.compare("ai_edge_litert", content, graph, groups, slices, [random_inputs(graph, 1)])
    assert not answers.difference


@settings(_quick, max_examples=30)
@given(content=models())
def test_the_memory_table_is_the_memory_of_each_run_of_steps(content: bytes) -> None:
    graph = read_graph(content)
    table = memory_table(graph)
    n = len(graph.steps)
    for i in range(n):
        for j in range(i + 1, n + 1):
            assert table[i, j] == slice_memory(graph, graph.steps[i:j])
        assert table[i, i] == 0
    for part in parts(graph, [graph.steps]) if n else ():
        assert slice_memory(graph, part.operators) == table[0, n]
