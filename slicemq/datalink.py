"""The connection that frames travel on: a seam, with paho behind it.

Frames are QoS 0 (protocol rule 7): what is lost with a connection the client sends again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from slicemq.endpoint import AnyConnection
from slicemq.errors import BrokerError, BrokerRefusedError, OversizeError
from slicemq.keeper import ConnectionKeeper
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions

# Longer than that of a control session: a ping waits behind the frames that are being sent. TCP itself notices a
# dead peer earlier (connection.py).
_KEEPALIVE = 60
_SUBSCRIBE_SECONDS = 10.0
# Frames that may wait for the socket, however small they are.
_MAX_PENDING_FRAMES = 10_000


def _ignore(*_: object) -> None:
    pass


class DataLink(Protocol):
    """What the worker and the client need of the connection that frames travel on."""

    @property
    def up(self) -> bool:
        """Whether frames can be sent and every subscription is confirmed."""

    def start(self) -> None:
        """Begin to connect in the background, and come back after every loss."""

    def wait_up(self, timeout: float) -> None:
        """Wait until it is up; raises BrokerRefusedError or BrokerError with the reason."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe now and on every later connection; waits for the SUBACK when up."""

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """End subscriptions; frames that are under way may still come."""

    def send(self, topic: str, parts: Sequence[bytes | memoryview], *, timeout: float = 30.0) -> bool:
        """Send one frame; waits while too many bytes wait for the socket. False: the frame was dropped."""

    def stop(self) -> None:
        """Disconnect and end."""


def open_link(
    broker: BrokerOptions,
    client_id: str,
    *,
    on_frame: Callable[[str, bytes], None],
    on_up: Callable[[], None] = _ignore,
    on_down: Callable[[str], None] = _ignore,
    max_pending: int = 64 << 20,
) -> DataLink:
    """A data link to `broker`, not yet started.

    `on_frame(topic, payload)` is called on the link's own thread for each frame; while it runs nothing is sent or
    received, and an exception in it is logged. `max_pending` bounds the bytes that wait for the socket.
    """
    return PahoLink(broker, client_id, on_frame=on_frame, on_up=on_up, on_down=on_down, max_pending=max_pending)


class PahoLink(ConnectionKeeper):
    """A DataLink with paho behind it: each frame is copied together once, and by paho on its way."""

    def __init__(
        self,
        broker: BrokerOptions,
        client_id: str,
        *,
        on_frame: Callable[[str, bytes], None],
        on_up: Callable[[], None] = _ignore,
        on_down: Callable[[str], None] = _ignore,
        max_pending: int = 64 << 20,
    ) -> None:
        super().__init__(broker, client_id, on_up=on_up, on_down=on_down, keepalive=_KEEPALIVE)
        self._on_frame = on_frame
        self._max_pending = max_pending
        self._room = threading.Condition()
        self._pending = 0
        self._pending_frames = 0
        self._waited_for: dict[str, int] = {}
        self._refusals: set[str] = set()

    @property
    def pending(self) -> int:
        """Bytes of frames that wait for the socket."""
        return self._pending

    def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe now and on every later connection; when up, wait for the SUBACK (not in a callback).

        Raises BrokerRefusedError when the broker refuses a topic (it is then forgotten), BrokerError when it does
        not answer; the topics stay remembered when the link goes down meanwhile.
        """
        deadline = time.monotonic() + _SUBSCRIBE_SECONDS
        with self._state:
            self._subscriptions.want(topics, 0)
            self._wakeup.set()
            if not self._up or self._on_network_thread():
                return
            for topic in topics:
                self._waited_for[topic] = self._waited_for.get(topic, 0) + 1
            try:
                while self._up and not self._subscriptions.confirmed(topics):
                    refused = sorted(self._refusals.intersection(topics))
                    if refused:
                        self._refusals.difference_update(refused)
                        raise BrokerRefusedError(
                            f"broker {self._broker.describe()} refused the subscription to {', '.join(refused)}"
                        )
                    left = deadline - time.monotonic()
                    if left <= 0:
                        names = ", ".join(topics)
                        raise BrokerError(
                            f"broker {self._broker.describe()} does not confirm subscription to {names}"
                        )
                    self._state.wait(left)
            finally:
                for topic in topics:
                    self._waited_for[topic] -= 1
                    if not self._waited_for[topic]:
                        del self._waited_for[topic]

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """End subscriptions; frames that are under way are dropped when they come."""
        with self._state:
            known = [topic for topic in topics if topic in self._subscriptions]
            self._subscriptions.forget(known)
            if known:
                self._call_soon(lambda connection: connection.unsubscribe(known))

    def send(self, topic: str, parts: Sequence[bytes | memoryview], *, timeout: float = 30.0) -> bool:
        """Send one frame, QoS 0; False when it was dropped.

        Waits while `max_pending` bytes wait for the socket, at most `timeout` seconds; drops the frame when the
        link is down or the time is over. Raises OversizeError for a frame that MQTT cannot carry.
        """
        payload = b"".join(parts)
        if len(payload) > MAX_PAYLOAD:
            raise OversizeError(f"topic {topic}: a frame of {len(payload)} bytes, MQTT carries {MAX_PAYLOAD}")
        deadline = time.monotonic() + (0.0 if self._on_network_thread() else timeout)
        with self._room:
            while self._up and self._full(len(payload)):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._room.wait(left)
            connection = self._connection
            if not self._up or connection is None:
                return False
            self._pending += len(payload)
            self._pending_frames += 1
            if connection.publish(topic, payload, 0, False):
                return True
            self._pending -= len(payload)
            self._pending_frames -= 1
            return False

    def _full(self, nbytes: int) -> bool:
        if self._pending_frames >= _MAX_PENDING_FRAMES:
            return True
        # One frame larger than the bound may go alone.
        return self._pending > 0 and self._pending + nbytes > self._max_pending

    # On the network thread.

    def _received(self, topic: str, payload: bytes, retained: bool) -> None:
        with self._state:
            wanted = self._subscriptions.match(topic)
        if wanted:
            self._on_frame(topic, payload)

    def _written(self, nbytes: int) -> None:
        with self._room:
            self._pending -= nbytes
            self._pending_frames -= 1
            self._room.notify_all()

    def _announce(self, connection: AnyConnection) -> None:
        with self._room:
            self._pending = self._pending_frames = 0

    def _lost(self) -> None:
        with self._room:
            self._pending = self._pending_frames = 0
            self._room.notify_all()

    def _refused(self, filters: Sequence[str]) -> None:
        with self._state:
            waited_for = [one for one in filters if one in self._waited_for]
            self._subscriptions.forget(waited_for)
            self._refusals.update(waited_for)
            self._state.notify_all()
        others = [one for one in filters if one not in waited_for]
        if others:
            super()._refused(others)
