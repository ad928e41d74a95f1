"""Why a plan is as fast as it is, what would lift its bottleneck, and what latency costs in rate (PURE).

What lifts is found by planning again with one number changed, not by a rule: a faster link helps only where
another stage is not as slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from coordinator.planner.answer import NoPlanError
from coordinator.planner.goal import Goal
from coordinator.planner.model import Planner
from coordinator.planner.plan import Plan, PlannedSlice
from coordinator.planner.problem import Costs, NodeType

Resource = Literal["compute", "down", "up", "broker", "hop", "one frame at a time"]
Best = Callable[[Costs], float]
"""The period of the best plan for some costs, in seconds; raises NoPlanError."""

FACTOR = 2.0
POINTS = 8
_NEW = "one-more"
_SAME = 1e-3


@dataclass(frozen=True)
class Bottleneck:
    """What the period is spent on: a resource of a slice's node, or the broker (no slice, no node)."""

    resource: Resource
    slice: str | None
    nodes: tuple[str, ...]
    milliseconds: float


@dataclass(frozen=True)
class Lift:
    """A change, the period of the best plan after it (None: still no plan), and the plan's period over that."""

    change: str
    period_ms: float | None
    times: float | None


@dataclass(frozen=True)
class Point:
    """A plan that no other beats in both: frames per second, and milliseconds from input to result."""

    rate: float
    latency_ms: float
    slices: int
    nodes: tuple[str, ...]


def bottleneck(plan: Plan, stateful: bool = False, links: bool = False) -> Bottleneck:
    """What limits `plan`: the slice whose share of the period is the largest.

    When none fills the period it is the broker, or with `links` between pairs of nodes a hop.
    """
    if stateful:
        return Bottleneck("one frame at a time", None, (), plan.latency_ms)
    slowest = max(plan.slices, key=lambda item: busy_ms(plan, item))
    busy = busy_ms(plan, slowest)
    if busy < plan.period_ms * (1 - 1e-3):
        return Bottleneck("hop" if links else "broker", None, (), plan.period_ms)
    times: dict[Resource, float] = {"compute": slowest.compute_ms, "down": slowest.down_ms, "up": slowest.up_ms}
    resource = max(times, key=lambda name: times[name])
    return Bottleneck(resource, slowest.id, slowest.nodes, times[resource])


def lifts(costs: Costs, plan: Plan, best: Best) -> tuple[Lift, ...]:
    """What each of some changes would make of the best period, the most helpful first."""
    found = bottleneck(plan, links=costs.hops is not None)
    changes: list[tuple[str, Costs]] = []
    if costs.hops is None:
        for kind in _distinct(costs):
            changes.append((f"one more node like {kind.ids[0]}", _with_node(costs, kind)))
    for node in found.nodes[:1]:
        changes.append((f"{node} {FACTOR:g} times as fast", _each(costs, {node}, _faster)))
        changes.append((f"the link of {node} {FACTOR:g} times as fast", _each(costs, {node}, _linked)))
    changes.append((f"all links {FACTOR:g} times as fast", _links(costs)))
    changes.append(("half the bytes between slices (codec f16)", _with_bytes(costs, 0.5)))
    changes.append(("a quarter of the bytes between slices (codec int8)", _with_bytes(costs, 0.25)))
    changes.append((f"{FACTOR:g} times the memory on every node", _each(costs, None, _roomier)))
    if costs.broker_rate is not None:
        faster = replace(costs, broker_rate=costs.broker_rate * FACTOR)
        changes.append((f"a broker {FACTOR:g} times as fast", faster))
    rows = []
    for change, changed in changes:
        try:
            period = 1e3 * best(changed)
        except NoPlanError:
            rows.append(Lift(change, None, None))
            continue
        # A search that is not exhaustive may miss on changed numbers what it found on these.
        period = min(period, plan.period_ms)
        rows.append(Lift(change, round(period, 4), round(plan.period_ms / period, 4) if period > 0 else None))
    return tuple(sorted(rows, key=lambda row: -(row.times or 0.0)))


def pareto(costs: Costs, planner: Planner, points: int = POINTS) -> tuple[Point, ...]:
    """Single pipelines that trade rate against latency, the fastest first; at most `points` + 2.

    With links between pairs of nodes only the fastest: plans of the least latency are not made there.
    """
    plain = replace(costs.goal, max_period=math.inf, max_latency=math.inf)
    quickest = planner(replace(costs, goal=replace(plain, objective="throughput")))
    calmest = quickest
    if costs.hops is None:
        calmest = planner(replace(costs, goal=replace(plain, objective="latency")))
    found = [quickest, calmest]
    if calmest.period > quickest.period * (1 + 1e-6):
        for period in np.geomspace(quickest.period * (1 + 1e-6), calmest.period, points):
            limited = Goal("latency", max_period=float(period), error_budget=plain.error_budget)
            try:
                found.append(planner(replace(costs, goal=limited)))
            except NoPlanError:
                continue
    ordered = sorted({(split.period, split.latency): split for split in found}.items())
    front: list[Point] = []
    lowest = math.inf
    for (period, latency), split in ordered:
        if latency >= lowest * (1 - _SAME):
            continue
        lowest = latency
        rate = 1 / period if period > 0 else math.inf
        front.append(Point(round(rate, 4), round(1e3 * latency, 4), len(split.segments), split.nodes))
    return tuple(front)


def busy_ms(plan: Plan, item: PlannedSlice) -> float:
    """How long the busiest of a slice's nodes works in a period.

    A plan that does not give it is taken to hold: of unlike nodes the slowest seldom serves the most turns.
    """
    if item.busy_ms > 0:
        return item.busy_ms
    served = max((len(turns) for turns in item.turns), default=plan.turns)
    busy = item.stage_ms * served / plan.turns
    return busy if len(item.nodes) == 1 else min(busy, plan.period_ms)


def _distinct(costs: Costs) -> list[NodeType]:
    """A type for each sort of board, whatever is cached on it or measured of it."""
    sorts: dict[tuple[object, ...], NodeType] = {}
    for kind in costs.types:
        spec = kind.spec
        sort = (spec.memory, tuple(sorted(spec.speeds.items())), spec.up, spec.down, spec.runtime)
        sorts.setdefault(sort, kind)
    return list(sorts.values())[:5]


def _with_node(costs: Costs, kind: NodeType) -> Costs:
    new = replace(kind, ids=(*kind.ids, _NEW))
    types = tuple(new if other is kind else other for other in costs.types)
    most = costs.max_slices + (1 if costs.max_slices < costs.n else 0)
    return replace(costs, types=types, max_slices=most)


def _each(costs: Costs, nodes: set[str] | None, change: Callable[[NodeType], NodeType]) -> Costs:
    """The costs with some nodes (None: all) changed; a node that is one of several equal ones leaves its type."""
    types: list[NodeType] = []
    for kind in costs.types:
        mine = tuple(node for node in kind.ids if nodes is None or node in nodes)
        rest = tuple(node for node in kind.ids if node not in mine)
        # The first part keeps the type's number, by which pins speak of it.
        if rest and not mine:
            types.append(kind)
        elif rest:
            types.append(replace(kind, ids=rest))
        else:
            types.append(change(kind))
    for kind in costs.types:
        mine = tuple(node for node in kind.ids if nodes is not None and node in nodes)
        if mine and len(mine) < len(kind.ids):
            types.append(change(replace(kind, ids=mine)))
    return replace(costs, types=tuple(types))


def _stage(kind: NodeType, allowed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> NodeType:
    stage = np.maximum(kind.compute, np.maximum(kind.down, kind.up))
    return replace(kind, period=np.where(allowed, stage, np.inf))


def _faster(kind: NodeType) -> NodeType:
    return _stage(replace(kind, compute=kind.compute / FACTOR, steps=kind.steps / FACTOR), np.isfinite(kind.period))


def _linked(kind: NodeType) -> NodeType:
    spec = replace(kind.spec, up=kind.spec.up * FACTOR, down=kind.spec.down * FACTOR)
    return _stage(replace(kind, spec=spec), np.isfinite(kind.period))


def _roomier(kind: NodeType) -> NodeType:
    room = kind.memory[np.isfinite(kind.period)].max(initial=float(kind.spec.memory)) * FACTOR
    spec = replace(kind.spec, memory=int(room))
    # What is infinite although it would fit is forbidden for another reason.
    narrow = kind.memory > kind.spec.memory
    return _stage(
        replace(kind, spec=spec), np.isfinite(kind.period) | (narrow & (kind.memory <= room) & _forward(kind))
    )


def _forward(kind: NodeType) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Arcs whose two parts a node that has room for each could run: they lead from a state to a later one."""
    finite = np.isfinite(kind.period)
    ends, starts = finite.any(axis=0), finite.any(axis=1)
    starts[0], ends[-1] = True, True
    return np.asarray(np.triu(starts[:, None] & ends[None, :], k=1))


def _links(costs: Costs) -> Costs:
    changed = _each(costs, None, _linked)
    if costs.hops is None:
        return changed
    return replace(changed, hops=replace(costs.hops, rates=costs.hops.rates * FACTOR))


def _with_bytes(costs: Costs, share: float) -> Costs:
    """What travels between slices takes `share` of the bytes; the client's input and the results stay."""

    def fewer(kind: NodeType) -> NodeType:
        into, out = kind.bytes_in.copy(), kind.bytes_out.copy()
        into[1:] *= share
        out[:, :-1] *= share
        return _stage(replace(kind, bytes_in=into, bytes_out=out), np.isfinite(kind.period))

    relayed = costs.relayed.copy()
    relayed[1:] *= share
    changed = replace(_each(costs, None, fewer), relayed=relayed)
    if costs.hops is None:
        return changed
    return replace(changed, hops=replace(costs.hops, bytes=costs.hops.bytes * share))


def words(found: Bottleneck) -> str:
    """The bottleneck in a sentence."""
    if found.resource == "one frame at a time":
        return "the model keeps state, so one frame is on its way at a time and the period is the latency"
    if found.resource == "broker":
        return f"the broker: it needs {found.milliseconds:.2f} ms to deliver what one frame sends"
    if found.resource == "hop":
        return f"a hop between two nodes: {found.milliseconds:.2f} ms a frame"
    what = {"compute": "computing", "down": "receiving", "up": "sending"}[found.resource]
    slowest = " on the slowest" if len(found.nodes) > 1 else ""
    return f"{what} on {', '.join(found.nodes)} (slice {found.slice}): {found.milliseconds:.2f} ms a frame{slowest}"


def summary(rows: Sequence[Lift]) -> str:
    """The change that helps most, in a sentence."""
    best = next((row for row in rows if row.times and row.times > 1.005), None)
    if best is None:
        return "none of the changes that were tried would make it faster"
    return f"{best.change}: {best.times:.2f} times the rate"
