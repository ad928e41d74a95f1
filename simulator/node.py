"""An edge node, simulated: the agent's core with a cache, workers, heartbeats and a session. PURE.

What edge_node/service.py does with threads and processes. A node is a board that lasts, and lives of its agent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from edge_node.agent import Agent
from edge_node.events import (
    AssignmentReceived,
    CancelFetch,
    CoordinatorSeen,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    Prefetch,
    PublishReport,
    RetaskWorker,
    StartWorker,
    StopWorker,
    Tick,
    WorkerBeat,
    WorkerDied,
    WorkerReady,
)
from edge_node.identity import Identity
from simulator.broker import Broker, Connection, Draw, Will
from simulator.clock import Process
from simulator.models import MB
from simulator.session import Session
from simulator.wire import Wire
from simulator.worker import Manners, Worker
from slicemq.messages import (
    Artifact,
    Assignment,
    Capacity,
    CoordinatorState,
    FrameName,
    Heartbeat,
    Link,
    NodeState,
    NodeStateWord,
    Report,
    RuntimeInfo,
    SliceAssignment,
    SliceBeat,
    Stamp,
)
from slicemq.topics import Topics

HEARTBEAT = 0.4
_WORKER_MEMORY = 10 * MB
_RUNTIME = RuntimeInfo("symbolic", "1")
_LINK = Link(1e7, 1e7, 0.002)


class Board:
    """What lasts over the lives of a node: memory, cache, manners, whether the broker can be reached."""

    def __init__(self, name: str, memory: int) -> None:
        self.name = name
        self.memory = memory
        self.cache: dict[str, None] = {}
        self.manners = Manners()
        self.reachable = True
        self.fetches_fail = 0
        self.lives = 0


class Watch(Protocol):
    """Who is told what a node does."""

    def reported(self, node: Node, seen: Stamp | None) -> None:
        """It answered an assignment."""

    def started(self, node: Node) -> None:
        """It started a worker."""

    def beat(self, node: Node) -> None:
        """Its heart beat."""

    def gave_way(self, node: Node) -> None:
        """It ended because another node has its id."""

    def died_of(self, frame: FrameName) -> None:
        """A worker died while it computed a frame."""

    def ready_slice(self, node: Node, one: SliceAssignment) -> None:
        """A slice is ready."""


class Node:
    """One life of a node's agent, and its workers."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        topics: Topics,
        board: Board,
        draw: Draw,
        wire: Wire,
        serves: Callable[[str], bool],
        watch: Watch,
    ) -> None:
        """`serves`: whether somebody who has a file can be asked for it now."""
        board.lives += 1
        self.board = board
        self.process = process
        self.epoch = f"{int(draw.random() * 2**53):016x}"
        self.workers: dict[int, Worker] = {}
        self.stopping: dict[int, None] = {}
        self.agent: Agent | None = None
        self.gave_way = False
        self._broker = broker
        self._topics = topics
        self._draw = draw
        self._wire = wire
        self._serves = serves
        self._watch = watch
        self._early: list[Event] = []
        self._fetching: dict[str, Artifact] = {}
        self._ahead: tuple[Artifact, ...] = ()
        self._capacity: Capacity | None = None
        self._reports = self._counter = 0
        self._retries = False
        self._beats: dict[int, SliceBeat] = {}
        self._identity = Identity(self.epoch, HEARTBEAT, process.clock.now)
        self.session = Session(
            broker,
            process,
            f"{board.name}-agent-{self.epoch[:8]}",
            [self._topic("heartbeat"), topics.coordinator],
            will=Will(self._topic("state"), wire.pack(self._state("lost"))),
            on_message=self._on_message,
            on_up=self._up,
            reachable=lambda: board.reachable,
        )

    def start(self) -> None:
        """Connect, listen whether another node has this id, then join."""
        self.session.start()

    def stop(self) -> None:
        """A clean end."""
        for worker in self.workers.values():
            worker.process.die()
            worker.link.stop()
        joined = self.agent is not None
        self.session.stop([(self._topic("state"), self._wire.pack(self._state("disconnected")))] if joined else [])
        self.process.die()

    def crash(self, *, noticed: bool) -> None:
        """The agent and its workers die; `noticed`: the system ends its connections (else: power is lost)."""
        for connection in self.connections():
            connection.abort(noticed=noticed)
        for worker in self.workers.values():
            worker.process.die()
        self.process.die()

    def connections(self) -> list[Connection]:
        """All that are open."""
        sessions = [self.session, *(worker.link for worker in self.workers.values())]
        return [one.connection for one in sessions if one.connection is not None]

    @property
    def taken(self) -> int:
        """Bytes that its workers take."""
        memory = sum(worker.assignment.memory for worker in self.workers.values())
        return memory + max(0, len(self.workers) - 1) * _WORKER_MEMORY

    # -- joining -------------------------------------------------------------------------------------------

    def _up(self) -> None:
        if self.agent is None and self._capacity is None:
            self._capacity = Capacity(
                self.board.name,
                self.epoch,
                "0",
                "x86_64",
                1.0,
                1,
                self.board.memory,
                _WORKER_MEMORY,
                _RUNTIME,
                {"conv": 1.0},
                _LINK,
                artifacts=tuple(sorted(self.board.cache)),
            )
            self.process.after(self._identity.listen, self._join)

    def _join(self) -> None:
        assert self._capacity is not None
        self.agent = Agent(self.board.memory, _WORKER_MEMORY)
        self.session.own(self._topic("state"), self._wire.pack(self._state("init")))
        self.session.own(self._topic("capacity"), self._wire.pack(self._capacity))
        self.session.own(self._topic("state"), self._wire.pack(self._state("ready")))
        for event in (*self._early, Tick()):
            self._handle(event)
        self._pulse()
        self.session.subscribe(self._topic("assignment"))

    def _pulse(self) -> None:
        self.process.after(HEARTBEAT, self._pulse)
        if not self.session.up or self.agent is None:
            return
        if self._retries:
            self._handle(Tick())
        for number, worker in list(self.workers.items()):
            figures = worker.beat()
            # Most say what they said before.
            if worker.process.alive and figures != self._beats.get(number):
                self._beats[number] = figures
                self._handle(WorkerBeat(number, figures))
        self._watch.beat(self)
        self._counter += 1
        beat = Heartbeat(self.board.name, self.epoch, self._counter, 0.1, 0, self.agent.beats(), self.agent.seen)
        self.session.publish(self._topic("heartbeat"), self._wire.pack(beat), qos=0)

    # -- what it hears -------------------------------------------------------------------------------------

    def _on_message(self, topic: str, payload: Any, _retained: bool) -> None:
        if topic == self._topic("heartbeat"):
            beat = self._wire.unpack(Heartbeat, payload, topic)
            verdict = self._identity.heard(beat.epoch, beat.counter, self._counter, self.process.clock.now)
            if verdict == "give-way":
                self.gave_way = True
                self.stop()
                self._watch.gave_way(self)
        elif topic == self._topics.coordinator:
            self._handle(CoordinatorSeen(self._wire.unpack(CoordinatorState, payload, topic).stamp))
        elif topic == self._topic("assignment"):
            self._handle(AssignmentReceived(self._wire.unpack(Assignment, payload, topic)))

    def _handle(self, event: Event) -> None:
        if self.agent is None:
            self._early = [*self._early[-15:], event]
            return
        for action in self.agent.handle(event, self.process.clock.now):
            if isinstance(action, Fetch):
                self._fetching[action.artifact.sha256] = action.artifact
                self.process.after(0.02 + 0.1 * self._draw.random(), self._fetch, action.artifact, 0)
            elif isinstance(action, StartWorker):
                self._start(action)
            elif isinstance(action, StopWorker):
                self._stop_worker(action.worker)
            elif isinstance(action, PublishReport):
                self._reports += 1
                self._watch.reported(self, action.seen)
                report = Report(
                    self.board.name, self.epoch, self._reports, action.slices, action.seen, action.crashes
                )
                self.session.own(self._topic("report"), self._wire.pack(report))
            elif isinstance(action, RetaskWorker):
                self._retask(action)
            elif isinstance(action, Prefetch):
                self._ahead = action.artifacts
                self.process.after(0.2 + 0.8 * self._draw.random(), self._fetch_ahead, action.artifacts)
            elif isinstance(action, CancelFetch):
                self._fetching.pop(action.sha256, None)
        self._retries |= isinstance(event, FetchFailed)

    # -- its cache -----------------------------------------------------------------------------------------

    def _fetch(self, artifact: Artifact, tries: int) -> None:
        sha256 = artifact.sha256
        if self._fetching.get(sha256) is not artifact:
            return
        if self.board.fetches_fail:
            self.board.fetches_fail -= 1
            del self._fetching[sha256]
            self._handle(FetchFailed(sha256, "the disk is full", False))
        elif sha256 in self.board.cache or (self.session.up and self._serves(sha256)):
            del self._fetching[sha256]
            self._handle(Fetched(sha256))
            self._keep(sha256)
        else:
            self.process.after(1.0, self._fetch, artifact, tries + 1)

    def _fetch_ahead(self, artifacts: tuple[Artifact, ...]) -> None:
        """Bring what it was told last into the cache, one file after the other, while nothing else is fetched."""
        missing = [one for one in artifacts if one.sha256 not in self.board.cache]
        if self._ahead is not artifacts or not missing:
            return
        if not self._fetching and self.session.up and self._serves(missing[0].sha256):
            self._keep(missing[0].sha256)
        self.process.after(1.0, self._fetch_ahead, artifacts)

    def _keep(self, sha256: str) -> None:
        if sha256 not in self.board.cache and self._capacity is not None:
            self.board.cache[sha256] = None
            self._capacity = replace(self._capacity, artifacts=tuple(sorted(self.board.cache)))
            self.session.own(self._topic("capacity"), self._wire.pack(self._capacity))

    # -- its workers ---------------------------------------------------------------------------------------

    def _start(self, action: StartWorker) -> None:
        number = action.worker
        process = Process(self.process.clock, f"{self.board.name}-{self.epoch[:4]}-{number}")
        worker = Worker(
            self._broker,
            process,
            self._topics,
            action.slice,
            self.board.manners,
            on_ready=lambda: self._is_ready(number),
            on_death=lambda how: self.kill(number, how),
            reachable=lambda: self.board.reachable,
            poisoned=action.poisoned,
        )
        self.workers[number] = worker
        self._watch.started(self)
        worker.start()

    def _is_ready(self, number: int) -> None:
        self._watch.ready_slice(self, self.workers[number].assignment)
        self.process.call(self._handle, WorkerReady(number))

    def kill(self, number: int, how: str) -> None:
        """A worker's process dies."""
        worker = self.workers[number]
        worker.process.die()
        if worker.link.connection is not None:
            worker.link.connection.abort()
        if worker.at is not None:
            self._watch.died_of(worker.at)
        self.process.after(0.01, self._buried, number, how, worker.at)

    def _retask(self, action: RetaskWorker) -> None:
        """The worker's process goes on with another slice, under another number."""
        worker = self.workers.pop(action.worker, None)
        if worker is None:
            # It has died, which the agent hears in a moment: so has the one that it becomes.
            self.process.after(0.01, self._handle, WorkerDied(action.number, "exit code 1"))
            return
        self._beats.pop(action.worker, None)
        worker.link.stop()
        worker.process.die()
        self._start(StartWorker(action.number, action.slice, action.poisoned))

    def _stop_worker(self, number: int) -> None:
        self.stopping[number] = None
        worker = self.workers[number]
        worker.link.stop()
        worker.process.die()
        self.process.after(0.02 + 0.2 * self._draw.random(), self._buried, number, "exit code 0")

    def _buried(self, number: int, how: str, at: FrameName | None = None) -> None:
        if self.workers.pop(number, None) is not None:
            self.stopping.pop(number, None)
            self._beats.pop(number, None)
            self._handle(WorkerDied(number, how, at))

    def _state(self, word: NodeStateWord) -> NodeState:
        return NodeState(self.board.name, word, self.epoch)

    def _topic(self, leaf: str) -> str:
        return self._topics.node(self.board.name, leaf)
