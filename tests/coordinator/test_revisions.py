"""The specifications of a pipeline: names from the signature, open sizes where frames differ."""

from __future__ import annotations

from functools import partial

import numpy as np

from converters.graph import Graph, read_graph
from converters.shapes import resolve_shapes
from converters.slicing import slice_model
from coordinator.intents import Blueprint
from coordinator.planner.plan import Plan
from coordinator.revisions import blueprint, specs
from edge_node.runtime import open_interpreter
from slicemq.messages import Artifact, Lane
from slicemq.specs import check_inputs
from tests.converters.tiny import Tiny, chain, diamond
from tests.planner.test_lanes import Row, body_of

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


def made(data: bytes, *rows: Row, turns: int) -> tuple[Graph, Blueprint]:
    """The blueprint of a plan that has these slices, as planning makes it."""
    graph = read_graph(data)
    body = {**body_of(*rows, turns=turns), "model": graph.sha256}
    plan = Plan.from_plain(body, graph=graph)
    pieces = [piece for groups in plan.lane_groups() for piece in slice_model(data, graph, groups)]
    artifacts = [Artifact(piece.sha256, len(piece.data)) for piece in pieces]
    takes, gives = [piece.inputs for piece in pieces], [piece.outputs for piece in pieces]
    return graph, blueprint("faces", graph, plan, takes, gives, artifacts)


def test_each_node_is_told_its_turns() -> None:
    rows: tuple[Row, ...] = (((0, 1), {"n1": (0, 1, 2)}), ((2, 3), {"n2": (2, 0), "n1": (1,)}))
    _, found = made(chain(4), *rows, turns=3)
    told = {node: [(one.slice, one.turns, one.of) for one in mine] for node, mine in found.slices.items()}
    assert told == {"n1": [("s0", (0, 1, 2), 3), ("s1", (1,), 3)], "n2": [("s1", (0, 2), 3)]}
    first, second = found.slices["n1"]
    (replica,) = found.slices["n2"]
    # Replicas differ in nothing but their turns.
    assert replica.artifact == second.artifact
    assert (replica.inputs, replica.result, replica.takes) == (second.inputs, second.result, second.takes)
    assert first.outputs == second.inputs
    assert found.route.turns == 3
    assert found.route.lanes == (Lane((0, 1, 2), first.inputs, 1),)
    assert found.route.entry == ()


def test_lanes_have_bundles_entries_and_parts_of_their_own() -> None:
    """One lane is the whole diamond; in the other a branch runs beside the rest, which needs the input too."""
    rows: tuple[Row, ...] = (
        ((0, 1, 2, 3, 4), {"n1": (0, 2)}),
        ((0, 1), {"n2": (1,)}),
        ((2,), {"n3": (1,)}),
        ((3, 4), {"n2": (1,)}),
    )
    _, found = made(diamond(), *rows, turns=3)
    one, other = found.route.lanes
    assert [(lane.turns, [bundle.id for bundle in lane.entry], lane.parts) for lane in (one, other)] == [
        ((0, 2), ["b0"], 1),
        ((1,), ["b1"], 1),
    ]
    parts = {item.slice: item for items in found.slices.values() for item in items}
    ids = [bundle.id for item in parts.values() for bundle in item.outputs]
    assert sorted(ids) == ["b2", "b3", "b4"]
    assert {bundle.id for item in (parts["s1"], parts["s3"]) for bundle in item.inputs} >= {"b1"}
    assert [parts[name].result is not None for name in ("s0", "s1", "s2", "s3")] == [True, False, False, True]
    assert found.stage_seconds.keys() == parts.keys()


def test_a_plan_of_one_turn_has_a_plain_route() -> None:
    _, found = made(chain(4), ((0, 1), {"n1": (0,)}), ((2, 3), {"n2": (0,)}), turns=1)
    assert (found.route.turns, found.route.lanes, found.route.parts) == (1, (), 1)
    assert [bundle.id for bundle in found.route.entry] == ["b0"]
    assert {(one.turns, one.of) for items in found.slices.values() for one in items} == {((0,), 1)}
