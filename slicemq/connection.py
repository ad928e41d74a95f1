"""One life of one MQTT connection: the only module that knows paho.

A new paho client object serves each connection, so nothing that paho holds back unsent or unacknowledged crosses to
the next one (protocol rule 22): paho would send a stale retained document again and replace a newer one. paho's
network loop is driven from outside, by its documented calls for that, with `poll`: one thread a connection, no
limit on file descriptors, and other threads wake it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from slicemq.errors import BrokerError, BrokerRefusedError, OversizeError
from slicemq.options import BrokerOptions

logger = logging.getLogger(__name__)

# What MQTT can carry in one packet, less its longest topic and header.
MAX_PAYLOAD = 268_435_455 - 65_540
CONNECT_SECONDS = 5.0
# Milliseconds without any progress of TCP after which the kernel gives a connection up.
_TCP_SILENCE_MS = 15_000
_MAX_INFLIGHT = 100
_MAX_QUEUED = 10_000
# CONNACK codes (as paho gives them, in the numbers of MQTT 5): is the client refused for good, and why.
_REFUSALS = {
    0x84: (False, "it does not speak this version of MQTT"),
    0x85: (True, "it does not accept the client id {client_id!r}"),
    0x86: (True, "wrong user name or password"),
    0x87: (True, "not authorised"),
    0x88: (False, "it is not available now"),
    0x8A: (True, "this client is banned"),
    0x8C: (True, "it wants another way of authentication"),
}


@dataclass(frozen=True)
class Will:
    """What the broker publishes, retained and with QoS 1, when the connection ends without a goodbye."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Events:
    """What a connection tells its owner, always on the thread that calls `open` and `pump`."""

    message: Callable[[str, bytes, bool], None]
    suback: Callable[[int, Sequence[int]], None]
    unsuback: Callable[[int], None]
    written: Callable[[int], None] = lambda nbytes: None


class Wakeup:
    """Wakes a thread that waits in `poll`; usable from any thread, also after it was closed."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._lock = threading.Lock()
        self._open = True

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader

    def set(self) -> None:
        """Wake the thread."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._open:
                os.write(self._writer, b"x")

    def clear(self) -> None:
        """Take what woke us."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def wait(self, timeout: float) -> None:
        """Wait until woken, at most `timeout` seconds."""
        if select.select([self._reader], [], [], timeout)[0]:
            self.clear()

    def close(self) -> None:
        """Close the descriptors."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._reader)
                os.close(self._writer)


class Connection:
    """One connection. `publish` may be called on any thread, all else on the owner's."""

    def __init__(
        self,
        options: BrokerOptions,
        client_id: str,
        events: Events,
        wakeup: Wakeup,
        *,
        keepalive: int,
        will: Will | None = None,
    ) -> None:
        self.reason = ""
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
        version = MQTTProtocolVersion.MQTTv5 if options.mqtt5 else MQTTProtocolVersion.MQTTv311
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if options.mqtt5 else True,
            protocol=version,
            transport=options.transport,
            reconnect_on_failure=False,
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
        client.on_socket_open = _tune_socket
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
                self._client.tls_set_context(_tls_context(self._options))
            self._client.connect(self._options.host, self._options.port, self._keepalive)
        except (OSError, ValueError) as error:
            self.close()
            raise BrokerError(f"cannot connect to {where}: {_connect_reason(error, self._options)}") from None
        deadline = time.monotonic() + CONNECT_SECONDS
        while self._connack is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise BrokerError(f"cannot connect to {where}: no answer within {CONNECT_SECONDS:g} s")
            if not self.pump(left) and self._connack is None:
                self.close()
                raise BrokerError(f"cannot connect to {where}: {self._closed_early()}")
        if self._connack.is_failure:
            self.close()
            raise self._refusal(where)

    def _closed_early(self) -> str:
        detail = f" ({self._last_error})" if self._last_error else ""
        if self._options.tls:
            return f"it ended the connection: does it want a client certificate, or another one?{detail}"
        if self._options.mqtt5:
            return f"it ended the connection: does it speak MQTT 5?{detail}"
        return f"it ended the connection without an answer: is this an MQTT port, and one without TLS?{detail}"

    def _refusal(self, where: str) -> BrokerError:
        code = int(self._connack.value)
        final, reason = _REFUSALS.get(code, (False, f"{self._connack} (code {code})"))
        if code in (0x86, 0x87):
            user = self._options.username
            reason += " (no user name was given)" if user is None else f" (user {user!r})"
        text = f"broker {where} refused the connection: {reason.replace('{client_id!r}', repr(self._client_id))}"
        return BrokerRefusedError(text) if final else BrokerError(text)

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


def _tune_socket(client: Any, userdata: Any, sock: Any) -> None:
    # paho gives TLS and WebSocket wrappers, some without setsockopt: a second handle reaches the socket itself.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 3),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", _TCP_SILENCE_MS),
        ):
            if hasattr(socket, name):
                same.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _tls_context(options: BrokerOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_file)
    if options.cert_file is not None:
        context.load_cert_chain(options.cert_file, options.key_file)
    return context


def _connect_reason(error: Exception, options: BrokerOptions) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "is it the right CA file?" if options.ca_file else "is a CA file needed?"
        return f"its certificate is not trusted: {error.verify_message} ({hint})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error} (does this port speak TLS?)"
    if isinstance(error, socket.gaierror):
        return f"the host name {options.host!r} is not known ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there (connection refused)"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, paho.WebsocketConnectionError):
        return f"it does not speak WebSocket at {options.path}"
    if isinstance(error, ConnectionResetError):
        protocol = "TLS" if options.tls else options.transport
        return f"it ended the connection (does this port speak {protocol}?)"
    return getattr(error, "strerror", None) or str(error)
