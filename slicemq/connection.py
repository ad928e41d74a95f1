"""One life of one MQTT connection: the only module that knows paho.

A new paho client object serves each connection, so nothing that paho holds back unsent or unacknowledged crosses to
the next one (protocol rule 22): paho would send a stale retained document again and replace a newer one. paho's
network loop is driven from outside, by its documented calls for that, with `poll`: one thread a connection, no
limit on file descriptors, and other threads wake it.
"""

from __future__ import annotations

import contextlib
import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from slicemq.endpoint import (
    CONNECT_SECONDS,
    Delivery,
    Events,
    Wakeup,
    Will,
    closed_early,
    connect_reason,
    refusal,
    tls_context,
    tune_socket,
)
from slicemq.errors import BrokerError, OversizeError
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions

logger = logging.getLogger(__name__)

_MAX_INFLIGHT = 100
_MAX_QUEUED = 10_000


class Connection:
    """One connection. `publish` may be called on any thread, all else on the owner's.

    `persistent`: the broker keeps the client's session between connections (MQTT 3.1.1), and what it sends is
    acknowledged by `acknowledge` alone (protocol rule 25). `session_present` says after `open` whether it had one.
    """

    def __init__(
        self,
        options: BrokerOptions,
        client_id: str,
        events: Events,
        wakeup: Wakeup,
        *,
        keepalive: int,
        will: Will | None = None,
        persistent: bool = False,
    ) -> None:
        self.reason = ""
        self.session_present = False
        self._persistent = persistent
        self._options = options
        self._client_id = client_id
        self._events = events
        self._wakeup = wakeup
        self._keepalive = keepalive
        self._connack: Any = None
        self._last_error = ""
        self._order = threading.Lock()
        self._unwritten: deque[tuple[int, int]] = deque()
        self._count = threading.Lock()
        self._unacknowledged = 0
        self._closed = False
        self._poll = select.poll()
        self._poll.register(wakeup.fileno(), select.POLLIN)
        mqtt5 = options.mqtt5 and not persistent
        version = MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if mqtt5 else not persistent,
            protocol=version,
            transport=options.transport,
            reconnect_on_failure=False,
            manual_ack=persistent,
        )
        client.connect_timeout = CONNECT_SECONDS
        # These bound QoS 1; QoS 0 is bounded by whoever publishes (see DataLink).
        client.max_inflight_messages_set(_MAX_INFLIGHT)
        client.max_queued_messages_set(_MAX_QUEUED)
        if options.transport == "websockets":
            client.ws_set_options(path=options.path)
        if options.username is not None:
            client.username_pw_set(options.username, options.password)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_socket_open = lambda client, userdata, sock: tune_socket(sock)
        # With this set, paho never writes to the socket on the thread that publishes.
        client.on_socket_register_write = lambda *_: wakeup.set()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_publish = self._on_publish
        client.on_log = self._on_log
        self._client = client

    def open(self) -> None:
        """Connect and wait for the broker's answer; raises BrokerError or BrokerRefusedError with the reason."""
        where = self._options.describe()
        try:
            if self._options.tls:
                self._client.tls_set_context(tls_context(self._options))
            self._client.connect(self._options.host, self._options.port, self._keepalive)
        except (OSError, ValueError) as error:
            self.close()
            reason = connect_reason(error, self._options)
            if isinstance(error, paho.WebsocketConnectionError):
                reason = f"it does not speak WebSocket at {self._options.path}"
            raise BrokerError(f"cannot connect to {where}: {reason}") from None
        deadline = time.monotonic() + CONNECT_SECONDS
        while self._connack is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise BrokerError(f"cannot connect to {where}: no answer within {CONNECT_SECONDS:g} s")
            if not self.pump(left) and self._connack is None:
                self.close()
                raise BrokerError(f"cannot connect to {where}: {closed_early(self._options, self._last_error)}")
        if self._connack.is_failure:
            self.close()
            raise refusal(self._options, self._client_id, int(self._connack.value), str(self._connack))

    def pump(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for something to move, and move it; False when it is closed."""
        sock = self._client.socket()
        if sock is None or self._closed:
            return False
        pending = getattr(sock, "pending", None)
        waiting = pending is not None and pending() > 0
        mask = select.POLLIN | (select.POLLOUT if self._client.want_write() or _unsent(sock) else 0)
        self._poll.register(sock.fileno(), mask)
        readable, writable = waiting, False
        for descriptor, event in self._poll.poll(0 if waiting else max(0.0, timeout) * 1000):
            if descriptor == self._wakeup.fileno():
                self._wakeup.clear()
            else:
                readable = readable or bool(event & ~select.POLLOUT)
                writable = bool(event & select.POLLOUT)
        if readable:
            self._client.loop_read()
        if (writable or self._client.want_write()) and _flush(sock):
            self._client.loop_write()
        if self._options.transport == "websockets" and self._unwritten and not _unsent(sock):
            self._report_written()
        self._client.loop_misc()
        return self._client.socket() is not None

    def _report_written(self) -> None:
        # Over WebSocket paho does not report a message that took several writes (see _unsent).
        with self._order:
            sizes = [] if self._client.want_write() else [size for _, size in self._unwritten]
            if sizes:
                self._unwritten.clear()
        for size in sizes:
            self._guarded(self._events.written, size)

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        """Hand a message to the connection; False when it is closed or too much QoS 1 waits for the broker."""
        if len(payload) > MAX_PAYLOAD:
            raise OversizeError(f"topic {topic}: {len(payload)} bytes, MQTT carries at most {MAX_PAYLOAD}")
        if self._closed:
            return False
        if qos == 0:
            # Written, and reported as written, in the order in which they are handed over.
            with self._order:
                info = self._client.publish(topic, payload, 0, retain)
                if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._unwritten.append((info.mid, len(payload)))
                return bool(info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS)
        # Not under that lock: paho holds one of its own while it reports a PUBACK.
        self._acknowledge(1)
        info = self._client.publish(topic, payload, qos, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._acknowledge(-1)
        return bool(info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS)

    def _acknowledge(self, change: int) -> None:
        with self._count:
            self._unacknowledged += change

    def publish_numbered(self, topic: str, payload: bytes) -> int | None:
        """Send a QoS 1 message; the packet's number, which `Events.confirmed` will get, or None when not taken.

        For the owner's thread, so that the PUBACK cannot come before the number is known.
        """
        if len(payload) > MAX_PAYLOAD:
            raise OversizeError(f"topic {topic}: {len(payload)} bytes, MQTT carries at most {MAX_PAYLOAD}")
        if self._closed:
            return None
        self._acknowledge(1)
        info = self._client.publish(topic, payload, 1, False)
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            return info.mid
        self._acknowledge(-1)
        return None

    def acknowledge(self, packet_id: int) -> None:
        """Send the PUBACK of a message that a persistent session delivered."""
        if not self._closed:
            self._client.ack(packet_id, 1)

    @property
    def unacknowledged(self) -> int:
        """QoS 1 messages that wait for their PUBACK."""
        return self._unacknowledged

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int | None:
        """Ask for (filter, QoS) pairs; the packet's number, which the SUBACK will carry, or None when closed."""
        code, mid = self._client.subscribe(list(filters))
        return mid if code == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def unsubscribe(self, filters: Sequence[str]) -> int | None:
        """End subscriptions; the packet's number, which the UNSUBACK will carry, or None when closed."""
        code, mid = self._client.unsubscribe(list(filters))
        return mid if code == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def disconnect(self, deadline: float) -> None:
        """Say goodbye (the broker then drops the will) and close, by the monotonic time `deadline`."""
        self._client.disconnect()
        while time.monotonic() < deadline and self.pump(deadline - time.monotonic()):
            pass
        self.close()

    def close(self) -> None:
        """Close without a goodbye."""
        self._closed = True
        sock = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        self._connack = code
        self.session_present = bool(flags.session_present)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        silent = "keep alive" in str(code).lower()
        text = (
            f"no sign of life within {self._keepalive} s" if silent else self._last_error or "the broker closed it"
        )
        self.reason = f"connection to {self._options.describe()} lost: {text}"

    def _on_message(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            logger.warning("a message on a topic that is not UTF-8 was dropped")
            if self._persistent and message.qos:
                self._client.ack(message.mid, 1)
            return
        if self._persistent:
            packet_id = message.mid if message.qos else 0
            delivery = Delivery(topic, bytes(message.payload), packet_id, bool(message.dup), bool(message.retain))
            self._guarded(self._events.delivered, delivery)
            return
        self._guarded(self._events.message, topic, message.payload, bool(message.retain))

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, codes: Any, properties: Any) -> None:
        self._guarded(self._events.suback, mid, [int(code.value) for code in codes])

    def _on_unsubscribe(self, client: Any, userdata: Any, mid: int, codes: Any, properties: Any) -> None:
        self._guarded(self._events.unsuback, mid)

    def _on_publish(self, client: Any, userdata: Any, mid: int, code: Any, properties: Any) -> None:
        nbytes: list[int] = []
        written = -1
        with self._order:
            if any(mid == one for one, _ in self._unwritten):
                # Those before it were written too, reported or not (see _report_written).
                while not nbytes or written != mid:
                    written, size = self._unwritten.popleft()
                    nbytes.append(size)
        if not nbytes:
            self._acknowledge(-1)
            self._guarded(self._events.confirmed, mid)
        for size in nbytes:
            self._guarded(self._events.written, size)

    def _on_log(self, client: Any, userdata: Any, level: int, text: str) -> None:
        if level == paho.MQTT_LOG_ERR:
            self._last_error = text.rpartition(": ")[2]

    def _guarded(self, function: Callable[..., None], *values: Any) -> None:
        try:
            function(*values)
        except Exception:
            logger.exception("an error in a callback of connection %s was ignored", self._client_id)


def _unsent(sock: Any) -> bool:
    # paho's WebSocket forgets a message of which the socket took only a part: the rest waits in the wrapper, and
    # the next message would be sent in its place.
    return bool(getattr(sock, "_sendbuffer", b""))


def _flush(sock: Any) -> bool:
    """Send what paho's WebSocket holds back; whether nothing is left."""
    with contextlib.suppress(OSError):
        while _unsent(sock):
            sock.send(b"")
    return not _unsent(sock)
