"""The least that a frame through a broker can cost in Python: MQTT 3.1.1 by hand over one blocking socket.

    python -m benchmarks.bare_mqtt HOST PORT TOPIC_IN TOPIC_OUT

sends back what it gets, by `recv_into` a buffer that it has and one gather write. benchmarks.hop and
benchmarks.overhead hold workers against it. For measuring only: it checks little, and frames must not get smaller.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType

from slicemq.errors import BrokerError
from slicemq.options import BrokerOptions

_SECONDS = 20.0
_MOST = 1 << 25
# A worker's (edge_node.worker): the same place in the queue for a processor.
_NICENESS = 5
_CONNECT, _CONNACK, _PUBLISH, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x82, 0x90


class BareMqtt:
    """A connection that publishes to one topic and hears another, QoS 0."""

    def __init__(self, broker: BrokerOptions, hears: str, tells: str) -> None:
        self._socket = socket.create_connection((broker.host, broker.port), timeout=_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(_MOST))
        self._tells = _text(tells)
        # What the next packet takes at least, so that one read gets all of it and nothing of the one behind.
        self._least = 2
        name = _text(f"bare-{os.getpid()}-{id(self):x}")
        self._socket.sendall(_packet(_CONNECT, b"\0\4MQTT\4\2\0\0" + name))
        self._expect(_CONNACK)
        self._socket.sendall(_packet(_SUBSCRIBE, b"\0\1" + _text(hears) + b"\0"))
        self._expect(_SUBACK)
        # From here on it blocks, so that no poll comes before each call.
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(_SECONDS), 0))

    def send(self, payload: memoryview) -> None:
        """Publish one frame: header and payload by one gather write, and what is left by further ones."""
        head = bytes((_PUBLISH,)) + _length(len(self._tells) + len(payload)) + self._tells
        left = self._socket.sendmsg((head, payload)) - len(head)
        while left < len(payload):
            left += self._socket.send(payload[left:])

    def receive(self) -> memoryview:
        """The next frame's payload, valid until the next call. Raises BrokerError when none comes."""
        kind, start, end = self._packet()
        if kind & 0xF0 != _PUBLISH:
            raise BrokerError(f"bare socket: expected a PUBLISH, got a packet of type {kind >> 4}")
        (topic,) = struct.unpack_from(">H", self._buffer, start)
        return self._buffer[start + 2 + topic : end]

    def __enter__(self) -> BareMqtt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _expect(self, wanted: int) -> None:
        kind, _, _ = self._packet()
        if kind != wanted:
            raise BrokerError(f"bare socket: expected a packet of type {wanted >> 4}, got {kind >> 4}")

    def _packet(self) -> tuple[int, int, int]:
        """The next packet's first byte, and where the rest of it starts and ends in the buffer."""
        got, end = 0, self._least
        start = 0
        while got < end:
            try:
                more = self._socket.recv_into(self._buffer[got:end])
            except (BlockingIOError, TimeoutError):
                raise BrokerError(f"bare socket: nothing came within {_SECONDS:g} s") from None
            if not more:
                raise BrokerError("bare socket: the broker closed the connection")
            got += more
            if not start:
                start, end = _ends(self._buffer, got)
        if got > end:
            raise BrokerError("bare socket: a packet smaller than the one before")
        self._least = end
        return self._buffer[0], start, end


def _ends(buffer: memoryview, got: int) -> tuple[int, int]:
    """Where the fixed header and the packet end; (0, what to wait for) while the header is not whole."""
    length = 0
    for place in range(1, min(got, 5)):
        length |= (buffer[place] & 0x7F) << 7 * (place - 1)
        if buffer[place] < 0x80:
            return place + 1, place + 1 + length
    return 0, got + 1


def _packet(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + _length(len(body)) + body


def _length(length: int) -> bytes:
    digits = bytearray()
    while length > 0x7F:
        digits.append(0x80 | length & 0x7F)
        length >>= 7
    digits.append(length)
    return bytes(digits)


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


@contextlib.contextmanager
def bare_echo(broker: BrokerOptions, hears: str, tells: str) -> Iterator[int]:
    """Run the echo in a process of its own: its process id. Raises BrokerError when it does not start."""
    command = [sys.executable, "-m", "benchmarks.bare_mqtt", broker.host, str(broker.port), hears, tells]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise BrokerError(f"broker {broker.describe()}: the bare echo did not start")
            yield process.pid
        finally:
            process.kill()


def main() -> int:
    """Echo until killed; prints `ready` when subscribed."""
    host, port, topic_in, topic_out = sys.argv[1:]
    os.nice(_NICENESS)
    with BareMqtt(BrokerOptions(host=host, port=int(port)), topic_in, topic_out) as echo:
        print("ready", flush=True)
        while True:
            echo.send(echo.receive())


if __name__ == "__main__":
    raise SystemExit(main())
