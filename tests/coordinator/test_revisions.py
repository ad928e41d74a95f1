"""The specifications of a pipeline: names from the signature, open sizes where frames differ."""

from __future__ import annotations

from functools import partial

import numpy as np

from converters.graph import read_graph
from converters.shapes import resolve_shapes
from coordinator.revisions import specs
from edge_node.runtime import open_interpreter
from slicemq.specs import check_inputs
from tests.converters.tiny import Tiny

_LOAD = partial(open_interpreter, runtime="ai_edge_litert")


def _signed(*keys: str) -> bytes:
    """x -> TANH -> the places above 0; the tensors are called `serving_x:0` and `Identity:0`."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="serving_x:0")
    y = tiny.op("TANH", [x], tensor="middle")
    above = tiny.op("GREATER", [y, tiny.constant(np.array(0, np.float32))], dtype="BOOL")
    places = tiny.op("WHERE", [above], (1, 2), dtype="INT64", tensor="Identity:0")
    for key in keys:
        tiny.sign(key, {f"image of {key}": x}, {f"places of {key}": places})
    return tiny.build([places])


def test_inputs_and_outputs_go_by_the_signatures_names() -> None:
    graph = read_graph(_signed("serve"))
    assert [spec.name for spec in specs(graph, [0, 1, *graph.outputs])] == [
        "image of serve",
        "middle",
        "places of serve",
    ]
    several = read_graph(_signed("train", "serving_default"))
    assert specs(several, several.inputs)[0].name == "image of serving_default"
    for unclear in (_signed(), _signed("one", "two")):
        graph = read_graph(unclear)
        assert specs(graph, graph.inputs)[0].name == "serving_x:0"
        assert specs(graph, graph.outputs)[0].name == "Identity:0"


def test_a_client_gives_arrays_by_these_names() -> None:
    graph = read_graph(_signed("serve"))
    array = np.zeros((1, 4), np.float32)
    assert list(check_inputs(specs(graph, graph.inputs), {"image of serve": array})) == [0]


def test_sizes_that_differ_from_frame_to_frame_are_open() -> None:
    data = _signed()
    graph = resolve_shapes(data, read_graph(data), _LOAD)
    assert [spec.shape for spec in specs(graph, [0, *graph.outputs])] == [(1, 4), (-1, 2)]
