"""What every contiguous segment costs on every node: the numbers that any planning method works on (PURE).

With a broker the links are a star: a segment's bytes go up and down its own node's link whatever the other
nodes are, and one row bounds the broker. A worker receives, computes and sends at the same time, so a stage
takes the longest of the three, the period is the slowest stage's time and the latency the sum of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from converters.classes import class_of
from converters.slicing import legal_positions
from coordinator.planner.model import Fleet, NodeSpec, Overheads, PlanOptions, Supports
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.segments import Table, Traffic, any_of, traffic, work
from slicemq.errors import PlanError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.profile import Profile


def build_costs(
    graph: Graph,
    profile: Profile,
    fleet: Fleet,
    memory: Table | Mapping[str, Table],
    options: PlanOptions,
    supports: Supports | None = None,
) -> Costs:
    """The costs of all segments of `graph` on the nodes of `fleet` that are not excluded.

    `memory[i, j]` is the bytes of segment (i, j], or a table of them for each runtime that a node has
    (`memory_by_runtime`). Raises PlanError for pins and exclusions that do not fit.
    """
    n = len(graph.steps)
    nodes = permitted(fleet, options)
    bytes_ = traffic(graph)
    slice_pins, range_pins = options.slice_pins(), _position_pins(graph, options)
    pinned = set(slice_pins.values()) | {node for _, node in range_pins}
    for node in sorted(pinned - {spec.id for spec in nodes}):
        known = {spec.id for spec in fleet.nodes}
        there = f"no node has this id; there are: {', '.join(sorted(known)) or 'none'}"
        raise PlanError(f"pin to node {node}: {'it is excluded' if node in known else there}")

    groups: dict[tuple[object, ...], list[NodeSpec]] = {}
    for spec in nodes:
        groups.setdefault((spec.kind(), spec.id if spec.id in pinned else None), []).append(spec)
    legal = np.zeros(n + 1, dtype=bool)
    legal[[0, *legal_positions(graph), n]] = True
    upper = np.triu(legal[:, None] & legal[None, :], k=1)
    runs = [] if supports is None else _what_runs(graph)
    types = []
    for members in groups.values():
        spec = members[0]
        table = memory if isinstance(memory, np.ndarray) else memory[spec.runtime]
        fits = upper & (table <= spec.memory * (1.0 - options.headroom))
        if supports is not None:
            fits &= ~_unsupported(graph, spec, supports, runs)
        allowed = fits.copy()
        for positions, node in range_pins:
            if node != spec.id:
                allowed &= ~any_of(n, positions)
        ids = tuple(member.id for member in members)
        types.append(_node_type(graph, profile, spec, ids, bytes_, table, fits, allowed, options.overheads))
    by_id = {node: number for number, kind in enumerate(types) for node in kind.ids}
    return Costs(
        n=n,
        types=tuple(types),
        bytes_in=bytes_.bytes_in,
        bytes_out=bytes_.bytes_out,
        relayed=bytes_.bytes_in + bytes_.results,
        memory=np.minimum.reduce([kind.memory for kind in types]),
        broker_rate=fleet.broker_rate,
        slice_pins={number: by_id[node] for number, node in slice_pins.items()},
        max_slices=min(n, len(nodes), options.max_slices or n),
    )


def permitted(fleet: Fleet, options: PlanOptions) -> list[NodeSpec]:
    """The nodes that may be used; raises PlanError when an excluded node is unknown."""
    known = {spec.id for spec in fleet.nodes}
    for node in sorted(options.exclude - known):
        raise PlanError(f"exclude {node}: the fleet has no such node")
    return [spec for spec in fleet.nodes if spec.id not in options.exclude]


def _node_type(
    graph: Graph,
    profile: Profile,
    spec: NodeSpec,
    ids: tuple[str, ...],
    bytes_: Traffic,
    memory: Table,
    fits: npt.NDArray[np.bool_],
    allowed: npt.NDArray[np.bool_],
    overheads: Overheads,
) -> NodeType:
    speeds: dict[str, float] = {}

    def seconds(index: int) -> float:
        name = class_of(graph, graph.operators[index])
        if name not in speeds:
            speeds[name] = spec.speed(name)
        return profile.seconds.get(index, 0.0) / speeds[name] * spec.slowdown(index)

    into, out, mean = bytes_.bytes_in, bytes_.bytes_out, spec.mean_speed * (1.0 - spec.busy)
    moving = (
        overheads.message * ((into > 0).astype(float) + (out > 0))
        + overheads.receive_per_byte * into
        + overheads.send_per_byte * out
    )
    steps = np.array([seconds(index) for index in graph.steps])
    compute = work(steps) + (profile.overhead + moving) / mean
    down, up = into / spec.free_down, out / spec.free_up
    period = np.where(allowed, np.maximum(compute, np.maximum(down, up)), np.inf)
    return NodeType(
        spec=spec,
        ids=ids,
        compute=compute,
        period=period,
        bytes_in=into,
        bytes_out=out,
        memory=memory,
        steps=steps,
        whole=bool(fits[0, -1]),
        useful=bool(fits.any()),
    )


def _what_runs(graph: Graph) -> list[frozenset[int]]:
    """For each step, the operators that a slice of it runs: constant ones and initialisation are among them."""
    last = len(graph.steps) - 1
    return [
        frozenset(graph.closure((index,), graph.outputs if position == last else ()))
        for position, index in enumerate(graph.steps)
    ]


def _unsupported(
    graph: Graph, spec: NodeSpec, supports: Supports, runs: Sequence[frozenset[int]]
) -> npt.NDArray[np.bool_]:
    refused = {operator.index for operator in graph.operators if not supports(spec, operator)}
    marked = [position for position, operators in enumerate(runs) if not refused.isdisjoint(operators)]
    return any_of(len(graph.steps), marked)


def _position_pins(graph: Graph, options: PlanOptions) -> list[tuple[Sequence[int], str]]:
    place = {index: position for position, index in enumerate(graph.steps)}
    found: list[tuple[Sequence[int], str]] = []
    for first, last, node in options.range_pins():
        if last >= len(graph.operators):
            raise PlanError(f"pin {first}-{last}={node}: the model has operators 0 to {len(graph.operators) - 1}")
        positions = [place[index] for index in range(first, last + 1) if index in place]
        if not positions:
            raise PlanError(
                f"pin {first}-{last}={node}: only operators fed by constants, which go with their consumers"
            )
        found.append((positions, node))
    return found
