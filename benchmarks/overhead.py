"""What a node adds to a frame besides `invoke`: processor time and latency, by tensor size.

    python -m benchmarks.overhead [--sizes 1000,100000] [--frames 200] [--repeats 3] [--format json]

A real worker process runs a tiny slice behind a mosquitto broker, and this program sends it frames with a plain
paho client. Three slices for each size: `both` passes the tensor through (RELU), `receive` takes it and gives one
element (SLICE), `send` takes one element and gives the tensor (TILE). The worker's processor time (all threads, the
scheduler's count) less that of `invoke` alone, measured on the same slice in a process of its own, is what the node
adds. `bare` is a plain paho client that sends back what it gets: the wire in Python without any work.

Latency is from publish to answer, one frame at a time. For the bare client it is two passes through the broker;
what the worker takes longer with the same bytes both ways (`both`), less `invoke`, is the node's part of it.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.machine import describe_machine
from benchmarks.processes import CLUSTER, LoneWorker, cpu_seconds
from edge_node.runtime import available_runtimes
from emulator.brokers import Mosquitto
from slicemq.errors import SliceMQError
from slicemq.frames import FrameHeader, decode_frame, encode_frame
from slicemq.messages import Artifact, Bundle, ResultPart, SliceAssignment, TensorSpec
from slicemq.options import BrokerOptions
from slicemq.topics import Topics

SIZES = (1_000, 10_000, 100_000, 1_000_000, 3_200_000)
KINDS = ("both", "receive", "send")
_REVISION = "1-00000000"
_CLIENT = "driver"
_IN_FLIGHT = 4
_WARM = 20
_LATENCY_FRAMES = 100
_ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class Figures:
    """Milliseconds for one frame: processor time of all threads, and the median and 9th decile of the latency."""

    cpu_ms: float
    latency_ms: float
    latency_p90_ms: float


@dataclass(frozen=True)
class Row:
    """One kind of slice at one size. `added_ms` is processor time of a frame besides `invoke`."""

    size: int
    kind: str
    cpu_ms: float
    invoke_cpu_ms: float
    added_ms: float
    latency_ms: float
    latency_p90_ms: float
    invoke_ms: float
    bare_cpu_ms: float
    bare_latency_ms: float

    @property
    def to_bare(self) -> float:
        """Added processor time as a ratio to the bare client's."""
        return self.added_ms / self.bare_cpu_ms

    @property
    def added_latency_ms(self) -> float:
        """Latency beyond the bare client's and `invoke`."""
        return self.latency_ms - self.bare_latency_ms - self.invoke_ms


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="bytes of the tensor, with commas between"
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="both, receive, send")
    parser.add_argument("--frames", type=int, default=200, help="frames of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the median counts")
    parser.add_argument("--runtime", default=available_runtimes()[0].name)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        with Mosquitto() as broker, tempfile.TemporaryDirectory() as folder:
            for size in map(int, given.sizes.split(",")):
                bare = _bare(broker.options, size, given.frames, given.repeats)
                for kind in given.kinds.split(","):
                    path = Path(folder) / f"{kind}-{size}.tflite"
                    path.write_bytes(tiny_model(kind, size))
                    print(f"{size} bytes, {kind}", file=sys.stderr, flush=True)
                    invoke_ms, invoke_cpu_ms = _invoke(path, given.runtime, given.frames)
                    figures = _worker(broker.options, path, kind, size, given)
                    rows.append(_row(size, kind, figures, bare, invoke_ms, invoke_cpu_ms))
    except SliceMQError as error:
        sys.stderr.write(f"overhead: {error}\n")
        return error.exit_code
    if given.format == "json":
        body = [{**asdict(row), "to_bare": row.to_bare, "added_latency_ms": row.added_latency_ms} for row in rows]
        print(json.dumps({"machine": describe_machine(), "rows": body, "fit": fit(rows)}, indent=2))
    else:
        _table(rows)
    return 0


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


def assignment(kind: str, size: int) -> SliceAssignment:
    """The assignment of `tiny_model(kind, size)`: one bundle in, the result out."""
    taken, given = elements(kind, size)
    return SliceAssignment(
        pipeline="overhead",
        revision=_REVISION,
        slice="s0",
        artifact=Artifact("0" * 64, 1),
        memory=0,
        takes=(0,),
        gives=(1,),
        inputs=(Bundle("b0", (TensorSpec(0, "x", "float32", (1, taken)),)),),
        result=ResultPart(0, 1, (TensorSpec(1, "y", "float32", (1, given)),)),
    )


def fit(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """For each kind of slice: added milliseconds per frame and per MB, a line through the sizes.

    Weighted by 1/ms, so that the small sizes settle the first figure and the large ones the second.
    """
    found: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        if len({row.size for row in mine}) < 2:
            continue
        sizes = np.array([row.size / 1e6 for row in mine])
        added = np.array([row.added_ms for row in mine])
        weights = 1.0 / np.maximum(added, 1e-3)
        per_mb, per_frame = np.polyfit(sizes, added, 1, w=weights)
        found[kind] = {"per_frame_ms": float(per_frame), "per_mb_ms": float(per_mb)}
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
            took.append(at - sent[header.sequence])
        return took

    def measure(self, topic: str, pid: int, elements: int, frames: int, repeats: int) -> Figures:
        """Processor time of process `pid` and latency, for frames with one tensor of float32."""
        array = np.random.default_rng(1).random((1, elements), np.float32)

        def payload(number: int) -> bytes:
            header = FrameHeader(client=_CLIENT, stream=1, sequence=number, sent=0.0, revision=_REVISION)
            return b"".join(encode_frame(header, [(TensorSpec(0, "x", "float32", (1, elements)), array)]))

        self.exchange(topic, payload, _WARM, 1)
        cpu, latencies = [], []
        for _ in range(repeats):
            before = cpu_seconds(pid)
            self.exchange(topic, payload, frames, _IN_FLIGHT)
            cpu.append((cpu_seconds(pid) - before) / frames)
            latencies += self.exchange(topic, payload, _LATENCY_FRAMES, 1)
        deciles = statistics.quantiles(latencies, n=10)
        return Figures(1e3 * statistics.median(cpu), 1e3 * statistics.median(latencies), 1e3 * deciles[8])


def _worker(broker: BrokerOptions, path: Path, kind: str, size: int, given: Any) -> Figures:
    topics = Topics(CLUSTER)
    with (
        LoneWorker(assignment(kind, size), path, broker, given.runtime) as worker,
        Driver(broker, topics.results("overhead", _CLIENT)) as driver,
    ):
        worker.wait_for("ready")
        topic = topics.data("overhead", _REVISION, "b0")
        return driver.measure(topic, worker.pid, elements(kind, size)[0], given.frames, given.repeats)


def _bare(broker: BrokerOptions, size: int, frames: int, repeats: int) -> Figures:
    command = [sys.executable, "-m", "benchmarks.bare_paho", broker.host, str(broker.port), "bare/in", "bare/out"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as echo:
        assert echo.stdin is not None
        assert echo.stdout is not None
        try:
            echo.stdout.readline()
            with Driver(broker, "bare/out") as driver:
                return driver.measure("bare/in", echo.pid, elements("both", size)[0], frames, repeats)
        finally:
            echo.kill()


_INVOKE = """
import sys, time, numpy as np
from edge_node.runtime import open_interpreter
path, runtime, frames = sys.argv[1:]
interpreter = open_interpreter(path, runtime=runtime, threads=1)
frame = np.ones(interpreter.inputs[0].shape, np.float32)
wall, cpu = [], []
for _ in range(int(frames)):
    interpreter.set_input(0, frame)
    started, used = time.perf_counter_ns(), time.process_time_ns()
    interpreter.invoke()
    cpu.append(time.process_time_ns() - used)
    wall.append(time.perf_counter_ns() - started)
print(sorted(wall)[len(wall) // 2] / 1e6, sorted(cpu)[len(cpu) // 2] / 1e6)
"""


def _invoke(path: Path, runtime: str, frames: int) -> tuple[float, float]:
    """Milliseconds of `invoke` alone, wall and processor time, in a process of its own."""
    command = [sys.executable, "-c", _INVOKE, str(path), runtime, str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SliceMQError(f"{path.name}: {done.stderr.strip()[-500:]}")
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def _row(size: int, kind: str, worker: Figures, bare: Figures, invoke_ms: float, invoke_cpu_ms: float) -> Row:
    return Row(
        size=size,
        kind=kind,
        cpu_ms=worker.cpu_ms,
        invoke_cpu_ms=invoke_cpu_ms,
        added_ms=worker.cpu_ms - invoke_cpu_ms,
        latency_ms=worker.latency_ms,
        latency_p90_ms=worker.latency_p90_ms,
        invoke_ms=invoke_ms,
        bare_cpu_ms=bare.cpu_ms,
        bare_latency_ms=bare.latency_ms,
    )


def _table(rows: Sequence[Row]) -> None:
    print(f"{describe_machine()}; milliseconds for one frame; 1 kB = 10^3 bytes\n")
    print("| tensor kB | slice | CPU | of it invoke | node adds | bare CPU | latency | bare latency | node adds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        hop = f"{row.bare_latency_ms:.2f} | {row.added_latency_ms:.2f}" if row.kind == "both" else "| "
        print(
            f"| {row.size / 1e3:g} | {row.kind} | {row.cpu_ms:.3f} | {row.invoke_cpu_ms:.3f} | {row.added_ms:.3f} "
            f"| {row.bare_cpu_ms:.3f} | {row.latency_ms:.2f} | {hop} |"
        )
    print()
    for kind, line in fit(rows).items():
        print(f"{kind}: {line['per_frame_ms']:.3f} ms per frame + {line['per_mb_ms']:.2f} ms per MB")


if __name__ == "__main__":
    raise SystemExit(main())
