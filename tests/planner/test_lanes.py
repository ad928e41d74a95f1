"""Plans of several turns: who serves which turn, what each lane sends, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planner.plan import Plan, bundles_of, lane_bundles
from slicemq.errors import CutError, PlanError
from tests.planner.test_plan import GRAPH, PLAN
from tests.planner.test_stateful import stateful

Row = tuple[Sequence[int], dict[str, Sequence[int]]]
A, B, C, D = GRAPH.steps
# Two lanes: the first cut after B, its second stage on two nodes; the other cut after A.
LANES: tuple[Row, ...] = (
    ((A, B), {"pi-1": (0, 1, 3)}),
    ((C, D), {"pi-2": (3, 0), "pi-3": (1,)}),
    ((A,), {"pi-3": (2,)}),
    ((B, C, D), {"pi-1": (2,)}),
)


def body_of(*rows: Row, turns: int = 4) -> dict[str, Any]:
    """A plan file without bundles."""
    body: dict[str, Any] = {**PLAN.to_plain(), "turns": turns}
    del body["bundles"]
    body["slices"] = [
        {
            **body["slices"][0],
            "id": f"s{number}",
            "operators": list(operators),
            "nodes": list(share),
            "turns": [list(own) for own in share.values()],
        }
        for number, (operators, share) in enumerate(rows)
    ]
    return body


def test_lanes_are_read_with_their_turns_and_bundles() -> None:
    plan = Plan.from_plain(body_of(*LANES), graph=GRAPH)
    assert [(lane.first, lane.stop, lane.turns) for lane in plan.lanes()] == [(0, 2, (0, 1, 3)), (2, 4, (2,))]
    assert plan.lane_groups() == [[[A, B], [C, D]], [[A], [B, C, D]]]
    between = [(b.id, b.source, b.targets, b.tensors) for b in plan.bundles]
    # In the second lane the skip connection of the model does not leave its second slice.
    assert between == [
        ("b0", "client", ("s0",), (0,)),
        ("b1", "s0", ("s1",), (1, 2)),
        ("b2", "client", ("s2",), (0,)),
        ("b3", "s2", ("s3",), (1,)),
        ("r0", "s1", ("client",), (5,)),
        ("r1", "s3", ("client",), (5,)),
    ]
    again = Plan.from_json(plan.to_json(), graph=GRAPH, nodes={"pi-1", "pi-2", "pi-3"})
    assert again == plan
    assert again.digest() == plan.digest()


def test_one_lane_has_the_bundles_of_a_plan_without_turns() -> None:
    groups = [[A, B], [C, D]]
    assert lane_bundles(GRAPH, [groups]) == bundles_of(GRAPH, groups)
    with pytest.raises(CutError):
        lane_bundles(GRAPH, [groups, [[A, B]]])


def test_the_digest_is_of_the_turns_too() -> None:
    changed = list(LANES)
    changed[1] = ((C, D), {"pi-2": (1, 0), "pi-3": (3,)})
    plans = [Plan.from_plain(body_of(*rows), graph=GRAPH) for rows in (LANES, changed)]
    assert plans[0].digest() != plans[1].digest()


def _turns(number: int, *turns: Any) -> Any:
    def change(body: dict[str, Any]) -> None:
        body["slices"][number]["turns"] = list(turns)

    return change


def _set(field: str, value: Any, number: int | None = None) -> Any:
    def change(body: dict[str, Any]) -> None:
        (body if number is None else body["slices"][number])[field] = value

    return change


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_set("turns", 0), "field turns: expected 1 to 256, got 0"),
        (_set("turns", 257), "field turns: expected 1 to 256, got 257"),
        (_set("turns", 5), "field slices: no slice serves turn 4 of 5"),
        (_set("turns", 3), "field slices[0].turns: turn 3: expected 0 to 2"),
        (_turns(0), "field slices[1].turns: turn 0 is served by s0 too"),
        (_turns(1, [0, 1]), "field slices[1].turns: expected one list for each of the 2 nodes, got 1"),
        (_turns(1, [0, 3], []), "field slices[1].turns: node pi-3 has none"),
        (_turns(1, [0, 3], [-1]), "field slices[1].turns: turn -1: expected 0 to 3"),
        (_turns(1, [0, 3], [3, 1]), "field slices[1].turns: turn 3 is there twice, for pi-2 and pi-3"),
        (_turns(1, [0, 3, 0], [1]), "field slices[1].turns: turn 0 is there twice, for pi-2 and pi-2"),
        (_turns(1, [0], [1]), "field slices[1].turns: turn 0 is served by s0 too"),
        (_turns(3, [3]), "field slices[3].turns: turn 3 is served by s0 too"),
        (_turns(1, [0, 3], ["1"]), "slices[1]"),
        (_turns(1, [0, 3], 1), "slices[1]"),
        (_set("turns", "0", 1), "slices[1]"),
        (_set("nodes", ["pi-2", "pi-2"], 1), "field slices[1].nodes: a node is there twice"),
        (_set("operators", [A, B, C], 0), "field slices[1].operators: operator 3 is in slice s0 too in turn 0"),
        (_set("operators", [B, C], 3), "field slices: operators in no slice in turn 2: 4"),
    ],
)
def test_what_is_wrong_is_named(change: Any, names: str) -> None:
    body = body_of(*LANES)
    change(body)
    with pytest.raises(PlanError) as caught:
        Plan.from_json(json.dumps(body), graph=GRAPH)
    assert names in str(caught.value)


def test_the_slices_of_a_lane_stand_together() -> None:
    first, second, third, fourth = LANES
    with pytest.raises(PlanError, match=r"slices\[2\].turns: turn 0 is served by s0 too"):
        Plan.from_plain(body_of(first, third, second, fourth), graph=GRAPH)


def test_bundles_of_lanes_are_checked() -> None:
    body = Plan.from_plain(body_of(*LANES), graph=GRAPH).to_plain()
    body["bundles"][3]["from"] = "s0"
    with pytest.raises(PlanError, match="bundles b3: with these slices it goes from s2 to s3"):
        Plan.from_plain(body, graph=GRAPH)


def test_a_stateful_model_has_one_turn_rule_6() -> None:
    graph, _ = stateful([1000] * 3)
    body = {**body_of((graph.steps, {"pi-1": (0,), "pi-2": (1,)}), turns=2), "model": graph.sha256}
    with pytest.raises(PlanError, match="field turns: 2, expected 1: the model keeps state"):
        Plan.from_plain(body, graph=graph)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_plan_that_is_read_serves_every_turn_once(data: st.DataObject) -> None:
    turns = data.draw(st.integers(1, 4))
    served = st.lists(st.integers(0, 4), max_size=4)
    cuts: list[list[tuple[int, ...]]] = [[GRAPH.steps], [(A, B), (C, D)], [GRAPH.steps, GRAPH.steps]]
    rows: list[Row] = [
        (operators, {f"pi-{k}": data.draw(served) for k in range(data.draw(st.integers(1, 2)))})
        for operators in data.draw(st.sampled_from(cuts))
    ]
    try:
        plan = Plan.from_plain(body_of(*rows, turns=turns), graph=GRAPH)
    except PlanError:
        return
    for turn in range(turns):
        mine = [item for item in plan.slices for own in item.turns if turn in own]
        assert sorted(step for item in mine for step in item.operators) == sorted(GRAPH.steps)
