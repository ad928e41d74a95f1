"""The worker process of one slice: `python -m edge_node.worker`, its task as one JSON line on standard input.

It tells the agent how it is doing by JSON lines on standard output: `loading` before the runtime touches the
slice (so that a crash can be told from a refusal, protocol rule 10), `ready` (rule 11), `beat` every 0.3 s,
`failed` with a reason. It ends when standard input closes, which the agent's death does too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_node.allocator import keep_for_frames
from edge_node.fit import spec_bytes
from edge_node.links import Links
from edge_node.runtime import load_runtime, open_interpreter
from edge_node.stage import Stage
from slicemq.errors import BrokerError, BrokerRefusedError, SliceMQError
from slicemq.log import setup_logging
from slicemq.messages import SliceAssignment, from_plain, to_plain
from slicemq.options import BrokerOptions
from slicemq.topics import Topics

logger = logging.getLogger("slicemq.node.worker")

BEAT_SECONDS = 0.3
_NICENESS = 5
_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """What the agent gives a worker."""

    node: str
    cluster: str
    assignment: SliceAssignment
    path: str
    broker: dict[str, Any]
    runtime: str
    threads: int
    log_level: str
    log_format: str
    parent: int


class _Voice:
    """Lines to the agent. Native code that prints to standard output is sent to standard error instead."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, event: str, **values: Any) -> None:
        # A closed pipe means that the agent has gone; the watch on standard input ends the process.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._file.write(json.dumps({"event": event, **values}) + "\n")
            self._file.flush()


def main() -> int:
    """Run one slice until standard input closes; 0 after that, 1 when the slice failed."""
    voice = _Voice()
    line = sys.stdin.readline()
    try:
        task = from_plain(Task, json.loads(line), "task")
    except (ValueError, SliceMQError) as error:
        voice.say("failed", reason=f"task: {error}")
        return 1
    _bind_to_parent(task.parent)
    setup_logging(task.log_level, task.log_format)
    threading.excepthook = lambda failed: _end_with(voice, failed)
    stopping = threading.Event()
    threading.Thread(target=_watch_input, args=(stopping,), name="watch", daemon=True).start()
    try:
        _run(task, voice, stopping)
    except SliceMQError as error:
        voice.say("failed", reason=str(error))
        return 1
    except Exception as error:
        logger.exception("the worker of slice %s failed", task.assignment.slice)
        voice.say("failed", reason=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _run(task: Task, voice: _Voice, stopping: threading.Event) -> None:
    assignment = task.assignment
    load_runtime(task.runtime)
    voice.say("loading", memory=resident())
    interpreter = open_interpreter(Path(task.path), runtime=task.runtime, threads=task.threads)
    topics = Topics(task.cluster)
    link = Links(
        task.node,
        topics,
        assignment,
        BrokerOptions.from_dict(task.broker),
        on_frame=lambda topic, payload: stage.on_frame(topic, payload),
    )
    keep_for_frames(_frame_bytes(assignment))
    stage = Stage(assignment, topics, interpreter, link.send, pending=lambda: link.pending)
    interpreter.warm_up()
    stage.start()
    link.subscribe(stage.topics)
    link.start()
    try:
        ready = False
        while not stopping.is_set():
            if not ready:
                ready = _is_up(link, stopping)
                if ready:
                    voice.say("ready")
                    logger.info(
                        "%s %s slice %s: ready on %s %s",
                        assignment.pipeline,
                        assignment.revision,
                        assignment.slice,
                        interpreter.runtime.name,
                        interpreter.runtime.version,
                    )
            voice.say("beat", slice=to_plain(stage.beat(link.up, resident())))
            stopping.wait(BEAT_SECONDS)
    finally:
        link.stop()
        stage.stop()


def _frame_bytes(assignment: SliceAssignment) -> int:
    """Bytes of the tensors that one frame brings to the slice and takes away from it."""
    specs = [spec for bundle in (*assignment.inputs, *assignment.outputs) for spec in bundle.tensors]
    if assignment.result is not None:
        specs += assignment.result.tensors
    return sum(spec_bytes(spec) for spec in specs)


def _is_up(link: Any, stopping: threading.Event) -> bool:
    """Whether every subscription is confirmed; raises BrokerRefusedError when the broker does not let us in."""
    try:
        link.wait_up(BEAT_SECONDS)
    except BrokerRefusedError:
        raise
    except BrokerError:
        return False
    return not stopping.is_set()


def _watch_input(stopping: threading.Event) -> None:
    """End the process when the agent closes standard input, or has died."""
    while sys.stdin.readline():
        pass
    stopping.set()
    # A slice may sit in native code for long; nothing that it would still do is wanted.
    threading.Timer(_GRACE_SECONDS, os._exit, (0,)).start()


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
