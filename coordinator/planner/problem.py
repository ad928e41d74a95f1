"""The problem that planning methods solve: states, arcs between them, and what each costs on each node (PURE).

A plan cuts a model at *states*: sets of steps that are done, and the codec of what crosses there. State 0 is
"nothing done", the last one "all done". A slice is an *arc* (i, j): the steps of j that are not in i. States are in
an order in which arcs only go forward, so tables have shape (n+1, n+1), are indexed [i, j] and mean something for
i < j only. With prefixes of the steps as states, arcs are contiguous segments; with all down-sets of the
dataflow graph, they are its convex parts.

With a broker the links are a star: an arc's bytes go up and down its own node's link whatever the other nodes
are, and one row bounds the broker. With links between pairs of nodes (`Hops`) a hop's time depends on both ends. A
worker receives, computes and sends at the same time, so a stage takes the longest of the three, the period is the
slowest stage's time and the latency the sum of all.

Units: seconds, bytes, bytes per second, joules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coordinator.planner.goal import Goal
from coordinator.planner.model import NodeSpec
from coordinator.planner.tables.segments import Table


@dataclass(frozen=True)
class State:
    """Steps that are done, as bits over places in `graph.steps`, and the codec of the tensors that cross."""

    done: int
    codec: str = "raw"


@dataclass(frozen=True)
class Hops:
    """Links between pairs of nodes, for plans in which a slice hands its bundle straight to the next one.

    `bytes[s]` crosses at state s, everything that later steps need (what skips a slice passes through it); it is 0
    at both ends, whose traffic is with the client and in the star's tables. `rates[a, b]` is bytes per second from
    a node of type a to one of type b, in the order of `Costs.types`; each type is one node then.
    """

    bytes: npt.NDArray[np.float64]
    rates: npt.NDArray[np.float64]

    def seconds(self, a: int, b: int) -> npt.NDArray[np.float64]:
        """The time of the hop from type a to type b at every state."""
        rate = float(self.rates[a, b])
        if rate <= 0:
            return np.where(self.bytes > 0, np.inf, 0.0)
        return self.bytes / rate


@dataclass(frozen=True)
class DataBrokers:
    """The nodes with a data broker on their board, and the seconds that it takes for a byte at speed 1."""

    nodes: frozenset[str]
    per_byte: float

    def seconds(self, spec: NodeSpec, size: float) -> float:
        """What relaying `size` bytes takes of the processor of a node."""
        return self.per_byte * size / (spec.mean_speed * (1.0 - spec.busy))


@dataclass(frozen=True)
class NodeType:
    """Nodes that differ in nothing but their id, and every arc's cost on one of them.

    `period` is infinite where the arc may not run here (memory, operators, pins). `memory` is bytes beyond an
    idle worker in the nodes' runtime. `whole` and `useful` say, pins left aside, whether the whole model and
    whether any arc can run here; `steps` are the seconds of each step. `moves` are the bytes to ship before an arc
    can run here (None: not asked). `saved` is what is taken off the latency of an arc in a problem that leaves
    bundles a way which is shorter than over the main broker (None: there is none).
    """

    spec: NodeSpec
    ids: tuple[str, ...]
    compute: Table
    period: Table
    bytes_in: Table
    bytes_out: Table
    memory: Table
    steps: npt.NDArray[np.float64]
    whole: bool
    useful: bool
    moves: Table | None = None
    saved: Table | None = None

    # Made when asked for: kept for each of a hundred unlike nodes, they would fill a small coordinator's memory.
    @property
    def down(self) -> Table:
        """Seconds that an arc's inputs take on the downlink."""
        return self.bytes_in / self.spec.free_down

    @property
    def up(self) -> Table:
        """Seconds that what an arc sends takes on the uplink."""
        return self.bytes_out / self.spec.free_up

    @property
    def latency(self) -> Table:
        """Seconds that a frame spends in an arc: receiving, computing, sending, and the round trip."""
        seconds = self.compute + self.down + self.up + self.spec.rtt
        return seconds if self.saved is None else seconds - self.saved

    @property
    def energy(self) -> Table:
        """Joules that a frame costs in an arc: computing, receiving and sending."""
        return self.compute * self.spec.watts + (self.bytes_in + self.bytes_out) * self.spec.joules_per_byte

    # A single arc's figure, by the same sums as the whole table's.
    def latency_of(self, start: int, end: int) -> float:
        """Seconds that a frame spends in the arc (start, end): `latency` there."""
        at = start, end
        down, up = self.bytes_in[at] / self.spec.free_down, self.bytes_out[at] / self.spec.free_up
        seconds = self.compute[at] + down + up + self.spec.rtt
        return float(seconds if self.saved is None else seconds - self.saved[at])

    def energy_of(self, start: int, end: int) -> float:
        """Joules that a frame costs in the arc (start, end): `energy` there."""
        at = start, end
        moved = (self.bytes_in[at] + self.bytes_out[at]) * self.spec.joules_per_byte
        return float(self.compute[at] * self.spec.watts + moved)

    @property
    def count(self) -> int:
        """How many nodes there are of this type."""
        return len(self.ids)


@dataclass(frozen=True)
class Costs:
    """Everything a planning method may look at.

    `n` is the number of the last state. `relayed[i, j]` bytes that the broker delivers because of an arc (its
    inputs and results); `slice_pins` maps a slice number to the type that must run it; `memory` is the least that
    an arc takes on any type, in bytes beyond an idle worker. `states` has n+1 entries (empty: prefixes of n steps).
    `errors[s]` is what a cut at state s adds to the error of the results (None: nothing anywhere). `data_brokers`
    may carry bundles besides the main broker (None: they may not); tables and methods leave them aside
    (`planner.data_brokers` counts them in).
    """

    n: int
    types: tuple[NodeType, ...]
    bytes_in: Table
    bytes_out: Table
    relayed: Table
    memory: Table
    broker_rate: float | None
    slice_pins: Mapping[int, int]
    max_slices: int
    states: tuple[State, ...] = ()
    hops: Hops | None = None
    errors: npt.NDArray[np.float64] | None = None
    goal: Goal = field(default_factory=Goal)
    data_brokers: DataBrokers | None = None

    def steps_of(self, i: int, j: int) -> tuple[int, ...]:
        """The places in `graph.steps` of the arc (i, j), in order."""
        if not self.states:
            return tuple(range(i, j))
        left = self.states[j].done & ~self.states[i].done
        return tuple(place for place in range(left.bit_length()) if left >> place & 1)
