"""A slice at work in its worker's process: interpreter, stage and data links, and their way to another task.

A worker whose slice is not wanted any more may take over the same slice of another revision: its interpreter stays,
with the packed weights; topics, bundles and codecs are another stage's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_node.allocator import keep_for_frames
from edge_node.fit import spec_bytes
from edge_node.links import Links
from edge_node.record import Record
from edge_node.runtime import Interpreter, open_interpreter
from edge_node.stage import Stage
from slicemq.errors import BrokerError, BrokerRefusedError
from slicemq.messages import FrameName, SliceAssignment, SliceBeat
from slicemq.options import BrokerOptions
from slicemq.topics import Topics

logger = logging.getLogger("slicemq.node.worker")


@dataclass(frozen=True)
class Task:
    """What the agent gives a worker, as one line of JSON; without an assignment it waits for the next line.

    most: bytes of memory with which it may do so (0: as many as it has), else it ends; number: what the worker's
    words about this task carry; record: the descriptor of its record (-1: none, see edge_node/record.py);
    poisoned: frames that are answered with an error and not run (rule 10).
    """

    node: str
    cluster: str
    assignment: SliceAssignment | None
    path: str
    broker: dict[str, Any]
    runtime: str
    threads: int
    log_level: str
    log_format: str
    parent: int
    number: int = 0
    record: int = -1
    poisoned: tuple[FrameName, ...] = ()
    most: int = 0


class Running:
    """One task's slice, loaded, warmed up and subscribing. `retask` goes over to another task."""

    def __init__(self, task: Task, assignment: SliceAssignment, record: Record) -> None:
        """Raises the SliceMQError that keeps the slice from running here."""
        self._assignment = assignment
        self._record = record
        record.loading()
        self._interpreter: Interpreter = open_interpreter(
            Path(task.path), runtime=task.runtime, threads=task.threads
        )
        topics = Topics(task.cluster)
        self._links = Links(
            task.node,
            topics,
            assignment,
            BrokerOptions.from_dict(task.broker),
            on_frame=lambda topic, payload: self._stage.on_frame(topic, payload),
        )
        keep_for_frames(_frame_bytes(assignment))
        self._stage = self._make_stage(task, assignment)
        self._interpreter.warm_up()
        record.idle()
        self._stage.start()
        self._links.subscribe(self._stage.topics)
        self._links.start()

    def retask(self, task: Task, assignment: SliceAssignment) -> None:
        """Serve `assignment`, whose file and tensors are those of the present one, with the same interpreter.

        Frames of the present one that wait here are dropped. Raises the SliceMQError that keeps it from running.
        """
        self._assignment = assignment
        self._links.leave(assignment)
        self._stage.stop()
        self._stage = self._make_stage(task, assignment)
        self._stage.start()
        self._links.follow(assignment, self._stage.topics)

    def is_up(self, timeout: float) -> bool:
        """Whether every subscription is confirmed; raises BrokerRefusedError when a broker does not let us in."""
        try:
            self._links.wait_up(timeout)
        except BrokerRefusedError:
            raise
        except BrokerError:
            return False
        return True

    def beat(self, memory: int) -> SliceBeat:
        """The figures for the heartbeat; `memory`: bytes of the process."""
        return self._stage.beat(self._links.up, memory)

    def describe(self) -> str:
        """The slice and the runtime, for the log."""
        one, runtime = self._assignment, self._interpreter.runtime
        return f"{one.pipeline} {one.revision} slice {one.slice}: ready on {runtime.name} {runtime.version}"

    def stop(self) -> None:
        """Disconnect and end the threads."""
        self._links.stop()
        self._stage.stop()

    def _make_stage(self, task: Task, assignment: SliceAssignment) -> Stage:
        return Stage(
            assignment,
            Topics(task.cluster),
            self._interpreter,
            self._links.send,
            pending=lambda: self._links.pending,
            record=self._record,
            poisoned=task.poisoned,
        )


def _frame_bytes(assignment: SliceAssignment) -> int:
    """Bytes of the tensors that one frame brings to the slice and takes away from it."""
    specs = [spec for bundle in (*assignment.inputs, *assignment.outputs) for spec in bundle.tensors]
    if assignment.result is not None:
        specs += assignment.result.tensors
    return sum(spec_bytes(spec) for spec in specs)
