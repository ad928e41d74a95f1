"""What every arc costs on every node: the numbers that any planning method works on (PURE).

An arc is a slice between two states (`problem`): contiguous segments of the model's order by default, parts between
down-sets of its dataflow, with codecs, when states are given (`states`, `state_tables`).

With a broker the links are a star: an arc's bytes go up and down its own node's link whatever the other nodes are,
and one row bounds the broker.

Overlapped or summed: a worker receives, computes and sends in three threads (`edge_node.stage`). All that they do
on the processor goes into one sum, `compute`: reading, decoding, running the operators, encoding, writing, and what
each message costs. The three share what the node has of a processor, so that with at most one core nothing of it
overlaps; with more cores a part could, and the sum is an upper bound. The links work beside the processor: while a
message is on its way the thread that waits takes no time. So a stage takes the longest of computing, receiving and
sending, the period is the slowest stage's, and the latency, in which a frame waits for each in turn, is the sum of
all. Slices that run beside each other count in the latency as if one came after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from converters.classes import class_of
from coordinator.planner.model import Fleet, NodeSpec, Overheads, PlanOptions, Supports
from coordinator.planner.pairs.hops import crossing_bytes, hops_of, with_client_only
from coordinator.planner.problem import Costs, DataBrokers, NodeType, State
from coordinator.planner.tables.segments import Table
from coordinator.planner.tables.state_tables import ArcTables, prefix_tables, state_tables
from slicemq.codecs import is_lossless
from slicemq.errors import PlanError

if TYPE_CHECKING:
    from converters.codec_errors import CodecMeasures
    from converters.graph import Graph
    from converters.profile import Profile


def build_costs(
    graph: Graph,
    profile: Profile,
    fleet: Fleet,
    memory: Table | Mapping[str, Table],
    options: PlanOptions,
    supports: Supports | None = None,
    states: Sequence[State] = (),
    measures: CodecMeasures | None = None,
) -> Costs:
    """The costs of all arcs of `graph` on the nodes of `fleet` that may be used.

    `states` are those of `states_of` (none: prefixes), `measures` what their codecs do. `memory[i, j]` is the bytes
    of arc (i, j), or a table of them for each runtime that a node has (`memory_by_runtime` for the same states). An
    arc is possible on nodes that have the codecs of both its states. Raises PlanError for pins, exclusions and
    labels that do not fit.
    """
    nodes = permitted(fleet, options)
    brokers = _data_brokers(graph, fleet, nodes, options)
    if brokers is None:
        nodes = [replace(spec, broker=False) if spec.broker else spec for spec in nodes]
    arcs = state_tables(graph, states, measures.ratios if measures else None) if states else prefix_tables(graph)
    crosses = crossing_bytes(graph, states, measures.ratios if measures else None) if fleet.links else None
    if crosses is not None:
        arcs = with_client_only(arcs, graph, crosses, options.overheads)
    slice_pins, range_pins = options.slice_pins(), _position_pins(graph, options)
    pinned = set(slice_pins.values()) | {node for _, node in range_pins}
    for node in sorted(pinned - {spec.id for spec in nodes}):
        known = {spec.id for spec in fleet.nodes}
        there = f"no node has this id; there are: {', '.join(sorted(known)) or 'none'}"
        out = "it is excluded" if node in options.exclude else "it lacks a label that is required"
        raise PlanError(f"pin to node {node}: {out if node in known else there}")

    groups: dict[tuple[object, ...], list[NodeSpec]] = {}
    for spec in nodes:
        groups.setdefault((spec.kind(), spec.id if spec.id in pinned or fleet.links else None), []).append(spec)
    runs = [] if supports is None else _what_runs(graph)
    types = []
    for members in groups.values():
        spec = members[0]
        table = memory if isinstance(memory, np.ndarray) else memory[spec.runtime]
        fits = arcs.possible & (table <= spec.memory * (1.0 - options.headroom))
        if states:
            has = np.array([codec == "raw" or codec in spec.codecs for codec in arcs.codecs])
            fits &= has[:, None] & has[None, :]
        if supports is not None:
            fits &= ~arcs.any_of(_unsupported(graph, spec, supports, runs))
        allowed = fits.copy()
        for positions, node in range_pins:
            if node != spec.id:
                allowed &= ~arcs.any_of(positions)
        ids = tuple(member.id for member in members)
        types.append(_node_type(graph, profile, spec, ids, arcs, table, fits, allowed, options.overheads))
    by_id = {node: number for number, kind in enumerate(types) for node in kind.ids}
    return Costs(
        n=len(arcs.codecs) - 1,
        types=tuple(types),
        bytes_in=arcs.bytes_in,
        bytes_out=arcs.bytes_out,
        relayed=arcs.bytes_in + arcs.results,
        memory=np.minimum.reduce([kind.memory for kind in types]),
        broker_rate=fleet.broker_rate,
        slice_pins={number: by_id[node] for number, node in slice_pins.items()},
        max_slices=min(len(graph.steps), len(nodes), options.max_slices or len(nodes)),
        states=tuple(states),
        hops=None if crosses is None else hops_of(fleet, [kind.spec for kind in types], crosses),
        errors=_errors(states, measures),
        goal=options.goal,
        data_brokers=brokers,
    )


def _data_brokers(
    graph: Graph, fleet: Fleet, nodes: Sequence[NodeSpec], options: PlanOptions
) -> DataBrokers | None:
    """The data brokers that may carry bundles; None when nobody has one or none may be used.

    Links between pairs of nodes go past every broker; a stateful model has one frame on its way at a time.
    """
    owners = frozenset(spec.id for spec in nodes if spec.broker)
    if not owners or fleet.links or graph.stateful or options.data_brokers == "never":
        return None
    return DataBrokers(owners, options.overheads.broker_per_byte)


def _errors(states: Sequence[State], measures: CodecMeasures | None) -> npt.NDArray[np.float64] | None:
    """What a cut at each state adds to the error of the results; None when no codec loses anything."""
    if all(is_lossless(state.codec) for state in states):
        return None
    known = measures.errors if measures is not None else {}
    return np.array(
        [
            0.0 if is_lossless(state.codec) else known.get(state.codec, {}).get(state.done, np.inf)
            for state in states
        ]
    )


def permitted(fleet: Fleet, options: PlanOptions) -> list[NodeSpec]:
    """The nodes that may be used; raises PlanError for an excluded node that is unknown and a label of no node."""
    known = {spec.id for spec in fleet.nodes}
    for node in sorted(options.exclude - known):
        raise PlanError(f"exclude {node}: the fleet has no such node")
    for key, value in options.require.items():
        if fleet.nodes and not any(spec.labels.get(key) == value for spec in fleet.nodes):
            raise PlanError(f"require {key}={value}: no node has this label")
    wanted = options.require.items()
    return [spec for spec in fleet.nodes if spec.id not in options.exclude and wanted <= spec.labels.items()]


def _node_type(
    graph: Graph,
    profile: Profile,
    spec: NodeSpec,
    ids: tuple[str, ...],
    arcs: ArcTables,
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
        return overheads.computing * profile.seconds.get(index, 0.0) / speeds[name] * spec.slowdown(index)

    into, out, mean = arcs.bytes_in, arcs.bytes_out, spec.mean_speed * (1.0 - spec.busy)
    moving = (
        overheads.message * ((into > 0).astype(float) + (out > 0))
        + overheads.receive_per_byte * into
        + overheads.send_per_byte * out
        + arcs.codec_seconds
    )
    steps = np.array([seconds(index) for index in graph.steps])
    compute = arcs.total(steps) + (profile.overhead + moving) / mean
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


def _unsupported(graph: Graph, spec: NodeSpec, supports: Supports, runs: Sequence[frozenset[int]]) -> list[int]:
    """The places of the steps that a node cannot run."""
    refused = {operator.index for operator in graph.operators if not supports(spec, operator)}
    return [position for position, operators in enumerate(runs) if not refused.isdisjoint(operators)]


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
