"""The plan file: round trip, what a reader refuses, the digest."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.graph import Graph
from converters.slicing import edges
from coordinator.planner import make_plan
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.plan import Plan
from slicemq.errors import PlanError
from tests.planner.instances import make_graph, random_fleet, random_graph, random_profile, weights_memory

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def chain() -> Graph:
    """Four steps, a skip connection from the first to the last, a constant operator before the third."""
    return make_graph(
        [
            ("CONV_2D", (0,), (1,), False),
            ("CONV_2D", (1,), (2,), False),
            ("DEQUANTIZE", (-1,), (3,), True),
            ("CONV_2D", (2, 3), (4,), False),
            ("ADD", (4, 1), (5,), False),
        ],
        [4000, 8000, 4000, 400, 4000, 40],
        inputs=(0,),
        outputs=(5,),
        weights=[1000, 2000, 0, 3000, 0],
    )


def plan_of(graph: Graph, nodes: int = 3) -> Plan:
    profile = random_profile(random.Random(1), graph)
    specs = [NodeSpec(f"pi-{k}", 13_000, {"all": 1.0}, 1e7, 1e7) for k in range(1, nodes + 1)]
    options = PlanOptions(shapes=("pipeline",))
    return make_plan(graph, profile, Fleet(tuple(specs)), memory=weights_memory, options=options)


GRAPH = chain()
PLAN = plan_of(GRAPH)


def test_the_plan_covers_the_model() -> None:
    assert len(PLAN.slices) >= 2
    assert [o for item in PLAN.slices for o in item.operators] == list(GRAPH.steps)
    assert PLAN.model == GRAPH.sha256
    made = {edge.id: edge for edge in edges(GRAPH, [list(item.operators) for item in PLAN.slices])}
    between = [bundle for bundle in PLAN.bundles if bundle.id.startswith("b")]
    assert {bundle.id: bundle.tensors for bundle in between} == {e.id: e.tensors for e in made.values()}
    for item in PLAN.slices:
        assert item.bytes_in == sum(b.bytes for b in PLAN.bundles if item.id in b.targets)
        assert item.bytes_out == sum(b.bytes for b in PLAN.bundles if b.source == item.id)
    assert PLAN.bundles[-1].targets == ("client",)
    assert PLAN.period_ms == max(item.stage_ms for item in PLAN.slices)
    enough = PLAN.window - 1
    assert enough >= 0.95 * PLAN.latency_ms / PLAN.period_ms > enough - 1


def test_round_trip() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(1, 9))
        plan = make_plan(graph, random_profile(rng, graph), random_fleet(rng, 4, 10**9), memory=weights_memory)
        again = Plan.from_json(plan.to_json(), graph=graph, nodes={f"n{k}" for k in range(4)})
        assert again == plan
        assert again.digest() == plan.digest()


def test_bundles_that_are_left_out_are_made() -> None:
    body = PLAN.to_plain()
    del body["bundles"]
    assert Plan.from_plain(body, graph=GRAPH) == PLAN
    with pytest.raises(PlanError, match="bundles"):
        Plan.from_plain(body)


def test_the_digest_is_of_what_runs() -> None:
    def changed(**fields: Any) -> str:
        body = PLAN.to_plain()
        for path, value in fields.items():
            place: Any = body
            *head, last = path.split("__")
            for name in head:
                place = place[int(name) if name.isdigit() else name]
            place[last] = value
        return Plan.from_plain(body).digest()

    assert re.fullmatch("[0-9a-f]{64}", PLAN.digest())
    assert changed(period_ms=1.0, solve_seconds=9.0, gap=0.5, window=7, method="heuristic") == PLAN.digest()
    assert changed(slices__0__compute_ms=5.0, slices__0__memory_mb=5.0) == PLAN.digest()
    assert changed(slices__0__nodes=["pi-9"]) != PLAN.digest()
    assert changed(bundles__0__codec="f16") != PLAN.digest()
    assert changed(model="cd" * 32) != PLAN.digest()


def test_the_example_in_the_reference() -> None:
    text = (DOCS / "plan-file.md").read_text()
    example = re.findall(r"```json\n(.*?)```", text, re.S)
    assert len(example) == 1
    plan = Plan.from_json(example[0])
    assert json.loads(plan.to_json()) == json.loads(example[0])
    for item in plan.slices:
        assert item.bytes_in == sum(b.bytes for b in plan.bundles if item.id in b.targets)
        assert item.bytes_out == sum(b.bytes for b in plan.bundles if b.source == item.id)
    assert plan.period_ms == max(item.stage_ms for item in plan.slices)
    for name in (*json.loads(example[0]), "compute_ms", "memory_mb", "codec"):
        assert f"`{name}" in text or f".{name}`" in text or f"`, `{name}" in text


def _set(*path: Any, to: Any) -> Any:
    def change(body: dict[str, Any]) -> None:
        place: Any = body
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = to

    return change


def _drop(*path: Any) -> Any:
    def change(body: dict[str, Any]) -> None:
        place: Any = body
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]

    return change


def _move_back(body: dict[str, Any]) -> None:
    first, second = body["slices"][0]["operators"], body["slices"][1]["operators"]
    body["slices"][0]["operators"], body["slices"][1]["operators"] = second, first
    del body["bundles"]


def _forget_the_last(body: dict[str, Any]) -> None:
    body["slices"].pop()
    del body["bundles"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_set("format", to=2), "field format: expected 1, got 2"),
        (_set("format", to=True), "field format"),
        (_drop("format"), "field format"),
        (_set("model", to="ab"), "field model"),
        (_set("model", to="cd" * 32), "field model: the plan is for cdcd"),
        (_drop("model"), "model"),
        (_set("period_ms", to="1"), "period_ms"),
        (_set("period_ms", to=-1), "field period_ms"),
        (_set("period_ms", to=float("nan")), "NaN"),
        (_set("gap", to=True), "boolean"),
        (_set("window", to=0), "field window"),
        (_set("window", to=1.5), "window"),
        (_set("colour", to="red"), "colour"),
        (_set("slices", to=[]), "field slices"),
        (_set("slices", to={}), "field slices: expected a list"),
        (_set("slices", 0, to=5), "field slices[0]: expected an object"),
        (_set("slices", 0, "id", to="s1"), "field slices[0].id: expected s0, got 's1'"),
        (_set("slices", 0, "nodes", to=[]), "field slices[0].nodes: expected one node, got 0"),
        (_set("slices", 0, "nodes", to=["pi-1", "pi-2"]), "field slices[0].nodes: expected one node, got 2"),
        (_set("slices", 0, "nodes", to="pi-1"), "field slices[0].nodes"),
        (_set("slices", 0, "nodes", to=["Pi"]), "field slices[0].nodes: 'Pi' is not a node's id"),
        (_set("slices", 0, "nodes", to=["pi-77"]), "field slices[0].nodes: there is no node pi-77"),
        (_set("slices", 0, "operators", to=[]), "field slices[0].operators: expected at least one"),
        (_set("slices", 0, "operators", to=[0, 0]), "field slices[0].operators: an operator is there twice"),
        (_set("slices", 0, "operators", to=[0.5]), "field slices[0].operators"),
        (_set("slices", 0, "operators", to=[True]), "boolean"),
        (_set("slices", 0, "operators", to=[0, 99]), "operator 99: the model has 0 to 4"),
        (_set("slices", 0, "operators", to=[0, 2]), "operator 2 (DEQUANTIZE) is not placed by a plan"),
        (_set("slices", 0, "operators", to=[4]), "operator 4 is in slice s0 too"),
        (_forget_the_last, "operators in no slice: 4"),
        (_set("slices", 0, "memory_mb", to=-1), "field slices[0].memory_mb"),
        (_set("slices", 0, "speed", to=1), "field slices[0]"),
        (_move_back, "field slices: group"),
        (_set("bundles", to=5), "field bundles: expected a list"),
        (_set("bundles", 0, to=5), "field bundles[0]: expected an object"),
        (_drop("bundles", 0, "from"), "field bundles[0].from: missing"),
        (_set("bundles", 0, "source", to="s0"), "field bundles[0].from"),
        (_set("bundles", 0, "from", to="s9"), "field bundles[0].from: 's9' is neither a slice nor client"),
        (_set("bundles", 0, "to", to=[]), "field bundles[0].to: expected at least one"),
        (_set("bundles", 0, "to", to=["pi-1"]), "field bundles[0].to: 'pi-1' is neither"),
        (_set("bundles", 0, "tensors", to=[1]), "field bundles b0: with these slices it goes from client to s0"),
        (_set("bundles", 0, "codec", to="zip"), "field bundles[0].codec: expected raw, lz4, lz4s, zstd, f16, "),
        (_set("bundles", 0, "id", to="b1"), "field bundles[0].id: b1 is there twice"),
        (_set("bundles", 0, "id", to="b7"), "field bundles: b0 is missing"),
        (_drop("bundles", 0), "field bundles: b0 is missing"),
        (_set("profile", to=5), "profile"),
        (_set("alternatives", to=[{"family": 1}]), "field alternatives[0]"),
    ],
)
def test_what_is_wrong_is_named(change: Any, names: str) -> None:
    body = PLAN.to_plain()
    assert len(body["slices"]) >= 2
    change(body)
    with pytest.raises(PlanError) as caught:
        Plan.from_json(json.dumps(body), graph=GRAPH, nodes={"pi-1", "pi-2", "pi-3"})
    assert names in str(caught.value)


def test_a_bundle_too_many() -> None:
    body = PLAN.to_plain()
    body["bundles"].append({**body["bundles"][0], "id": "b99"})
    with pytest.raises(PlanError, match="b99: these slices have no such bundle"):
        Plan.from_plain(body, graph=GRAPH)


@pytest.mark.parametrize("text", ["", "[", "[]", "5", "null", '"x"', "[" * 100_000, "{}", "x" * (5 << 20)])
def test_text_that_is_no_plan(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(text)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_any_place_is_read_or_refused(data: st.DataObject) -> None:
    body = copy.deepcopy(PLAN.to_plain())
    place: Any = body
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(_VALUES)
        break
    try:
        plan = Plan.from_plain(body, graph=GRAPH)
    except PlanError:
        return
    assert Plan.from_json(plan.to_json(), graph=GRAPH) == plan
