"""The coordinator's daemon: session, clock, store and planning around the pure core (cluster.py)."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.golden import Golden
from coordinator.actions import (
    Action,
    Clear,
    Listen,
    MakePlan,
    Persist,
    PlanAhead,
    Probe,
    Publish,
    Respond,
    StopProbe,
)
from coordinator.adoption import adopt_running, assignments_seen, catch_up, note_numbers
from coordinator.artifacts import ArtifactStore
from coordinator.cluster import Cluster
from coordinator.contingency import Unmade
from coordinator.downloads import Exchange
from coordinator.fence import Fence
from coordinator.golden_check import read_golden
from coordinator.held import Held
from coordinator.inbox import Inbox, OutrankedError, stamp_of
from coordinator.intents import Blueprint, files_in_use
from coordinator.mirroring import Mirroring
from coordinator.narrator import Narrator
from coordinator.planning import Tools
from coordinator.preship import DEFAULT_RATE
from coordinator.probe import Prober
from coordinator.store import Store
from coordinator.workshop import Workshop
from slicemq.datalink import open_link
from slicemq.errors import SliceMQError, StoreError
from slicemq.messages import Beat, CoordinatorState, Stamp, decode, encode, new_epoch
from slicemq.options import BrokerOptions
from slicemq.probe import probe_message_size
from slicemq.session import Session, Will
from slicemq.topics import Topics
from slicemq.version import __version__

logger = logging.getLogger("slicemq.coordinator")
_TICK_SECONDS = 0.05
_OVERTIME = 0.1
_TELL_SECONDS = 0.2
_MARKER_PATIENCE = 5.0
_QUEUE = 65536


@dataclass(frozen=True)
class ServiceOptions:
    """Where the cluster is, and where the coordinator keeps its store. Times in seconds.

    prefetch_rate: bytes per second at which all nodes together fetch files ahead; 0: no limit.
    """

    broker: BrokerOptions
    cluster: str
    folder: Path
    tools: Tools
    heartbeat_deadline: float = 1.5
    prefetch_rate: float = DEFAULT_RATE


class CoordinatorService:
    """Everything impure around `Cluster`; `run` is its loop. All events are handled on the thread of `run`."""

    def __init__(
        self, options: ServiceOptions, *, instance: str = "", on_ready: Callable[[], object] = lambda: None
    ) -> None:
        """`instance`: the life that this is a part of (a standby's, that takes over); empty: a new one."""
        self._options = options
        self._on_ready = on_ready
        self.instance = instance or new_epoch()
        self._topics = Topics(options.cluster)
        self._standbys = self._topics.standby("")
        self._store = Store(options.folder)
        stored = self._store.load(time.monotonic())
        self._cluster = Cluster(
            self._topics,
            instance=self.instance,
            records=stored.records,
            term=stored.term,
            unix_offset=time.time() - time.monotonic(),
        )
        self._cluster.members.deadline = options.heartbeat_deadline
        self._cluster.preship.rate = options.prefetch_rate
        self._cluster.lazy = True
        self._ticked = self._tick_took = 0.0
        try:
            self._cluster.situation.load(stored.learnt)
        except ValueError as error:
            logger.warning("what was learnt of the nodes is not used: %s", error)
        self._artifacts = ArtifactStore(options.folder / "artifacts")
        self._events: queue.Queue[Callable[[float], Iterable[Action]]] = queue.Queue(_QUEUE)
        self._dropped = 0
        self._held = Held()
        self._hold_until = 0.0
        self._since = time.time()
        self._error: SliceMQError | None = None
        self._heard_back: float | None = None
        self._beat_counter = 0
        self._told = 0
        self._fence = Fence(options.heartbeat_deadline)
        self._unverified: object | None = None
        name = f"coordinator-{self.instance[:8]}"
        self._session = Session(
            options.broker,
            name,
            will=Will(self._topics.coordinator, encode(self._state("lost"))),
            on_message=self._on_message,
            on_up=self._connected,
            held_back=True,
            yields=self._is_outranked,
            on_down=lambda reason: self._put(lambda now: self._on_down(reason)),
        )
        self._exchange = Exchange(
            self._artifacts, self._topics, name, lambda topic, payload: self._session.publish(topic, payload, qos=0)
        )
        self._link = open_link(options.broker, f"{name}-data", on_frame=self._on_frame)
        self._prober = Prober(
            self._link,
            self._topics,
            name,
            lambda p, r: self._put(lambda now: self._cluster.on_probed(now, p, r)),
            lambda p, r, why: self._put(lambda now: self._cluster.on_probe_failed(now, p, r, why)),
        )
        self._mirroring = Mirroring(
            options.folder, self._artifacts, self._topics, self._session.own, self._session.disown
        )
        self._narrator = Narrator()
        self._inbox = Inbox(self._topics, self._cluster, self.instance)
        self._workshop = Workshop(
            options.folder,
            options.tools,
            self._exchange,
            self._carries,
            self._planned,
            self._plan_failed,
            self._foreseen,
        )

    def run(self, stop: threading.Event) -> None:
        """Coordinate until `stop` is set. Raises OutrankedError when another coordinator has this one's place."""
        session = self._session
        session.subscribe(*self._inbox.filters, *self._exchange.filters, self._topics.standby("+"))
        session.start()
        self._link.start()
        self._workshop.warm_up()
        logger.info("coordinator %s of cluster %s at %s", self.instance[:8], self._topics.cluster, self._where)
        begun = time.monotonic()
        next_tick = next_beat = next_line = begun
        asked_again = begun
        try:
            while not stop.is_set():
                self._handle_until(next_tick)
                if self._error is not None:
                    break
                now = time.monotonic()
                next_tick = now + _TICK_SECONDS
                if now >= next_beat:
                    next_beat = now + self._cluster.members.beat_interval
                    self._beat()
                self._start_when_due(now)
                if not self._cluster.started and session.up and now - asked_again > _MARKER_PATIENCE:
                    asked_again = now
                    if self._heard_back is None:
                        logger.warning("the broker does not send back what is published: subscribing again")
                        session.subscribe(*self._inbox.filters)
                self._prober.tick(now)
                if self._fence.open(now):
                    self._carry_out(self._cluster.tick(now))
                    if self._cluster.started and self._cluster.term != self._told:
                        self._tell()
                    self._mirroring.tick(now, self._files, self._cluster.stamp)
                if now >= next_line:
                    next_line = now + _TELL_SECONDS
                    for line in self._narrator.lines(self._cluster):
                        logger.info("%s", line)
        finally:
            self._workshop.stop()
            self._exchange.stop()
            self._link.stop()
            farewell = (
                [(self._topics.coordinator, encode(self._state("disconnected")))] if self._error is None else []
            )
            session.stop(farewell=farewell)
        if self._error is not None:
            raise self._error

    @property
    def has_coordinated(self) -> bool:
        """Whether it came to decide."""
        return self._cluster.started

    @property
    def _where(self) -> str:
        return self._options.broker.describe()

    # -- events --------------------------------------------------------------------------------------------

    def _put(self, event: Callable[[float], Iterable[Action]]) -> None:
        try:
            self._events.put_nowait(event)
        except queue.Full:
            # Everything that comes is either repeated (heartbeats, requests) or retained and asked for again.
            self._dropped += 1
            if self._dropped % 1000 == 1:
                logger.warning("%d events dropped: the coordinator is too slow for this cluster", self._dropped)

    def _handle_until(self, deadline: float) -> None:
        """Handle events until `deadline`, and those that wait then, for `_OVERTIME` s at most."""
        while True:
            wait = deadline - time.monotonic()
            try:
                event = self._events.get(timeout=wait) if wait > 0 else self._events.get_nowait()
            except queue.Empty:
                return
            try:
                self._carry_out(event(time.monotonic()))
                if self._cluster.wants_tick and self._events.empty():
                    self._tick_soon()
            except SliceMQError as error:
                logger.warning("ignored: %s", error)
            except Exception:
                logger.exception("an event failed")
            if self._error is not None:
                # Somebody took its place: what comes after that must not be answered, be the fence open or not.
                return
            if time.monotonic() > deadline + _OVERTIME:
                # More comes than can be handled; beats and what is due by time must not wait for its end.
                return

    def _tick_soon(self) -> None:
        """One tick for all events that have come; it takes at most half of the time when there are many nodes."""
        now = time.monotonic()
        if now - self._ticked < self._tick_took or not self._fence.open(now):
            return
        self._carry_out(self._cluster.tick(now))
        self._ticked = time.monotonic()
        self._tick_took = self._ticked - now

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._topics.parts(topic)[0] == "artifacts":
            try:
                self._exchange.on_message(topic, payload)
            except SliceMQError as error:
                logger.warning("%s: ignored: %s", topic, error)
            return
        self._put(lambda now: self._heard(now, topic, payload, retained))

    def _heard(self, now: float, topic: str, payload: bytes, retained: bool) -> Iterable[Action]:
        if topic == self._topics.coordinator_marker:
            self._own_beat(now, decode(Beat, payload, topic))
        if topic.startswith(self._standbys):
            self._mirroring.on_standby(now, topic, payload)
            return []
        try:
            return self._inbox.read(now, topic, payload, retained)
        except OutrankedError as error:
            self._error = error
            return []

    def _own_beat(self, now: float, beat: Beat) -> None:
        """What was written before it has been heard: nobody took this one's place, so it may write (rule 22)."""
        if beat.instance != self.instance:
            return
        self._fence.heard(beat.counter)
        if self._unverified is not None and self._fence.open(now):
            self._session.release(self._unverified)
            self._unverified = None
        self._heard_back = self._heard_back if self._heard_back is not None else now

    def _is_outranked(self, topic: str, payload: bytes) -> bool:
        """Whether what stands on our topic is of one that outranks this one; on the network thread."""
        found = stamp_of(payload)
        return found is not None and found > (self._cluster.term, self.instance)

    def _connected(self) -> None:
        """On the network thread."""
        connection = self._session.present
        self._put(lambda now: self._on_up(now, connection))

    def _on_frame(self, topic: str, payload: bytes | memoryview) -> None:
        self._prober.on_frame(topic, payload)

    def _on_up(self, now: float, connection: object) -> Iterable[Action]:
        logger.info("connected to %s", self._where)
        self._fence.cut_off()
        self._unverified = connection
        return []

    def _on_down(self, reason: str) -> Iterable[Action]:
        logger.warning("no connection to %s: %s", self._where, reason)
        self._cluster.on_disconnected()
        self._fence.cut_off()
        self._unverified = None
        if not self._cluster.started:
            self._heard_back = None
        return []

    def _planned(self, job: int, made: Blueprint) -> None:
        self._put(lambda now: self._cluster.on_planned(now, job, made))

    def _plan_failed(self, job: int, error: SliceMQError) -> None:
        self._put(lambda now: self._cluster.on_plan_failed(now, job, error))

    def _foreseen(self, job: int, outcome: Blueprint | Unmade) -> None:
        if isinstance(outcome, Unmade):
            self._put(lambda now: self._cluster.on_unforeseen(now, job, outcome))
        else:
            self._put(lambda now: self._cluster.on_foreseen(now, job, outcome))

    def _carries(self, nbytes: int) -> bool:
        """Whether the broker carries a message of so many bytes; two threads may ask at once."""
        name = f"coordinator-{self.instance[:8]}-size-{secrets.token_hex(2)}"
        return probe_message_size(self._options.broker, name, self._topics.link_probe(name), nbytes)

    # -- what goes out -------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._beat_counter += 1
        beat = Beat(self.instance, self._beat_counter, self._cluster.term if self._cluster.started else 0)
        self._fence.sent(self._beat_counter, time.monotonic())
        self._session.publish(self._topics.coordinator_marker, encode(beat), qos=0)

    def _start_when_due(self, now: float) -> None:
        """Rule 23: decide nothing before the marker came back and one heartbeat deadline has passed."""
        if self._cluster.started or self._heard_back is None or not self._fence.open(now):
            return
        if now - self._heard_back < self._cluster.members.deadline:
            return
        self._adopt(now)
        self._carry_out(self._cluster.start(now))
        self._tell()
        for topic in self._inbox.retained:
            self._carry_out(self._cluster.on_foreign(now, topic))
        self._inbox.forget_retained()
        pipelines = sum(record.removed_at is None for record in self._cluster.records.values())
        logger.info("coordinating: term %d, %d pipelines", self._cluster.term, pipelines)
        self._on_ready()

    def _adopt(self, now: float) -> None:
        """Take over what runs and is not, or not as it runs, in the store."""
        records = self._cluster.records
        for record in adopt_running(self._topics, self._inbox.retained, now):
            if record.name not in records:
                logger.info("pipeline %s is not in the store: taken over from its retained topics", record.name)
                self._cluster.adopt(record)
            elif catch_up(records[record.name], record, time.time()):
                logger.info("pipeline %s: its retained topics are newer than the store", record.name)
        for document in assignments_seen(self._topics, self._inbox.retained):
            self._cluster.found_assignment(document)
        note_numbers(records, self._topics, self._inbox.retained, now)

    def _tell(self) -> None:
        self._told = self._cluster.term
        self._session.own(self._topics.coordinator, encode(self._state("ready")))

    def _carry_out(self, actions: Iterable[Action]) -> None:
        """Carry out actions in order; hold them back while nothing may be written (rules 22 and 24)."""
        self._held.add(actions)
        if time.monotonic() < self._hold_until:
            return
        # Asked before each: to store or to plan may take long, and this process may have been stopped meanwhile.
        while self._held and self._error is None and self._fence.open(time.monotonic()):
            action = self._held.first
            try:
                self._do(action)
            except StoreError as error:
                logger.error("%s; holding back %d actions until it can be written", error, len(self._held))
                self._hold_until = time.monotonic() + 1.0
                return
            except Exception:
                # One action that cannot be done must not keep all later ones from being done.
                logger.exception("%s failed", type(action).__name__)
            self._held.done()

    def _do(self, action: Action) -> None:
        match action:
            case Persist():
                situation = self._cluster.situation
                self._store.save(self._cluster.term, self._cluster.records.values(), situation.plain())
                self._mirroring.changed(time.monotonic())
            case Publish(topic, document):
                self._session.own(topic, encode(document))
            case Clear(topic):
                self._session.disown(topic)
            case Listen():
                self._beat()
            case Respond(client, response):
                self._session.publish(self._topics.response(client), encode(response))
            case MakePlan():
                self._prune()
                self._workshop.make(action)
            case PlanAhead():
                self._workshop.make_ahead(action)
            case Probe():
                self._prober.start(action, self._golden(action))
                # At once, and not with the next tick: a pipeline may stand still until the answer.
                self._prober.tick(time.monotonic())
            case StopProbe(pipeline, revision):
                self._prober.stop(pipeline, revision)

    def _golden(self, probe: Probe) -> tuple[Golden, ...]:
        """The frames that a revision is probed with; none, which means zeros, where its file is lost."""
        if probe.golden is None:
            return ()
        try:
            return read_golden(self._artifacts.path(probe.golden.artifact.sha256))
        except SliceMQError as error:
            logger.warning("%s %s is probed without its golden frames: %s", probe.pipeline, probe.revision, error)
            return ()

    def _prune(self) -> None:
        keep = self._cluster.contingencies.artifacts() | self._files() | self._mirroring.keep
        for name in self._artifacts.prune(keep):
            logger.info("artifact %s is not used any more: deleted", name[:12])

    def _files(self) -> set[str]:
        return files_in_use(self._cluster.records.values())

    def _state(self, word: Any) -> CoordinatorState:
        stamp = self._cluster.stamp() if hasattr(self, "_cluster") else Stamp(0, self.instance, 0)
        return CoordinatorState(word, stamp, self._since, __version__)
