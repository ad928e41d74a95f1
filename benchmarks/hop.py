"""What a worker adds to the time of a hop, beside bare sockets through the same broker.

    python -m benchmarks.hop [--sizes 1000,100000] [--links own,paho] [--frames 20] [--repeats 15]
                             [--write] [--format json]

One frame at a time goes from this program through a mosquitto broker to an echo and through the broker back. The
echo is in turn a program of bare sockets that speaks MQTT by hand (benchmarks.bare_mqtt) and a real worker with a
slice of one trivial operator over each data link, in short blocks, so that all meet the same machine. This program
talks by bare sockets in every case. What a worker adds is the median over the rounds of a block's median less that
of the bare echo in the same round, and less the mean of its `invoke`, which its heartbeats tell. The exit code is 1
when the own link misses a mark: at most 15 % at 1 MB and above, at most 0.2 ms below. `--write` puts the table into
docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bare_mqtt import BareMqtt, bare_echo
from benchmarks.machine import describe_machine
from benchmarks.marks import Mark, all_held
from benchmarks.marks import table as mark_table
from benchmarks.overhead import (
    CLIENT,
    LARGE,
    LINKS,
    REVISION,
    SIZES,
    assignment,
    elements,
    payloads,
    tiny_model,
)
from benchmarks.pages import write_region
from benchmarks.processes import CLUSTER, LoneWorker
from edge_node.runtime import available_runtimes
from emulator.brokers import Mosquitto
from slicemq.errors import SliceMQError
from slicemq.frames import decode_frame
from slicemq.options import BrokerOptions
from slicemq.topics import Topics

# Of the bare hop from 1 MB on; below, the mark is a time.
MOST_SHARE = 0.15
MOST_MS = 0.2
_WARM = 20


@dataclass(frozen=True)
class Row:
    """Milliseconds of one frame there and back: medians, and the 9th decile over one data link.

    `added_ms` is what the worker adds to the bare echo of the same round, besides `invoke`.
    """

    size: int
    link: str
    bare_ms: float
    worker_ms: float
    worker_p90_ms: float
    invoke_ms: float
    added_ms: float

    @property
    def added_share(self) -> float:
        """`added_ms` as a share of the bare echo's time."""
        return self.added_ms / self.bare_ms


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and judge; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="bytes of the tensor, with commas between"
    )
    parser.add_argument("--links", default=",".join(LINKS), help="own, paho")
    parser.add_argument("--frames", type=int, default=20, help="frames of one block")
    parser.add_argument("--repeats", type=int, default=15, help="rounds: blocks of each echo")
    parser.add_argument("--runtime", default=available_runtimes()[0].name)
    parser.add_argument("--write", action="store_true", help="put the table into docs/explanation/performance.md")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        with Mosquitto() as broker, tempfile.TemporaryDirectory() as folder:
            for size in map(int, given.sizes.split(",")):
                print(f"{size} bytes", file=sys.stderr, flush=True)
                path = Path(folder) / f"{size}.tflite"
                path.write_bytes(tiny_model("both", size))
                rows += _rows(broker.options, path, size, given)
    except SliceMQError as error:
        sys.stderr.write(f"hop: {error}\n")
        return error.exit_code
    found = marks(rows)
    if given.format == "json":
        body = [{**asdict(row), "added_share": row.added_share} for row in rows]
        judged = [mark.to_plain() for mark in found]
        print(json.dumps({"machine": describe_machine(), "rows": body, "marks": judged}, indent=2))
    else:
        print(f"{report(rows)}\n\n{mark_table(found)}")
    if given.write:
        write_region("hop", report(rows))
    return 0 if all_held(found) else 1


def marks(rows: Sequence[Row]) -> list[Mark]:
    """What the own link must keep."""
    return [
        Mark(f"{row.size / 1e6:g} MB: added %", 100 * row.added_share, most=100 * MOST_SHARE)
        if row.size >= LARGE
        else Mark(f"{row.size / 1e3:g} kB: added ms", row.added_ms, most=MOST_MS)
        for row in rows
        if row.link == "own"
    ]


def report(rows: Sequence[Row]) -> str:
    """The table, with the machine."""
    lines = [
        f"{describe_machine()}; milliseconds, medians; MB is 10^6 bytes.",
        "",
        "| tensor | link | bare sockets | worker | 9th decile | of it invoke | added | added % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        size = f"{row.size / 1e6:g} MB" if row.size >= LARGE else f"{row.size / 1e3:g} kB"
        lines.append(
            f"| {size} | {row.link} | {row.bare_ms:.2f} | {row.worker_ms:.2f} | {row.worker_p90_ms:.2f} "
            f"| {row.invoke_ms:.2f} | {row.added_ms:.2f} | {100 * row.added_share:.0f} |"
        )
    return "\n".join(lines)


def _rows(broker: BrokerOptions, path: Path, size: int, given: argparse.Namespace) -> list[Row]:
    links = given.links.split(",")
    payload = memoryview(payloads(elements("both", size)[0])(0))
    rounds: dict[str, list[list[float]]] = {name: [] for name in ("bare", *links)}
    invokes: dict[str, list[float]] = {link: [] for link in links}
    with contextlib.ExitStack() as stack:
        echoes: dict[str, BareMqtt] = {"bare": stack.enter_context(_bare(broker))}
        workers: dict[str, LoneWorker] = {}
        for link in links:
            workers[link], echoes[link] = stack.enter_context(_worker(broker, path, size, link, given.runtime))
        for name in echoes:
            _block(echoes[name], payload, _WARM)
        for _ in range(given.repeats):
            for name, echo in echoes.items():
                rounds[name].append(_block(echo, payload, given.frames))
            for link, worker in workers.items():
                invokes[link].append(float(worker.next_beat()["invoke_ms"]))
    return [_row(size, link, rounds["bare"], rounds[link], invokes[link]) for link in links]


def _row(
    size: int,
    link: str,
    bare: Sequence[Sequence[float]],
    worker: Sequence[Sequence[float]],
    invokes: Sequence[float],
) -> Row:
    """`bare` and `worker`: the seconds of each frame, by round; `invokes`: milliseconds, by round."""
    more = [
        1e3 * (statistics.median(mine) - statistics.median(plain)) - invoke
        for mine, plain, invoke in zip(worker, bare, invokes, strict=True)
    ]
    all_mine = [took for block in worker for took in block]
    return Row(
        size,
        link,
        1e3 * statistics.median(took for block in bare for took in block),
        1e3 * statistics.median(all_mine),
        1e3 * statistics.quantiles(all_mine, n=10)[8],
        statistics.median(invokes),
        statistics.median(more),
    )


def _block(echo: BareMqtt, payload: memoryview, frames: int) -> list[float]:
    """Seconds from publish to the whole answer, one frame after the other."""
    took = []
    for _ in range(frames):
        begun = time.perf_counter()
        echo.send(payload)
        answer = echo.receive()
        took.append(time.perf_counter() - begun)
        header = decode_frame(answer).header
        if header.error:
            raise SliceMQError(header.message)
    return took


@contextlib.contextmanager
def _bare(broker: BrokerOptions) -> Iterator[BareMqtt]:
    with bare_echo(broker, "bare/in", "bare/out"), BareMqtt(broker, "bare/out", "bare/in") as connection:
        yield connection


@contextlib.contextmanager
def _worker(
    broker: BrokerOptions, path: Path, size: int, link: str, runtime: str
) -> Iterator[tuple[LoneWorker, BareMqtt]]:
    # A cluster of its own for each: all of them live side by side.
    cluster = f"{CLUSTER}-{link}"
    topics = Topics(cluster)
    with LoneWorker(assignment("both", size), path, broker, runtime, cluster=cluster, link=link) as worker:
        worker.wait_for("ready")
        hears, tells = topics.results("overhead", CLIENT), topics.data("overhead", REVISION, "b0")
        with BareMqtt(broker, hears, tells) as connection:
            yield worker, connection


if __name__ == "__main__":
    raise SystemExit(main())
