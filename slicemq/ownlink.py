"""A data link of our own, for TCP and TLS with MQTT 3.1.1: frames are not copied on their way in or out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slicemq.buffers import BufferPool
from slicemq.endpoint import Events
from slicemq.framekeeper import FrameKeeper
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions
from slicemq.ownconnection import OwnConnection


class OwnLink(FrameKeeper):
    """A DataLink over OwnConnection. `qos` 1 is there to be measured: frames travel with QoS 0 (rule 7)."""

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
        qos: int = 0,
    ) -> None:
        super().__init__(
            broker, client_id, on_frame=on_frame, on_up=on_up, on_down=on_down, max_pending=max_pending, qos=qos
        )
        self._pool = BufferPool()
        self._max_frame = max_frame
        self._own: OwnConnection | None = None
        # Frames with QoS 1 whose connection ended before the broker's answer.
        self.unanswered = 0

    @property
    def pending(self) -> int:
        """Bytes of frames that wait for the socket."""
        connection = self._own
        return 0 if connection is None else connection.pending

    @property
    def unacknowledged(self) -> int:
        """Frames with QoS 1 that wait for the broker's answer."""
        connection = self._own
        return 0 if connection is None else connection.unacknowledged

    def send(self, topic: str, parts: Sequence[bytes | memoryview], *, timeout: float = 30.0) -> bool:
        """Send one frame; False when it was dropped.

        Waits while `max_pending` bytes wait for the socket, at most `timeout` seconds and not at all on the network
        thread; drops the frame when the link is down or the time is over. `parts` may be used again when it
        returns. Raises OversizeError for a frame that MQTT cannot carry.
        """
        connection = self._own
        if not self._up or connection is None:
            return False
        if self._on_network_thread():
            timeout = 0.0
        return connection.send(topic, parts, limit=self._max_pending, timeout=timeout, qos=self._qos)

    # On the network thread.

    def _make_connection(self, events: Events) -> OwnConnection:
        self._own = OwnConnection(
            self._broker,
            self._client_id,
            events,
            self._wakeup,
            keepalive=self._keepalive,
            pool=self._pool,
            wanted=self._wanted,
            max_frame=self._max_frame,
        )
        return self._own

    def _received(self, topic: str, payload: memoryview, retained: bool) -> None:
        self._on_frame(topic, payload)

    def _lost(self) -> None:
        self.unanswered += self.unacknowledged
        self._own = None
