"""The ingress: connections, clock and threads around the line (line.py)."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ingress.answers import TooMuch, error_answer, json_answer, npy_answer
from ingress.config import IngressConfig
from ingress.feeder import Feeder, Flight, drained
from ingress.line import Acknowledge, Action, Answer, Failure, Line, Publish, Work
from ingress.topicmap import TopicMap
from slicemq.client import Pipeline, Result
from slicemq.endpoint import Delivery
from slicemq.errors import BrokerError, BrokerRefusedError, DuplicateNodeError, ProtocolError
from slicemq.messages import PipelineDocument, decode, encode, new_epoch
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.operations import IngressState, IngressStateWord
from slicemq.persistent import PersistentLink
from slicemq.session import Session, Will
from slicemq.systemd import notify
from slicemq.topics import Topics
from slicemq.version import __version__

logger = logging.getLogger(__name__)
_TICK_SECONDS = 0.5
# Counters are for people: no need to make the broker write a retained document more often.
_COUNTER_SECONDS = 5.0
_DRAIN_SECONDS = 5.0
# Outcomes of a frame after which the same message may fare better.
_AGAIN = ("spec-changed",)


def session_id(cluster: str, ingress: str) -> str:
    """The MQTT client id of an ingress's persistent session: fixed, one for each stream (rule 25)."""
    return f"ingress.{cluster}.{ingress}"


class IngressService:
    """Runs one stream. `on_ready` is called once, when the devices' messages are subscribed."""

    def __init__(self, config: IngressConfig, on_ready: Callable[[], None]) -> None:
        self._config = config
        self._on_ready = on_ready
        self._options = config.broker_options()
        self._map = TopicMap(config.source, config.target)
        self._topics = Topics(config.cluster)
        self._epoch = new_epoch()
        self._since = time.time()
        self._changed = threading.Condition()
        self._line = Line(config.limits())
        self._ignored = 0
        self._waits_for = ""
        self._paused = ""
        self._stop = threading.Event()
        self._twin: DuplicateNodeError | None = None
        self._said: tuple[IngressState | None, float] = (None, 0.0)
        self._logged: dict[str, int] = {}
        topic = self._topics.ingress(config.id)
        self._session = Session(
            self._options,
            f"ingress-{config.id}-{self._epoch[:8]}",
            will=Will(topic, encode(self._state("lost", {}))),
            on_message=self._on_document,
        )
        self._session.subscribe(topic, self._topics.pipeline(config.pipeline))
        self._link = PersistentLink(
            self._options,
            session_id(config.cluster, config.id),
            config.source,
            on_open=self._on_open,
            on_delivery=self._on_delivery,
            on_confirmed=self._on_confirmed,
            on_lost=self._on_lost,
        )
        self._feeder = Feeder(
            self._client,
            config.input_rules(),
            take=self._take,
            landed=self._landed,
            failed=lambda work, failure: self._end(work, failure),
            put_back=self._put_back,
            holding=self._hold,
        )

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop`; then what is under way is finished, and the session stays in the broker.

        Raises BrokerRefusedError when the broker refuses it, DuplicateNodeError when another ingress of this id
        begins.
        """
        self._stop = stop
        self._session.own(self._topics.ingress(self._config.id), encode(self._state("starting", {})))
        try:
            self._session.start()
            self._link.start()
            if self._await_broker():
                self._feeder.start()
                notify("READY=1\nSTATUS=serving")
                self._on_ready()
                while not stop.wait(_TICK_SECONDS):
                    self._tell()
        finally:
            notify("STOPPING=1")
            with self._changed:
                self._changed.notify_all()
            self._feeder.stop()
            drained(lambda: self._line.busy and self._link.up, _DRAIN_SECONDS)
            self._link.stop()
            self._feeder.close()
            farewell = encode(self._state("disconnected", self._counters()))
            # After another one of this id has begun the document is its.
            self._session.stop(farewell=[] if self._twin else [(self._topics.ingress(self._config.id), farewell)])
        if self._twin is not None:
            raise self._twin

    def _await_broker(self) -> bool:
        while not self._stop.is_set():
            try:
                self._link.wait_up(1.0)
                return True
            except BrokerRefusedError:
                raise
            except BrokerError:
                continue
        return False

    # ---- the devices' side, on the link's thread

    def _on_open(self, life: int, present: bool) -> None:
        if not present and life > 1:
            logger.warning("the broker has forgotten the stream's session: messages that waited there are lost")
        with self._changed:
            self._perform(self._line.connected(life, present))

    def _on_lost(self, life: int) -> None:
        with self._changed:
            self._perform(self._line.lost(life))

    def _on_delivery(self, life: int, delivery: Delivery) -> None:
        if delivery.retained or not self._map.takes(delivery.topic) or not self._map.answer(delivery.topic):
            self._ignore(life, delivery)
            return
        digest = hashlib.sha256(delivery.payload).hexdigest()
        with self._changed:
            self._perform(
                self._line.arrived(
                    life,
                    time.monotonic(),
                    delivery.topic,
                    delivery.payload,
                    digest,
                    delivery.packet_id,
                    delivery.again,
                )
            )
            self._changed.notify_all()

    def _ignore(self, life: int, delivery: Delivery) -> None:
        self._ignored += 1
        # A retained one the broker sends with every subscription: it may be as old as it likes.
        why = "is retained"
        if not self._map.takes(delivery.topic):
            why = "is not of --from: the session has an earlier subscription, which `slicemq ingress retire` ends"
        elif not delivery.retained:
            why = "leads to no topic for an answer"
        if self._ignored & (self._ignored - 1) == 0:
            logger.warning(
                "ignored: a message on %s, which %s (%d so far)", delivery.topic[:200], why, self._ignored
            )
        with self._changed:
            self._perform(self._line.ignored(life, delivery.packet_id))

    def _on_confirmed(self, life: int, key: int) -> None:
        with self._changed:
            self._perform(self._line.confirmed(life, key))

    def _perform(self, actions: list[Action]) -> None:
        """Under the lock, which keeps the order; nothing here waits."""
        for action in actions:
            if isinstance(action, Publish):
                topic, payload = self._message(action)
                self._link.publish(action.life, action.key, topic, payload)
            elif isinstance(action, Acknowledge):
                self._link.acknowledge(action.life, action.packet_id)
            else:
                logger.info("room again: the broker is asked for what was left with it")
                self._link.reconnect(action.life)

    def _message(self, action: Publish) -> tuple[str, bytes]:
        outcome = action.outcome
        if isinstance(outcome, Answer):
            return outcome.topic, outcome.payload
        head = self._head(action.key, action.topic, action.digest)
        return self._map.answer(action.topic), error_answer(head, outcome.word, outcome.reason)

    # ---- the pipeline's side, on the feeder's and the client's threads

    def _client(self, on_result: Callable[[Result], None]) -> Pipeline:
        config = self._config
        return Pipeline(
            config.pipeline,
            self._options,
            cluster=config.cluster,
            client_id=f"ingress-{config.id}",
            give_up_after=config.give_up_after,
            on_result=on_result,
        )

    def _take(self, seconds: float) -> Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._line.waiting or self._stop.is_set(), seconds)
            return None if self._stop.is_set() else self._line.take()

    def _put_back(self, work: Work) -> None:
        with self._changed:
            self._perform(self._line.put_back(work.key))

    def _end(self, work: Work, outcome: Answer | Failure) -> None:
        with self._changed:
            self._perform(self._line.ended(work.key, outcome))

    def _landed(self, flight: Flight, result: Result) -> None:
        work = flight.work
        if result.error is None:
            self._end(work, self._answer(flight, result))
            return
        failure = Failure(result.error.reason, str(result.error))
        if failure.word == "closed":
            self._put_back(work)
        elif failure.word in _AGAIN:
            with self._changed:
                self._perform(self._line.retry(work.key, failure))
                self._changed.notify_all()
        else:
            self._end(work, failure)

    def _answer(self, flight: Flight, result: Result) -> Answer | Failure:
        config, work = self._config, flight.work
        try:
            if config.output_kind == "npy":
                payload = npy_answer(result.outputs)
            else:
                head = self._head(work.key, work.topic, work.digest) | {
                    "revision": result.revision,
                    "latency_ms": round((time.monotonic() - work.at) * 1000, 3),
                    "attempts": result.attempts,
                    "input": flight.shown,
                }
                payload = json_answer(head, result.outputs, config.json_values)
        except TooMuch as error:
            return Failure("too-large", str(error))
        except Exception:
            # It must end, or everything behind it would wait for ever.
            logger.exception("topic %s: no answer can be made of the result", work.topic[:200])
            return Failure("no-answer", "no answer can be made of the result")
        if len(payload) > MAX_PAYLOAD:
            return Failure("too-large", f"an answer of {len(payload)} bytes, MQTT carries {MAX_PAYLOAD}")
        return Answer(self._map.answer(work.topic), payload)

    def _head(self, key: int, topic: str, digest: str) -> dict[str, Any]:
        config = self._config
        return {
            "id": config.id,
            "pipeline": config.pipeline,
            "topic": topic,
            "sequence": key,
            "sha256": digest,
        }

    # ---- what others are told

    def _hold(self, reason: str) -> None:
        if reason and reason != self._waits_for:
            logger.warning("holding: %s", reason)
        self._waits_for = reason

    def _on_document(self, topic: str, payload: bytes, _retained: bool) -> None:
        try:
            if topic == self._topics.pipeline(self._config.pipeline):
                if payload:
                    document = decode(PipelineDocument, payload, topic)
                    self._paused = (
                        f"the pipeline is paused: {document.reason}" if document.state == "paused" else ""
                    )
                self._feeder.look()
            elif payload:
                self._meet(decode(IngressState, payload, topic))
        except ProtocolError as error:
            logger.warning("%s", error)

    def _meet(self, other: IngressState) -> None:
        alive = other.state in ("starting", "running", "holding")
        if other.epoch != self._epoch and alive and other.since > self._since and not self._stop.is_set():
            self._twin = DuplicateNodeError(
                f"another ingress {self._config.id!r} of cluster {self._config.cluster!r} was started: "
                "two cannot share one session"
            )
            self._stop.set()

    def _tell(self) -> None:
        reason = self._waits_for or self._paused or ("" if self._link.up else "the broker is away")
        found = self._state("holding" if reason else "running", self._counters(), reason)
        said, at = self._said
        now = time.monotonic()
        fresh = said is None or (said.state, said.reason) != (found.state, found.reason)
        if fresh or (said != found and now - at >= _COUNTER_SECONDS):
            self._said = (found, now)
            self._session.own(self._topics.ingress(self._config.id), encode(found))
            self._log(found.counters)

    def _log(self, counters: dict[str, int]) -> None:
        names = ("failed", "dropped", "too_large", "forgotten")
        rows = {name: counters[name] for name in names if counters[name] != self._logged.get(name, 0)}
        if rows:
            self._logged |= rows
            logger.warning(
                "of %d messages: %s",
                counters["arrived"],
                ", ".join(f"{count} {name}" for name, count in rows.items()),
            )

    def _counters(self) -> dict[str, int]:
        with self._changed:
            line = self._line
            return {
                **line.counters,
                "ignored": self._ignored,
                "waiting": line.waiting,
                "held": line.held,
                "held_bytes": line.nbytes,
            }

    def _state(self, word: IngressStateWord, counters: dict[str, int], reason: str = "") -> IngressState:
        config = self._config
        return IngressState(
            config.id,
            word,
            self._epoch,
            config.pipeline,
            config.source,
            config.target,
            config.policy,
            self._since,
            reason,
            counters,
            __version__,
        )
