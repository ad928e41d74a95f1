"""Shapes that every frame shares become constants, and the chain stays equal to the whole."""

from __future__ import annotations

import random

import pytest

from benchmarks.models import real_models
from converters.folding import fold_shapes
from converters.graph import read_graph
from converters.runtime import random_inputs
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, legal_positions, slice_model
from converters.verify import link, verify_chain
from tests.converters.machine import load

_MODELS = real_models()


@pytest.mark.parametrize("name", ["birdnet", "basic-pitch"])
def test_no_shape_crosses_a_cut(name: str) -> None:
    data = open_model(_MODELS[name].path)
    graph = resolve_shapes(data, read_graph(data), load)
    shapes = {t for op in graph.operators if op.name == "SHAPE" for t in op.outputs}
    assert shapes
    assert shapes == set(graph.values)
    assert not any(shapes.intersection(graph.crossing(p)) for p in range(len(graph.steps)))


def test_every_slice_runs_on_zeros_and_the_chain_is_equal() -> None:
    data = open_model(_MODELS["birdnet"].path)
    graph = resolve_shapes(data, read_graph(data), load)
    positions = sorted(random.Random(3).sample(legal_positions(graph), 4))
    pieces = slice_model(data, graph, groups_at(graph, positions))
    for piece in pieces:
        load(piece.data).invoke()
    frame = random_inputs(graph, 3)
    report = verify_chain(data, graph, [link(p) for p in pieces], load, [("random", frame)])
    assert report.equal, report.differences


def test_a_model_without_computed_shapes_stays_as_it_is() -> None:
    graph = read_graph(open_model(_MODELS["face-back"].path))
    assert fold_shapes(graph) is graph
