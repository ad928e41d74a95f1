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

from coordinator.actions import Action, Clear, MakePlan, Persist, PlanAhead, Probe, Publish, Respond, StopProbe
from coordinator.adoption import adopt_running
from coordinator.artifacts import ArtifactStore
from coordinator.cluster import Cluster
from coordinator.contingency import Unmade
from coordinator.downloads import Exchange
from coordinator.inbox import Inbox
from coordinator.intents import Blueprint, files_in_use
from coordinator.narrator import Narrator
from coordinator.planning import Tools
from coordinator.probe import Prober
from coordinator.store import Store
from coordinator.workshop import Workshop
from slicemq.datalink import open_link
from slicemq.errors import CoordinatorError, SliceMQError, StoreError
from slicemq.messages import Beat, CoordinatorState, Stamp, encode, new_epoch
from slicemq.options import BrokerOptions
from slicemq.probe import probe_message_size
from slicemq.session import Session, Will
from slicemq.topics import Topics
from slicemq.version import __version__

logger = logging.getLogger("slicemq.coordinator")
_TICK_SECONDS = 0.05
_MARKER_PATIENCE = 5.0
_QUEUE = 65536


@dataclass(frozen=True)
class ServiceOptions:
    """Where the cluster is, and where the coordinator keeps its store. Times in seconds."""

    broker: BrokerOptions
    cluster: str
    folder: Path
    tools: Tools
    heartbeat_deadline: float = 1.5


class CoordinatorService:
    """Everything impure around `Cluster`; `run` is its loop. All events are handled on the thread of `run`."""

    def __init__(self, options: ServiceOptions, *, on_ready: Callable[[], object] = lambda: None) -> None:
        self._options = options
        self._on_ready = on_ready
        self.instance = new_epoch()
        self._topics = Topics(options.cluster)
        self._store = Store(options.folder)
        stored = self._store.load(time.monotonic())
        self._cluster = Cluster(self._topics, instance=self.instance, records=stored.records, term=stored.term)
        self._cluster.members.deadline = options.heartbeat_deadline
        try:
            self._cluster.situation.load(stored.learnt)
        except ValueError as error:
            logger.warning("what was learnt of the nodes is not used: %s", error)
        self._artifacts = ArtifactStore(options.folder / "artifacts")
        self._events: queue.Queue[Callable[[float], Iterable[Action]]] = queue.Queue(_QUEUE)
        self._dropped = 0
        self._held: list[Action] = []
        self._hold_until = 0.0
        self._since = time.time()
        self._error: SliceMQError | None = None
        self._heard_back: float | None = None
        self._beat_counter = 0
        name = f"coordinator-{self.instance[:8]}"
        self._session = Session(
            options.broker,
            name,
            will=Will(self._topics.coordinator, encode(self._state("lost"))),
            on_message=self._on_message,
            on_up=lambda: self._put(self._on_up),
            on_down=lambda reason: self._put(lambda now: self._on_down(reason)),
        )
        self._exchange = Exchange(
            self._artifacts, self._topics, name, lambda topic, payload: self._session.publish(topic, payload, qos=0)
        )
        self._link = open_link(options.broker, f"{name}-data", on_frame=self._on_frame)
        self._prober = Prober(
            self._link, self._topics, name, lambda p, r: self._put(lambda now: self._cluster.on_probed(now, p, r))
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
        """Coordinate until `stop` is set. Raises CoordinatorError when another coordinator shows itself."""
        session = self._session
        session.subscribe(*self._inbox.filters, *self._exchange.filters)
        session.start()
        self._link.start()
        self._workshop.warm_up()
        logger.info("coordinator %s of cluster %s at %s", self.instance[:8], self._topics.cluster, self._where)
        begun = time.monotonic()
        next_tick = next_beat = begun
        asked_again = begun
        try:
            while not stop.is_set() and self._error is None:
                self._handle_until(next_tick)
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
                self._carry_out(self._cluster.tick(now))
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
        """Handle events until `deadline`, or until none is left after it."""
        while True:
            wait = deadline - time.monotonic()
            try:
                event = self._events.get(timeout=wait) if wait > 0 else self._events.get_nowait()
            except queue.Empty:
                return
            try:
                self._carry_out(event(time.monotonic()))
            except SliceMQError as error:
                logger.warning("ignored: %s", error)
            except Exception:
                logger.exception("an event failed")

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._topics.parts(topic)[0] == "artifacts":
            try:
                self._exchange.on_message(topic, payload)
            except SliceMQError as error:
                logger.warning("%s: ignored: %s", topic, error)
            return
        self._put(lambda now: self._heard(now, topic, payload, retained))

    def _heard(self, now: float, topic: str, payload: bytes, retained: bool) -> Iterable[Action]:
        if self._inbox.is_own_beat(topic, payload):
            self._heard_back = self._heard_back if self._heard_back is not None else now
        try:
            return self._inbox.read(now, topic, payload, retained)
        except CoordinatorError as error:
            self._error = error
            return []

    def _on_frame(self, topic: str, payload: bytes | memoryview) -> None:
        self._prober.on_frame(topic, payload)

    def _on_up(self, now: float) -> Iterable[Action]:
        logger.info("connected to %s", self._where)
        return []

    def _on_down(self, reason: str) -> Iterable[Action]:
        logger.warning("no connection to %s: %s", self._where, reason)
        self._cluster.on_disconnected()
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
        beat = Beat(self.instance, self._beat_counter)
        self._session.publish(self._topics.coordinator_marker, encode(beat), qos=0)

    def _start_when_due(self, now: float) -> None:
        """Rule 23: decide nothing before the marker came back and one heartbeat deadline has passed."""
        if self._cluster.started or self._heard_back is None:
            return
        if now - self._heard_back < self._cluster.members.deadline:
            return
        for record in adopt_running(self._topics, self._inbox.retained, now):
            if record.name in self._cluster.records:
                continue
            logger.info("pipeline %s is not in the store: taken over from its retained topics", record.name)
            self._cluster.adopt(record)
        self._carry_out(self._cluster.start(now))
        self._session.own(self._topics.coordinator, encode(self._state("ready")))
        for topic in self._inbox.retained:
            self._carry_out(self._cluster.on_foreign(now, topic))
        self._inbox.forget_retained()
        logger.info("coordinating: term %d, %d pipelines", self._cluster.term, len(self._cluster.records))
        self._on_ready()

    def _carry_out(self, actions: Iterable[Action]) -> None:
        """Carry out actions in order; while the store cannot be written, hold them back (rule 24)."""
        self._held += actions
        now = time.monotonic()
        if now < self._hold_until:
            return
        while self._held:
            action = self._held[0]
            try:
                self._do(action)
            except StoreError as error:
                logger.error("%s; holding back %d actions until it can be written", error, len(self._held))
                self._hold_until = now + 1.0
                return
            except Exception:
                # One action that cannot be done must not keep all later ones from being done.
                logger.exception("%s failed", type(action).__name__)
            self._held.pop(0)

    def _do(self, action: Action) -> None:
        match action:
            case Persist():
                situation = self._cluster.situation
                self._store.save(self._cluster.term, self._cluster.records.values(), situation.plain())
            case Publish(topic, document):
                self._session.own(topic, encode(document))
            case Clear(topic):
                self._session.disown(topic)
            case Respond(client, response):
                self._session.publish(self._topics.response(client), encode(response))
            case MakePlan():
                self._prune()
                self._workshop.make(action)
            case PlanAhead():
                self._workshop.make_ahead(action)
            case Probe():
                self._prober.start(action)
            case StopProbe(pipeline, revision):
                self._prober.stop(pipeline, revision)

    def _prune(self) -> None:
        keep = self._cluster.contingencies.artifacts() | files_in_use(self._cluster.records.values())
        for name in self._artifacts.prune(keep):
            logger.info("artifact %s is not used any more: deleted", name[:12])

    def _state(self, word: Any) -> CoordinatorState:
        stamp = self._cluster.stamp() if hasattr(self, "_cluster") else Stamp(0, self.instance, 0)
        return CoordinatorState(word, stamp, self._since, __version__)
