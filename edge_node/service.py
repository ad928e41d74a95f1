"""The agent's daemon: session, clock, cache and processes around the pure core. No numpy here: it stays small."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_node.agent import Agent
from edge_node.cache import Cache
from edge_node.capacity import Board, Measured, measure_link, measure_speeds, read_board, slice_memory
from edge_node.committed import Committed
from edge_node.config import NodeConfig
from edge_node.databroker import DataBrokerWatch
from edge_node.events import (
    Action,
    AssignmentReceived,
    CancelFetch,
    CoordinatorSeen,
    EmptyWorker,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    Prefetch,
    PublishReport,
    RetaskWorker,
    StartSpare,
    StartWorker,
    StopWorker,
    Tick,
)
from edge_node.fetcher import Fetcher
from edge_node.identity import Identity
from edge_node.pulse import Pulse
from edge_node.workers import Workers
from slicemq import systemd
from slicemq.errors import BrokerError, BrokerRefusedError, DuplicateNodeError, ProtocolError, SliceMQError
from slicemq.messages import (
    Assignment,
    Capacity,
    ChunkRequest,
    CoordinatorState,
    FrameName,
    Heartbeat,
    Link,
    NodeState,
    NodeStateWord,
    Report,
    SliceAssignment,
    decode,
    encode,
    new_epoch,
    to_plain,
)
from slicemq.session import Session, Will
from slicemq.topics import Topics
from slicemq.version import __version__

logger = logging.getLogger("slicemq.node")

SOFTWARE = f"slicemq {__version__}"
_TICK_SECONDS = 0.2
_RETRY_SECONDS = 2.0
_STATUS_SECONDS = 5.0


@dataclass(frozen=True)
class _Message:
    topic: str
    payload: bytes
    at: float


class _StopError(Exception):
    """The node was told to stop."""


class NodeService:
    """One edge node. `run` returns after `stop` (or a signal), or raises the SliceMQError that ended it."""

    def __init__(self, config: NodeConfig, *, on_ready: Callable[[], object] = lambda: None) -> None:
        """`on_ready` is called once, when the node has joined.

        Raises ConfigError and StoreError for what can be checked without a broker.
        """
        self._config = config
        self._on_ready = on_ready
        self._broker = config.broker_options()
        data_broker = config.data_broker_options()
        self._topics = Topics(config.cluster)
        self._epoch = new_epoch()
        self._cache = Cache(Path(config.state_dir) / "artifacts", config.cache_mb * 1_000_000)
        self._committed = Committed(Path(config.state_dir), config.cluster, config.id)
        self._to_commit: Assignment | None = None
        self._inbox: queue.SimpleQueue[_Message | Event | None] = queue.SimpleQueue()
        self._told_to_stop = False
        self._failed: SliceMQError | None = None
        self._session = Session(
            self._broker,
            f"{config.id}-agent-{self._epoch[:8]}",
            will=Will(self._topic("state"), encode(self._state("lost"))),
            on_message=self._on_message,
        )
        self._workers = Workers(self._inbox.put)
        self._fetcher = Fetcher(self._cache, config.id, self._ask, self._inbox.put)
        self._identity = Identity(self._epoch, config.heartbeat, time.monotonic())
        self._agent: Agent | None = None
        self._early: deque[Event] = deque(maxlen=16)
        self._capacity: Capacity | None = None
        self._pulse = Pulse(
            config.id,
            self._epoch,
            config.heartbeat,
            lambda beat: self._session.publish(self._topic("heartbeat"), beat, qos=0),
        )
        probe = self._topics.link_probe(f"{config.id}-databroker")
        self._data_broker = None if data_broker is None else DataBrokerWatch(data_broker, config.id, probe)
        self._reports = 0
        self._runtime = config.runtime
        self._threads = 1

    def stop(self) -> None:
        """Make `run` stop the workers, say farewell and return; safe in a signal handler."""
        # Nothing that takes a lock: a signal may come while the same thread holds it.
        self._told_to_stop = True
        self._inbox.put(None)

    def run(self) -> None:
        """Join the cluster and obey until told to stop.

        Raises BrokerRefusedError when the broker refuses the credentials at the start, DuplicateNodeError when
        another live node has this id (rule 16), RuntimeUnavailableError without a TFLite runtime.
        """
        threading.excepthook = self._thread_failed
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        joined = False
        try:
            self._session.subscribe(self._topic("heartbeat"), self._topics.coordinator)
            self._session.start()
            board, measured, link = self._measure()
            self._join(board, measured, link)
            joined = True
            self._obey()
        except _StopError:
            pass
        finally:
            systemd.notify("STOPPING=1", "STATUS=stopping")
            self._pulse.stop()
            if self._to_commit is not None:
                self._committed.received(self._to_commit)
            self._workers.stop_all()
            if self._data_broker is not None:
                self._data_broker.stop()
            if joined:
                self._fetcher.stop()
            # A node that never joined has said nothing that would have to be taken back.
            farewell = [(self._topic("state"), encode(self._state("disconnected")))] if joined else []
            self._session.stop(farewell=farewell)
            logger.info("node %s stopped", self._config.id)
        if self._failed is not None:
            raise self._failed

    def _measure(self) -> tuple[Board, Measured, Link]:
        """Measure the board while the broker comes up; listen for another node of this id meanwhile."""
        config = self._config
        board = read_board(
            threads=config.threads,
            memory_limit=None if config.memory_mb is None else config.memory_mb * 1_000_000,
            reserve=config.reserve_mb * 1_000_000,
        )
        systemd.notify("STATUS=measuring the board")
        measured = measure_speeds(board, config.runtime, Path(config.state_dir) / "speeds.json")
        self._wait_for_broker()
        since = time.monotonic()
        link = self._retry(self._measure_link, "the link")
        while (left := since + self._identity.listen - time.monotonic()) > 0:
            self._drain(left)
        return board, measured, link

    def _measure_link(self) -> Link:
        probe = f"{self._config.id}-probe"
        return measure_link(self._broker, probe, self._topics.link_probe(probe))

    def _wait_for_broker(self) -> None:
        systemd.notify(f"STATUS=waiting for the broker {self._broker.describe()}")
        said = ""
        while True:
            self._drain(0.0)
            try:
                self._session.wait_up(_TICK_SECONDS)
                return
            except BrokerRefusedError:
                raise
            except BrokerError as error:
                if str(error) != said:
                    logger.warning("%s; trying on", error)
                    said = str(error)

    def _retry(self, task: Callable[[], Any], what: str) -> Any:
        while True:
            self._drain(0.0)
            try:
                return task()
            except BrokerRefusedError:
                raise
            except SliceMQError as error:
                logger.warning("%s could not be measured, trying on: %s", what, error)
                self._drain(_RETRY_SECONDS)

    def _join(self, board: Board, measured: Measured, link: Link) -> None:
        """Announce: state init, capacity, state ready, report; then listen to assignments."""
        config = self._config
        answers = self._data_broker is not None and self._data_broker.start()
        memory = slice_memory(board, measured)
        self._runtime, self._threads = measured.runtime.name, board.threads
        self._capacity = Capacity(
            node=config.id,
            epoch=self._epoch,
            software=SOFTWARE,
            arch=board.arch,
            cores=board.cores,
            threads=board.threads,
            memory=memory,
            worker_memory=measured.worker_memory,
            runtime=measured.runtime,
            speeds=measured.speeds,
            link=link,
            codecs=measured.codecs,
            artifacts=self._cache.hashes(),
            labels=dict(config.labels),
            operators=measured.operators,
            broker=self._data_broker_url(answers),
            cache=config.cache_mb * 1_000_000,
        )
        self._agent = Agent(memory, measured.worker_memory, spare=config.spare_workers > 0)
        self._session.own(self._topic("state"), encode(self._state("init")))
        self._session.own(self._topic("capacity"), encode(self._capacity))
        self._session.own(self._topic("state"), encode(self._state("ready")))
        self._fetcher.start()
        for event in (*self._early, Tick()):
            self._handle(event)
        self._pulse.start()
        self._session.subscribe(self._topic("assignment"), self._topics.artifact_chunks("+", config.id))
        self._committed.joined(time.monotonic())
        logger.info(
            "node %s joined cluster %s: %g cores, %.0f MB for slices, %s %s, link up %.1f, down %.1f MB/s, %.1f ms",
            config.id,
            config.cluster,
            board.cores,
            memory / 1e6,
            measured.runtime.name,
            measured.runtime.version,
            link.up / 1e6,
            link.down / 1e6,
            link.rtt * 1e3,
        )
        systemd.notify("READY=1", f"STATUS=ready in cluster {config.cluster}")
        self._on_ready()

    def _obey(self) -> None:
        told = time.monotonic()
        while True:
            self._drain(_TICK_SECONDS)
            now = time.monotonic()
            self._handle(Tick())
            self._workers.reap(now)
            if self._to_commit is not None:
                self._committed.received(self._to_commit)
                self._to_commit = None
            if (kept := self._committed.due(now)) is not None:
                self._handle(AssignmentReceived(kept))
            if self._data_broker is not None:
                self._tell_capacity(broker=self._data_broker_url(self._data_broker.look(now)))
            if now - told >= _STATUS_SECONDS:
                told = now
                systemd.notify(f"STATUS=cluster {self._config.cluster}, {len(self._pulse.beats)} slices running")

    def _drain(self, timeout: float) -> None:
        """Handle what has come, waiting for the first up to `timeout` seconds; raises _StopError when told so."""
        end = time.monotonic() + timeout
        while True:
            if self._told_to_stop:
                raise _StopError
            try:
                item = self._inbox.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(item, _Message):
                self._message(item)
            elif item is not None:
                self._handle(item)
            if time.monotonic() >= end and self._inbox.empty():
                return

    def _message(self, message: _Message) -> None:
        if not message.payload:
            # Absence means nothing (rule 15).
            return
        try:
            if message.topic == self._topic("assignment"):
                self._assignment(decode(Assignment, message.payload, message.topic))
            elif message.topic == self._topics.coordinator:
                self._handle(CoordinatorSeen(decode(CoordinatorState, message.payload, message.topic).stamp))
            elif message.topic == self._topic("heartbeat"):
                self._heartbeat(decode(Heartbeat, message.payload, message.topic), message.at)
        except ProtocolError as error:
            logger.warning("ignored: %s", error)

    def _assignment(self, assignment: Assignment) -> None:
        if assignment.node != self._config.id:
            raise ProtocolError(
                f"{self._topic('assignment')}: field node: {assignment.node!r}, expected {self._config.id!r}"
            )
        self._handle(AssignmentReceived(assignment))
        # What was asked for goes first: to write a file may take long on a board's disk.
        self._to_commit = assignment

    def _heartbeat(self, beat: Heartbeat, at: float) -> None:
        verdict = self._identity.heard(beat.epoch, beat.counter, self._pulse.counter, at)
        if verdict == "give-way":
            raise DuplicateNodeError(
                f"another live node in cluster {self._config.cluster} has the id {self._config.id!r} "
                "(set another one with --id)"
            )
        if verdict == "foreign":
            logger.warning("another live node uses our id %r (epoch %s)", self._config.id, beat.epoch)

    def _handle(self, event: Event) -> None:
        if self._agent is None:
            self._early.append(event)
            return
        for action in self._agent.handle(event, time.monotonic()):
            self._act(action)
        self._pulse.beats, self._pulse.seen = self._agent.beats(), self._agent.seen
        self._pulse.spare = self._agent.spare_memory
        if isinstance(event, Fetched | FetchFailed):
            self._refresh_capacity()

    def _act(self, action: Action) -> None:
        if isinstance(action, Fetch):
            self._fetcher.fetch(action.artifact, action.keep)
        elif isinstance(action, Prefetch):
            self._fetcher.prefetch(action)
        elif isinstance(action, CancelFetch):
            self._fetcher.cancel(action.sha256)
        elif isinstance(action, StartWorker):
            self._workers.start(action.worker, self._task(action.slice, action.poisoned))
        elif isinstance(action, StartSpare):
            self._workers.start(action.worker, self._task(None))
        elif isinstance(action, RetaskWorker):
            task = self._task(action.slice, action.poisoned)
            self._workers.retask(action.worker, action.number, task, time.monotonic())
        elif isinstance(action, EmptyWorker):
            task = self._task(None) | {"most": action.most}
            self._workers.retask(action.worker, action.number, task, time.monotonic())
        elif isinstance(action, StopWorker):
            self._workers.stop(action.worker, time.monotonic())
        else:
            self._publish_report(action)

    def _publish_report(self, action: PublishReport) -> None:
        self._reports += 1
        for one in action.slices:
            level = logging.WARNING if one.state == "failed" else logging.INFO
            why = f": {one.reason}" if one.reason else ""
            logger.log(level, "%s %s slice %s: %s%s", one.pipeline, one.revision, one.slice, one.state, why)
        report = Report(self._config.id, self._epoch, self._reports, action.slices, action.seen, action.crashes)
        self._session.own(self._topic("report"), encode(report))

    def _refresh_capacity(self) -> None:
        """Tell what is in the cache when that has changed."""
        self._tell_capacity(artifacts=self._cache.hashes())

    def _tell_capacity(self, **changed: Any) -> None:
        """Publish the capacity again where these fields of it have changed."""
        if self._capacity is not None and any(getattr(self._capacity, name) != v for name, v in changed.items()):
            self._capacity = replace(self._capacity, **changed)
            self._session.own(self._topic("capacity"), encode(self._capacity))

    def _data_broker_url(self, answers: bool) -> str:
        return self._config.data_broker or "" if answers else ""

    def _task(self, one: SliceAssignment | None, poisoned: tuple[FrameName, ...] = ()) -> dict[str, Any]:
        return {
            "node": self._config.id,
            "cluster": self._config.cluster,
            "assignment": None if one is None else to_plain(one),
            "path": "" if one is None else str(self._cache.path(one.artifact.sha256)),
            "poisoned": [to_plain(name) for name in poisoned],
            "broker": self._broker.to_dict(),
            "runtime": self._runtime,
            "threads": self._threads,
            "log_level": self._config.log_level,
            "log_format": self._config.log_format,
        }

    def _ask(self, sha256: str, request: ChunkRequest) -> None:
        """Publish a request for chunks; when it is lost, the download asks again."""
        self._session.publish(self._topics.artifact_request(sha256), encode(request))

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        """On the network thread: only put it where it is handled."""
        parts = topic.rsplit("/", 2)
        if parts[-1] == self._config.id and topic == self._topics.artifact_chunks(parts[1], self._config.id):
            self._fetcher.on_chunk(parts[1], payload)
        else:
            self._inbox.put(_Message(topic, payload, time.monotonic()))

    def _thread_failed(self, failed: threading.ExceptHookArgs) -> None:
        """A thread ended in a way that nobody foresaw: a node that only half works is worse than none."""
        name = failed.thread.name if failed.thread is not None else "unknown"
        logger.error("thread %s failed", name, exc_info=failed.exc_value)
        self._failed = SliceMQError(f"thread {name} failed: {failed.exc_type.__name__}: {failed.exc_value}")
        self.stop()

    def _state(self, word: NodeStateWord) -> NodeState:
        return NodeState(self._config.id, word, self._epoch, SOFTWARE)

    def _topic(self, leaf: str) -> str:
        return self._topics.node(self._config.id, leaf)
