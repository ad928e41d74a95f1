"""A standby's daemon around its pure mind (standby.py), and the roles that a coordinator goes through."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from coordinator.artifacts import ArtifactStore
from coordinator.children import Child
from coordinator.downloads import Exchange
from coordinator.inbox import OutrankedError
from coordinator.membership import BEAT_INTERVAL
from coordinator.mirroring import keep_mirror, kept_mirror, prune_mirrored
from coordinator.rehearsal import intents_of, rehearse
from coordinator.service import CoordinatorService, ServiceOptions
from coordinator.standby import Action, FetchMirror, Standby, TakeOver, Tell
from coordinator.store import Store
from slicemq.errors import CoordinatorError, SliceMQError
from slicemq.messages import Artifact, Beat, CoordinatorState, decode, encode, new_epoch
from slicemq.operations import Mirror, StandbyState
from slicemq.session import Session, Will
from slicemq.topics import Topics
from slicemq.version import __version__

logger = logging.getLogger("slicemq.coordinator.standby")

_QUEUE = 65536
# How long a file is waited for before the others are tried, and how long before all that lack are tried again.
_PATIENCE = 5.0
_AGAIN = 3.0
_NICE = 10

Told = Callable[[str, str], object]
"""Called with a role (`standby`, `coordinating`) and the instance when the role is taken up."""


class StandbyService:
    """Mirrors the active coordinator until it is time to take its place; `run` is its loop."""

    def __init__(self, options: ServiceOptions, instance: str, told: Told = lambda role, instance: None) -> None:
        self._options = options
        self.instance = instance
        self._told = told
        self._topics = Topics(options.cluster)
        self._store = Store(options.folder)
        self._artifacts = ArtifactStore(options.folder / "artifacts")
        kept = kept_mirror(options.folder, self._artifacts)
        self._mind = Standby(
            instance, held=kept.stamp if kept is not None else None, deadline=options.heartbeat_deadline
        )
        self._since = time.time()
        self._events: queue.Queue[Callable[[float], Iterable[Action]]] = queue.Queue(_QUEUE)
        self._outcome: TakeOver | None = None
        self._marker = 0
        self._wanted: queue.SimpleQueue[Mirror | None] = queue.SimpleQueue()
        self._lacking: set[str] = set()
        # Files that were checked against their hashes in this life.
        self._checked: set[str] = {file.sha256 for file in kept.files} if kept is not None else set()
        self._stopped = threading.Event()
        self._rehearsed: set[str] = set()
        self._child = Child(nice=_NICE)
        name = f"coordinator-{instance[:8]}"
        self._own_marker = self._topics.link_probe(f"{name}-standby")
        self._session = Session(
            options.broker,
            name,
            will=Will(self._topics.standby(instance), encode(self._document("lost"))),
            on_message=self._on_message,
            on_down=lambda reason: self._put(lambda now: self._on_down(reason)),
        )
        self._exchange = Exchange(
            self._artifacts, self._topics, name, lambda topic, payload: self._session.publish(topic, payload, qos=0)
        )
        self._fetcher = threading.Thread(target=self._fetch, name="mirror", daemon=True)

    def run(self, stop: threading.Event) -> TakeOver | None:
        """Stand by until `stop` is set (None), or until it is time to coordinate."""
        topics, session = self._topics, self._session
        session.subscribe(
            topics.coordinator,
            topics.coordinator_marker,
            topics.mirror,
            topics.standby("+"),
            topics.artifact_chunks("+", f"coordinator-{self.instance[:8]}"),
            self._own_marker,
        )
        session.start()
        self._fetcher.start()
        self._own()
        logger.info("standby %s of cluster %s at %s", self.instance[:8], topics.cluster, self._where)
        self._told("standby", self.instance)
        next_marker = time.monotonic()
        try:
            while not stop.is_set() and self._outcome is None:
                now = time.monotonic()
                if now >= next_marker:
                    next_marker = now + BEAT_INTERVAL
                    self._marker += 1
                    session.publish(self._own_marker, encode(Beat(self.instance, self._marker)), qos=0)
                self._handle_until(next_marker)
        finally:
            self._stopped.set()
            self._wanted.put(None)
            self._exchange.stop()
            self._child.end(for_good=True)
            session.stop(farewell=[(topics.standby(self.instance), encode(self._document("disconnected")))])
            # It may be writing the store that the next role reads.
            self._fetcher.join(_PATIENCE)
        return self._outcome

    @property
    def _where(self) -> str:
        return self._options.broker.describe()

    # -- events --------------------------------------------------------------------------------------------

    def _put(self, event: Callable[[float], Iterable[Action]]) -> None:
        # What is dropped here comes again: beats by themselves, documents on the next connection.
        with suppress(queue.Full):
            self._events.put_nowait(event)

    def _handle_until(self, deadline: float) -> None:
        while self._outcome is None:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            try:
                for action in event(time.monotonic()):
                    self._do(action)
            except SliceMQError as error:
                logger.warning("ignored: %s", error)
            except Exception:
                logger.exception("an event failed")
            if time.monotonic() >= deadline:
                return

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._topics.parts(topic)[0] == "artifacts":
            try:
                self._exchange.on_message(topic, payload)
            except SliceMQError as error:
                logger.warning("%s: ignored: %s", topic, error)
            return
        self._put(lambda now: self._heard(now, topic, payload, retained))

    def _heard(self, now: float, topic: str, payload: bytes, retained: bool) -> Iterable[Action]:
        if not payload:
            return []
        topics = self._topics
        if topic == self._own_marker:
            # One of an earlier life of this id would say that this connection carries.
            ours = decode(Beat, payload, topic).instance == self.instance
            return self._mind.on_marker(now) if ours else []
        if topic == topics.coordinator_marker:
            return self._mind.on_beat(decode(Beat, payload, topic))
        if topic == topics.coordinator:
            return self._mind.on_coordinator(decode(CoordinatorState, payload, topic), retained=retained)
        if topic == topics.mirror:
            return self._mind.on_mirror(decode(Mirror, payload, topic))
        return self._mind.on_standby(decode(StandbyState, payload, topic))

    def _on_down(self, reason: str) -> Iterable[Action]:
        logger.warning("no connection to %s: %s", self._where, reason)
        self._mind.on_down()
        return []

    def _do(self, action: Action) -> None:
        match action:
            case FetchMirror(mirror):
                self._wanted.put(mirror)
            case Tell(state, _):
                logger.info("standby %s: %s", self.instance[:8], state)
                self._own()
            case TakeOver(why, missing):
                logger.warning("%s: taking over", why)
                if missing:
                    names = ", ".join(file.sha256[:12] for file in missing[:5])
                    logger.warning(
                        "%d files of the last coordinator's mirror are not here (%s%s): models among them must be "
                        "deployed again before their slices can move",
                        len(missing),
                        names,
                        " ..." if len(missing) > 5 else "",
                    )
                self._outcome = action

    def _own(self) -> None:
        self._session.own(self._topics.standby(self.instance), encode(self._document(self._mind.state)))

    def _document(self, state: str) -> StandbyState:
        held = self._mind.held
        return StandbyState(self.instance, state, held, self._since, __version__)  # type: ignore[arg-type]

    # -- fetching ------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """On a thread of its own: bring what the newest mirror names, and try again what could not be had."""
        unfinished: Mirror | None = None
        while not self._stopped.is_set():
            try:
                wanted = self._wanted.get(timeout=_AGAIN if unfinished is not None else None)
            except queue.Empty:
                wanted = unfinished
            if wanted is None:
                return
            if not self._wanted.empty():
                continue
            missing = self._bring(wanted)
            unfinished = wanted if missing else None
            if missing == []:
                self._prune(wanted)
                self._rehearse()
            if missing is not None:
                self._tell_fetched(wanted, missing)

    def _tell_fetched(self, mirror: Mirror, missing: list[Artifact]) -> None:
        self._put(lambda now: self._mind.on_fetched(mirror, missing))

    def _prune(self, mirror: Mirror) -> None:
        """A standby that lives through many rollouts must not fill its disk with their models."""
        self._checked &= {file.sha256 for file in mirror.files}
        for name in prune_mirrored(self._artifacts, mirror):
            logger.info("artifact %s is not mirrored any more: deleted", name[:12])

    def _rehearse(self) -> None:
        """Measure what plans of the mirrored intents need, once a model, on a child that gives way to all."""
        intents = tuple(one for one in intents_of(self._options.folder) if one.model.sha256 not in self._rehearsed)
        if not intents and self._rehearsed:
            return
        self._rehearsed |= {intent.model.sha256 for intent in intents} or {""}
        with suppress(OSError, CoordinatorError):
            self._child.submit(rehearse, self._options.tools, self._options.folder, intents)

    def _bring(self, mirror: Mirror) -> list[Artifact] | None:
        """Fetch what lacks; the files that cannot be had, or None when a newer mirror is wanted."""
        missing: list[Artifact] = []
        for file in (mirror.store, *mirror.files):
            if self._stopped.is_set() or not self._wanted.empty():
                return None
            try:
                if file is mirror.store:
                    self._install(mirror)
                elif file.sha256 not in self._checked:
                    if not self._artifacts.holds(file):
                        self._exchange.fetch(file, _PATIENCE)
                    self._checked.add(file.sha256)
            except (SliceMQError, OSError) as error:
                # A disk may fail at any of it, and this thread must go on to try again.
                level = logging.DEBUG if file.sha256 in self._lacking else logging.WARNING
                logger.log(level, "not mirrored yet: %s", error)
                missing.append(file)
        self._lacking = {file.sha256 for file in missing}
        return missing

    def _install(self, mirror: Mirror) -> None:
        """Put the store in its place; the copy that it came as is not needed any more, nor is the one before."""
        content = self._store.content()
        if content is None or hashlib.sha256(content).hexdigest() != mirror.store.sha256:
            path = self._exchange.fetch(mirror.store, _PATIENCE)
            self._store.install(path.read_bytes())
            self._artifacts.drop(mirror.store.sha256)
        keep_mirror(self._options.folder, mirror)


def run_roles(
    options: ServiceOptions, stop: threading.Event, *, standby: bool, told: Told = lambda role, instance: None
) -> None:
    """Coordinate, or stand by, each in its turn, until `stop` is set. One client id all the time (rule 22).

    Raises CoordinatorError when it shall begin by coordinating (not `standby`) and another one coordinates.
    """
    instance = new_epoch()
    first = not standby
    while not stop.is_set():
        if not first and StandbyService(options, instance, told).run(stop) is None:
            return
        service = CoordinatorService(options, instance=instance, on_ready=lambda: told("coordinating", instance))
        try:
            service.run(stop)
            return
        except OutrankedError as error:
            if first and not service.has_coordinated:
                raise
            logger.warning("%s; standing by", error)
        first = False
