"""What a plan's arcs and types add up to, and the limits that it must keep (PURE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.planner.answer import Bound, Method, Split
from coordinator.planner.goal import Objective
from coordinator.planner.methods.reach import Segments
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

SLACK = 1e-9
"""The share by which floating point may overstep a limit."""


@dataclass(frozen=True)
class Figures:
    """Seconds, joules, nodes, bytes to ship (0 when nobody asked) and the sum of errors."""

    period: float
    latency: float
    energy: float
    nodes: int
    moves: float
    error: float

    def of(self, objective: Objective) -> float:
        """The figure that an objective makes least."""
        chosen = {"throughput": self.period, "latency": self.latency, "nodes": self.nodes, "energy": self.energy}
        return float(chosen[objective])


def figures(costs: Costs, segments: Segments) -> Figures:
    """The figures of a plan whose links are a star."""
    period = relayed = latency = energy = moves = error = 0.0
    for i, j, k in segments:
        kind, spec = costs.types[k], costs.types[k].spec
        compute, into, out = float(kind.compute[i, j]), float(kind.bytes_in[i, j]), float(kind.bytes_out[i, j])
        period = max(period, float(kind.period[i, j]))
        relayed += float(costs.relayed[i, j])
        # As `NodeType.latency` and `NodeType.energy`, without their tables.
        latency += compute + into / spec.free_down + out / spec.free_up + spec.rtt
        latency -= 0.0 if kind.saved is None else float(kind.saved[i, j])
        energy += compute * spec.watts + (into + out) * spec.joules_per_byte
        moves += 0.0 if kind.moves is None else float(kind.moves[i, j])
        error += float(costs.errors[j]) if costs.errors is not None and j < costs.n else 0.0
    if costs.broker_rate is not None:
        period = max(period, relayed / costs.broker_rate)
    return Figures(period, latency, energy, len(segments), moves, error)


def keeps(costs: Costs, segments: Segments) -> bool:
    """Whether a plan is one: arcs and nodes fit, and no limit of the goal is overstepped."""
    goal, ends = costs.goal, [0]
    for i, j, _ in segments:
        if i != ends[-1]:
            return False
        ends.append(j)
    used = [k for _, _, k in segments]
    pins = costs.slice_pins
    if ends[-1] != costs.n or len(segments) > costs.max_slices or any(number >= len(used) for number in pins):
        return False
    if any(used[number] != kind for number, kind in pins.items()):
        return False
    if any(used.count(k) > costs.types[k].count for k in set(used)):
        return False
    found = figures(costs, segments)
    return (
        math.isfinite(found.period)
        and found.period <= goal.max_period * (1 + SLACK)
        and found.latency <= goal.max_latency * (1 + SLACK)
        and found.energy <= goal.max_energy * (1 + SLACK)
        and found.nodes <= (goal.max_nodes or found.nodes)
        and found.error <= goal.error_budget * (1 + SLACK)
    )


def aim_tables(costs: Costs, objective: Objective) -> tuple[Table, ...]:
    """What each arc adds to an objective other than throughput, for each type."""
    if objective == "latency":
        return tuple(kind.latency for kind in costs.types)
    if objective == "energy":
        return tuple(kind.energy for kind in costs.types)
    return (np.ones((costs.n + 1, costs.n + 1)),) * len(costs.types)


def moves_tables(costs: Costs) -> tuple[Table, ...] | None:
    """The bytes to ship for each arc on each type; None when nobody asked."""
    if all(kind.moves is None for kind in costs.types):
        return None
    nothing = np.zeros((costs.n + 1, costs.n + 1))
    return tuple(nothing if kind.moves is None else kind.moves for kind in costs.types)


def lossless(costs: Costs) -> Costs:
    """The same problem without errors when no error is allowed: arcs into lossy cuts are left out."""
    if costs.errors is None or costs.goal.error_budget > 0:
        return costs
    lossy = np.asarray(costs.errors > 0).copy()
    lossy[-1] = False
    types = tuple(replace(kind, period=np.where(lossy[None, :], np.inf, kind.period)) for kind in costs.types)
    return replace(costs, types=types, errors=None)


def to_split(costs: Costs, segments: Segments, lower: float, method: Method, bounds: Sequence[Bound] = ()) -> Split:
    """The answer for a plan; nodes of a type are taken in their order."""
    found = figures(costs, segments)
    names = [iter(kind.ids) for kind in costs.types]
    return Split(
        segments=tuple((i, j) for i, j, _ in segments),
        nodes=tuple(next(names[k]) for _, _, k in segments),
        period=found.period,
        latency=found.latency,
        lower_bound=min(lower, found.of(costs.goal.objective)),
        method=method,
        bounds=tuple(bounds),
    )


def segments_of(costs: Costs, split: Split) -> Segments:
    """The arcs of an answer with the number of each one's type."""
    kind_of = {node: number for number, kind in enumerate(costs.types) for node in kind.ids}
    return [(i, j, kind_of[node]) for (i, j), node in zip(split.segments, split.nodes, strict=True)]
