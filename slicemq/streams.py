"""The byte stream of a connection of our own: TCP, or TLS over it. Neither call waits.

A TLS object may not read and write at once, so a lock is held around each short call; a socket needs none.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from slicemq.endpoint import CONNECT_SECONDS, tls_context, tune_socket
from slicemq.options import BrokerOptions

Buffers = Sequence[bytes | memoryview]

# Buffers that one gather write takes (the system's limit is 1024 on Linux).
_MAX_BUFFERS = min(1024, os.sysconf("SC_IOV_MAX") if hasattr(os, "sysconf") else 16)
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
# A piece of a payload that is always worth waiting for.
_LEAST_PIECE = 1 << 14
# The most that one call of TLS encrypts: as long a reader may have to wait for the lock.
_TLS_PIECE = 1 << 16
# TLS reads at most one record of 16 kB and some into itself.
_TLS_RECORD = 17_000


class Stream(Protocol):
    """One connected stream. `write` may be called on any thread, one at a time; all else on the owner's."""

    def fileno(self) -> int:
        """The descriptor to poll."""

    def read(self, space: memoryview) -> int:
        """Bytes read into `space`, 0 at the end; raises BlockingIOError when there are none now, or OSError."""

    def drained(self, got: int, asked: int) -> bool:
        """Whether nothing more can be waiting after a read of `got` bytes into a space of `asked`."""

    def write(self, buffers: Buffers) -> int:
        """Bytes written of `buffers`; what is left must be the beginning of the next write. Raises OSError."""

    def mask(self, unsent: bool) -> int:
        """What to poll for; `unsent`: there is something to write."""

    def can_write(self, event: int) -> bool:
        """Whether a write may go on after `event` of poll."""

    def expect(self, missing: int) -> None:
        """At least `missing` more bytes are to come."""

    def finish(self) -> None:
        """Say that nothing more will be written."""

    def close(self) -> None:
        """Close it."""


def open_stream(options: BrokerOptions) -> Stream:
    """Connect to the broker, within CONNECT_SECONDS; raises OSError or ssl.SSLError."""
    deadline = time.monotonic() + CONNECT_SECONDS
    context = tls_context(options) if options.tls else None
    sock = socket.create_connection((options.host, options.port), timeout=CONNECT_SECONDS)
    try:
        tune_socket(sock)
        if context is None:
            sock.setblocking(False)
            return PlainStream(sock)
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        secured = context.wrap_socket(sock, server_hostname=options.host)
        secured.setblocking(False)
        return TlsStream(secured)
    except BaseException:
        sock.close()
        raise


class _LowWater:
    """Wakes us for a good piece of a large payload rather than for each segment of it (SO_RCVLOWAT)."""

    MOST = 1 << 19

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._set = 1

    def expect(self, missing: int) -> None:
        """Never more than what is certain to come, or the last piece would not wake us.

        Nor more than a part of the system's buffer, which grows with the pace: systems before Linux 4.18 do not
        enlarge it for this, and would wait for what has no room.
        """
        wanted = min(missing, self.MOST)
        if wanted <= 1 == self._set:
            return
        with contextlib.suppress(OSError):
            if wanted > _LEAST_PIECE:
                buffer = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                wanted = min(wanted, max(_LEAST_PIECE, buffer // 4))
            wanted = max(1, wanted)
            if wanted != self._set:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
                self._set = wanted


class PlainStream:
    """TCP."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._low_water = _LowWater(sock)
        self.fileno = sock.fileno
        self.read = sock.recv_into

    def drained(self, got: int, asked: int) -> bool:
        """See Stream."""
        return got < asked

    def write(self, buffers: Buffers) -> int:
        """See Stream: one gather write."""
        try:
            return self._sock.sendmsg(buffers[:_MAX_BUFFERS], (), _DONT_WAIT)
        except (BlockingIOError, InterruptedError):
            return 0

    def mask(self, unsent: bool) -> int:
        """See Stream."""
        return select.POLLIN | select.POLLOUT if unsent else select.POLLIN

    def can_write(self, event: int) -> bool:
        """See Stream."""
        return bool(event & select.POLLOUT)

    def expect(self, missing: int) -> None:
        """See Stream."""
        self._low_water.expect(missing)

    def finish(self) -> None:
        """See Stream."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See Stream."""
        with contextlib.suppress(OSError):
            self._sock.close()


class TlsStream:
    """TLS over TCP, in OpenSSL."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._low_water = _LowWater(sock)
        self._lock = threading.Lock()
        self._read_wants_write = False
        self._write_wants_read = False
        self.fileno = sock.fileno

    def read(self, space: memoryview) -> int:
        """See Stream: at most one record."""
        try:
            with self._lock:
                self._read_wants_write = False
                return self._sock.recv_into(space)
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return 0
        raise BlockingIOError

    def drained(self, got: int, asked: int) -> bool:
        """See Stream: only OpenSSL knows what it holds."""
        return False

    def write(self, buffers: Buffers) -> int:
        """See Stream: OpenSSL wants a write that it could not end again with the same bytes, maybe with more."""
        sent = 0
        for piece in _pieces(buffers):
            try:
                with self._lock:
                    self._write_wants_read = False
                    now = self._sock.send(piece)
            except ssl.SSLWantWriteError:
                break
            except ssl.SSLWantReadError:
                self._write_wants_read = True
                break
            sent += now
            if now < len(piece):
                break
        return sent

    def mask(self, unsent: bool) -> int:
        """See Stream: a renegotiation makes a read wait for room and a write for bytes."""
        writes = (unsent and not self._write_wants_read) or self._read_wants_write
        return select.POLLIN | select.POLLOUT if writes else select.POLLIN

    def can_write(self, event: int) -> bool:
        """See Stream."""
        return bool(event & (select.POLLIN if self._write_wants_read else select.POLLOUT))

    def expect(self, missing: int) -> None:
        """See Stream: a record that has come in part is in OpenSSL already."""
        self._low_water.expect(missing - _TLS_RECORD)

    def finish(self) -> None:
        """See Stream: TLS's own goodbye needs no answer here, since MQTT has said its own."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)

    def close(self) -> None:
        """See Stream."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.close()


def _pieces(buffers: Buffers) -> Iterator[bytes | memoryview]:
    """The bytes of `buffers` in pieces of at most _TLS_PIECE; small neighbours share one."""
    small: list[bytes | memoryview] = []
    size = 0
    for buffer in buffers:
        if size and size + len(buffer) > _TLS_PIECE:
            yield b"".join(small)
            small, size = [], 0
        if len(buffer) > 4096:
            if size:
                yield b"".join(small)
                small, size = [], 0
            view = memoryview(buffer)
            for start in range(0, len(view), _TLS_PIECE):
                yield view[start : start + _TLS_PIECE]
        elif len(buffer):
            small.append(buffer)
            size += len(buffer)
    if size:
        yield b"".join(small)
