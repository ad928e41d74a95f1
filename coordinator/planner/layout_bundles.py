"""The messages of a layout: bundles with their bytes, codecs and brokers (PURE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coordinator.planner.answer import Layout, StageChoice
from coordinator.planner.plan import PlannedBundle, lane_bundles
from coordinator.planner.plan_checks import CLIENT
from coordinator.planner.problem import Costs
from coordinator.planner.tables.codec_costs import Ratios, packed_bytes
from coordinator.planner.tables.segments import FRAME_BYTES

if TYPE_CHECKING:
    from converters.graph import Graph


def groups_of(graph: Graph, costs: Costs, layout: Layout) -> list[list[list[int]]]:
    """The operators (places in the file) of each stage, lane by lane."""
    return [
        [[graph.steps[place] for place in costs.steps_of(stage.start, stage.end)] for stage in lane]
        for lane in layout.lanes
    ]


def layout_bundles(
    graph: Graph, costs: Costs, layout: Layout, ratios: Ratios | None = None
) -> tuple[PlannedBundle, ...]:
    """Every message of one frame in each lane. `ratios` are lz4's bytes to the plain ones by tensor."""
    stages = [stage for lane in layout.lanes for stage in lane]
    plain = lane_bundles(graph, groups_of(graph, costs, layout))
    coded = (_coded(graph, costs, bundle, stages, ratios or {}) for bundle in plain)
    return tuple(replace(bundle, broker=layout.carriers.get(bundle.id, "")) for bundle in coded)


def payload(bundle: PlannedBundle) -> float:
    """The bytes of a bundle's tensors. Several bundles of an arc count its frame once, so it is left aside here."""
    return float(max(0, bundle.bytes - FRAME_BYTES))


def relayed_on_boards(bundles: Sequence[PlannedBundle]) -> dict[str, float]:
    """Slice -> bytes that the data broker of its own node relays for one frame."""
    found: dict[str, float] = {}
    for bundle in bundles:
        if bundle.broker:
            found[bundle.targets[0]] = found.get(bundle.targets[0], 0.0) + payload(bundle)
    return found


def _coded(
    graph: Graph,
    costs: Costs,
    bundle: PlannedBundle,
    stages: Sequence[StageChoice],
    ratios: Ratios,
) -> PlannedBundle:
    """The bundle with the codec of the state behind the slice that sends it; the client's are raw."""
    if not costs.states or bundle.source == CLIENT or CLIENT in bundle.targets:
        return bundle
    codec = costs.states[stages[int(bundle.source[1:])].end].codec
    if codec == "raw":
        return bundle
    size = FRAME_BYTES + sum(packed_bytes(graph.tensors[tensor], codec, ratios) for tensor in bundle.tensors)
    return replace(bundle, codec=codec, bytes=size)
