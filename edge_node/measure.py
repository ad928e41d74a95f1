"""The child process that measures: `python -m edge_node.measure`, a task as JSON on standard input.

`speeds`: runs per second of each calibration model. A CPU quota lets short bursts run at full speed and
stops the process for the rest of the period, so a short measurement in wall time says too much. With one
thread the CPU time of a run is measured and multiplied out by the share of a core that the quota gives;
with more threads (never more than whole cores of the quota) nothing is throttled, and wall time counts. The least
time of many short batches is taken, as for a model's profile: what begins with the caches that other work left
behind costs these tiny models up to twice their time, and a real slice a few per cent.

`operators`: which operators the runtime takes, and in which versions (see operators).

`link`: rates and round trip to the broker (see linkprobe).
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import sys
import time
from typing import Any

from edge_node.capacity import CALIBRATION, CLASSES
from slicemq.errors import BrokerError, ModelError, SliceMQError
from slicemq.messages import to_plain

logger = logging.getLogger("slicemq.node.measure")

# For the 18 classes together: 3.6 s, with imports and loading 8 s on a slow board.
CLASS_WALL_SECONDS = 0.2
CLASS_CPU_SECONDS = 0.1
# Shorter than the burst that a small quota allows, so that some batches are not interrupted.
_BATCH_SECONDS = 0.001
_LEAST_BATCHES = 3
_LOADS = 4


def main() -> int:
    """Do the task; the result, or `{"error": ...}`, is one line of JSON on standard output."""
    task = json.loads(sys.stdin.read())
    try:
        body = _TASKS[task["task"]](task)
    except SliceMQError as error:
        body = {"error": str(error)}
    sys.stdout.write(json.dumps(body) + "\n")
    return 1 if "error" in body else 0


def _speeds(task: dict[str, Any]) -> dict[str, Any]:
    # The imports that a worker makes, so that this process's memory tells a worker's.
    from edge_node import runtime, worker
    from slicemq import codecs

    info = runtime.load_runtime(task["runtime"])
    idle = worker.resident()
    speeds: dict[str, float] = {}
    for name in CLASSES:
        try:
            speeds[name] = _speed(name, info.name, task["threads"], task["cores"])
        except ModelError as error:
            logger.warning("no speed of %s: %s", name, error)
    return {"runtime": to_plain(info), "speeds": speeds, "worker_memory": idle, "codecs": codecs.available()}


def _speed(name: str, runtime: str, threads: int, cores: float) -> float:
    """Runs per second of one calibration model: at its best of some loads, since where its buffers lie matters."""
    best = min(_seconds(name, runtime, threads) for _ in range(_LOADS))
    return (min(1.0, cores) if threads == 1 else 1.0) / best


def _seconds(name: str, runtime: str, threads: int) -> float:
    """The least seconds that a run takes in a load of the model."""
    import numpy as np

    from edge_node.runtime import open_interpreter

    interpreter = open_interpreter(CALIBRATION / f"{name}.tflite", runtime=runtime, threads=threads)
    given = interpreter.inputs[0]
    values = np.random.default_rng(1).uniform(0, 1, given.shape)
    # int8 activations have a scale of 1/32.
    interpreter.set_input(
        0, values.astype(np.float32) if given.dtype == "float32" else (values * 32).astype(np.int8)
    )
    interpreter.invoke()
    clock = time.process_time if threads == 1 else time.perf_counter
    started = clock()
    interpreter.invoke()
    batch = max(1, int(_BATCH_SECONDS / max(clock() - started, 1e-6)))
    end = time.perf_counter() + CLASS_WALL_SECONDS / _LOADS
    seconds: list[float] = []
    while len(seconds) < _LEAST_BATCHES or (
        time.perf_counter() < end and sum(seconds) < CLASS_CPU_SECONDS / _LOADS
    ):
        started = clock()
        for _ in range(batch):
            interpreter.invoke()
        seconds.append(max(clock() - started, 1e-9))
    return min(seconds) / batch


def _operators(task: dict[str, Any]) -> dict[str, Any]:
    from edge_node import operators, runtime

    return {
        "operators": operators.known_operators(
            lambda model: runtime.open_interpreter(model, runtime=task["runtime"])
        )
    }


def _link(task: dict[str, Any]) -> dict[str, Any]:
    from edge_node.linkprobe import DEADLINE, LinkProbe
    from slicemq.datalink import open_link
    from slicemq.options import BrokerOptions

    echoes: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    topic, nonce = task["topic"], secrets.token_bytes(8)
    # The link that frames take, so that its own work hides as little of a quick line as it does for them.
    link = open_link(
        BrokerOptions.from_dict(task["broker"]),
        task["client_id"],
        on_frame=lambda _topic, payload: echoes.put((time.monotonic(), bytes(payload[:8]))),
    )
    link.subscribe([topic])
    link.start()
    try:
        link.wait_up(10.0)
        probe = LinkProbe(time.monotonic())
        sizes = probe.first()
        end = time.monotonic() + 2 * DEADLINE
        while not probe.done:
            for size in sizes:
                if not link.send(topic, [nonce, bytes(size)]):
                    raise BrokerError("the connection was lost while the link was measured")
            sizes = []
            try:
                at, name = echoes.get(timeout=0.05)
            except queue.Empty:
                probe.tick(time.monotonic())
            else:
                if name == nonce:
                    sizes = probe.echo(at)
            if time.monotonic() > end:
                probe.tick(time.monotonic())
        return to_plain(probe.link())
    finally:
        link.stop()


_TASKS = {"speeds": _speeds, "operators": _operators, "link": _link}

if __name__ == "__main__":
    raise SystemExit(main())
