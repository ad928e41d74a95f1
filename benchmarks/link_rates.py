"""How well the emulator's links keep their rates: bulk transfers and single frames over a bare TCP socket.

`python -m benchmarks.link_rates [--seconds 4]`, as root. A rate counts Ethernet bytes, so TCP can carry 1448/1514
of it: the table gives what was reached as a share of that. A frame is what the link carries in 50 ms, sent after a
pause: what a token bucket lets through at once makes it faster than the link is.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from benchmarks.machine import describe_machine
from emulator.network import Network
from emulator.ownership import new_tag

RATES = (6e6, 20e6, 50e6, 100e6, 300e6, 1e9)
_CARRIED = 1448 / 1514
_FRAME_SECONDS = 0.05
_FRAMES = 20
# Answers with one byte whenever so many have come.
_SINK = """
import socket, sys
server = socket.create_server(("0.0.0.0", 5000))
print("listening", flush=True)
connection, _ = server.accept()
size, count, buffer = int(sys.argv[1]), 0, bytearray(1 << 20)
while got := connection.recv_into(buffer):
    count += got
    while count >= size:
        count -= size
        connection.sendall(b"k")
"""
# Sends so many bytes so often, with a pause after each answer; prints the seconds that each took.
_SOURCE = """
import socket, sys, time
size, times, pause = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
connection = socket.create_connection((sys.argv[1], 5000))
data = bytes(size)
for _ in range(times):
    time.sleep(pause)
    begun = time.perf_counter()
    connection.sendall(data)
    connection.recv(1)
    print(time.perf_counter() - begun)
"""


def seconds(network: Network, source: str, sink: str, size: int, times: int, pause: float) -> float:
    """The median seconds that `size` bytes take from one port to another, until their answer."""
    listen = [*network.ports[sink].prefix(), sys.executable, "-c", _SINK, str(size)]
    with subprocess.Popen(listen, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        words = [sys.executable, "-c", _SOURCE, network.ports[sink].address, str(size), str(times), str(pause)]
        done = subprocess.run([*network.ports[source].prefix(), *words], capture_output=True, text=True, check=True)
        server.wait()
    return statistics.median(float(line) for line in done.stdout.split())


def measure(rate: float, length: float) -> list[float]:
    """Shares of `rate` that were reached: bulk up, bulk down, frame up, frame down. `length`: seconds of bulk."""
    found = []
    with Network(new_tag()) as network:
        network.add(["board", "other"])
        network.set_rate("board", up=rate, down=rate)
        for duration, times, pause in ((length, 1, 0.0), (_FRAME_SECONDS, _FRAMES, 0.05)):
            size = round(rate * _CARRIED / 8 * duration)
            for source, sink in (("board", "other"), ("other", "board")):
                took = seconds(network, source, sink, size, times, pause)
                found.append(size * 8 / took / (rate * _CARRIED))
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a bulk transfer")
    length = parser.parse_args().seconds
    print(describe_machine())
    print("\n| rate | bulk from the board | to it | a frame of 50 ms from the board | to it |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for rate in RATES:
        cells = " | ".join(f"{100 * share:.1f} %" for share in measure(rate, length))
        print(f"| {rate / 1e6:g} Mbit/s | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
