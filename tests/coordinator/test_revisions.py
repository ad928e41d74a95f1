"""What each node and the clients are told of a stateful model (protocol rule 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from converters.graph import read_graph
from converters.slicing import parts
from coordinator.documents import pipeline_document
from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision
from coordinator.planner.plan import Plan, PlannedSlice, ProfileSource
from coordinator.planner.plan_checks import check_operators
from coordinator.revisions import _lending, blueprint
from slicemq.errors import PlanError
from slicemq.messages import Artifact
from tests.coordinator.site import sha
from tests.edge_node import models

SUMS = models.accumulator_model(stages=3)
GRAPH = read_graph(SUMS)


def plan(data: bytes, *groups: Sequence[int], nodes: int = 1) -> Plan:
    slices = tuple(
        PlannedSlice(f"s{n}", tuple(f"n{n}-{k}" for k in range(nodes)), tuple(group), 1.0, 1.0, 16, 16)
        for n, group in enumerate(groups)
    )
    source = ProfileSource("estimate", False)
    return Plan(read_graph(data).sha256, "period", 1.0, 3.0, 1.0, 0.0, "given", "given", 0.0, 7, source, slices, ())


def made(data: bytes, *groups: Sequence[int]) -> Blueprint:
    graph = read_graph(data)
    pieces = parts(graph, [list(group) for group in groups])
    return blueprint(
        "sums",
        graph,
        plan(data, *groups),
        [piece.inputs for piece in pieces],
        [piece.outputs for piece in pieces],
        [Artifact(sha(str(n)), 100) for n in range(len(groups))],
    )


def test_each_slice_with_a_variable_is_stateful_and_the_first_lends() -> None:
    found = made(SUMS, (2, 3, 4), (6, 7, 8), (10, 11, 12))
    items = [item for slices in found.slices.values() for item in slices]
    assert [(item.slice, item.stateful, item.leases) for item in items] == [
        ("s0", True, True),
        ("s1", True, False),
        ("s2", True, False),
    ]
    assert (found.stateful, found.window) == (True, 1)


def test_slices_without_a_variable_take_any_frame() -> None:
    data = models.add_model()
    found = made(data, read_graph(data).steps)
    (item,) = found.slices["n0-0"]
    assert (item.stateful, item.leases, found.stateful, found.window) == (False, False, False, 7)


def test_clients_are_told() -> None:
    found = made(SUMS, GRAPH.steps)
    wanted = Intent("sums", Artifact(sha("m"), 100))
    record = PipelineRecord("sums", wanted, 1, {"1-00000000": Revision("1-00000000", wanted, found, "active")})
    record.face = found
    document = pipeline_document(record)
    assert document is not None
    assert (document.stateful, document.window, document.routes[0].state) == (True, 1, "active")
    record.face = replace(found, stateful=False, window=3)
    document = pipeline_document(record)
    assert document is not None
    assert (document.stateful, document.window) == (False, 3)


@pytest.mark.parametrize(
    ("stateful", "sent", "lending"),
    [
        ([True, True, True], [(None, [0]), (0, [1]), (1, [2])], {0}),
        ([False, True, False, True], [(None, [0]), (0, [1]), (1, [2]), (2, [3])], {1}),
        # Two branches of which each keeps state, and their join.
        ([True, True, True], [(None, [0, 1]), (0, [2]), (1, [2])], {0, 1}),
        # A skip connection: the input goes straight to the last slice too.
        ([True, False, True], [(None, [0, 2]), (0, [1]), (1, [2])], {0}),
        # Slices in any order.
        ([True, False, True], [(None, [2]), (2, [1]), (1, [0])], {2}),
        ([False, False], [(None, [0]), (0, [1])], set()),
    ],
)
def test_who_lends(stateful: list[bool], sent: list[tuple[int | None, list[int]]], lending: set[int]) -> None:
    assert _lending(stateful, sent) == lending


def test_a_slice_that_keeps_state_has_no_replicas() -> None:
    groups = [(2, 3, 4), (6, 7, 8), (10, 11, 12)]
    check_operators(plan(SUMS, *groups), GRAPH)
    with pytest.raises(PlanError, match=r"slices\[0\]\.nodes: 2 nodes, expected one: slice s0 keeps state"):
        check_operators(plan(SUMS, *groups, nodes=2), GRAPH)
    data = models.add_model()
    graph = read_graph(data)
    check_operators(plan(data, graph.steps, nodes=2), graph)
