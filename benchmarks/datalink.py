"""CPU that one process spends to send and to receive frames over the data link, beside a bare socket.

    python -m benchmarks.datalink [--broker URL] [--repeat N]

Sender and receiver are processes of their own; CPU is theirs, not the broker's. Without `--broker` an embedded
broker is started for the time of the measurement.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from slicemq.datalink import open_link
from slicemq.options import BrokerOptions

TOPIC = "slicemq/v1/bench/data/bench/1-00000000/b0"
# Frame size in bytes -> frames sent.
SIZES = {1_000: 4000, 100_000: 600, 1_000_000: 80, 3_200_000: 40}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _link_receiver(pipe: Connection, options: BrokerOptions) -> None:
    state = {"left": 0}
    done = threading.Event()

    def on_frame(_: str, payload: bytes | memoryview) -> None:
        state["left"] -= 1
        if state["left"] == 0:
            done.set()

    link = open_link(options, "bench-receiver", on_frame=on_frame)
    link.subscribe([TOPIC])
    link.start()
    link.wait_up(10)
    pipe.send("up")
    while (size_and_count := pipe.recv()) is not None:
        state["left"] = size_and_count[1]
        done.clear()
        pipe.send("ready")
        begin = _cpu()
        done.wait()
        pipe.send(_cpu() - begin)
    link.stop()


def _link_sender(pipe: Connection, options: BrokerOptions) -> None:
    link = open_link(options, "bench-sender", on_frame=lambda *_: None)
    link.start()
    link.wait_up(10)
    pipe.send("up")
    while (size_and_count := pipe.recv()) is not None:
        size, count = size_and_count
        header, tensor = bytes(200), memoryview(bytearray(size - 200))
        begin = _cpu()
        for _ in range(count):
            if not link.send(TOPIC, [header, tensor]):
                raise RuntimeError("the link went down")
        while link.pending:
            threading.Event().wait(0.001)
        pipe.send(_cpu() - begin)
    link.stop()


def _bare_receiver(pipe: Connection, listener: socket.socket) -> None:
    pipe.send("up")
    peer, _ = listener.accept()
    while (size_and_count := pipe.recv()) is not None:
        size, count = size_and_count
        pipe.send("ready")
        buffer = memoryview(bytearray(size))
        begin = _cpu()
        for _ in range(count):
            got = 0
            while got < size:
                got += peer.recv_into(buffer[got:])
        pipe.send(_cpu() - begin)


def _bare_sender(pipe: Connection, port: int) -> None:
    peer = socket.create_connection(("127.0.0.1", port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pipe.send("up")
    while (size_and_count := pipe.recv()) is not None:
        size, count = size_and_count
        header, tensor = bytes(200), memoryview(bytearray(size - 200))
        begin = _cpu()
        for _ in range(count):
            peer.sendall(header)
            peer.sendall(tensor)
        pipe.send(_cpu() - begin)


def _measure(
    receiver: tuple[Callable[..., None], object], sender: tuple[Callable[..., None], object], repeat: int
) -> dict[int, tuple[float, float]]:
    """Seconds of CPU per frame by size: (send, receive), the least of `repeat` runs."""
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for function, argument in (receiver, sender):
        ours, theirs = context.Pipe()
        process = context.Process(target=function, args=(theirs, argument), daemon=True)
        process.start()
        ours.recv()
        pipes.append(ours)
        processes.append(process)
    found: dict[int, tuple[float, float]] = {}
    for size, count in SIZES.items():
        runs = []
        for _ in range(repeat):
            pipes[0].send((size, count))
            pipes[0].recv()
            pipes[1].send((size, count))
            runs.append((pipes[1].recv() / count, pipes[0].recv() / count))
        found[size] = (min(run[0] for run in runs), min(run[1] for run in runs))
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join(5)
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--broker", help="URL of a running broker (default: an embedded one is started)")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    broker: subprocess.Popen[str] | None = None
    url = given.broker
    if url is None:
        command = [sys.executable, "-m", "broker_config.embedded", "127.0.0.1", "0"]
        broker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert broker.stdout is not None
        url = broker.stdout.readline().split()[1]
    try:
        options = BrokerOptions.from_url(url)
        link = _measure((_link_receiver, options), (_link_sender, options), given.repeat)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            bare = _measure((_bare_receiver, listener), (_bare_sender, port), given.repeat)
    finally:
        if broker is not None:
            broker.terminate()
            broker.wait()
    print("CPU of one process; ms per frame, ms per MB, and the ratio to a bare socket")
    print(f"{'frame':>9}  {'send ms':>8} {'ms/MB':>7} {'ratio':>6}  {'receive ms':>10} {'ms/MB':>7} {'ratio':>6}")
    for size in SIZES:
        (send, receive), (bare_send, bare_receive), megabytes = link[size], bare[size], size / 1e6
        print(
            f"{size:>9}  {send * 1e3:>8.3f} {send * 1e3 / megabytes:>7.2f} {send / bare_send:>6.1f}  "
            f"{receive * 1e3:>10.3f} {receive * 1e3 / megabytes:>7.2f} {receive / bare_receive:>6.1f}"
        )


if __name__ == "__main__":
    main()
