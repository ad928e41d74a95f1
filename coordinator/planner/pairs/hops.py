"""Costs over links between pairs of nodes: what crosses each state, and how fast each pair is (PURE).

A slice hands one bundle to the next one, with all that any later slice needs. The model's inputs come from the
client to the first slice and its results go from the last one to the client, through the broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.planner.model import Fleet, NodeSpec, Overheads
from coordinator.planner.problem import Hops, State
from coordinator.planner.tables.codec_costs import Ratios, crossing, packed_bytes
from coordinator.planner.tables.segments import FRAME_BYTES, wire_bytes
from coordinator.planner.tables.state_tables import ArcTables

if TYPE_CHECKING:
    from converters.graph import Graph


def crossing_bytes(graph: Graph, states: Sequence[State], ratios: Ratios | None = None) -> npt.NDArray[np.float64]:
    """Bytes of the bundle that crosses each state (none given: prefixes of the steps, raw); 0 at both ends.

    It has every tensor that is made before and read after, results that are made before, and inputs of the model
    that are read after. What steps made has the state's codec, and `ratios` are those of `packed_bytes`.
    """
    if not states:
        states = [State((1 << s) - 1) for s in range(len(graph.steps) + 1)]
    place = {step: number for number, step in enumerate(graph.steps)}
    users = {t: [place[step] for step in graph.consumers.get(t, ()) if step in place] for t in graph.inputs}
    maker = {t: place[step] for step in graph.steps for t in graph.operators[step].outputs if t >= 0}
    found = np.zeros(len(states))
    for number, state in enumerate(states[1:-1], start=1):
        made = set(crossing(graph, state.done))
        made |= {t for t in graph.outputs if t in maker and state.done >> maker[t] & 1}
        total = sum(packed_bytes(graph.tensors[t], state.codec, ratios) for t in made)
        later = [t for t in users if any(not state.done >> user & 1 for user in users[t])]
        found[number] = FRAME_BYTES + total + sum(wire_bytes(graph.tensors[t]) for t in later)
    return found


def with_client_only(
    arcs: ArcTables, graph: Graph, crosses: npt.NDArray[np.float64], overheads: Overheads
) -> ArcTables:
    """The tables of arcs when only the client's traffic goes through the broker.

    The first slice gets all inputs and the last one sends all results. Reading and writing what `crosses` each
    state is work all the same, so it joins the seconds of the codecs.
    """
    n = len(crosses) - 1
    inputs = sum(wire_bytes(graph.tensors[t]) for t in set(graph.inputs) if graph.consumers.get(t))
    results = sum(wire_bytes(graph.tensors[t]) for t in set(graph.outputs))
    first, last = np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1))
    first[0, 1:] = FRAME_BYTES + inputs
    last[:-1, n] = FRAME_BYTES + results
    inner = (crosses > 0).astype(np.float64)
    into = overheads.message * inner + overheads.receive_per_byte * crosses
    out = overheads.message * inner + overheads.send_per_byte * crosses
    moved = arcs.codec_seconds + into[:, None] + out[None, :]
    return replace(arcs, bytes_in=first, bytes_out=last, results=last, codec_seconds=moved)


def hops_of(fleet: Fleet, specs: Sequence[NodeSpec], crosses: npt.NDArray[np.float64]) -> Hops:
    """The links between `specs`, in their order.

    A pair without a link goes through the broker: as fast as the sender's uplink, the receiver's downlink and the
    broker allow.
    """
    rates = np.zeros((len(specs), len(specs)))
    for a, sender in enumerate(specs):
        for b, receiver in enumerate(specs):
            rate = fleet.links.get((sender.id, receiver.id))
            if rate is None:
                rate = min(sender.free_up, receiver.free_down, fleet.broker_rate or np.inf)
            rates[a, b] = rate
    return Hops(crosses, rates)
