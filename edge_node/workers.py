"""Worker processes: started, listened to, stopped, buried."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_node.events import WorkerBeat, WorkerDied, WorkerEmpty, WorkerFailed, WorkerReady
from edge_node.record import Recorder
from slicemq.errors import ProtocolError
from slicemq.messages import SliceBeat, from_plain

logger = logging.getLogger("slicemq.node.workers")

WorkerEvent = WorkerReady | WorkerBeat | WorkerEmpty | WorkerFailed | WorkerDied
_KILL_AFTER = 3.0
_ENDING = "does not end"


@dataclass
class _Worker:
    """A worker's process; `number` is what its agent calls it, `kill_at` when the agent's patience with it ends.

    `spoke`: it has said something, so it has come up. `killed`: the agent ended it.
    """

    number: int
    process: subprocess.Popen[str]
    recorder: Recorder | None
    kill_at: float = math.inf
    why: str = ""
    spoke: bool = False
    killed: bool = False


class Workers:
    """All worker processes of this node. `tell` takes their events, on threads of this object.

    `start` must be called on a thread that lives as long as the program: the kernel ends a worker when the
    thread that started it ends.
    """

    def __init__(self, tell: Callable[[WorkerEvent], None]) -> None:
        self._tell = tell
        self._workers: dict[int, _Worker] = {}
        self._lock = threading.Lock()

    def start(self, number: int, task: dict[str, Any]) -> None:
        """Start a worker with its task (edge_node/running.py). One that cannot be started has died at once."""
        environment = os.environ | {"MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2")}
        recorder = _recorder()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "edge_node.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                pass_fds=() if recorder is None else (recorder.descriptor,),
            )
        except OSError as error:
            if recorder is not None:
                recorder.close()
            self._tell(WorkerDied(number, f"it cannot be started: {error}"))
            return
        worker = _Worker(number, process, recorder)
        with self._lock:
            self._workers[number] = worker
        self._write(worker, task)
        threading.Thread(target=self._listen, args=(worker,), name=f"worker {number}", daemon=True).start()

    def retask(self, old: int, number: int, task: dict[str, Any], now: float) -> None:
        """Give worker `old` another task under another number; `reap` kills it when it does not turn to it.

        One that has ended meanwhile has died under its new number. One that still comes up takes its time for that.
        """
        with self._lock:
            worker = self._workers.pop(old, None)
            if worker is not None:
                worker.number = number
                self._workers[number] = worker
                worker.kill_at = now + _KILL_AFTER if worker.spoke else math.inf
                worker.why = "does not turn to another task"
        if worker is None:
            self._tell(WorkerDied(number, "it had ended before it got this task"))
        else:
            self._write(worker, task)

    def stop(self, number: int, now: float) -> None:
        """Ask a worker to end; `reap` kills it when it does not."""
        with self._lock:
            worker = self._workers.get(number)
            if worker is None or worker.why == _ENDING:
                return
            worker.kill_at, worker.why = now + _KILL_AFTER, _ENDING
        _close_input(worker.process)

    def reap(self, now: float) -> None:
        """Kill the workers that did not do in time what they were told."""
        with self._lock:
            for worker in self._workers.values():
                if now >= worker.kill_at:
                    logger.warning("worker %d %s: killed", worker.number, worker.why)
                    worker.process.kill()
                    worker.killed = True
                    worker.kill_at = now + _KILL_AFTER

    def stop_all(self) -> None:
        """End all workers and wait until they are gone."""
        with self._lock:
            processes = [worker.process for worker in self._workers.values()]
        for process in processes:
            _close_input(process)
        deadline = time.monotonic() + _KILL_AFTER
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _write(self, worker: _Worker, task: dict[str, Any]) -> None:
        descriptor = -1 if worker.recorder is None else worker.recorder.descriptor
        line = {**task, "number": worker.number, "record": descriptor, "parent": os.getpid()}
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(line) + "\n")
            worker.process.stdin.flush()
        except (OSError, ValueError):
            # It died before it read its task; the listener sees its end.
            pass

    def _listen(self, worker: _Worker) -> None:
        process = worker.process
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self._heard(worker, line)
            except (ValueError, ProtocolError) as error:
                logger.warning("worker %d said what nobody understands: %s", worker.number, error)
        code = process.wait()
        with self._lock:
            number = worker.number
            self._workers.pop(number, None)
        process.stdout.close()
        _close_input(process)
        at = None
        if worker.recorder is not None:
            # What it was at when its agent lost patience has not ended it (rule 10).
            at = None if worker.killed else worker.recorder.read()
            worker.recorder.close()
        self._tell(WorkerDied(number, f"killed, it {worker.why}" if worker.killed else _how(code), at))

    def _heard(self, worker: _Worker, line: str) -> None:
        body = json.loads(line)
        if not isinstance(body, dict):
            raise ValueError(f"{line[:80]!r}")
        with self._lock:
            number, worker.spoke = worker.number, True
            # What it says of an earlier task tells nothing about this one.
            if body.get("number") != number:
                return
            if body.get("event") in ("tasked", "loading", "waiting") and worker.why != _ENDING:
                worker.kill_at = math.inf
        event = _event(number, body)
        if event is not None:
            self._tell(event)


def _recorder() -> Recorder | None:
    try:
        return Recorder()
    except OSError as error:
        logger.warning("no record of what the worker is at: %s", error)
        return None


def _event(number: int, body: dict[str, Any]) -> WorkerEvent | None:
    kind = body.get("event")
    if kind == "beat":
        return WorkerBeat(number, from_plain(SliceBeat, body.get("slice"), "worker's beat"))
    if kind == "ready":
        return WorkerReady(number)
    if kind == "failed":
        return WorkerFailed(number, str(body.get("reason", "no reason given"))[:1000])
    if kind == "waiting":
        return WorkerEmpty(number)
    if kind in ("loading", "tasked", "died"):
        # What the worker was at when it ended is in its record.
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
