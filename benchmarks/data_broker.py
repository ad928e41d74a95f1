"""What a data broker takes of its board: processor time of mosquitto for each MB that it relays.

A message that comes at once is read in large pieces; over a link that is slower than the board it comes a segment
at a time, and each costs the broker a wake-up. So the cost depends on how the bytes arrive:

    python -m benchmarks.data_broker

Sizes are MB of 10^6 bytes; sender and receiver are on this machine's loopback.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import struct
import sys
import time
from pathlib import Path

from emulator.brokers import Mosquitto
from slicemq.datalink import open_link

SIZES = (430_000, 3_200_000)
SEGMENT = 1448
"""Bytes of a TCP segment on Ethernet."""
WAYS: tuple[tuple[str, int | None], ...] = (
    ("at once", None),
    ("64 KiB at a time", 65_536),
    ("3 segments at a time", 3 * SEGMENT),
    ("a segment at a time", SEGMENT),
)
RATE = 12.5e6
"""Bytes per second at which pieces are sent: 100 Mbit/s."""


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connected(port: int) -> socket.socket:
    """A bare MQTT 3.1.1 connection that only publishes."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    name = secrets.token_hex(4).encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(name)) + name
    sock.sendall(b"\x10" + bytes([len(body)]) + body)
    if len(sock.recv(4)) < 4:
        raise RuntimeError("the broker does not answer")
    return sock


def packet(size: int) -> bytes:
    """A PUBLISH of QoS 0 on the topic `t`."""
    body, left, length = b"\x00\x01t" + bytes(size), size + 3, b""
    while left or not length:
        left, digit = left >> 7, left & 127
        length += bytes([digit | (128 if left else 0)])
    return b"\x30" + length + body


def relay_ms(size: int, piece: int | None, megabytes: float) -> float:
    """Milliseconds of mosquitto for a MB of messages of `size` bytes that come in pieces of `piece`."""
    got = 0

    def count(_topic: str, payload: bytes | memoryview) -> None:
        nonlocal got
        got += len(payload)

    with Mosquitto() as broker:
        assert broker.process is not None
        link = open_link(broker.options, "receiver", on_frame=count)
        link.subscribe(["t"])
        link.start()
        link.wait_up(10.0)
        message, number = packet(size), max(3, round(megabytes * 1e6 / size))
        with connected(broker.port) as sock:
            before = processor_seconds(broker.process.pid)
            for _ in range(number):
                begun = time.perf_counter()
                for start in range(0, len(message), piece or len(message)):
                    sock.sendall(message[start : start + (piece or len(message))])
                    while piece and time.perf_counter() < begun + (start + piece) / RATE:
                        time.sleep(0)
            deadline = time.monotonic() + 30
            while got < number * size and time.monotonic() < deadline:
                time.sleep(0.02)
            spent = processor_seconds(broker.process.pid) - before
        link.stop()
    if got < number * size:
        raise RuntimeError(f"{got} of {number * size} bytes came through")
    return 1e3 * spent / (number * size / 1e6)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=40.0, help="relayed for each cell")
    arguments = parser.parse_args()
    sys.stdout.write("| bytes come | " + " | ".join(f"{size / 1e6:g} MB, ms/MB" for size in SIZES) + " |\n")
    sys.stdout.write("| --- |" + " --- |" * len(SIZES) + "\n")
    for name, piece in WAYS:
        cells = [f"{relay_ms(size, piece, arguments.megabytes):.2f}" for size in SIZES]
        sys.stdout.write(f"| {name} | " + " | ".join(cells) + " |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
