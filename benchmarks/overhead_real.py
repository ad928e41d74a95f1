"""What a node adds to a frame of a real model besides `invoke`, beside what the planner counts for it.

    python -m benchmarks.overhead_real [--models a,b] [--frames 200] [--repeats 3] [--format json]

As `benchmarks.overhead`, with a whole model in the worker: its `invoke` drives the worker's own code and data out
of the processor's caches, and they drive out the model's. So a frame costs more than with a slice of one trivial
operator. `adds` is the worker's processor time for a frame (all threads) less that of `invoke` alone, the least of
many runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from benchmarks.overhead import Driver
from benchmarks.processes import CLUSTER, LoneWorker, cpu_seconds
from converters.graph import Graph, read_graph
from converters.schema import open_model
from converters.shapes import resolve_shapes
from coordinator.planner.model import Overheads
from coordinator.revisions import specs
from edge_node.runtime import available_runtimes, open_interpreter
from emulator.brokers import Mosquitto
from slicemq.errors import SliceMQError
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import Artifact, Bundle, ResultPart, SliceAssignment
from slicemq.options import BrokerOptions
from slicemq.topics import Topics

MODELS = ("iris-landmark", "face-landmark", "face-back", "mobilenetv2")
_REVISION = "1-00000000"
_CLIENT = "driver"
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


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead_real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--frames", type=int, default=200, help="frames of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the median counts")
    parser.add_argument("--runtime", default=available_runtimes()[0].name)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    try:
        with Mosquitto() as broker:
            for name in given.models.split(","):
                model = real_models()[name]
                if not model.path.is_file():
                    raise SliceMQError(f"{name}: not here; {model.hint}")
                rows.append(_row(name, model.path, broker.options, given))
    except SliceMQError as error:
        sys.stderr.write(f"overhead_real: {error}\n")
        return error.exit_code
    if given.format == "json":
        print(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2))
        return 0
    print(f"{describe_machine()}; processor milliseconds for one frame\n")
    print("| model | MB in | MB out | invoke alone | worker | adds | planned |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['model']} | {row['mb_in']:.2f} | {row['mb_out']:.2f} | {row['invoke_ms']:.2f} "
            f"| {row['worker_ms']:.2f} | {row['worker_ms'] - row['invoke_ms']:.2f} | {row['planned_ms']:.2f} |"
        )
    return 0


def _row(name: str, path: Path, broker: BrokerOptions, given: Any) -> dict[str, Any]:
    data = open_model(path)
    graph = read_graph(data)
    graph = resolve_shapes(data, graph, lambda model: open_interpreter(model, runtime=given.runtime), {})
    bytes_in = sum(graph.tensors[tensor].nbytes for tensor in graph.inputs)
    bytes_out = sum(graph.tensors[tensor].nbytes for tensor in graph.outputs)
    counted = Overheads()
    planned = 2 * counted.message + bytes_in * counted.receive_per_byte + bytes_out * counted.send_per_byte
    topics = Topics(CLUSTER)
    with (
        LoneWorker(_assignment(graph), path, broker, given.runtime) as worker,
        Driver(broker, topics.results("overhead", _CLIENT)) as driver,
    ):
        worker.wait_for("ready")
        taken = _worker_ms(driver, topics.data("overhead", _REVISION, "b0"), worker.pid, graph, given)
    return {
        "model": name,
        "mb_in": bytes_in / 1e6,
        "mb_out": bytes_out / 1e6,
        "invoke_ms": _invoke_ms(path, given.runtime, given.frames),
        "worker_ms": taken,
        "planned_ms": 1e3 * planned,
    }


def _assignment(graph: Graph) -> SliceAssignment:
    return SliceAssignment(
        pipeline="overhead",
        revision=_REVISION,
        slice="s0",
        artifact=Artifact("0" * 64, 1),
        memory=0,
        takes=tuple(graph.inputs),
        gives=tuple(graph.outputs),
        inputs=(Bundle("b0", specs(graph, graph.inputs)),),
        result=ResultPart(0, 1, specs(graph, graph.outputs)),
    )


def _worker_ms(driver: Driver, topic: str, pid: int, graph: Graph, given: Any) -> float:
    rng = np.random.default_rng(1)
    tensors = [(spec, rng.uniform(-1, 1, spec.shape).astype(spec.dtype)) for spec in specs(graph, graph.inputs)]

    def payload(number: int) -> bytes:
        header = FrameHeader(client=_CLIENT, stream=1, sequence=number, sent=0.0, revision=_REVISION)
        return b"".join(encode_frame(header, tensors))

    driver.exchange(topic, payload, _WARM, 1)
    taken: list[float] = []
    for _ in range(given.repeats):
        before = cpu_seconds(pid)
        driver.exchange(topic, payload, given.frames, _IN_FLIGHT)
        taken.append(1e3 * (cpu_seconds(pid) - before) / given.frames)
    return float(statistics.median(taken))


def _invoke_ms(path: Path, runtime: str, frames: int) -> float:
    command = [sys.executable, "-c", _INVOKE, str(path), runtime, str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SliceMQError(f"{path.name}: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
