"""The client's two connections (rule 7) and the thread that tends them: sync, attach, resend, deadlines.

What a frame is owed is decided by the ledger; this module only carries. The clerk, its one thread, does all
that may block (snapshots, sending again), so that the network threads never do.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy.typing as npt

from slicemq import codecs
from slicemq.datalink import open_link
from slicemq.desk import Desk
from slicemq.errors import FrameError, OversizeError, SliceMQError
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import Request, encode, to_plain
from slicemq.options import BrokerOptions
from slicemq.outcomes import Dispatch, Release, Send
from slicemq.session import Session
from slicemq.topics import Topics

ATTACH_SECONDS = 10.0
EVIDENCE_SECONDS = 2.0
SNAPSHOT_SECONDS = 5.0
_RETRY_SECONDS = 0.2
_RELEASE_SECONDS = 0.5
_LONGEST_SLEEP = 60.0
logger = logging.getLogger(__name__)


class Courier:
    """Carries the frames of one client of one pipeline; `tidy` is called every `ATTACH_SECONDS` while attached."""

    def __init__(
        self,
        broker: BrokerOptions,
        topics: Topics,
        pipeline: str,
        client: str,
        stream: int,
        desk: Desk,
        tidy: Callable[[], None],
    ) -> None:
        self._topics = topics
        self._pipeline = pipeline
        self._client = client
        self._stream = stream
        self._desk = desk
        self._tidy = tidy
        self._document_topic = topics.pipeline(pipeline)
        self._session = Session(
            broker,
            client,
            on_message=self._on_message,
            on_up=self._on_control_up,
            on_down=self._on_control_down,
        )
        self._link = open_link(
            broker,
            f"{client}.data",
            on_frame=self._on_frame,
            on_up=self._on_data_up,
            on_down=self._on_data_down,
        )
        self._state = threading.Condition()
        self._queue: deque[Dispatch] = deque()
        self._control_up = False
        self._data_up = False
        self._connections = 0
        self._data_connections = 0
        self._announced = 0
        self._sync_at: float | None = None
        self._attach_at: float | None = None
        self._evidence_at: float | None = None
        self._tick_at: float | None = None
        self._stopping = False
        self._warned: set[str] = set()
        self._clerk = threading.Thread(target=self._run, name=f"slicemq-client-{client}", daemon=True)

    def open(self, timeout: float) -> None:
        """Connect both; raises BrokerError (or BrokerRefusedError). `on_connected` follows by itself."""
        deadline = time.monotonic() + timeout
        self._session.subscribe(self._document_topic, self._topics.response(self._client))
        self._link.subscribe([self._topics.results(self._pipeline, self._client)])
        self._session.start()
        self._link.start()
        self._session.wait_up(timeout)
        self._link.wait_up(max(0.1, deadline - time.monotonic()))
        self._clerk.start()

    def close(self, last: Iterable[Dispatch] = ()) -> None:
        """Send what shall still be sent, detach, disconnect both and end the thread."""
        with self._state:
            self._stopping = True
            self._queue.clear()
            self._state.notify_all()
        try:
            for dispatch in last if self._data_up else ():
                self.send(dispatch)
            if self._control_up:
                self._request("detach", {"pipeline": self._pipeline})
        finally:
            try:
                self._link.stop()
            finally:
                self._session.stop()
                if self._clerk.is_alive() and threading.current_thread() is not self._clerk:
                    self._clerk.join(SNAPSHOT_SECONDS + 1)

    def pipelines(self) -> list[str]:
        """The names of all pipelines of the cluster that have a document; for error messages."""
        try:
            found = self._session.snapshot(self._topics.pipeline("+"), timeout=SNAPSHOT_SECONDS)
        except SliceMQError:
            return []
        return sorted(self._topics.parts(topic)[-1] for topic, payload in found.items() if payload)

    def post(self, dispatches: Iterable[Dispatch]) -> None:
        """Have the clerk send these, in order; it is not woken for nothing."""
        wanted = list(dispatches)
        if wanted:
            with self._state:
                self._queue.extend(wanted)
                self._state.notify_all()

    def wake(self, wake_at: float | None) -> None:
        """The ledger wants its tick at `wake_at` (monotonic time) or earlier than was said before."""
        if wake_at is not None and (self._tick_at is None or wake_at < self._tick_at):
            with self._state:
                self._tick_at = wake_at
                self._state.notify_all()

    def send(self, dispatch: Dispatch) -> None:
        """Publish a frame's bundles to the revision of the attempt; blocks while the link is congested.

        A bundle that does not leave (link down) is dropped: the ledger sends the frame again. A frame that can
        never leave ends as `unsendable`. A release is sent once: where it is lost, the lease runs out by itself.
        """
        if isinstance(dispatch, Release):
            header = FrameHeader(self._client, self._stream, dispatch.sequence, time.time(), dispatch.revision)
            topic = self._topics.release(self._pipeline, dispatch.revision)
            self._link.send(topic, encode_frame(header, []), timeout=_RELEASE_SECONDS)
        else:
            self._send(dispatch)

    def _send(self, send: Send) -> None:
        header = FrameHeader(
            self._client, self._stream, send.sequence, time.time(), send.route.revision, first=send.first
        )
        inputs: dict[int, npt.NDArray[Any]] = send.inputs
        route, turn = send.route, send.route.turn(send.sequence)
        for bundle in route.lane(send.sequence).entry:
            tensors = [(spec, inputs[spec.index]) for spec in bundle.tensors]
            topic = self._topics.data(self._pipeline, route.revision, bundle.id, turn)
            try:
                sent = self._link.send(topic, encode_frame(header, tensors, self._codec(bundle.codec)))
            except (FrameError, OversizeError) as error:
                if not send.copy:
                    self._desk.on_unsendable(send.sequence, str(error))
                return
            if not sent:
                logger.debug("frame %d, bundle %s: did not leave, will be sent again", send.sequence, bundle.id)
                return

    def _codec(self, wanted: str) -> str:
        # Each tensor names its codec, so `raw` is understood wherever another codec was asked for.
        if wanted in codecs.available():
            return wanted
        if wanted not in self._warned:
            self._warned.add(wanted)
            logger.warning("codec %r is not installed here, inputs are sent raw", wanted[:80])
        return "raw"

    # ---- the network threads

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        # An empty document says nothing: endings are explicit (rule 15).
        if topic == self._document_topic and payload:
            self._desk.on_document(payload)
            if self._evidence_at is None and self._desk.evidence() is not None:
                with self._state:
                    self._evidence_at = time.monotonic() + EVIDENCE_SECONDS
                    self._state.notify_all()

    def _on_frame(self, _topic: str, payload: bytes | memoryview) -> None:
        self._desk.on_result(payload)

    def _on_control_up(self) -> None:
        self._connection_changed(control=True)

    def _on_control_down(self, reason: str) -> None:
        logger.info("control connection lost: %s", reason)
        self._connection_changed(control=False)

    def _on_data_up(self) -> None:
        self._connection_changed(data=True)

    def _on_data_down(self, reason: str) -> None:
        logger.info("frame connection lost: %s", reason)
        self._connection_changed(data=False)
        self._desk.on_disconnected()

    def _connection_changed(self, control: bool | None = None, data: bool | None = None) -> None:
        with self._state:
            self._control_up = self._control_up if control is None else control
            self._data_up = self._data_up if data is None else data
            self._connections += 1
            self._data_connections += data is True
            both = self._control_up and self._data_up
            self._sync_at = time.monotonic() if both else None
            self._state.notify_all()

    # ---- the clerk

    def _run(self) -> None:
        while True:
            with self._state:
                while not self._stopping and not self._has_work(time.monotonic()):
                    self._state.wait(self._pause(time.monotonic()))
                if self._stopping:
                    return
                now = time.monotonic()
                dispatches, self._queue = self._queue, deque()
                sync = self._sync_at is not None and now >= self._sync_at
                attach = self._attach_at is not None and now >= self._attach_at
                tick = self._tick_at is not None and now >= self._tick_at
                compare = self._evidence_at is not None and now >= self._evidence_at
                if sync:
                    self._sync_at = None
                if tick:
                    self._tick_at = None
            if sync:
                self._guarded(self._synchronise)
            elif attach:
                self._guarded(self._attach)
                self._guarded(self._tidy)
            for dispatch in dispatches:
                if self._desk.wants(dispatch):
                    self._guarded(partial(self.send, dispatch))
            if compare:
                self._guarded(self._tell_evidence)
            if tick:
                self._guarded(lambda: self.wake(self._desk.on_tick()))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except SliceMQError as error:
            logger.warning("%s", error)
        except Exception:
            # Without this thread no frame would ever be sent again.
            logger.exception("the client goes on after an error")

    @property
    def _times(self) -> tuple[float | None, ...]:
        return (self._sync_at, self._attach_at, self._evidence_at, self._tick_at)

    def _has_work(self, now: float) -> bool:
        times = self._times
        return bool(self._queue) or any(time_ is not None and now >= time_ for time_ in times)

    def _pause(self, now: float) -> float:
        times = [time_ for time_ in self._times if time_ is not None]
        return min(max(0.0, min(times, default=now + _LONGEST_SLEEP) - now), _LONGEST_SLEEP)

    def _synchronise(self) -> None:
        with self._state:
            connections = self._connections
        try:
            found = self._session.snapshot(self._document_topic, timeout=SNAPSHOT_SECONDS)
        except SliceMQError as error:
            logger.info("the pipeline document could not be read: %s", error)
            with self._state:
                if self._control_up and self._data_up and self._sync_at is None:
                    self._sync_at = time.monotonic() + _RETRY_SECONDS
            return
        payload = found.get(self._document_topic)
        if payload:
            self._desk.on_document(payload)
        with self._state:
            if connections != self._connections:
                return
            fresh = self._announced != self._data_connections
            self._announced = self._data_connections
        self._attach()
        # After a loss of the control connection alone the document says all that was missed: no result was.
        if fresh:
            self._desk.on_connected()

    def _attach(self) -> None:
        seen = self._desk.seen()
        echo = {} if seen is None else {"seen": to_plain(seen)}
        self._request("attach", {"pipeline": self._pipeline, **echo})
        with self._state:
            self._attach_at = time.monotonic() + ATTACH_SECONDS

    def _tell_evidence(self) -> None:
        body = self._desk.evidence()
        with self._state:
            self._evidence_at = time.monotonic() + EVIDENCE_SECONDS if body is not None else None
        if body is not None:
            self._request("evidence", body)

    def _request(self, verb: str, body: dict[str, Any]) -> None:
        request = Request(secrets.token_hex(8), body)
        self._session.publish(self._topics.request(self._client, verb), encode(request))
