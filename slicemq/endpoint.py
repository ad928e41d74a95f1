"""What every kind of connection to a broker shares: its owner's view of it, sockets, TLS, words for refusals."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from slicemq.errors import BrokerError, BrokerRefusedError
from slicemq.options import BrokerOptions

CONNECT_SECONDS = 5.0
# Milliseconds without any progress of TCP after which the kernel gives a connection up.
_TCP_SILENCE_MS = 15_000
# CONNACK codes in the numbers of MQTT 5: is the client refused for good, and why.
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
class Delivery:
    """A message as it came over a persistent session: `packet_id` is what acknowledges it (0 with QoS 0).

    `again` says that the broker has sent it before, on this or an earlier connection.
    """

    topic: str
    payload: bytes
    packet_id: int
    again: bool
    retained: bool


@dataclass(frozen=True)
class Events:
    """What a connection tells its owner, always on the thread that calls `open` and `pump`.

    `message` gets topic, payload (bytes, or a memoryview from a connection of our own) and whether it was retained.
    Over a persistent session `delivered` is called in its place, and `confirmed` with the number of a QoS 1 message
    of ours whose PUBACK has come.
    """

    message: Callable[[str, Any, bool], None]
    suback: Callable[[int, Sequence[int]], None]
    unsuback: Callable[[int], None]
    written: Callable[[int], None] = lambda nbytes: None
    delivered: Callable[[Delivery], None] = lambda delivery: None
    confirmed: Callable[[int], None] = lambda number: None


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
        # Not `select`, which takes no descriptor above 1023.
        waiting = select.poll()
        waiting.register(self._reader, select.POLLIN)
        if waiting.poll(timeout * 1000):
            self.clear()

    def close(self) -> None:
        """Close the descriptors."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._reader)
                os.close(self._writer)


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class AnyConnection(Protocol):
    """One life of one connection. `publish` may be called on any thread, all else on the owner's."""

    reason: str

    def open(self) -> None:
        """Connect and wait for the broker's answer; raises BrokerError or BrokerRefusedError with the reason."""

    def pump(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for something to move, and move it; False when it is closed."""

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        """Hand a message to the connection; False when it does not take it."""

    @property
    def unacknowledged(self) -> int:
        """QoS 1 messages that wait for their PUBACK."""

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int | None:
        """Ask for (filter, QoS) pairs; the packet's number, which the SUBACK will carry, or None when closed."""

    def unsubscribe(self, filters: Sequence[str]) -> int | None:
        """End subscriptions; the packet's number, which the UNSUBACK will carry, or None when closed."""

    def disconnect(self, deadline: float) -> None:
        """Say goodbye (the broker then drops the will) and close, by the monotonic time `deadline`."""

    def close(self) -> None:
        """Close without a goodbye."""


def tune_socket(sock: _HasFileno) -> None:
    """Send at once, and notice a dead peer early."""
    # A second handle on the descriptor: TLS and WebSocket wrappers, some without setsockopt, come here too.
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


def tls_context(options: BrokerOptions) -> ssl.SSLContext:
    """Certificates are checked; raises OSError or ssl.SSLError for files that cannot be used."""
    context = ssl.create_default_context(cafile=options.ca_file)
    if options.cert_file is not None:
        context.load_cert_chain(options.cert_file, options.key_file)
    return context


def connect_reason(error: Exception, options: BrokerOptions) -> str:
    """Why connecting failed, and what may be wrong."""
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
    if isinstance(error, ConnectionResetError):
        protocol = "TLS" if options.tls else options.transport
        return f"it ended the connection (does this port speak {protocol}?)"
    return getattr(error, "strerror", None) or str(error)


def error_words(error: OSError) -> str:
    """A broken connection in a few words."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error)


def refusal(options: BrokerOptions, client_id: str, code: int, meaning: str) -> BrokerError:
    """The error for a CONNACK with `code`, in the numbers of MQTT 5; `meaning` stands for a code unknown here."""
    final, reason = _REFUSALS.get(code, (False, f"{meaning} (code {code})"))
    if code in (0x86, 0x87):
        user = options.username
        reason += " (no user name was given)" if user is None else f" (user {user!r})"
    text = f"broker {options.describe()} refused the connection: {reason.replace('{client_id!r}', repr(client_id))}"
    return BrokerRefusedError(text) if final else BrokerError(text)


def closed_early(options: BrokerOptions, detail: str) -> str:
    """Why a broker may end a connection before its CONNACK; `detail` is what is known, maybe nothing."""
    detail = f" ({detail})" if detail else ""
    if options.tls:
        return f"it ended the connection: does it want a client certificate, or another one?{detail}"
    if options.mqtt5:
        return f"it ended the connection: does it speak MQTT 5?{detail}"
    return f"it ended the connection without an answer: is this an MQTT port, and one without TLS?{detail}"
