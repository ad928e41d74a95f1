"""Arcs and the types of their nodes -> a layout: turns, figures, and whether it keeps to the limits (PURE)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.planner.answer import Bound, Layout, Method, Share, StageChoice
from coordinator.planner.goal import Goal
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.turns import MOST_TURNS, Counts, assign, count_turns
from slicemq.turns import MAX_TURNS

ROUNDING = 1e-9
"""The share by which a figure may pass a limit: what sums of floating-point numbers are off by."""


@dataclass(frozen=True)
class Stage:
    """The arc (start, end) on nodes of these types, one entry for each node."""

    start: int
    end: int
    kinds: tuple[int, ...]


Lane = tuple[Stage, ...]
"""A complete pipeline, its stages in order."""


def seconds_of(costs: Costs, lane: Sequence[Stage], place: int) -> tuple[float, ...]:
    """What a frame takes on each node of a lane's stage; with hops each neighbour must be one node."""
    stage = lane[place]
    found = [float(costs.types[k].period[stage.start, stage.end]) for k in stage.kinds]
    if costs.hops is not None:
        for number, kind in enumerate(stage.kinds):
            if place:
                before = lane[place - 1].kinds[0]
                found[number] = max(found[number], float(costs.hops.seconds(before, kind)[stage.start]))
            if place + 1 < len(lane):
                after = lane[place + 1].kinds[0]
                found[number] = max(found[number], float(costs.hops.seconds(kind, after)[stage.end]))
    return tuple(found)


def relayed_by(costs: Costs, lane: Sequence[Stage]) -> float:
    """Bytes that the broker delivers for a frame of the lane."""
    return sum(float(costs.relayed[stage.start, stage.end]) for stage in lane)


def lay_out(
    costs: Costs,
    family: str,
    lanes: Sequence[Lane],
    lower_bound: float = 0.0,
    method: Method = "heuristic",
    bounds: tuple[Bound, ...] = (),
) -> Layout:
    """The layout of these lanes with the best turns; nodes and lanes that get no turn are left out.

    Every node must be able to run its arc, and no type may be used more often than it has nodes. The latency is
    that of the slowest turn, the energy the mean of all turns.
    """
    tables = [tuple(seconds_of(costs, lane, place) for place in range(len(lane))) for lane in lanes]
    relayed = [relayed_by(costs, lane) for lane in lanes]
    counts = count_turns(tables, relayed, costs.broker_rate, most_turns(lanes), costs.goal.within)
    names = [iter(kind.ids) for kind in costs.types]
    kept, latency, energy = [], 0.0, 0.0
    for lane, stages in zip(lanes, assign(counts), strict=True):
        if not any(stages[0]):
            continue
        kept.append(
            tuple(
                StageChoice(
                    stage.start,
                    stage.end,
                    tuple(Share(next(names[k]), own) for k, own in zip(stage.kinds, served, strict=True) if own),
                )
                for stage, served in zip(lane, stages, strict=True)
            )
        )
        for stage, served in zip(lane, stages, strict=True):
            for kind, own in zip(stage.kinds, served, strict=True):
                energy += len(own) / counts.turns * costs.types[kind].energy_of(stage.start, stage.end)
        latency = max(latency, _slowest_turn(costs, lane, stages))
    period = _period(counts, costs, tables, relayed)
    return Layout(
        family=family,
        lanes=tuple(kept),
        turns=counts.turns,
        period=period,
        latency=latency,
        lower_bound=min(lower_bound, period) if costs.goal.objective == "throughput" else lower_bound,
        method=method,
        bounds=bounds,
        energy=energy,
    )


def _period(
    counts: Counts, costs: Costs, tables: Sequence[Sequence[Sequence[float]]], relayed: list[float]
) -> float:
    """The period by the same sums as in a single pipeline's plan when there is one turn only."""
    if counts.turns > 1:
        return counts.period
    lane = counts.lanes.index(1)
    slowest = max(
        seconds
        for stage, given in zip(tables[lane], counts.nodes[lane], strict=True)
        for seconds, own in zip(stage, given, strict=True)
        if own
    )
    return max(slowest, relayed[lane] / costs.broker_rate) if costs.broker_rate else slowest


def _slowest_turn(costs: Costs, lane: Lane, stages: Sequence[Sequence[Sequence[int]]]) -> float:
    taken: dict[int, float] = {}
    before: dict[int, int] = {}
    for stage, served in zip(lane, stages, strict=True):
        here: dict[int, int] = {}
        for kind, own in zip(stage.kinds, served, strict=True):
            value = costs.types[kind].latency_of(stage.start, stage.end)
            for turn in own:
                taken[turn] = taken.get(turn, 0.0) + value
                here[turn] = kind
                if costs.hops is not None and turn in before:
                    taken[turn] += float(costs.hops.seconds(before[turn], kind)[stage.start])
        before = here
    return max(taken.values())


def most_turns(lanes: Sequence[Lane]) -> int:
    """The longest cycle: with many nodes to share frames out to, short cycles round too coarsely."""
    if len(lanes) == 1 and all(len(stage.kinds) == 1 for stage in lanes[0]):
        return 1
    return min(MAX_TURNS, max(MOST_TURNS, 4 * sum(len(stage.kinds) for lane in lanes for stage in lane)))


def nodes_of(layout: Layout) -> tuple[str, ...]:
    """The ids of all nodes, in the order of the stages."""
    return tuple(share.node for lane in layout.lanes for stage in lane for share in stage.shares)


def placed(layout: Layout) -> Iterator[tuple[int, int, Share]]:
    """Each node's arc and share."""
    for lane in layout.lanes:
        for stage in lane:
            for share in stage.shares:
                yield stage.start, stage.end, share


def value(goal: Goal, layout: Layout) -> float:
    """What the goal makes least: seconds, seconds, nodes or joules."""
    if goal.objective == "latency":
        return layout.latency
    if goal.objective == "nodes":
        return float(len(nodes_of(layout)))
    return layout.energy if goal.objective == "energy" else layout.period


def broken_limits(costs: Costs, layout: Layout) -> list[str]:
    """The limits that a layout does not keep, in words; nothing when it keeps them all."""
    goal = costs.goal
    found = []
    if layout.period > goal.max_period * (1 + ROUNDING):
        found.append(f"a period of {layout.period * 1e3:.2f} ms, above {goal.max_period * 1e3:.2f} ms")
    if layout.latency > goal.max_latency * (1 + ROUNDING):
        found.append(f"a latency of {layout.latency * 1e3:.2f} ms, above {goal.max_latency * 1e3:.2f} ms")
    if goal.max_nodes is not None and len(nodes_of(layout)) > goal.max_nodes:
        found.append(f"{len(nodes_of(layout))} nodes, above {goal.max_nodes}")
    if layout.energy > goal.max_energy * (1 + ROUNDING):
        found.append(f"{layout.energy:.4g} J for a frame, above {goal.max_energy:.4g} J")
    worst = max((error_of(costs, [stage.start for stage in lane[1:]]) for lane in layout.lanes), default=0.0)
    if worst > goal.error_budget * (1 + ROUNDING):
        found.append(f"an error of {worst:.4g}, above {goal.error_budget:.4g}")
    return found


def error_of(costs: Costs, inner: Sequence[int]) -> float:
    """The sum of the errors of cuts at these states."""
    return 0.0 if costs.errors is None else math.fsum(float(costs.errors[state]) for state in inner)


def affordable(costs: Costs) -> list[Costs]:
    """The problem without the states whose error alone is above the budget, and without all that err.

    Plans for the first may err too much in sum, those for the second never do; both are the same, and given once,
    where nothing within the budget errs.
    """
    if costs.errors is None:
        return [costs]
    found = []
    for most in sorted({costs.goal.error_budget, 0.0}, reverse=True):
        bad = np.flatnonzero(costs.errors > most * (1 + ROUNDING))
        bad = bad[(bad > 0) & (bad < costs.n)]
        types = []
        for kind in costs.types:
            period = kind.period.copy()
            period[bad, :] = period[:, bad] = np.inf
            types.append(replace(kind, period=period))
        found.append(replace(costs, types=tuple(types)))
    return found


def without_whole(costs: Costs) -> Costs:
    """The problem in which no slice is the whole model."""
    types = []
    for kind in costs.types:
        period = kind.period.copy()
        period[0, costs.n] = np.inf
        types.append(replace(kind, period=period))
    return replace(costs, types=tuple(types))


def moved_bytes(costs: Costs, layout: Layout) -> float:
    """Bytes to ship before the layout can run (0 where nobody asked)."""
    kind_of = {node: kind for kind in costs.types for node in kind.ids}
    total = 0.0
    for start, end, share in placed(layout):
        moves = kind_of[share.node].moves
        total += 0.0 if moves is None else float(moves[start, end])
    return total


def best_of(costs: Costs, layouts: Sequence[Layout]) -> Layout | None:
    """Of the layouts that keep to the limits the one of the least objective; among equals (`goal.within`) the one
    that ships the fewest bytes, then of the fewest nodes, then of the least latency.
    """
    able = [layout for layout in layouts if not broken_limits(costs, layout)]
    if not able:
        return None
    least = min(value(costs.goal, layout) for layout in able)
    close = [layout for layout in able if value(costs.goal, layout) <= least * (1 + costs.goal.within)]
    return min(
        close,
        key=lambda layout: (moved_bytes(costs, layout), len(nodes_of(layout)), layout.latency, layout.period),
    )
