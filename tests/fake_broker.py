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
    """Answers CONNECT with `connack` and the n-th SUBSCRIBE with `suback(n)`; None is no answer."""

    connack: int | None = 0
    suback: Callable[[int], int | None] = lambda count: 0
    subscribes: int = 0
    connects: int = 0
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

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        with contextlib.suppress(OSError, IndexError, ValueError):
            while True:
                kind, body = stream.read(1)[0] >> 4, stream.read(_length(stream.read))
                if kind == CONNECT:
                    self.connects += 1
                    if self.connack is not None:
                        client.sendall(bytes([0x20, 2, 0, self.connack]))
                elif kind == SUBSCRIBE:
                    self.subscribes += 1
                    code = self.suback(self.subscribes)
                    if code is not None:
                        codes = bytes([code]) * _filters(body)
                        client.sendall(bytes([0x90, 2 + len(codes)]) + body[:2] + codes)
                elif kind == PINGREQ:
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
