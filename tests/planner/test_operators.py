"""Plans and runtimes: slices only where their operators run, and what is said when they run nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.intents import Intent
from coordinator.planner import make_plan
from coordinator.planner.fleet import fleet_from_capacities, fleet_from_text
from coordinator.planner.model import Fleet, PlanOptions
from coordinator.planner.tables.operators import lacking
from coordinator.planning import PlanningJob, Tools, model_needs, run
from slicemq.errors import ConfigError, InsufficientCapacityError, PlanError, UnsupportedOperatorError
from tests.converters.test_lowering import two_layers
from tests.converters.tiny import Tiny
from tests.planner.instances import make_graph, weights_memory
from tests.planner.test_fleet import capacity
from tests.planner.test_make import MB, chain, nodes

OLD = {"CONV_2D": 7, "FULLY_CONNECTED": 10, "TANH": 3}
NEW = {"CONV_2D": 8, "FULLY_CONNECTED": 14, "TANH": 3}


def fleet(*operators: dict[str, int], memory: int = 100 * MB) -> Fleet:
    runtimes = {8: "ai_edge_litert", 7: "tflite_runtime"}
    specs = nodes(*[memory] * len(operators)).nodes
    return Fleet(
        tuple(
            replace(spec, operators=table, runtime=runtimes.get(table.get("CONV_2D", 0), ""))
            for spec, table in zip(specs, operators, strict=True)
        )
    )


def test_what_a_runtime_lacks() -> None:
    assert lacking(OLD, {"CONV_2D": 7, "TANH": 1}) == {}
    assert lacking(OLD, {"CONV_2D": 8, "GELU": 1}) == {"CONV_2D": 8, "GELU": 1}
    assert lacking({}, {"CONV_2D": 99}) == {}, "nothing is known of this runtime: it may take everything"


def test_a_slice_goes_only_where_its_operators_run() -> None:
    graph, profile = chain([MB] * 8)
    needs = [{"CONV_2D": 8 if k in (2, 3) else 1} for k in range(8)]
    plan = make_plan(graph, profile, fleet(OLD, OLD, NEW), memory=weights_memory, needs=needs)
    places = {operator: node for item in plan.slices for operator in item.operators for node in item.nodes}
    assert places[2] == places[3] == "pi-3"
    assert set(places.values()) == {"pi-1", "pi-2", "pi-3"}
    for spec in (fleet(OLD, OLD, {}), nodes(*[100 * MB] * 3)):
        assert make_plan(graph, profile, spec, memory=weights_memory, needs=needs)


def test_what_constant_operators_need_counts_for_the_slice_that_has_them() -> None:
    graph = make_graph(
        [("DENSIFY", (-1,), (1,), True), ("CONV_2D", (0, 1), (2,), False), ("TANH", (2,), (3,), False)],
        [4000] * 4,
        inputs=(0,),
        outputs=(3,),
    )
    profile = replace(chain([MB] * 3)[1], seconds={1: 0.01, 2: 0.01})
    needs = [{"DENSIFY": 1}, {"CONV_2D": 1}, {"TANH": 1}]
    plan = make_plan(graph, profile, fleet(OLD, {**NEW, "DENSIFY": 1}), memory=weights_memory, needs=needs)
    assert [item.nodes for item in plan.slices if 1 in item.operators] == [("pi-2",)]


def test_an_operator_that_runs_nowhere_is_named_with_what_there_is() -> None:
    graph, profile = chain([MB] * 6)
    needs = [{"CONV_2D": 1}, *[{"CONV_2D": 9}] * 4, {"CONV_2D": 1, "GELU": 1}]
    with pytest.raises(InsufficientCapacityError) as caught:
        make_plan(graph, profile, fleet(OLD, NEW, OLD), memory=weights_memory, needs=needs)
    assert str(caught.value) == (
        "no node's runtime can run operators 1, 2, 3 and 1 more: CONV_2D in version 9 (pi-1, pi-3: tflite_runtime "
        "takes up to version 7; pi-2: ai_edge_litert takes up to version 8); operator 5: GELU in version 1 (pi-1, "
        "pi-3: tflite_runtime lacks it; pi-2: ai_edge_litert lacks it)"
    )
    # The one node that can run them is excluded.
    options = PlanOptions(exclude=frozenset({"pi-2"}))
    needs = [{"CONV_2D": 8}] * 6
    with pytest.raises(InsufficientCapacityError, match="CONV_2D in version 8"):
        make_plan(graph, profile, fleet(OLD, NEW, OLD), memory=weights_memory, needs=needs, options=options)


def test_too_little_memory_on_the_nodes_that_can_run_it() -> None:
    graph, profile = chain([8 * MB] * 2)
    needs = [{"CONV_2D": 8}] * 2
    roomy, small = fleet(OLD, NEW).nodes
    with pytest.raises(InsufficientCapacityError) as caught:
        make_plan(graph, profile, Fleet((roomy, replace(small, memory=9 * MB))), memory=weights_memory, needs=needs)
    assert "of no use: pi-1 (its runtime or memory suits no part of the model)" in str(caught.value)
    assert "not for every operator: pi-1 (tflite_runtime lacks CONV_2D in version 8)" in str(caught.value)


def test_a_pin_to_a_node_that_cannot_run_the_operators() -> None:
    graph, profile = chain([MB] * 4)
    needs = [{"CONV_2D": 8}] * 4
    options = PlanOptions(pins={"0-1": "pi-1"})
    with pytest.raises(PlanError, match="no plan fulfils pin 0-1=pi-1; without them there is one"):
        make_plan(graph, profile, fleet(OLD, NEW), memory=weights_memory, needs=needs, options=options)


def test_one_node_alone_says_when_operators_are_the_reason() -> None:
    graph, profile = chain([MB] * 4)
    needs = [{"CONV_2D": 8}, {"CONV_2D": 1}, {"CONV_2D": 1}, {"TANH": 3, "GELU": 1}]
    able = fleet(NEW, {**OLD, "GELU": 1})
    plan = make_plan(graph, profile, able, memory=weights_memory, needs=needs)
    assert [item.nodes for item in plan.slices] == [("pi-1",), ("pi-2",)]
    assert "cannot run all its operators" in plan.alternatives[0].reason


def test_operators_come_from_capacities_and_from_the_fleet_file() -> None:
    (node,) = fleet_from_capacities([replace(capacity("a", {"conv": 1.0}), operators=OLD)], {"conv": 1.0}).nodes
    assert node.operators == OLD
    text = '[[node]]\nid = "a"\nmemory_mb = 1\nspeed = 1\nup_mbps = 1\ndown_mbps = 1\n'
    assert fleet_from_text(text).nodes[0].operators == {}
    (node,) = fleet_from_text(text + "operators = { CONV_2D = 7, TANH = 3 }").nodes
    assert node.operators == {"CONV_2D": 7, "TANH": 3}
    assert node.kind() != replace(node, operators={}).kind()
    for wrong in ("7", "{ CONV_2D = 0 }", "{ CONV_2D = true }", '{ CONV_2D = "7" }', "[7]"):
        with pytest.raises(ConfigError, match=r"node\[0\].operators: expected a table, operator -> its highest"):
            fleet_from_text(f"{text}operators = {wrong}")


def test_what_the_coordinators_own_runtime_lacks_is_said_so(tmp_path: Path) -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    y = tiny.op("TANH", [x])
    data = tiny.build([tiny.op("Nonsense", [y])])
    with pytest.raises(UnsupportedOperatorError) as caught:
        run(job(tmp_path, NEW, data=data))
    assert str(caught.value).startswith(
        "the coordinator runs a model once before it plans it, in its own runtime: "
    )
    assert str(caught.value).endswith("lacks operator Nonsense")


TOOLS = Tools(
    load="coordinator.cli.tools:load_interpreter",
    calibrate="tests.planner.test_operators:speeds",
    runtime="coordinator.cli.tools:runtime_name",
)


def speeds(_folder: Path) -> dict[str, float]:
    """In place of measuring this machine."""
    return {"dense": 1.0}


def job(
    folder: Path, *tables: dict[str, int], plan: dict[str, object] | None = None, data: bytes | None = None
) -> PlanningJob:
    """Place a model (`two_layers`, whose first layer needs FULLY_CONNECTED 12) on nodes of such operators."""
    from coordinator.artifacts import ArtifactStore

    found = ArtifactStore(folder / "artifacts").put(data or two_layers())
    capacities = tuple(
        replace(capacity(f"pi-{k}", {"dense": 1.0}), operators=table) for k, table in enumerate(tables, 1)
    )
    intent = Intent("layers", found, plan, {"profile": "estimate", "max_slices": 1})
    return PlanningJob(intent, capacities, frozenset(), folder, TOOLS)


def test_a_deployment_goes_where_its_operators_run_and_a_given_plan_is_held_to_it(tmp_path: Path) -> None:
    made = run(job(tmp_path, OLD, NEW))
    assert set(made.slices) == {"pi-2"}
    assert model_needs(str(tmp_path / "artifacts" / made.plan["model"]), TOOLS)[0] == {"FULLY_CONNECTED": 12}
    with pytest.raises(InsufficientCapacityError, match="operator 0: FULLY_CONNECTED in version 12"):
        run(job(tmp_path, OLD, OLD))
    plan = {**made.plan, "slices": [{**made.plan["slices"][0], "nodes": ["pi-1"]}]}
    with pytest.raises(InsufficientCapacityError) as caught:
        run(job(tmp_path, OLD, NEW, plan=plan))
    assert str(caught.value) == (
        "the plan's slice s0 needs FULLY_CONNECTED in version 12 (operator 0); node pi-1 has tflite_runtime "
        "2.14.0, which takes up to version 10"
    )
    assert set(run(job(tmp_path, {}, OLD, plan=plan)).slices) == {"pi-1"}
