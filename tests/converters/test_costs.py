"""Shapes, profiles, balance and memory: what the planner is told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.balance import SLACK, balanced_positions
from converters.graph import Graph, read_graph, with_shapes
from converters.profile import Profile, estimate
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, slice_model
from slicemq.errors import CutError
from tests.converters.machine import load
from tests.converters.tiny import Tiny, chain, diamond, half_weights


def _dynamic() -> tuple[bytes, int]:
    """A RESHAPE whose shape the model computes; the file says [1, 1], the run makes [3, 2]."""
    tiny = Tiny()
    x = tiny.input((2, 3), name="x")
    three = tiny.constant(np.array([2, 0], np.int32))
    one = tiny.constant(np.array([1, 0], np.int32))
    counted = tiny.op("SHAPE", [x], (2,), dtype="INT32", options=schema.ShapeOptionsT(outType=2))
    flipped = tiny.op("SUB", [tiny.constant(np.array([5, 5], np.int32)), counted], (2,), dtype="INT32")
    y = tiny.op("RESHAPE", [x, flipped], (1, 1))
    tiny.tensors[y].shapeSignature = np.array([-1, -1], np.int32)
    assert three != one
    return tiny.build([tiny.op("RELU", [y], (1, 1))]), y


def test_shapes_that_the_file_gets_wrong() -> None:
    data, y = _dynamic()
    graph = read_graph(data)
    assert graph.tensors[y].shape == (1, 1)
    resolved = resolve_shapes(data, graph, load)
    assert resolved.tensors[y].shape == (3, 2)
    assert resolved.tensors[y].nbytes == 24
    assert resolved.tensors[y].signature == (-1, -1)
    last = len(resolved.steps) - 1
    second = slice_model(data, resolved, groups_at(resolved, [last]))[1]
    assert load(second.data).inputs[0].shape == (3, 2)


def test_shapes_of_ordinary_models_stay() -> None:
    for data in (chain(), diamond(), half_weights()):
        graph = read_graph(data)
        assert resolve_shapes(data, graph, load) == graph


def _all_splits(n: int, stages: int) -> Iterator[tuple[int, ...]]:
    yield from itertools.combinations(range(1, n), stages - 1)


@pytest.mark.parametrize("seed", range(6))
def test_balanced_cuts_against_every_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = read_graph(chain(9))
    # Bytes that differ from cut to cut, so that the second criterion has something to choose.
    sizes = {t: (1, int(rng.integers(1, 50))) for t in range(2, 11)}
    graph = with_shapes(graph, sizes)
    seconds = {i: float(rng.integers(1, 20)) for i in graph.steps}
    profile = Profile(seconds, "test", measured=True, overhead=0.0)
    for stages in (1, 2, 3, 5, 9):
        positions = balanced_positions(graph, profile, stages)
        assert len(positions) == stages - 1
        best = min(_slowest(graph, seconds, s) for s in _all_splits(9, stages))
        within = [s for s in _all_splits(9, stages) if _slowest(graph, seconds, s) <= best * SLACK]
        assert _slowest(graph, seconds, tuple(positions)) <= best * SLACK
        assert _crossing(graph, tuple(positions)) == min(_crossing(graph, s) for s in within)


def _slowest(graph: Graph, seconds: dict[int, float], positions: tuple[int, ...]) -> float:
    return max(sum(seconds[i] for i in group) for group in groups_at(graph, positions))


def _crossing(graph: Graph, positions: tuple[int, ...]) -> int:
    return sum(graph.tensors[t].nbytes for p in positions for t in graph.crossing(p))


def test_more_stages_than_cuts_are_refused() -> None:
    graph = read_graph(chain(3))
    for stages in (0, 4, 1000):
        with pytest.raises(CutError, match="expected 1 to 3"):
            balanced_positions(graph, estimate(graph), stages)
