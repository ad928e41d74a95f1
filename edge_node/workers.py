"""Worker processes: started, listened to, stopped, buried."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_node.events import WorkerBeat, WorkerDied, WorkerFailed, WorkerReady
from slicemq.errors import ProtocolError
from slicemq.messages import SliceBeat, from_plain

logger = logging.getLogger("slicemq.node.workers")

WorkerEvent = WorkerReady | WorkerBeat | WorkerFailed | WorkerDied
_KILL_AFTER = 3.0


class Workers:
    """All worker processes of this node. `tell` takes their events, on threads of this object.

    `start` must be called on a thread that lives as long as the program: the kernel ends a worker when the
    thread that started it ends.
    """

    def __init__(self, tell: Callable[[WorkerEvent], None]) -> None:
        self._tell = tell
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._killing: dict[int, float] = {}
        self._lock = threading.Lock()

    def start(self, number: int, task: dict[str, Any]) -> None:
        """Start a worker with its task. A worker that cannot be started has died at once."""
        environment = os.environ | {"MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2")}
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "edge_node.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
            )
        except OSError as error:
            self._tell(WorkerDied(number, f"it cannot be started: {error}"))
            return
        with self._lock:
            self._processes[number] = process
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({**task, "parent": os.getpid()}) + "\n")
            process.stdin.flush()
        except OSError:
            # It died before it read its task; the listener sees its end.
            pass
        threading.Thread(target=self._listen, args=(number, process), name=f"worker {number}", daemon=True).start()

    def stop(self, number: int, now: float) -> None:
        """Ask a worker to end; `reap` kills it when it does not."""
        with self._lock:
            process = self._processes.get(number)
            if process is None or number in self._killing:
                return
            self._killing[number] = now + _KILL_AFTER
        _close_input(process)

    def reap(self, now: float) -> None:
        """Kill the workers that did not end in time."""
        with self._lock:
            late = [number for number, at in self._killing.items() if now >= at and number in self._processes]
            for number in late:
                logger.warning("worker %d does not end: killed", number)
                self._processes[number].kill()
                self._killing[number] = now + _KILL_AFTER

    def stop_all(self) -> None:
        """End all workers and wait until they are gone."""
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            _close_input(process)
        deadline = time.monotonic() + _KILL_AFTER
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _listen(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                event = _event(number, line)
            except (ValueError, ProtocolError) as error:
                logger.warning("worker %d said what nobody understands: %s", number, error)
                continue
            if event is not None:
                self._tell(event)
        code = process.wait()
        with self._lock:
            self._processes.pop(number, None)
            self._killing.pop(number, None)
        process.stdout.close()
        _close_input(process)
        self._tell(WorkerDied(number, _how(code)))


def _event(number: int, line: str) -> WorkerEvent | None:
    body = json.loads(line)
    kind = body.get("event") if isinstance(body, dict) else None
    if kind == "beat":
        return WorkerBeat(number, from_plain(SliceBeat, body.get("slice"), "worker's beat"))
    if kind == "ready":
        return WorkerReady(number)
    if kind == "failed":
        return WorkerFailed(number, str(body.get("reason", "no reason given"))[:1000])
    if kind in ("loading", "died"):
        # Seams of protocol rule 10: what the worker was at when it ended comes with its WorkerDied.
        return None
    raise ValueError(f"event {kind!r}")


def _close_input(process: subprocess.Popen[str]) -> None:
    try:
        if process.stdin is not None:
            process.stdin.close()
    except OSError:
        # What was still in the buffer has no reader any more.
        pass


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"signal {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
