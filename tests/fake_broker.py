"""A broker that misbehaves on purpose: a few lines of MQTT 3.1.1 on a socket, answering as a script says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from slicemq.options import BrokerOptions

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14


@dataclass
class FakeBroker:
    """Answers CONNECT with `connack` and the n-th SUBSCRIBE with `suback(n)`; None is no answer.

    `pings` more PINGREQs are answered; it closes each connection after `close_after` packets (None: never); when
    `deaf` it reads nothing after CONNECT.
    """

    connack: int | None = 0
    suback: Callable[[int], int | None] = lambda count: 0
    subscribes: int = 0
    connects: int = 0
    pings: int = 1_000_000
    close_after: int | None = None
    deaf: bool = False
    _server: socket.socket = field(default_factory=socket.socket)
    _open: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> FakeBroker:
        self._server.bind(("127.0.0.1", 0))
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for one in [self._server, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    @property
    def options(self) -> BrokerOptions:
        return BrokerOptions(host="127.0.0.1", port=self._server.getsockname()[1])

    def push(self, data: bytes) -> bool:
        """Send `data` on the newest connection; False when that is closed."""
        try:
            self._open[-1].sendall(data)
        except OSError:
            return False
        return True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        packets = 0
        with contextlib.suppress(OSError, IndexError, ValueError):
            while True:
                kind, body = stream.read(1)[0] >> 4, stream.read(_length(stream.read))
                if packets == self.close_after:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                packets += 1
                if kind == CONNECT:
                    self.connects += 1
                    if self.connack is not None:
                        client.sendall(bytes([0x20, 2, 0, self.connack]))
                    if self.deaf:
                        return
                elif kind == SUBSCRIBE:
                    self.subscribes += 1
                    code = self.suback(self.subscribes)
                    if code is not None:
                        codes = bytes([code]) * _filters(body)
                        client.sendall(bytes([0x90, 2 + len(codes)]) + body[:2] + codes)
                elif kind == PINGREQ:
                    self.pings -= 1
                    if self.pings >= 0:
                        client.sendall(bytes([0xD0, 0]))


def _length(read: Callable[[int], bytes]) -> int:
    total, shift = 0, 0
    while True:
        byte = read(1)[0]
        total |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return total


def _filters(body: bytes) -> int:
    count, place = 0, 2
    while place < len(body):
        place += 3 + int.from_bytes(body[place : place + 2], "big")
        count += 1
    return count
