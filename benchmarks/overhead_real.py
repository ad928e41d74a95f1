"""What a node adds to a frame of real models besides `invoke`, and what the planner should count for it.

    python -m benchmarks.overhead_real [--models a,b/4] [--link auto] [--frames 60] [--repeats 3]
                                       [--write] [--format json]

As `benchmarks.overhead`, with slices of real models in the worker: their `invoke` drives the worker's own code and
data out of the processor's caches, and they drive out the model's. So a frame costs more than with a slice of one
trivial operator. `name` is a whole model, `name/4` each of four slices cut at even places. All figures are
processor milliseconds for one frame: `alone` is `invoke` in a process of its own (the least of many), `in worker`
the same in the worker, `besides` all else that the worker's threads do.

Through `besides` goes the cost model of the planner (coordinator.planner.model.Overheads): so many milliseconds for
each message (a frame has one in and one out here), for each MB in and for each MB out, none of them negative, by
the least relative error. `computing` is the median of `in worker` over `alone`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from benchmarks.overhead import CLIENT, REVISION, Driver
from benchmarks.pages import write_region
from benchmarks.processes import CLUSTER, LoneWorker, cpu_seconds
from converters.graph import Graph, read_graph
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, iter_slices, legal_positions
from coordinator.planner.model import Overheads
from coordinator.revisions import specs
from edge_node.runtime import available_runtimes, open_interpreter
from emulator.brokers import Mosquitto
from slicemq.errors import SliceMQError
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import Artifact, Bundle, ResultPart, SliceAssignment, TensorSpec
from slicemq.options import BrokerOptions
from slicemq.topics import Topics

MODELS = ("iris-landmark", "face-landmark", "face-back", "mobilenetv2/4", "resnet50/8")
_IN_FLIGHT = 3
_WARM = 20

_INVOKE = """
import sys, time, numpy as np
from edge_node.runtime import open_interpreter
path, runtime, frames = sys.argv[1:]
interpreter = open_interpreter(path, runtime=runtime, threads=1)
for place, info in enumerate(interpreter.inputs):
    interpreter.set_input(place, np.ones(info.shape, info.dtype))
used = []
for _ in range(int(frames)):
    begun = time.process_time_ns()
    interpreter.invoke()
    used.append(time.process_time_ns() - begun)
print(min(used) / 1e6)
"""


@dataclass(frozen=True)
class Row:
    """One slice: its tensors' MB and processor milliseconds for one frame."""

    slice: str
    mb_in: float
    mb_out: float
    alone_ms: float
    invoke_ms: float
    besides_ms: float


@dataclass(frozen=True)
class Fit:
    """What the planner should count: milliseconds and a ratio."""

    message_ms: float
    in_ms_per_mb: float
    out_ms_per_mb: float
    computing: float

    def of(self, row: Row) -> float:
        """`besides_ms` as the planner would count it."""
        return 2 * self.message_ms + self.in_ms_per_mb * row.mb_in + self.out_ms_per_mb * row.mb_out


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and perhaps write; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead_real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--link", choices=("auto", "own", "paho"), default="auto")
    parser.add_argument("--frames", type=int, default=60, help="frames of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the median counts")
    parser.add_argument("--runtime", default=available_runtimes()[0].name)
    parser.add_argument("--write", action="store_true", help="put the table into docs/explanation/performance.md")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        with Mosquitto() as broker, tempfile.TemporaryDirectory() as folder:
            for name, assignment, path in _slices(given.models.split(","), given.runtime, Path(folder)):
                print(name, file=sys.stderr, flush=True)
                rows.append(_row(name, assignment, path, broker.options, given))
    except SliceMQError as error:
        sys.stderr.write(f"overhead_real: {error}\n")
        return error.exit_code
    found = fit(rows)
    if given.format == "json":
        body = {"rows": [asdict(row) for row in rows], "fit": asdict(found), "planner": asdict(planned())}
        print(json.dumps({"machine": describe_machine(), **body}, indent=2))
    else:
        print(report(rows, found))
    if given.write:
        write_region("overhead_real", report(rows, found))
    return 0


def fit(rows: Sequence[Row]) -> Fit:
    """The least squares of relative errors among lines without negative figures (each subset of them is tried)."""
    besides = np.array([row.besides_ms for row in rows])
    columns = np.array([[2.0, row.mb_in, row.mb_out] for row in rows])
    best, least = np.zeros(3), float("inf")
    for size in (1, 2, 3):
        for used in itertools.combinations(range(3), size):
            figures = np.zeros(3)
            figures[list(used)] = np.linalg.lstsq(columns[:, used] / besides[:, None], np.ones(len(rows)), None)[0]
            error = float(np.sum((columns @ figures / besides - 1) ** 2))
            if (figures >= 0).all() and error < least:
                best, least = figures, error
    computing = statistics.median(row.invoke_ms / row.alone_ms for row in rows)
    return Fit(float(best[0]), float(best[1]), float(best[2]), computing)


def planned() -> Fit:
    """What the planner counts at present."""
    counted = Overheads()
    return Fit(
        1e3 * counted.message, 1e9 * counted.receive_per_byte, 1e9 * counted.send_per_byte, counted.computing
    )


def report(rows: Sequence[Row], found: Fit) -> str:
    """The tables, with the machine."""
    counted = planned()
    lines = [
        f"{describe_machine()}; processor milliseconds for one frame; MB is 10^6 bytes.",
        "",
        "| slice | MB in | MB out | `invoke` alone | in worker | besides | by the fit | planned |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.slice} | {row.mb_in:.2f} | {row.mb_out:.2f} | {row.alone_ms:.2f} | {row.invoke_ms:.2f} "
        f"| {row.besides_ms:.2f} | {found.of(row):.2f} | {counted.of(row):.2f} |"
        for row in rows
    ]
    lines += [
        "",
        "| | ms per message | ms per MB in | ms per MB out | computing |",
        "| --- | --- | --- | --- | --- |",
    ]
    for words, one in (("fit", found), ("the planner counts", counted)):
        figures = f"{one.message_ms:.3f} | {one.in_ms_per_mb:.2f} | {one.out_ms_per_mb:.2f} | {one.computing:.2f}"
        lines.append(f"| {words} | {figures} |")
    return "\n".join(lines)


def _slices(names: Sequence[str], runtime: str, folder: Path) -> Iterator[tuple[str, SliceAssignment, Path]]:
    """The slices of `name/count`, or the whole of `name`: what they are called, their assignments and files."""
    for word in names:
        name, _, count = word.partition("/")
        model = real_models().get(name)
        if model is None or not (count or "1").isdigit():
            raise SliceMQError(
                f"--models: {word}: expected one of {', '.join(real_models())}, with or without /<n>"
            )
        if not model.path.is_file():
            raise SliceMQError(f"{name}: not here; {model.hint}")
        data = open_model(model.path)
        graph = resolve_shapes(data, read_graph(data), lambda part: open_interpreter(part, runtime=runtime), {})
        parts = int(count or 1)
        legal = legal_positions(graph)
        if parts > len(legal) + 1:
            raise SliceMQError(f"--models: {word}: the model has {len(legal)} places to cut")
        cuts = [legal[place * len(legal) // parts] for place in range(1, parts)]
        for piece in iter_slices(data, graph, groups_at(graph, cuts)):
            file = folder / f"{name}-{piece.id}.tflite"
            file.write_bytes(piece.data)
            title = name if parts == 1 else f"{name} {piece.id} of {parts}"
            yield title, _assignment(graph, piece.inputs, piece.outputs), file
            file.unlink()


def _assignment(graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> SliceAssignment:
    return SliceAssignment(
        pipeline="overhead",
        revision=REVISION,
        slice="s0",
        artifact=Artifact("0" * 64, 1),
        memory=0,
        takes=tuple(inputs),
        gives=tuple(outputs),
        inputs=(Bundle("b0", specs(graph, tuple(inputs))),),
        result=ResultPart(0, 1, specs(graph, tuple(outputs))),
    )


def _row(
    name: str, assignment: SliceAssignment, path: Path, broker: BrokerOptions, given: argparse.Namespace
) -> Row:
    assert assignment.result is not None
    taken, made = assignment.inputs[0].tensors, assignment.result.tensors
    topics = Topics(CLUSTER)
    with (
        LoneWorker(assignment, path, broker, given.runtime, link=given.link) as worker,
        Driver(broker, topics.results("overhead", CLIENT)) as driver,
    ):
        worker.wait_for("ready")
        topic = topics.data("overhead", REVISION, "b0")
        runs = list(_runs(worker, driver, topic, taken, given))
    invoke, besides = sorted(runs, key=lambda run: run[1])[len(runs) // 2]
    return Row(name, _megabytes(taken), _megabytes(made), _alone(path, given), invoke, besides)


def _runs(
    worker: LoneWorker, driver: Driver, topic: str, tensors: Sequence[TensorSpec], given: argparse.Namespace
) -> Iterator[tuple[float, float]]:
    """Of each measurement: the milliseconds of `invoke` in the worker, and of all else."""
    rng = np.random.default_rng(1)
    arrays = [(spec, rng.uniform(-1, 1, spec.shape).astype(spec.dtype)) for spec in tensors]

    def payload(number: int) -> bytes:
        header = FrameHeader(client=CLIENT, stream=1, sequence=number, sent=0.0, revision=REVISION)
        return b"".join(encode_frame(header, arrays))

    driver.exchange(topic, payload, _WARM, 1)
    for _ in range(given.repeats):
        before = cpu_seconds(worker.pid)
        driver.exchange(topic, payload, given.frames, _IN_FLIGHT)
        used = 1e3 * (cpu_seconds(worker.pid) - before) / given.frames
        invoke = float(worker.next_beat()["invoke_cpu_ms"])
        yield invoke, used - invoke


def _megabytes(tensors: Sequence[TensorSpec]) -> float:
    return sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in tensors) / 1e6


def _alone(path: Path, given: argparse.Namespace) -> float:
    command = [sys.executable, "-c", _INVOKE, str(path), given.runtime, str(given.frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SliceMQError(f"{path.name}: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
