"""The worker process of one slice: `python -m edge_node.worker`, its task as one JSON line on standard input.

A task without a slice makes it a spare: it imports the runtime and waits for a line with one. A further line gives
a worker at work another task, for the same file (edge_node/running.py), or has it give up its slice. It tells the
agent how it is doing by JSON lines on standard output, each with its task's number: `waiting` when it has no slice
(any more), `loading` before the runtime touches the slice, `tasked` when it has turned to another task, `ready`
(rule 11), `beat` every 0.3 s, `failed` with a reason. What it computes stands in its record (rule 10). It ends when
standard input closes, which the agent's death does too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import queue
import signal
import sys
import threading
from typing import Any

from edge_node.allocator import give_back
from edge_node.record import Record
from edge_node.running import Running, Task
from edge_node.runtime import load_runtime
from slicemq.errors import BrokerError, BrokerRefusedError, SliceMQError
from slicemq.log import setup_logging
from slicemq.messages import from_plain, to_plain

logger = logging.getLogger("slicemq.node.worker")

BEAT_SECONDS = 0.3
_NICENESS = 5
_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 1.0


class _Voice:
    """Lines to the agent. Native code that prints to standard output is sent to standard error instead."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self.number = 0

    def say(self, event: str, **values: Any) -> None:
        # A closed pipe means that the agent has gone; the watch on standard input ends the process.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._file.write(json.dumps({"event": event, "number": self.number, **values}) + "\n")
            self._file.flush()


class _Orders:
    """The lines that come on standard input, from a thread of their own; `ended` when there are no more."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.ended = False

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, name="watch", daemon=True).start()

    def next(self, timeout: float | None = None) -> Task | None:
        """The next task, waited for up to `timeout` seconds (None: as long as it takes); None: none has come."""
        try:
            return self._tasks.get(timeout=timeout)
        except queue.Empty:
            return None

    def _read(self) -> None:
        while line := sys.stdin.readline():
            self._tasks.put(_task(line))
        self.ended = True
        self._tasks.put(None)
        # A slice may sit in native code for long; nothing that it would still do is wanted.
        threading.Timer(_GRACE_SECONDS, os._exit, (0,)).start()


def main() -> int:
    """Run slices as told until standard input closes; 0 after that, 1 when one failed."""
    voice = _Voice()
    try:
        task = _task(sys.stdin.readline())
    except (ValueError, SliceMQError) as error:
        voice.say("failed", reason=f"task: {error}")
        return 1
    voice.number = task.number
    _bind_to_parent(task.parent)
    setup_logging(task.log_level, task.log_format)
    threading.excepthook = lambda failed: _end_with(voice, failed)
    orders = _Orders()
    orders.start()
    try:
        _obey(task, voice, orders)
    except BrokerRefusedError as error:
        voice.say("failed", reason=str(error))
        return 1
    except BrokerError as error:
        # The agent starts the slice again, with another connection.
        logger.warning("the worker of %s ends: %s", _name(task), error)
        return 1
    except SliceMQError as error:
        voice.say("failed", reason=str(error))
        return 1
    except Exception as error:
        logger.exception("the worker of %s failed", _name(task))
        voice.say("failed", reason=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _task(line: str) -> Task:
    """Raises ValueError and ProtocolError."""
    return from_plain(Task, json.loads(line), "task")


def _name(task: Task) -> str:
    return f"slice {task.assignment.slice}" if task.assignment is not None else "no slice"


def _obey(first: Task, voice: _Voice, orders: _Orders) -> None:
    """Carry out task after task."""
    load_runtime(first.runtime)
    record = Record(first.record)
    running: Running | None = None
    task: Task | None = first
    try:
        while task is not None:
            voice.number = task.number
            if task.assignment is None:
                if running is not None:
                    running.stop()
                    running = None
                    give_back()
                if 0 < task.most < resident():
                    # At once: the thread that reads standard input would disturb an orderly end.
                    os._exit(0)
                voice.say("waiting")
                task = orders.next()
                continue
            if running is None:
                voice.say("loading", memory=resident())
                running = Running(task, task.assignment, record)
            else:
                running.retask(task, task.assignment)
                voice.say("tasked")
            task = _serve(running, voice, orders)
    finally:
        if running is not None:
            running.stop()


def _serve(running: Running, voice: _Voice, orders: _Orders) -> Task | None:
    """Say how the slice is doing until another task comes (it is returned) or there is none to come (None)."""
    ready = False
    while not orders.ended:
        if not ready and running.is_up(BEAT_SECONDS) and not orders.ended:
            ready = True
            voice.say("ready")
            logger.info("%s", running.describe())
        voice.say("beat", slice=to_plain(running.beat(resident())))
        task = orders.next(BEAT_SECONDS)
        if task is not None:
            return task
    return None


def _end_with(voice: _Voice, failed: threading.ExceptHookArgs) -> None:
    """A thread has failed in a way that nobody foresaw: end, so that the agent starts the slice again."""
    value = failed.exc_value
    logger.error("thread %s failed", failed.thread.name if failed.thread else "", exc_info=value)
    voice.say("died", reason=f"{failed.exc_type.__name__}: {value}")
    os._exit(1)


def _bind_to_parent(parent: int) -> None:
    """Die with the agent even when this process is stuck, and let the agent's heartbeats go first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)


def resident() -> int:
    """This process's resident memory in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
