"""From a plan and the slices cut by it to what each node is told. PURE."""

from __future__ import annotations

from collections.abc import Sequence

from converters.graph import Graph
from converters.slicing import edges, result_parts
from coordinator.intents import Blueprint
from coordinator.planner.plan import Plan
from slicemq.messages import Artifact, Bundle, ResultPart, Route, SliceAssignment, TensorSpec
from slicemq.specs import spec_digest

# Filled in when the blueprint becomes a revision.
_NO_REVISION = "1-00000000"


def blueprint(
    name: str,
    graph: Graph,
    plan: Plan,
    takes: Sequence[tuple[int, ...]],
    gives: Sequence[tuple[int, ...]],
    artifacts: Sequence[Artifact],
) -> Blueprint:
    """What every node of `plan` runs, and how clients reach it.

    `takes`, `gives` and `artifacts` are, for each slice of the plan, the whole-model tensor indices of its file's
    inputs and outputs, and the file itself.
    """
    groups = [list(item.operators) for item in plan.slices]
    codec_of = {bundle.id: bundle.codec for bundle in plan.bundles}
    bundles = [
        (edge, Bundle(edge.id, specs(graph, edge.tensors), codec_of.get(edge.id, "raw")))
        for edge in edges(graph, groups)
    ]
    results = result_parts(graph, groups)
    part_of = {
        number: ResultPart(part, len(results), specs(graph, tensors))
        for part, (number, tensors) in enumerate(results)
    }
    slices: dict[str, tuple[SliceAssignment, ...]] = {}
    for number, item in enumerate(plan.slices):
        assignment = SliceAssignment(
            pipeline=name,
            revision=_NO_REVISION,
            slice=item.id,
            artifact=artifacts[number],
            memory=int(item.memory_mb * 1e6),
            takes=tuple(takes[number]),
            gives=tuple(gives[number]),
            inputs=tuple(bundle for edge, bundle in bundles if number in edge.targets),
            outputs=tuple(bundle for edge, bundle in bundles if edge.source == number),
            result=part_of.get(number),
        )
        for node in item.nodes:
            slices[node] = (*slices.get(node, ()), assignment)
    inputs, outputs = specs(graph, graph.inputs), specs(graph, graph.outputs)
    entry = tuple(bundle for edge, bundle in bundles if edge.source is None)
    return Blueprint(
        digest=plan.digest(),
        plan=plan.to_plain(),
        slices=slices,
        route=Route(_NO_REVISION, "active", 1.0, entry, len(results)),
        inputs=inputs,
        outputs=outputs,
        spec=spec_digest(inputs, outputs),
        window=plan.window,
        stage_seconds={item.id: item.stage_ms / 1e3 for item in plan.slices},
    )


def specs(graph: Graph, tensors: Sequence[int]) -> tuple[TensorSpec, ...]:
    """The specs of some tensors of the whole model."""
    return tuple(
        TensorSpec(tensor.index, tensor.name, tensor.dtype, tensor.shape)
        for tensor in (graph.tensors[i] for i in tensors)
    )
