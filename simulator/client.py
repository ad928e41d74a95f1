"""A client of a pipeline, simulated: the ledger with its two connections, and an application. PURE.

What slicemq/desk.py and slicemq/courier.py do with threads. The application submits frames at given times, as the
window allows, and takes every outcome at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simulator.broker import Broker
from simulator.clock import Process
from simulator.models import Value
from simulator.session import Session
from simulator.wire import Wire
from slicemq.frames import FrameHeader
from slicemq.ledger import Ledger
from slicemq.messages import PipelineDocument, Request, to_plain
from slicemq.outcomes import Action, Deliver, Outcome, Send
from slicemq.topics import Topics

_ATTACH_SECONDS = 10.0
_SNAPSHOT_SECONDS = 5.0
_RETRY_SECONDS = 0.2
_EVIDENCE_SECONDS = 2.0


class Client:
    """`on_outcome(client, outcome)` is told how each frame ended, in the order in which it is handed out."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        topics: Topics,
        pipeline: str,
        stream: int,
        times: Sequence[float],
        wire: Wire,
        on_outcome: Callable[[Client, Outcome], None],
        on_submit: Callable[[Client], None],
    ) -> None:
        self.name = process.name
        self.pipeline = pipeline
        self.process = process
        self.stream = stream
        self.ledger = Ledger(self.name, stream)
        self.total = len(times)
        self.payloads: list[Any] = []
        self.largest_window = 1
        self._times = list(times)
        self._due = 0
        self._topics = topics
        self._wire = wire
        self._on_outcome = on_outcome
        self._on_submit = on_submit
        self._synced = False
        self._epoch = self._announced = self._data_connections = 0
        self._syncing = False
        self._tick_at: float | None = None
        self._requests = 0
        self._attach_round = 0
        self._tells_evidence = False
        self.control = Session(
            broker,
            process,
            self.name,
            [topics.pipeline(pipeline), topics.response(self.name)],
            on_message=self._on_message,
            on_up=self._changed,
            on_down=self._changed,
        )
        self.link = Session(
            broker,
            process,
            f"{self.name}.data",
            [topics.results(pipeline, self.name)],
            on_message=self._on_frame,
            on_up=self._data_up,
            on_down=self._data_down,
        )

    @property
    def done(self) -> bool:
        """Whether every frame was submitted and has ended."""
        return len(self.payloads) == self.total and self.ledger.held == 0

    def start(self) -> None:
        """Connect, and submit at the times that were given."""
        self.control.start()
        self.link.start()
        for time in self._times:
            self.process.clock.at(time, self.process.call, self._is_due)

    # -- the application -----------------------------------------------------------------------------------

    def _is_due(self) -> None:
        self._due += 1
        self._submit()

    def _submit(self) -> None:
        document = self.ledger.document_now
        while (
            self._synced
            and document is not None
            and document.state != "removed"
            and len(self.payloads) < self._due
            and self.ledger.room
        ):
            payload = (self.name, len(self.payloads))
            self.payloads.append(payload)
            _, actions = self.ledger.submit(self._now, {0: Value(payload)}, document.spec)
            self._on_submit(self)
            self._do(actions)

    # -- the connections -----------------------------------------------------------------------------------

    def _data_up(self) -> None:
        self._data_connections += 1
        self._changed()

    def _data_down(self) -> None:
        self.ledger.disconnected(self._now)
        self._changed()

    def _changed(self) -> None:
        self._epoch += 1
        if self.control.up and self.link.up:
            self._synchronise(self._epoch)

    def _synchronise(self, epoch: int) -> None:
        """Rule 8: results are subscribed; read the document, then send again all that is unanswered."""
        connection = self.control.connection
        if epoch != self._epoch or connection is None or not (self.control.up and self.link.up):
            return
        answered = [False]

        def answer(payload: Any) -> None:
            answered[0] = True
            if payload is not None:
                self._document(payload)
            if epoch != self._epoch:
                return
            fresh = self._announced != self._data_connections
            self._announced = self._data_connections
            self._attach_round += 1
            self._attach(self._attach_round)
            if fresh:
                self._synced = True
                self._do(self.ledger.connected(self._now))
                self._submit()

        def again() -> None:
            if not answered[0]:
                self._synchronise(epoch)

        connection.snapshot(self._topics.pipeline(self.pipeline), answer)
        self.process.after(_SNAPSHOT_SECONDS + _RETRY_SECONDS, again)

    def _attach(self, round_: int) -> None:
        if round_ != self._attach_round or not self.control.up:
            return
        document = self.ledger.document_now
        echo = {} if document is None else {"seen": to_plain(document.stamp)}
        self._ask("attach", {"pipeline": self.pipeline, **echo})
        self.process.after(_ATTACH_SECONDS, self._attach, round_)

    def _ask(self, verb: str, body: dict[str, Any]) -> None:
        self._requests += 1
        request = Request(f"{self.name}-{self._requests}", body)
        self.control.publish(self._topics.request(self.name, verb), self._wire.pack(request))

    def _on_message(self, topic: str, payload: Any, _retained: bool) -> None:
        if topic == self._topics.pipeline(self.pipeline):
            self._document(payload)

    def _document(self, payload: Any) -> None:
        document = self._wire.unpack(PipelineDocument, payload, self._topics.pipeline(self.pipeline))
        self.largest_window = max(self.largest_window, document.window)
        self._do(self.ledger.document(self._now, document))
        if not self._tells_evidence and self.ledger.evidence(self._now) is not None:
            self._tells_evidence = True
            self.process.after(_EVIDENCE_SECONDS, self._evidence)
        self._submit()

    def _evidence(self) -> None:
        body = self.ledger.evidence(self._now)
        self._tells_evidence = body is not None
        if body is not None:
            self._ask("evidence", body)
            self.process.after(_EVIDENCE_SECONDS, self._evidence)

    def _on_frame(self, _topic: str, frame: Any, _retained: bool) -> None:
        header, tensors = frame
        self._do(self.ledger.result(self._now, header, tensors))

    # -- the ledger ----------------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self.process.clock.now

    def _do(self, actions: list[Action]) -> None:
        delivered = False
        for action in actions:
            if isinstance(action, Deliver):
                self._on_outcome(self, action.outcome)
                self.ledger.taken()
                delivered = True
            elif isinstance(action, Send):
                self._send(action)
        self._wake()
        if delivered:
            self._submit()

    def _send(self, send: Send) -> None:
        if not self.ledger.wants(send):
            return
        header = FrameHeader(
            self.name, self.stream, send.sequence, self.process.clock.wall, send.route.revision, first=send.first
        )
        turn = send.route.turn(send.sequence)
        for bundle in send.route.lane(send.sequence).entry:
            topic = self._topics.data(self.pipeline, send.route.revision, bundle.id, turn)
            tensors = {spec.index: send.inputs[spec.index] for spec in bundle.tensors}
            if not self.link.publish(topic, (header, tensors), qos=0):
                return

    def _wake(self) -> None:
        at = self.ledger.wake_at
        if at is not None and (self._tick_at is None or at < self._tick_at):
            self._tick_at = at
            self.process.after(max(0.0, at - self._now), self._tick, at)

    def _tick(self, at: float) -> None:
        if self._tick_at == at:
            self._tick_at = None
            self._do(self.ledger.tick(self._now))
