"""Control documents: frozen dataclasses, JSON on the wire, checked on the way in (docs/reference/protocol.md).

Unknown fields are ignored, so that a minor version may add some; an unknown major version is refused.
Times are seconds, sizes are bytes unless a name says otherwise. 64-bit numbers are 16 hex digits, because
many JSON readers keep only 53 bits.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from slicemq.jsondoc import MAX_DEPTH as MAX_DEPTH
from slicemq.jsondoc import MAX_DOCUMENT_BYTES as MAX_DOCUMENT_BYTES
from slicemq.jsondoc import PROTOCOL as PROTOCOL
from slicemq.jsondoc import check_version as check_version
from slicemq.jsondoc import decode as decode
from slicemq.jsondoc import encode as encode
from slicemq.jsondoc import from_plain as from_plain
from slicemq.jsondoc import to_plain as to_plain
from slicemq.options import data_broker_fault
from slicemq.topics import RELEASE, is_id, is_revision, is_sha256
from slicemq.turns import MAX_TURNS, turn_of, turns_fault

NodeStateWord = Literal["init", "ready", "draining", "disconnected", "lost"]
SliceStateWord = Literal["fetching", "loading", "ready", "failed"]
RouteStateWord = Literal["active", "draining", "lost"]
PipelineStateWord = Literal["running", "paused", "removed"]
CoordinatorStateWord = Literal["starting", "ready", "standby", "disconnected", "lost"]
# Bounds of lists that whoever writes such a document must keep.
MOST_FILES = 256
MOST_CRASHES = 32
MOST_POISONED = 64


def new_epoch() -> str:
    """A random 64-bit number as 16 hex digits; compared for equality only (protocol rule 16)."""
    return secrets.token_hex(8)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


@dataclass(frozen=True, order=True)
class Stamp:
    """Orders the coordinators' documents: (term, instance, counter), compared in that order (rule 21)."""

    term: int
    instance: str
    counter: int


@dataclass(frozen=True)
class CoordinatorState:
    """`coordinator`: who coordinates. `since` is Unix time; the will is the same document with `lost`."""

    state: CoordinatorStateWord
    stamp: Stamp
    since: float
    software: str


@dataclass(frozen=True)
class NodeState:
    """`nodes/<node>/state`: `lost` is published by the broker only, as the node's will."""

    node: str
    state: NodeStateWord
    epoch: str
    software: str = ""

    def __post_init__(self) -> None:
        _expect(is_id(self.node), f"node: {self.node!r} is not an id")


@dataclass(frozen=True)
class RuntimeInfo:
    """A TFLite runtime that a node has: `ai_edge_litert` or `tflite_runtime`, and its version."""

    name: str
    version: str


@dataclass(frozen=True)
class Link:
    """A node's link to the broker as measured: bytes per second up and down, round trip in seconds."""

    up: float
    down: float
    rtt: float

    def __post_init__(self) -> None:
        _expect(self.up > 0 and self.down > 0 and self.rtt >= 0, "link: rates must be positive")


@dataclass(frozen=True)
class Capacity:
    """`nodes/<node>/capacity`: what a node can give.

    `cores` counts the cgroup's quota (0.2 is a fifth of a core); `threads` is what its interpreters use.
    `memory` is bytes for slices, agent and idle workers already taken off. `speeds` is, per operator
    class, runs per second of the shipped calibration model of that class. `operators` is the highest version
    of each operator that its runtime takes; empty: not known, every operator is assumed. `protocol` is the
    version that the node speaks. `broker` is the URL, as other nodes reach it, of a data broker on the board that
    may carry the bundles of its slices; empty: there is none, or it does not answer. `cache` is what its cache of
    artifacts may take, in bytes; 0: not told.
    """

    node: str
    epoch: str
    software: str
    arch: str
    cores: float
    threads: int
    memory: int
    worker_memory: int
    runtime: RuntimeInfo
    speeds: dict[str, float]
    link: Link
    codecs: tuple[str, ...] = ("raw",)
    artifacts: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    protocol: str = PROTOCOL
    broker: str = ""
    cache: int = 0

    @property
    def knows_turns(self) -> bool:
        """Whether the node serves slices of revisions with several turns: it speaks 1.2 or later."""
        return int(self.protocol.partition(".")[2]) >= 2

    @property
    def knows_data_brokers(self) -> bool:
        """Whether the node serves slices with bundles on data brokers: it speaks 1.3 or later."""
        return int(self.protocol.partition(".")[2]) >= 3

    @property
    def knows_prefetch(self) -> bool:
        """Whether the node fetches files ahead: it speaks 1.4 or later."""
        return int(self.protocol.partition(".")[2]) >= 4

    def __post_init__(self) -> None:
        _expect(is_id(self.node), f"node: {self.node!r} is not an id")
        _expect(self.memory >= 0, "memory: must not be negative")
        _expect(self.cache >= 0, "cache: must not be negative")
        _expect(all(v > 0 for v in self.speeds.values()), "speeds: must be positive")
        _expect(operators_are_sound(self.operators), "operators: expected at most 4096 names with versions from 1")
        fault = data_broker_fault(self.broker) if self.broker else ""
        _expect(not fault, f"broker: {fault}")


def operators_are_sound(operators: dict[str, int]) -> bool:
    """Whether these can be names of operators and their highest versions."""
    return len(operators) <= 4096 and all(
        0 < len(name) <= 128 and name.isprintable() and 1 <= version < 1 << 31
        for name, version in operators.items()
    )


@dataclass(frozen=True)
class SliceBeat:
    """One loaded slice in a heartbeat.

    Counters count since the slice was loaded; `waiting` is the age in seconds of the oldest frame that
    waits or is computed now (0: none); the `_ms` fields are means over the last frames.
    """

    pipeline: str
    revision: str
    slice: str
    link: Literal["up", "down"]
    frames: int = 0
    errors: int = 0
    dropped: int = 0
    queued: int = 0
    waiting: float = 0.0
    receive_ms: float = 0.0
    decode_ms: float = 0.0
    invoke_ms: float = 0.0
    invoke_cpu_ms: float = 0.0
    encode_ms: float = 0.0
    send_ms: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Heartbeat:
    """`nodes/<node>/heartbeat`: not retained, QoS 0. `seen` echoes the highest coordinator stamp (rule 7)."""

    node: str
    epoch: str
    counter: int
    load: float
    memory_used: int
    slices: tuple[SliceBeat, ...] = ()
    seen: Stamp | None = None


@dataclass(frozen=True)
class Artifact:
    """A content-addressed file."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        _expect(is_sha256(self.sha256), "sha256: expected 64 lower-case hex digits")
        _expect(self.size > 0, "size: must be positive")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor by its index in the whole model; `dtype` is numpy's name, -1 in `shape` is unknown."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Bundle:
    """Tensors that one slice sends to one set of consumers: one message, one topic.

    `broker` is the node whose data broker carries it; empty: the main broker does.
    """

    id: str
    tensors: tuple[TensorSpec, ...]
    codec: str = "raw"
    broker: str = ""

    def __post_init__(self) -> None:
        _expect(is_id(self.id) and self.id != RELEASE, f"id: {self.id!r} is not an id of a bundle")
        _expect(len(self.tensors) > 0, "tensors: must not be empty")
        _expect(not self.broker or is_id(self.broker), f"broker: {self.broker!r} is not the id of a node")


@dataclass(frozen=True)
class ResultPart:
    """What a slice sends to the client: part `part` (from 0) of `parts`."""

    part: int
    parts: int
    tensors: tuple[TensorSpec, ...]
    codec: str = "raw"


@dataclass(frozen=True)
class SliceAssignment:
    """One slice that a node shall run.

    `takes` and `gives` are whole-model tensor indices in the order of the slice's own inputs and outputs.
    `stateful` slices keep state between frames; those with `leases` grant the stream's lease (rule 6). The node
    serves the turns `turns` of the revision's `of`. `brokers` has the URL of each data broker that carries one of
    the bundles, by its node.
    """

    pipeline: str
    revision: str
    slice: str
    artifact: Artifact
    memory: int
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    inputs: tuple[Bundle, ...]
    outputs: tuple[Bundle, ...] = ()
    result: ResultPart | None = None
    stateful: bool = False
    leases: bool = False
    turns: tuple[int, ...] = (0,)
    of: int = 1
    brokers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect(is_id(self.pipeline), f"pipeline: {self.pipeline!r} is not an id")
        _expect(is_id(self.slice), f"slice: {self.slice!r} is not an id")
        _expect(is_revision(self.revision), f"revision: {self.revision!r} is not <n>-<8 hex>")
        fault = turns_fault(self.turns, self.of)
        _expect(not fault, f"turns, of: {fault}")
        _expect(self.of == 1 or not self.stateful, "of: a stateful slice serves every frame")
        for node, url in self.brokers.items():
            fault = data_broker_fault(url) if is_id(node) else f"{node!r} is not the id of a node"
            _expect(not fault, f"brokers: {fault}")
        lacking = sorted({b.broker for b in (*self.inputs, *self.outputs) if b.broker} - self.brokers.keys())
        _expect(not lacking, f"brokers: no URL of the data broker of {', '.join(lacking)}")


@dataclass(frozen=True)
class Assignment:
    """`nodes/<node>/assignment`: the whole set of slices that a node shall run; `slices: []` ends all.

    `prefetch` are files that it shall have in its cache before they are needed, most wanted first, fetched while
    nothing else is, at most `prefetch_rate` bytes per second (0: as fast as they come). `keep` are hashes that the
    cache keeps as long as slices leave room: those of revisions that may come back. `draining`: an operator wants
    the node to be empty; `reason` then says, for people, why slices of it cannot go elsewhere.
    """

    node: str
    stamp: Stamp
    slices: tuple[SliceAssignment, ...]
    prefetch: tuple[Artifact, ...] = ()
    prefetch_rate: float = 0.0
    keep: tuple[str, ...] = ()
    draining: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        _expect(len(self.prefetch) <= MOST_FILES, f"prefetch: expected at most {MOST_FILES}")
        _expect(self.prefetch_rate >= 0, "prefetch_rate: must not be negative")
        _expect(len(self.keep) <= MOST_FILES, f"keep: expected at most {MOST_FILES}")
        _expect(all(map(is_sha256, self.keep)), "keep: expected 64 lower-case hex digits each")


@dataclass(frozen=True)
class FrameName:
    """A frame by its client, its stream (16 hex digits) and its sequence number (rule 2)."""

    client: str
    stream: str
    sequence: int

    def __post_init__(self) -> None:
        _expect(is_id(self.client), f"client: {self.client!r} is not an id")
        _expect(re.fullmatch("[0-9a-f]{16}", self.stream) is not None, "stream: expected 16 hex digits")
        _expect(0 <= self.sequence < 1 << 64, "sequence: expected 64 bits")


@dataclass(frozen=True)
class Crash:
    """A worker's death with what it was at: `frame` was being computed, or (null) the slice was loaded (rule 10).

    `count` is how often that frame or load has ended a worker of this node.
    """

    pipeline: str
    revision: str
    slice: str
    frame: FrameName | None
    count: int
    how: str


@dataclass(frozen=True)
class SliceReport:
    """How far one assigned slice is; `reason` says why it failed or waits."""

    pipeline: str
    revision: str
    slice: str
    state: SliceStateWord
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """`nodes/<node>/report`: every slice that the node holds; what is not listed takes no memory.

    `crashes` are the latest, oldest first, for at least ten minutes each while there is room.
    """

    node: str
    epoch: str
    counter: int
    slices: tuple[SliceReport, ...] = ()
    seen: Stamp | None = None
    crashes: tuple[Crash, ...] = ()

    def __post_init__(self) -> None:
        _expect(len(self.crashes) <= MOST_CRASHES, f"crashes: expected at most {MOST_CRASHES}")


@dataclass(frozen=True)
class Lane:
    """A complete way through a revision, for these turns: what a client publishes, and a result's parts."""

    turns: tuple[int, ...]
    entry: tuple[Bundle, ...]
    parts: int

    def __post_init__(self) -> None:
        _expect(1 <= self.parts <= 1024, "parts: expected 1 to 1024")


@dataclass(frozen=True)
class Route:
    """A revision that clients may send to, or must know the end of.

    `entry` lists the bundles that a client publishes, `parts` how many parts a result has. With several `turns`
    the `lanes` say both, and `entry` is empty and `parts` 0, which a client that knows no turns refuses. `inputs`
    and `outputs` are the tensors' indices in this revision's model, in the order of the document's inputs and
    outputs; empty: they are the document's own.
    """

    revision: str
    state: RouteStateWord
    weight: float
    entry: tuple[Bundle, ...]
    parts: int
    turns: int = 1
    lanes: tuple[Lane, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _expect(is_revision(self.revision), f"revision: {self.revision!r} is not <n>-<8 hex>")
        client = [*self.entry, *(bundle for lane in self.lanes for bundle in lane.entry)]
        _expect(not any(bundle.broker for bundle in client), "entry: clients use the main broker only")
        if self.turns == 1:
            _expect(1 <= self.parts <= 1024, "parts: expected 1 to 1024, or several turns")
            _expect(not self.lanes, "lanes: expected none with one turn")
            return
        _expect(1 < self.turns <= MAX_TURNS, f"turns: expected 1 to {MAX_TURNS}")
        _expect(not self.entry and self.parts == 0, "entry, parts: expected none with several turns")
        for lane in self.lanes:
            fault = turns_fault(lane.turns, self.turns)
            _expect(not fault, f"lanes: {fault}")
            _expect(len(lane.entry) > 0, "lanes: entry: must not be empty")
        served = sorted(turn for lane in self.lanes for turn in lane.turns)
        _expect(served == list(range(self.turns)), f"lanes: expected each of {self.turns} turns in one lane")

    def turn(self, sequence: int) -> int | None:
        """The turn of a frame, which its data topics carry; None where the revision has one only."""
        return turn_of(sequence, self.turns)

    def lane(self, sequence: int) -> Lane:
        """What a frame of this sequence number consists of."""
        if self.turns == 1:
            return Lane((0,), self.entry, self.parts)
        turn = sequence % self.turns
        return next(lane for lane in self.lanes if turn in lane.turns)

    def ways(self) -> tuple[Lane, ...]:
        """All lanes; of a revision with one turn the one that it has."""
        return self.lanes or (self.lane(0),)


@dataclass(frozen=True)
class PipelineDocument:
    """`pipelines/<name>`: what clients read.

    `spec` digests inputs and outputs; `window` is how many frames all clients together may have on their
    way, `clients` how many share it; a higher `resend` asks clients to send again all that is unanswered.
    A `stateful` pipeline keeps state between the frames of a stream (rule 6); its window is 1. Each client also
    sends its frames to the route `shadow`, as a copy whose answers it compares and never hands out; `weight` is the
    share of the frames that are copied. Frames in `poisoned` end as `poisoned`.
    """

    name: str
    stamp: Stamp
    state: PipelineStateWord
    reason: str
    model: str
    spec: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    routes: tuple[Route, ...] = ()
    window: int = 1
    clients: int = 1
    resend: int = 0
    stateful: bool = False
    shadow: Route | None = None
    poisoned: tuple[FrameName, ...] = ()

    def __post_init__(self) -> None:
        _expect(is_id(self.name), f"name: {self.name!r} is not an id")
        _expect(self.window >= 1 and self.clients >= 0, "window: must be at least 1")
        _expect(len(self.poisoned) <= MOST_POISONED, f"poisoned: expected at most {MOST_POISONED}")


@dataclass(frozen=True)
class PlanDocument:
    """`pipelines/<name>/plan`: the plan file's content, for people and tools, and the whole model's artifact.

    `planning` is what the coordinator says of plans to come: `contingencies` (for how many losses of a node a plan
    is `ready`, and how many are `wanted`), `prepared_for` (the node for whose loss this plan had been made ahead,
    or empty) and `corrections` (slice -> node -> measured over predicted seconds).
    """

    name: str
    stamp: Stamp
    revision: str
    model: Artifact
    plan: dict[str, Any]
    planning: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """`requests/<client>/<verb>`: a desired state; a repeat has the same transaction and is harmless."""

    transaction: str
    body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect(1 <= len(self.transaction) <= 64, "transaction: expected 1 to 64 characters")


@dataclass(frozen=True)
class Response:
    """`responses/<client>`: the answer to one request; `error` is empty when it was accepted."""

    transaction: str
    error: str = ""
    exit_code: int = 0
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChunkRequest:
    """`artifacts/<sha256>/request`: the receiver asks for `chunks` chunks of `chunk` bytes from `offset`."""

    receiver: str
    transaction: str
    offset: int
    chunk: int
    chunks: int

    def __post_init__(self) -> None:
        _expect(is_id(self.receiver), f"receiver: {self.receiver!r} is not an id")
        _expect(
            1 <= len(self.transaction) <= 64 and self.transaction.isascii(),
            "transaction: expected 1 to 64 ASCII characters",
        )
        _expect(self.offset >= 0, "offset: must not be negative")
        _expect(1 <= self.chunk <= 1 << 20, "chunk: expected 1 to 1048576")
        _expect(1 <= self.chunks <= 64, "chunks: expected 1 to 64")


@dataclass(frozen=True)
class Beat:
    """`coordinator/marker`: the coordinator's message to itself (rules 20 and 23).

    `term` is that with which it coordinates; 0: it does not yet.
    """

    instance: str
    counter: int
    term: int = 0
