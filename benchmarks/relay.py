"""What the emulator's relay can carry: Gbit/s of one connection, and its processor time, with and without delay.

    python -m benchmarks.relay [--delays-ms 0,3,30] [--mb 500] [--format json]

One connection over loopback, in one direction. With a long delay the limit of the bytes on their way counts too:
the relay is told the link's rate (`--rate-mbps`) and keeps twice what is on such a link.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from dataclasses import asdict, dataclass

from benchmarks.machine import describe_machine
from emulator.relay_handle import RelayProcess

_CHUNK = bytes(1 << 20)


@dataclass(frozen=True)
class Row:
    """One delay: what came through, and the relay's processor time for each MB (10^6 bytes)."""

    delay_ms: float
    gbit_per_s: float
    cpu_ms_per_mb: float


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.relay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delays-ms", default="0,3,30", help="one-way delays")
    parser.add_argument("--mb", type=float, default=500.0, help="MB to send for each")
    parser.add_argument("--rate-mbps", type=float, default=1000.0)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    rows = [_measure(float(word), given.mb, given.rate_mbps) for word in given.delays_ms.split(",")]
    if given.format == "json":
        print(json.dumps({"machine": describe_machine(), "rows": [asdict(row) for row in rows]}, indent=2))
        return 0
    print(f"{describe_machine()}\n")
    print("| delay ms | Gbit/s | CPU ms per MB |")
    print("| --- | --- | --- |")
    for row in rows:
        print(f"| {row.delay_ms:g} | {row.gbit_per_s:.2f} | {row.cpu_ms_per_mb:.2f} |")
    return 0


def _measure(delay_ms: float, mb: float, rate_mbps: float) -> Row:
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_swallow, args=(server,), daemon=True).start()
    to = f"127.0.0.1:{server.getsockname()[1]}"
    delay = delay_ms / 1e3
    with RelayProcess("127.0.0.1:0", to, up=delay, down=delay, rate=rate_mbps * 1e6) as relay:
        before = relay.stats()["cpu_seconds"]
        with socket.create_connection(("127.0.0.1", relay.port)) as sender:
            begun, sent = time.monotonic(), 0
            while sent < mb * 1e6:
                sender.sendall(_CHUNK)
                sent += len(_CHUNK)
            sender.shutdown(socket.SHUT_WR)
            sender.recv(1)
            seconds = time.monotonic() - begun
        used = relay.stats()["cpu_seconds"] - before
    return Row(delay_ms, sent * 8 / seconds / 1e9, used * 1e3 / (sent / 1e6))


def _swallow(server: socket.socket) -> None:
    with server:
        connection, _ = server.accept()
    buffer = bytearray(len(_CHUNK))
    with connection:
        while connection.recv_into(buffer):
            pass
        connection.sendall(b".")


if __name__ == "__main__":
    raise SystemExit(main())
