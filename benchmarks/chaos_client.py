"""A client as a process of its own: sends frames at a rate until SIGTERM, and tells of every outcome in order.

    python -m benchmarks.chaos_client --broker URL --cluster ID --name NAME --inputs FILE.npz --rate N

`FILE.npz` has one array for each frame, `<number>-<tensor index>`; frame k of the stream is input k modulo their
number. On standard output one JSON object a line: an outcome (`n` sequence, `digest` of the outputs, `revision`,
`attempts`, `at` monotonic seconds, `error`), in the end the counters (`stats`). The digests are judged by the
process that reads them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.client import Pipeline, Result
from slicemq.log import setup_logging

Arrays = Mapping[int, npt.NDArray[Any]]


def digest_of(outputs: Arrays) -> str:
    """SHA-256 of all outputs: index, dtype, shape and every bit, in the order of their indices."""
    found = hashlib.sha256()
    for index in sorted(outputs):
        array = outputs[index]
        found.update(f"{index} {array.dtype.str} {array.shape};".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def save_frames(file: Path, frames: Sequence[Arrays]) -> None:
    """Write what `load_frames` reads."""
    named = {f"{number}-{index}": a for number, frame in enumerate(frames) for index, a in frame.items()}
    np.savez(file, **named)


def load_frames(file: Path) -> list[dict[int, npt.NDArray[Any]]]:
    """The frames of a file, by whole-model tensor index."""
    frames: dict[int, dict[int, npt.NDArray[Any]]] = {}
    with np.load(file) as arrays:
        for name in arrays.files:
            number, _, index = name.partition("-")
            frames.setdefault(int(number), {})[int(index)] = arrays[name]
    return [frames[number] for number in sorted(frames)]


def _tell(body: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(body) + "\n")
    sys.stdout.flush()


def _on_result(result: Result) -> None:
    body: dict[str, Any] = {"n": result.sequence, "at": time.monotonic(), "attempts": result.attempts}
    if result.error is not None:
        _tell({**body, "error": str(result.error)})
    else:
        _tell({**body, "digest": digest_of(result.tensors), "revision": result.revision})


def main() -> None:
    """Send until SIGTERM; then wait for what is unanswered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for word in ("--broker", "--cluster", "--name", "--client"):
        parser.add_argument(word, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="frames per second")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for answers in the end")
    given = parser.parse_args()
    setup_logging("info")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    frames = load_frames(given.inputs)
    with Pipeline(
        given.name, given.broker, cluster=given.cluster, client_id=given.client, on_result=_on_result
    ) as pipeline:
        began, number = time.monotonic(), 0
        while not stop.wait(max(0.0, began + number / given.rate - time.monotonic())):
            try:
                pipeline.submit(frames[number % len(frames)], timeout=0.5)
            except TimeoutError:
                # The window is full while nothing is answered: later frames keep their distance.
                began = time.monotonic() - number / given.rate
                continue
            number += 1
        try:
            pipeline.wait(given.patience)
        except TimeoutError:
            print(f"unanswered after {given.patience:g} s", file=sys.stderr)
        stats = pipeline.stats
        _tell(
            {
                "stats": {
                    "submitted": stats.submitted,
                    "answered": stats.answered,
                    "failed": stats.failed,
                    "sent": stats.sent,
                    "resent": stats.resent,
                    "missed": stats.missed,
                    "doubles": stats.doubles,
                    "dropped": stats.dropped,
                    "failovers": len(stats.failovers),
                }
            }
        )


if __name__ == "__main__":
    main()
