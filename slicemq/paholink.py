"""A data link with paho behind it: each frame is copied together once, and by paho on its way.

It speaks WebSocket and MQTT 5, which the link of our own (ownlink.py) does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from slicemq.endpoint import AnyConnection
from slicemq.errors import OversizeError
from slicemq.framekeeper import FrameKeeper
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions

# Frames that may wait for the socket, however small they are.
_MAX_PENDING_FRAMES = 10_000


class PahoLink(FrameKeeper):
    """A DataLink with paho behind it."""

    def __init__(
        self,
        broker: BrokerOptions,
        client_id: str,
        *,
        on_frame: Callable[[str, bytes | memoryview], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        max_pending: int,
        max_frame: int = MAX_PAYLOAD,
    ) -> None:
        super().__init__(
            broker, client_id, on_frame=on_frame, on_up=on_up, on_down=on_down, max_pending=max_pending
        )
        self._max_frame = max_frame
        self._room = threading.Condition()
        self._pending = 0
        self._pending_frames = 0

    @property
    def pending(self) -> int:
        """Bytes of frames that wait for the socket."""
        return self._pending

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
        if len(payload) <= self._max_frame and self._wanted(topic):
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
