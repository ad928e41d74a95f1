"""Processor time that a node adds to a frame besides `invoke`, over both data links, by tensor size.

    python -m benchmarks.overhead [--sizes 1000,100000] [--links own,paho] [--frames 200] [--repeats 3]
                                  [--codec raw] [--check] [--write] [--format json]

A real worker process runs a tiny slice behind a mosquitto broker, and this program sends it frames with a plain
paho client. Three slices for each size: `both` passes the tensor through (RELU), `receive` takes it and gives one
element (SLICE), `send` takes one element and gives the tensor (TILE). The worker's processor time (all threads, the
scheduler's count) less that of its `invoke`, which its heartbeats tell, is what the node adds. `bare` is a program
of bare sockets that sends back what it gets (benchmarks.bare_mqtt): the wire without any work. Workers over both
links and the bare echo are measured in turn, so that all meet the same machine. What a node adds to a frame's time
is in benchmarks.hop.

With `--codec` the tensor travels packed, in and out: what a node adds then includes unpacking and packing it. The
bare echo moves the packed bytes; sizes and figures per MB are those of the plain tensor. The marks are for `raw`.

With `--check` the exit code is 1 when the own link misses a mark: at 1 MB and above at most 0.5 ms per MB received
and 0.7 ms per MB sent. `--write` puts the table into docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.bare_mqtt import bare_echo
from benchmarks.machine import describe_machine
from benchmarks.marks import Mark, all_held
from benchmarks.marks import table as mark_table
from benchmarks.pages import write_region
from benchmarks.processes import CLUSTER, LoneWorker, cpu_seconds
from edge_node.runtime import available_runtimes
from emulator.brokers import Mosquitto
from slicemq import codecs
from slicemq.errors import SliceMQError
from slicemq.frames import FrameHeader, decode_frame, encode_frame
from slicemq.messages import Artifact, Bundle, ResultPart, SliceAssignment, TensorSpec
from slicemq.options import BrokerOptions
from slicemq.topics import Topics

SIZES = (1_000, 10_000, 100_000, 1_000_000, 3_200_000)
KINDS = ("both", "receive", "send")
REVISION = "1-00000000"
CLIENT = "driver"
_IN_FLIGHT = 4
_WARM = 20
# The first frame's number: MessagePack packs all that follow in as many bytes.
_FIRST = 1 << 20
LINKS = ("own", "paho")
WORDS = {"both": "through", "receive": "receive", "send": "send"}
# From here on what a node adds is judged per MB.
LARGE = 1_000_000
MOST_PER_MB = {"receive": 0.5, "send": 0.7}
_ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class Row:
    """One kind of slice at one size over one data link: processor milliseconds of a frame, all threads.

    `invoke_ms` is what `invoke` takes of it; `bare_ms` what the bare echo takes for the same tensor.
    """

    size: int
    kind: str
    link: str
    cpu_ms: float
    invoke_ms: float
    bare_ms: float

    @property
    def added_ms(self) -> float:
        """What the node adds besides `invoke`."""
        return self.cpu_ms - self.invoke_ms

    @property
    def added_per_mb(self) -> float:
        """`added_ms` for each MB of the tensor."""
        return self.added_ms / (self.size / 1e6)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and perhaps judge; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="bytes of the tensor, with commas between"
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="both, receive, send")
    parser.add_argument("--links", default=",".join(LINKS), help="own, paho")
    parser.add_argument("--codec", choices=codecs.available(), default="raw", help="of the tensor, in and out")
    parser.add_argument("--frames", type=int, default=200, help="frames of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the median counts")
    parser.add_argument("--runtime", default=available_runtimes()[0].name)
    parser.add_argument("--check", action="store_true", help="exit code 1 when the own link misses a mark")
    parser.add_argument("--write", action="store_true", help="put the table into docs/explanation/performance.md")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    if given.codec != "raw" and (given.check or given.write):
        parser.error("--check and --write: the marks and the page are for --codec raw")
    rows: list[Row] = []
    try:
        with Mosquitto() as broker, tempfile.TemporaryDirectory() as folder:
            for size in map(int, given.sizes.split(",")):
                for kind in given.kinds.split(","):
                    path = Path(folder) / f"{kind}-{size}.tflite"
                    path.write_bytes(tiny_model(kind, size))
                    print(f"{size} bytes, {kind}", file=sys.stderr, flush=True)
                    rows += _rows(broker.options, path, kind, size, given)
    except SliceMQError as error:
        sys.stderr.write(f"overhead: {error}\n")
        return error.exit_code
    found = marks(rows) if given.codec == "raw" else []
    if given.format == "json":
        body = [{**asdict(row), "added_ms": row.added_ms, "added_per_mb": row.added_per_mb} for row in rows]
        judged = [mark.to_plain() for mark in found]
        document = {"machine": describe_machine(), "codec": given.codec, "rows": body, "fit": fit(rows)}
        print(json.dumps({**document, "marks": judged}, indent=2))
    elif found:
        print(f"{report(rows)}\n\n{mark_table(found)}")
    else:
        print(f"Codec {given.codec}.\n\n{report(rows)}")
    if given.write:
        write_region("overhead", report(rows))
    return int(given.check and not all_held(found))


def marks(rows: Sequence[Row]) -> list[Mark]:
    """What the own link must keep: processor milliseconds per MB."""
    return [
        Mark(f"{row.kind}, {row.size / 1e6:g} MB: ms per MB", row.added_per_mb, most=MOST_PER_MB[row.kind])
        for row in rows
        if row.link == "own" and row.size >= LARGE and row.kind in MOST_PER_MB
    ]


def elements(kind: str, size: int) -> tuple[int, int]:
    """float32 elements of the input and the output of the slice of `kind` for a tensor of `size` bytes."""
    count = max(1, size // 4)
    return (1 if kind == "send" else count), (1 if kind == "receive" else count)


def tiny_model(kind: str, size: int) -> bytes:
    """A slice of one operator that moves a tensor of `size` bytes on the sides that `kind` says."""
    # Imported late: it needs the schema of ai-edge-litert, and the other parts do not.
    from ai_edge_litert import schema_py_generated as schema

    from edge_node.calibration.make import Builder

    taken, given = elements(kind, size)
    model = Builder((1, taken))
    code, kinds = schema.BuiltinOperator, schema.BuiltinOptions
    if kind == "both":
        model.add(code.RELU, (1, given))
    elif kind == "receive":
        begin = model.constant("begin", np.array([0, 0], np.int32))
        extent = model.constant("extent", np.array([1, 1], np.int32))
        model.add(
            code.SLICE, (1, 1), begin, extent, options_type=kinds.SliceOptions, options=schema.SliceOptionsT()
        )
    else:
        times = model.constant("times", np.array([1, given], np.int32))
        model.add(code.TILE, (1, given), times, options_type=kinds.TileOptions, options=schema.TileOptionsT())
    return model.finish()


def assignment(kind: str, size: int, codec: str = "raw") -> SliceAssignment:
    """The assignment of `tiny_model(kind, size)`: one bundle in, the result out, both with `codec`."""
    taken, given = elements(kind, size)
    return SliceAssignment(
        pipeline="overhead",
        revision=REVISION,
        slice="s0",
        artifact=Artifact("0" * 64, 1),
        memory=0,
        takes=(0,),
        gives=(1,),
        inputs=(Bundle("b0", (TensorSpec(0, "x", "float32", (1, taken)),), codec),),
        result=ResultPart(0, 1, (TensorSpec(1, "y", "float32", (1, given)),), codec),
    )


def fit(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """For each link and kind of slice: added milliseconds per frame and per MB, a line through the sizes.

    Weighted by 1/ms, so that the small sizes settle the first figure and the large ones the second.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for link, kind in dict.fromkeys((row.link, row.kind) for row in rows):
        mine = [row for row in rows if (row.link, row.kind) == (link, kind)]
        if len({row.size for row in mine}) < 2:
            continue
        sizes = np.array([row.size / 1e6 for row in mine])
        added = np.array([row.added_ms for row in mine])
        weights = 1.0 / np.maximum(added, 1e-3)
        per_mb, per_frame = np.polyfit(sizes, added, 1, w=weights)
        found.setdefault(link, {})[kind] = {"per_frame_ms": float(per_frame), "per_mb_ms": float(per_mb)}
    return found


class Driver:
    """Sends payloads with a plain paho client and collects the answers."""

    def __init__(self, broker: BrokerOptions, answers: str) -> None:
        self._answers: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)

        def on_connect(*_: Any) -> None:
            self._client.subscribe(answers, 0)

        self._client.on_connect = on_connect
        self._client.on_subscribe = lambda *_: subscribed.put(None)
        self._client.on_message = lambda _c, _u, message: self._answers.put(
            (time.perf_counter(), bytes(message.payload))
        )
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        subscribed.get(timeout=_ANSWER_SECONDS)

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def exchange(self, topic: str, payload: Callable[[int], bytes], frames: int, in_flight: int) -> list[float]:
        """Send `frames` payloads, at most `in_flight` at once; the seconds from each publish to its answer."""
        sent: list[float] = []
        took: list[float] = []
        while len(took) < frames:
            while len(sent) < frames and len(sent) - len(took) < in_flight:
                message = payload(len(sent))
                sent.append(time.perf_counter())
                self._client.publish(topic, message, 0)
            try:
                at, answer = self._answers.get(timeout=_ANSWER_SECONDS)
            except queue.Empty:
                raise SliceMQError(f"no answer within {_ANSWER_SECONDS:g} s") from None
            header = decode_frame(answer).header
            if header.error:
                raise SliceMQError(header.message)
            took.append(at - sent[len(took)])
        return took


def payloads(elements: int, codec: str = "raw") -> Callable[[int], bytes]:
    """Makes frame number n with one float32 tensor of so many elements: half of them zeros, as after a RELU."""
    array = np.maximum(np.random.default_rng(1).standard_normal((1, elements), np.float32), 0)

    def payload(number: int) -> bytes:
        # As many bytes for each number: the bare echo counts on it.
        header = FrameHeader(client=CLIENT, stream=1, sequence=_FIRST + number, sent=0.0, revision=REVISION)
        return b"".join(encode_frame(header, [(TensorSpec(0, "x", "float32", (1, elements)), array)], codec))

    return payload


@dataclass(frozen=True)
class _Echo:
    """A process that answers frames: its id, where they go, who sends them, and the worker that it is, if one."""

    pid: int
    topic: str
    driver: Driver
    worker: LoneWorker | None = None

    def cpu(self, payload: Callable[[int], bytes], frames: int) -> tuple[float, float]:
        """Its processor milliseconds for one of `frames` frames, and those of `invoke` among them."""
        before = cpu_seconds(self.pid)
        self.driver.exchange(self.topic, payload, frames, _IN_FLIGHT)
        used = 1e3 * (cpu_seconds(self.pid) - before) / frames
        return used, float(self.worker.next_beat()["invoke_cpu_ms"]) if self.worker is not None else 0.0


def _rows(broker: BrokerOptions, path: Path, kind: str, size: int, given: Any) -> list[Row]:
    links = given.links.split(",")
    payload = payloads(elements(kind, size)[0], given.codec)
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in ("bare", *links)}
    with contextlib.ExitStack() as stack:
        echoes = {"bare": stack.enter_context(_bare(broker))}
        for link in links:
            echoes[link] = stack.enter_context(
                _worker(broker, path, assignment(kind, size, given.codec), link, given.runtime)
            )
        for echo in echoes.values():
            echo.cpu(payload, _WARM)
        for _ in range(given.repeats):
            for name, echo in echoes.items():
                used[name].append(echo.cpu(payload, given.frames))
    # By what each run adds: the run in the middle counts, with its own `invoke`.
    middle = {name: sorted(runs, key=lambda run: run[0] - run[1])[len(runs) // 2] for name, runs in used.items()}
    return [Row(size, kind, link, *middle[link], middle["bare"][0]) for link in links]


@contextlib.contextmanager
def _worker(
    broker: BrokerOptions, path: Path, assigned: SliceAssignment, link: str, runtime: str
) -> Iterator[_Echo]:
    cluster = f"{CLUSTER}-{link}"
    topics = Topics(cluster)
    with (
        LoneWorker(assigned, path, broker, runtime, cluster=cluster, link=link) as worker,
        Driver(broker, topics.results("overhead", CLIENT)) as driver,
    ):
        worker.wait_for("ready")
        yield _Echo(worker.pid, topics.data("overhead", REVISION, "b0"), driver, worker)


@contextlib.contextmanager
def _bare(broker: BrokerOptions) -> Iterator[_Echo]:
    with bare_echo(broker, "bare/in", "bare/out") as pid, Driver(broker, "bare/out") as driver:
        yield _Echo(pid, "bare/in", driver)


def report(rows: Sequence[Row]) -> str:
    """The tables, with the machine."""
    lines = [
        f"{describe_machine()}; processor milliseconds of all threads for one frame; MB is 10^6 bytes.",
        "",
        "| tensor | slice | link | worker | of it invoke | added | added per MB | bare echo |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        size = f"{row.size / 1e6:g} MB" if row.size >= LARGE else f"{row.size / 1e3:g} kB"
        per_mb = f"{row.added_per_mb:.2f}" if row.size >= LARGE else ""
        bare = f"{row.bare_ms:.3f}" if row.kind == "both" else ""
        lines.append(
            f"| {size} | {WORDS[row.kind]} | {row.link} | {row.cpu_ms:.3f} | {row.invoke_ms:.3f} "
            f"| {row.added_ms:.3f} | {per_mb} | {bare} |"
        )
    lines += ["", "A line through the sizes:", "", "| link | slice | ms per frame | ms per MB |"]
    lines.append("| --- | --- | --- | --- |")
    for link, kinds in fit(rows).items():
        for kind, line in kinds.items():
            lines.append(f"| {link} | {WORDS[kind]} | {line['per_frame_ms']:.3f} | {line['per_mb_ms']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
