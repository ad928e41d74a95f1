"""Light nodes, many to a process: real sessions, documents and heartbeats, no runtime. For benchmarks.light_nodes.

    python -m benchmarks.light_fleet BROKER_URL CLUSTER FIRST COUNT SPEEDS

Each node joins, beats, and obeys its assignments: it says `fetching`, then `ready`, and answers each frame of its
slices with zeros, so that probe frames come through. A line `lose <id> ...` on standard input closes the sockets of
these nodes without a goodbye.
"""

from __future__ import annotations

import heapq
import json
import os
import sys
import threading
import time
from dataclasses import replace

import numpy as np

from slicemq.errors import SliceMQError
from slicemq.frames import Frame, decode_frame, encode_frame
from slicemq.messages import (
    Assignment,
    Capacity,
    CoordinatorState,
    Heartbeat,
    Link,
    NodeState,
    Report,
    RuntimeInfo,
    SliceAssignment,
    SliceBeat,
    SliceReport,
    Stamp,
    TensorSpec,
    decode,
    encode,
    new_epoch,
)
from slicemq.options import BrokerOptions
from slicemq.session import Session, Will
from slicemq.topics import Topics

HEARTBEAT = 0.4
LOADING = 0.1
MEMORY = 30_000_000
LINK = 125e6


class LightNode:
    """One node. Its callbacks run on its session's thread, `beat` and `load` on the fleet's."""

    def __init__(self, broker: BrokerOptions, cluster: str, name: str, speeds: dict[str, float]) -> None:
        self.name = name
        self.topics = Topics(cluster)
        self.epoch = new_epoch()
        self._speeds = speeds
        self.alive = True
        self.counter = 0
        self.reports = 0
        self.seen: Stamp | None = None
        self.slices: tuple[SliceAssignment, ...] = ()
        self.loaded = True
        self.frames: dict[tuple[str, str, str], int] = {}
        self._halves: dict[tuple[str, int, int], set[str]] = {}
        state = NodeState(name, "ready", self.epoch)
        self.session = Session(
            broker,
            f"{name}-agent-{self.epoch[:8]}",
            will=Will(self._topic("state"), encode(replace(state, state="lost"))),
            on_message=self._on_message,
        )
        self.session.subscribe(self._topic("heartbeat"), self.topics.coordinator, self._topic("assignment"))
        self.session.own(self._topic("capacity"), encode(self._capacity()))
        self.session.own(self._topic("state"), encode(state))
        self._report()

    def _capacity(self) -> Capacity:
        return Capacity(
            node=self.name,
            epoch=self.epoch,
            software="light",
            arch="x86_64",
            cores=1.0,
            threads=1,
            memory=MEMORY,
            worker_memory=1_000_000,
            runtime=RuntimeInfo("ai_edge_litert", "2"),
            speeds=self._speeds,
            link=Link(LINK, LINK, 0.001),
        )

    def _topic(self, leaf: str) -> str:
        return self.topics.node(self.name, leaf)

    def _report(self, word: str = "ready") -> None:
        self.reports += 1
        held = tuple(SliceReport(one.pipeline, one.revision, one.slice, word) for one in self.slices)  # type: ignore[arg-type]
        report = Report(self.name, self.epoch, self.reports, held, self.seen)
        self.session.own(self._topic("report"), encode(report))

    def beat(self) -> None:
        """Say that it lives."""
        self.counter += 1
        beats = tuple(
            SliceBeat(one.pipeline, one.revision, one.slice, "up", self.frames.get(_key(one), 0))
            for one in (self.slices if self.loaded else ())
        )
        beat = Heartbeat(self.name, self.epoch, self.counter, 0.1, 0, beats, self.seen)
        self.session.publish(self._topic("heartbeat"), encode(beat), qos=0)

    def load(self) -> None:
        """Pretend that what was fetched is loaded."""
        if not self.loaded:
            self.loaded = True
            self._report()

    def lose(self) -> None:
        """Die: the socket is closed without a goodbye."""
        self.alive = False
        connection = self.session._connection
        self.session._stopping = True
        if connection is not None:
            connection.close()

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        if not payload or not self.alive:
            return
        try:
            if topic == self._topic("assignment"):
                self._assigned(decode(Assignment, payload, topic))
            elif topic == self.topics.coordinator:
                stamp = decode(CoordinatorState, payload, topic).stamp
                self.seen = stamp if self.seen is None else max(stamp, self.seen)
            elif topic == self._topic("heartbeat"):
                decode(Heartbeat, payload, topic)
            else:
                self._frame(topic, decode_frame(payload))
        except SliceMQError as error:
            sys.stderr.write(f"{self.name}: {error}\n")

    def _assigned(self, document: Assignment) -> None:
        if self.seen is not None and document.stamp.term < self.seen.term:
            return
        self.seen = document.stamp if self.seen is None else max(document.stamp, self.seen)
        known = {_key(one) for one in self.slices}
        self.slices = document.slices
        for one in document.slices:
            for bundle in one.inputs:
                self.session.subscribe(self.topics.data(one.pipeline, one.revision, bundle.id))
        self.loaded = {_key(one) for one in document.slices} <= known
        self._report("ready" if self.loaded else "fetching")

    def _frame(self, topic: str, frame: Frame) -> None:
        head = frame.header
        for one in self.slices:
            names = {self.topics.data(one.pipeline, one.revision, bundle.id) for bundle in one.inputs}
            if topic not in names:
                continue
            key = (one.slice, head.stream, head.sequence)
            half = self._halves.setdefault(key, set())
            half.add(topic)
            if half != names:
                continue
            del self._halves[key]
            self.frames[_key(one)] = self.frames.get(_key(one), 0) + 1
            for bundle in one.outputs:
                payload = b"".join(encode_frame(head, [(spec, _zeros(spec)) for spec in bundle.tensors]))
                self.session.publish(self.topics.data(one.pipeline, one.revision, bundle.id), payload, qos=0)
            if one.result is not None:
                part = replace(head, part=one.result.part, parts=one.result.parts)
                payload = b"".join(encode_frame(part, [(spec, _zeros(spec)) for spec in one.result.tensors]))
                self.session.publish(self.topics.results(one.pipeline, head.client), payload, qos=0)


def _key(one: SliceAssignment) -> tuple[str, str, str]:
    return (one.pipeline, one.revision, one.slice)


def _zeros(spec: TensorSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return np.zeros([max(1, size) for size in spec.shape], spec.dtype)


def main(arguments: list[str]) -> int:
    """Run nodes FIRST to FIRST + COUNT - 1, of these SPEEDS (JSON), until standard input ends."""
    broker, cluster = BrokerOptions.from_url(arguments[0]), arguments[1]
    first, count = int(arguments[2]), int(arguments[3])
    speeds = json.loads(arguments[4])
    nodes = {
        name: LightNode(broker, cluster, name, speeds) for name in (f"light-{first + i}" for i in range(count))
    }
    for node in nodes.values():
        node.session.start()
    commands = threading.Thread(target=_obey, args=(nodes,), daemon=True)
    commands.start()
    begun = time.monotonic()
    due = [(begun + HEARTBEAT * number / count, name) for number, name in enumerate(nodes)]
    heapq.heapify(due)
    while commands.is_alive():
        at, name = heapq.heappop(due)
        time.sleep(max(0.0, at - time.monotonic()))
        node = nodes[name]
        if node.alive:
            node.beat()
            node.load()
            heapq.heappush(due, (max(at + HEARTBEAT, time.monotonic()), name))
    os._exit(0)


def _obey(nodes: dict[str, LightNode]) -> None:
    for line in sys.stdin:
        for name in line.split()[1:]:
            nodes[name].lose()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
