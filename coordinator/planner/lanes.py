"""The turns of a plan: its lanes, what they send, and which node serves which turn (PURE).

A frame of sequence number q takes turn q mod T. The slices that serve a turn are together the whole model; turns
with the same slices are a *lane*. Two lanes share no slice, though their slices may hold the same operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from converters.slicing import Edge, edges, result_parts
from slicemq.errors import PlanError
from slicemq.turns import MAX_TURNS

if TYPE_CHECKING:
    from converters.graph import Graph
    from coordinator.planner.plan import PlannedSlice

LaneGroups = Sequence[Sequence[Sequence[int]]]
"""For each lane its groups of operators, one for each slice, in the order of the plan's slices."""


@dataclass(frozen=True)
class PlanLane:
    """The slices `first` to `stop` - 1 of a plan: a complete pipeline for these turns."""

    first: int
    stop: int
    turns: tuple[int, ...]


@dataclass(frozen=True)
class Wiring:
    """What a lane's slices send, by numbers of the plan's slices.

    `results` has (slice, the model's outputs that it makes) for each part of a result, in the order of the parts.
    """

    edges: tuple[Edge, ...]
    results: tuple[tuple[int, tuple[int, ...]], ...]


def shares(item: PlannedSlice, turns: int) -> tuple[tuple[int, ...], ...]:
    """For each node of a slice the turns that it serves, of `turns` in all."""
    return item.turns or (tuple(range(turns)),)


def lanes_of(slices: Sequence[PlannedSlice], turns: int) -> tuple[PlanLane, ...]:
    """The lanes of a plan, in the order of its slices. Raises PlanError that names the slice's field."""
    if not 1 <= turns <= MAX_TURNS:
        raise PlanError(f"plan: field turns: expected 1 to {MAX_TURNS}, got {turns}")
    found: list[PlanLane] = []
    for number, item in enumerate(slices):
        served = _served(item, number, turns)
        if found and found[-1].turns == served:
            found[-1] = replace(found[-1], stop=number + 1)
            continue
        for lane in found:
            common = sorted(set(lane.turns).intersection(served))
            if common:
                raise PlanError(
                    f"plan: field slices[{number}].turns: turn {common[0]} is served by {slices[lane.first].id} "
                    "too, which must then serve the same turns and stand beside it: two lanes share no slice"
                )
        found.append(PlanLane(number, number + 1, served))
    missing = sorted(set(range(turns)).difference(*(lane.turns for lane in found)))
    if missing:
        raise PlanError(f"plan: field slices: no slice serves turn {missing[0]} of {turns}")
    return tuple(found)


def _served(item: PlannedSlice, number: int, turns: int) -> tuple[int, ...]:
    where = f"plan: field slices[{number}]"
    if len(set(item.nodes)) != len(item.nodes):
        raise PlanError(f"{where}.nodes: a node is there twice")
    if not item.turns and len(item.nodes) != 1:
        raise PlanError(f"{where}.nodes: expected one node, got {len(item.nodes)} without `turns` for each")
    if item.turns and len(item.turns) != len(item.nodes):
        raise PlanError(
            f"{where}.turns: expected one list for each of the {len(item.nodes)} nodes, got {len(item.turns)}"
        )
    owner: dict[int, str] = {}
    for node, own in zip(item.nodes, shares(item, turns), strict=True):
        if not own:
            raise PlanError(f"{where}.turns: node {node} has none")
        for turn in own:
            if not 0 <= turn < turns:
                raise PlanError(f"{where}.turns: turn {turn}: expected 0 to {turns - 1}")
            if turn in owner:
                raise PlanError(f"{where}.turns: turn {turn} is there twice, for {owner[turn]} and {node}")
            owner[turn] = node
    return tuple(sorted(owner))


def wirings(graph: Graph, lanes: LaneGroups) -> tuple[Wiring, ...]:
    """What each lane sends; the bundles of all are called `b0`, `b1` ... without a break. Raises CutError."""
    found: list[Wiring] = []
    first = bundles = 0
    for groups in lanes:
        renamed = tuple(
            Edge(
                f"b{bundles + number}",
                None if edge.source is None else first + edge.source,
                tuple(first + target for target in edge.targets),
                edge.tensors,
            )
            for number, edge in enumerate(edges(graph, groups))
        )
        results = tuple((first + number, tensors) for number, tensors in result_parts(graph, groups))
        found.append(Wiring(renamed, results))
        first += len(groups)
        bundles += len(renamed)
    return tuple(found)
