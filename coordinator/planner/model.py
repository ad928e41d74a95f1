"""What a planner is given besides the model: nodes, their links, and what the user wants (PURE).

Units: seconds, bytes, bytes per second; the fleet file and the plan file convert at their edges.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from coordinator.planner.goal import Goal
from slicemq.errors import PlanError

if TYPE_CHECKING:
    from converters.graph import Graph, Operator
    from coordinator.planner.answer import Split
    from coordinator.planner.problem import Costs

_SLICE_PIN = re.compile(r"s?(0|[1-9][0-9]{0,5})\Z")
_RANGE_PIN = re.compile(r"(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})\Z")


@dataclass(frozen=True)
class NodeSpec:
    """A node as the planner sees it.

    `memory` is what is free for slices. `speeds` is relative to the machine that the profile speaks of, per
    class of operators (`converters.classes`); one that is not listed runs as its kind in float32 does, or at the
    geometric mean of the plain classes. `rtt` is the round trip to the broker. `operators` is the highest version
    of each operator that the runtime takes; empty: not known, it takes all. `watts` is what computing takes beyond
    idling, `joules_per_byte` what moving a byte takes. `busy`, `busy_up` and `busy_down` are what other pipelines
    use already: a share of the computing time, and bytes per second of the links; `planner.tables.sharing` leaves
    every pipeline a fair share of each. `held` are the slices of this model whose files the node has, as sorted
    operators (places in the file). `corrections` are measured seconds over predicted ones, by operator, and
    `correction` the same for the operators that were not measured here. `broker`: a data broker on the board may
    carry the bundles of its slices.
    """

    id: str
    memory: int
    speeds: Mapping[str, float]
    up: float
    down: float
    rtt: float = 0.0
    runtime: str = ""
    codecs: tuple[str, ...] = ("raw",)
    labels: Mapping[str, str] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)
    watts: float = 3.0
    joules_per_byte: float = 0.0
    busy: float = 0.0
    busy_up: float = 0.0
    busy_down: float = 0.0
    held: frozenset[tuple[int, ...]] = frozenset()
    corrections: Mapping[int, float] = field(default_factory=dict)
    correction: float = 1.0
    broker: bool = False

    def __post_init__(self) -> None:
        factors = (self.correction, *self.corrections.values())
        if not all(0.0 < factor < math.inf for factor in factors):
            raise PlanError(f"node {self.id}: corrections: expected finite numbers above 0")
        free = ((self.busy, 1.0), (self.busy_up, self.up), (self.busy_down, self.down))
        if not all(0.0 <= busy < whole or busy == 0.0 for busy, whole in free):
            raise PlanError(f"node {self.id}: busy: expected less than the whole of its computing and its links")

    @property
    def free_up(self) -> float:
        """Bytes per second of the uplink that other pipelines leave."""
        return self.up - self.busy_up

    @property
    def free_down(self) -> float:
        """Bytes per second of the downlink that other pipelines leave."""
        return self.down - self.busy_down

    def slowdown(self, operator: int) -> float:
        """How many times its seconds by class an operator takes here: as measured, and beside other pipelines."""
        return self.corrections.get(operator, self.correction) / (1.0 - self.busy)

    @property
    def mean_speed(self) -> float:
        """The geometric mean of the plain classes' speeds (of all, if there are no plain ones); 1.0 for none."""
        speeds = [speed for name, speed in self.speeds.items() if "-" not in name] or list(self.speeds.values())
        if not speeds:
            return 1.0
        return math.exp(sum(math.log(speed) for speed in speeds) / len(speeds))

    def speed(self, operator_class: str) -> float:
        """How many times faster than the profile's machine this node runs operators of a class."""
        for name in (operator_class, operator_class.partition("-")[0]):
            if name in self.speeds:
                return self.speeds[name]
        return self.mean_speed

    def kind(self) -> tuple[object, ...]:
        """Equal for nodes that differ in nothing but their id."""
        return (
            self.memory,
            tuple(sorted(self.speeds.items())),
            self.up,
            self.down,
            self.rtt,
            self.runtime,
            self.codecs,
            tuple(sorted(self.labels.items())),
            tuple(sorted(self.operators.items())),
            (self.watts, self.joules_per_byte, self.busy, self.busy_up, self.busy_down),
            self.held,
            (self.correction, tuple(sorted(self.corrections.items()))),
            self.broker,
        )


@dataclass(frozen=True)
class Fleet:
    """The nodes, and how many bytes per second the broker can deliver (None: it is not what limits).

    `links` maps (sender, receiver), ids of nodes, to the bytes per second of a direct link. With any link, slices
    hand their bundles straight to the next one where there is a link, and through the broker elsewhere.
    """

    nodes: tuple[NodeSpec, ...]
    broker_rate: float | None = None
    links: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Overheads:
    """What a node's worker spends on a frame besides invoking, on the profile's machine.

    `message` is for one message, in or out; `receive_per_byte` covers reading and decoding,
    `send_per_byte` encoding and writing. `computing` is the time of a call in a worker over the profile's, which is
    the least of several in a process that does nothing else. `broker_per_byte` is what a data broker on the board
    takes for a byte that it relays: mosquitto 2.0.11 takes 1.25 ms of a core for a MB that comes at once (3.2 MB,
    loopback), and 3 to 5 ms where it comes segment by segment, as over a link of 100 Mbit/s
    (`benchmarks.data_broker`). The other defaults are chosen by what
    `benchmarks.overhead_real` measures; `benchmarks.plan_reality` shows how true plans are with them.
    """

    message: float = 0.00015
    receive_per_byte: float = 5e-10
    send_per_byte: float = 3.5e-10
    computing: float = 1.05
    broker_per_byte: float = 3e-9


@dataclass(frozen=True)
class PlanOptions:
    """What the user wants of a plan.

    `require`: only nodes that have each of these labels may be used. `pins` maps a slice (`0` or `s0`: counted from
    the model's inputs) or a range of operators (`10-20`, both ends included, places in the file) to a node's id.
    `headroom` is the share of each node's free memory that must stay free. `codecs` are those that a plan may use
    between slices; `shapes` the shapes of plans that may win (None: all that `planner.shapes.compare` knows).
    `data_brokers`: whether bundles may go over their receivers' own brokers where that gains. `broker_rate` is what
    the main broker delivers in bytes per second, for the fleet's maker (None: as the fleet says).
    """

    pins: Mapping[str, str] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()
    max_slices: int | None = None
    headroom: float = 0.0
    overheads: Overheads = field(default_factory=Overheads)
    goal: Goal = field(default_factory=Goal)
    codecs: tuple[str, ...] = ("raw",)
    shapes: tuple[str, ...] | None = None
    require: Mapping[str, str] = field(default_factory=dict)
    data_brokers: Literal["auto", "never"] = "auto"
    broker_rate: float | None = None

    def __post_init__(self) -> None:
        if self.broker_rate is not None and not 0.0 < self.broker_rate < math.inf:
            raise PlanError(f"broker_rate: expected a number above 0, got {self.broker_rate}")
        if self.max_slices is not None and self.max_slices < 1:
            raise PlanError(f"max_slices: expected at least 1, got {self.max_slices}")
        if not 0.0 <= self.headroom < 1.0:
            raise PlanError(f"headroom: expected at least 0 and less than 1, got {self.headroom}")

    def slice_pins(self) -> dict[int, str]:
        """Slice number -> node id; raises PlanError for a pin that is neither a slice nor a range."""
        found: dict[int, str] = {}
        for key, node in self.pins.items():
            match = _SLICE_PIN.match(key)
            if match is None:
                if _RANGE_PIN.match(key) is None:
                    raise PlanError(
                        f"pin {key}={node}: expected a slice such as s0, or a range of operators such as 10-20"
                    )
                continue
            number = int(match.group(1))
            if found.setdefault(number, node) != node:
                raise PlanError(f"pin {key}={node}: slice s{number} is pinned to {found[number]} already")
        return found

    def range_pins(self) -> list[tuple[int, int, str]]:
        """(first operator, last operator, node id)."""
        found: list[tuple[int, int, str]] = []
        for key, node in self.pins.items():
            match = _RANGE_PIN.match(key)
            if match is not None:
                first, last = int(match.group(1)), int(match.group(2))
                if first > last:
                    raise PlanError(f"pin {key}={node}: the range ends before it starts")
                found.append((first, last, node))
        return found


Memory = Callable[["Graph", Iterable[int]], int]
"""Bytes beyond an idle worker that a slice of these operators takes."""

Supports = Callable[[NodeSpec, "Operator"], bool]
"""Whether a node's runtime can run an operator."""

Planner = Callable[["Costs"], "Split"]
"""A planning method: costs in, the segments and their nodes out, with how good that is known to be."""
