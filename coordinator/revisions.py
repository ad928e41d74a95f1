"""From a plan and the slices cut by it to what each node is told. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from converters.graph import Graph
from coordinator.intents import Blueprint
from coordinator.planner.lanes import shares, wirings
from coordinator.planner.plan import Plan
from slicemq.messages import Artifact, Bundle, Lane, ResultPart, Route, SliceAssignment, TensorSpec
from slicemq.specs import spec_digest

# Filled in when the blueprint becomes a revision.
_NO_REVISION = "1-00000000"
_NO_BROKERS: Mapping[str, str] = {}


def blueprint(
    name: str,
    graph: Graph,
    plan: Plan,
    takes: Sequence[tuple[int, ...]],
    gives: Sequence[tuple[int, ...]],
    artifacts: Sequence[Artifact],
    brokers: Mapping[str, str] = _NO_BROKERS,
) -> Blueprint:
    """What every node of `plan` runs, and how clients reach it.

    `takes`, `gives` and `artifacts` are, for each slice of the plan, the whole-model tensor indices of its file's
    inputs and outputs, and the file itself. `brokers` are the URLs of the nodes' data brokers.
    """
    codec_of = {bundle.id: bundle.codec for bundle in plan.bundles}
    broker_of = {bundle.id: bundle.broker for bundle in plan.bundles}
    lanes = plan.lanes()
    wired = wirings(graph, plan.lane_groups())
    bundles = [
        (
            edge,
            Bundle(edge.id, specs(graph, edge.tensors), codec_of.get(edge.id, "raw"), broker_of.get(edge.id, "")),
        )
        for lane in wired
        for edge in lane.edges
    ]
    stateful = [not graph.stateful_steps.isdisjoint(item.operators) for item in plan.slices]
    lending = _lending(stateful, [(edge.source, edge.targets) for edge, _ in bundles])
    part_of = {
        number: ResultPart(part, len(lane.results), specs(graph, tensors))
        for lane in wired
        for part, (number, tensors) in enumerate(lane.results)
    }
    slices: dict[str, tuple[SliceAssignment, ...]] = {}
    for number, item in enumerate(plan.slices):
        inputs = tuple(bundle for edge, bundle in bundles if number in edge.targets)
        outputs = tuple(bundle for edge, bundle in bundles if edge.source == number)
        assignment = SliceAssignment(
            pipeline=name,
            revision=_NO_REVISION,
            slice=item.id,
            artifact=artifacts[number],
            memory=int(item.memory_mb * 1e6),
            takes=tuple(takes[number]),
            gives=tuple(gives[number]),
            inputs=inputs,
            outputs=outputs,
            result=part_of.get(number),
            stateful=stateful[number],
            leases=number in lending,
            brokers={bundle.broker: brokers[bundle.broker] for bundle in (*inputs, *outputs) if bundle.broker},
        )
        for node, turns in zip(item.nodes, shares(item, plan.turns), strict=True):
            mine = replace(assignment, turns=tuple(sorted(turns)), of=plan.turns)
            slices[node] = (*slices.get(node, ()), mine)
    taken, given = specs(graph, graph.inputs), specs(graph, graph.outputs)
    ways = tuple(
        Lane(
            lane.turns,
            tuple(
                bundle
                for edge, bundle in bundles
                if edge.source is None and lane.first <= edge.targets[0] < lane.stop
            ),
            len(wiring.results),
        )
        for lane, wiring in zip(lanes, wired, strict=True)
    )
    return Blueprint(
        digest=plan.digest(),
        plan=plan.to_plain(),
        slices=slices,
        route=_route(ways, plan.turns),
        inputs=taken,
        outputs=given,
        spec=spec_digest(taken, given),
        window=1 if graph.stateful else plan.window,
        stage_seconds={item.id: item.stage_ms / 1e3 for item in plan.slices},
        stateful=graph.stateful,
    )


def _route(lanes: tuple[Lane, ...], turns: int) -> Route:
    if turns == 1:
        return Route(_NO_REVISION, "active", 1.0, lanes[0].entry, lanes[0].parts)
    return Route(_NO_REVISION, "active", 1.0, (), 0, turns, lanes)


def _lending(stateful: Sequence[bool], sent: Sequence[tuple[int | None, Sequence[int]]]) -> set[int]:
    """The stateful slices with no stateful slice before them: they decide whose stream it is (rule 6).

    `sent` has, for each bundle, the slice that makes it (None: the client) and those that take it.
    """
    behind: set[int] = set()
    reached = {number for number, holds in enumerate(stateful) if holds}
    while reached:
        reached = {target for source, targets in sent if source in reached for target in targets} - behind
        behind |= reached
    return {number for number, holds in enumerate(stateful) if holds and number not in behind}


def specs(graph: Graph, tensors: Sequence[int]) -> tuple[TensorSpec, ...]:
    """The specs of some tensors of the whole model; its inputs and outputs go by their names in its signature."""
    public = {*graph.inputs, *graph.outputs}
    return tuple(
        TensorSpec(
            tensor.index,
            graph.public_name(tensor.index) if tensor.index in public else tensor.name,
            tensor.dtype,
            tensor.frame_shape,
        )
        for tensor in (graph.tensors[i] for i in tensors)
    )
