"""The two ends of one measured way for frames, each a process of its own: bare socket, own link, paho link."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from slicemq.errors import SliceMQError
from slicemq.options import BrokerOptions
from slicemq.ownlink import OwnLink
from slicemq.paholink import PahoLink

TOPIC = "slicemq/v1/bench/data/bench/1-00000000/b0"
HEADER = 208
_SECONDS = 120.0


@dataclass(frozen=True)
class Way:
    """How frames travel: `bare` needs `port`; `own` and `paho` need a broker."""

    kind: str
    broker: BrokerOptions | None = None
    port: int = 0
    qos: int = 0


@dataclass(frozen=True)
class Cost:
    """Seconds of one process's CPU per frame, and frames per second of wall time."""

    send: float
    receive: float
    rate: float


@dataclass(frozen=True)
class _Order:
    size: int
    count: int
    pause: float


def measure(way: Way, sizes: dict[int, int], repeat: int, pause: float = 0.0) -> dict[int, Cost]:
    """The cost by frame size; each the one of least CPU of `repeat` runs of `sizes[size]` frames.

    `pause`: seconds between two frames, 0 for as fast as they go. Raises SliceMQError when frames are lost.
    """
    with _ends(way) as (receiver, sender):
        found = {}
        for size, count in sizes.items():
            runs = [_run(receiver, sender, _Order(size, count, pause)) for _ in range(repeat)]
            rate = max(run.rate for run in runs)
            found[size] = Cost(min(run.send for run in runs), min(run.receive for run in runs), rate)
        return found


def _run(receiver: Connection, sender: Connection, order: _Order) -> Cost:
    receiver.send(order)
    receiver.recv()
    sender.send(order)
    if not (sender.poll(_SECONDS) and receiver.poll(_SECONDS)):
        raise SliceMQError(f"{order.count} frames of {order.size} bytes did not arrive within {_SECONDS:g} s")
    (send, began), (receive, ended) = sender.recv(), receiver.recv()
    return Cost(send / order.count, receive / order.count, order.count / (ended - began))


@contextlib.contextmanager
def _ends(way: Way) -> Iterator[tuple[Connection, Connection]]:
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0))) if way.kind == "bare" else None
        for end in (_receive, _send):
            ours, theirs = context.Pipe()
            process = context.Process(target=end, args=(theirs, way, listener), daemon=True)
            process.start()
            stack.callback(process.kill)
            pipes.append(ours)
            processes.append(process)
            ours.recv()
        yield pipes[0], pipes[1]
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.send(None)
            process.join(5)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _receive(pipe: Connection, way: Way, listener: socket.socket | None) -> None:
    if listener is not None:
        _receive_bare(pipe, listener)
    else:
        _receive_link(pipe, way)


def _send(pipe: Connection, way: Way, listener: socket.socket | None) -> None:
    if listener is not None:
        _send_bare(pipe, listener.getsockname()[1])
    else:
        _send_link(pipe, way)


def open_way(way: Way, name: str, on_frame: Callable[[str, bytes | memoryview], None]) -> OwnLink | PahoLink:
    """A link of the way's kind, not yet started."""
    assert way.broker is not None
    common: dict[str, Any] = {
        "on_frame": on_frame,
        "on_up": lambda: None,
        "on_down": lambda reason: None,
        "max_pending": 64 << 20,
    }
    if way.kind == "own":
        return OwnLink(way.broker, name, qos=way.qos, **common)
    return PahoLink(way.broker, name, **common)


def _receive_link(pipe: Connection, way: Way) -> None:
    left = 0
    tensor = np.zeros(0, np.uint8)
    done = threading.Event()

    def on_frame(_: str, payload: bytes | memoryview) -> None:
        nonlocal left
        # As a node does: the tensor goes into the interpreter's input.
        tensor[:] = np.frombuffer(payload, np.uint8, offset=HEADER)
        left -= 1
        if left == 0:
            done.set()

    link = open_way(way, "bench-receiver", on_frame)
    link.subscribe([TOPIC])
    link.start()
    link.wait_up(10)
    pipe.send("up")
    while (order := pipe.recv()) is not None:
        left, tensor = order.count, np.zeros(order.size - HEADER, np.uint8)
        done.clear()
        pipe.send("ready")
        begin = _cpu()
        done.wait()
        pipe.send((_cpu() - begin, time.time()))
    link.stop()


def _send_link(pipe: Connection, way: Way) -> None:
    link = open_way(way, "bench-sender", lambda topic, payload: None)
    link.start()
    link.wait_up(10)
    pipe.send("up")
    while (order := pipe.recv()) is not None:
        header, output = bytes(HEADER), np.ones(order.size - HEADER, np.uint8)
        copied = np.empty_like(output)
        began, begin = time.time(), _cpu()
        for _ in range(order.count):
            # As a node does: the interpreter's output is copied before the next run overwrites it.
            copied[:] = output
            while not link.send(TOPIC, [header, copied.data]):
                if not link.up:
                    raise SliceMQError("the link went down")
                time.sleep(0.0005)  # QoS 1: too many wait for the broker's answer
            if order.pause:
                time.sleep(order.pause)
        while link.pending or (isinstance(link, OwnLink) and link.unacknowledged):
            time.sleep(0.001)
        pipe.send((_cpu() - begin, began))
    link.stop()


def _receive_bare(pipe: Connection, listener: socket.socket) -> None:
    pipe.send("up")
    peer, _ = listener.accept()
    while (order := pipe.recv()) is not None:
        buffer = memoryview(bytearray(order.size))
        pipe.send("ready")
        begin = _cpu()
        for _ in range(order.count):
            got = 0
            while got < order.size:
                got += peer.recv_into(buffer[got:])
        pipe.send((_cpu() - begin, time.time()))


def _send_bare(pipe: Connection, port: int) -> None:
    peer = socket.create_connection(("127.0.0.1", port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pipe.send("up")
    while (order := pipe.recv()) is not None:
        header, output = bytes(HEADER), memoryview(bytearray(order.size - HEADER))
        began, begin = time.time(), _cpu()
        for _ in range(order.count):
            peer.sendall(header)
            peer.sendall(output)
            if order.pause:
                time.sleep(order.pause)
        pipe.send((_cpu() - begin, began))
