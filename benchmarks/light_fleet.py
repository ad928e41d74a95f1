"""Light nodes, many to a process: real sessions, documents and heartbeats, no runtime. For benchmarks.light_nodes.

    python -m benchmarks.light_fleet BROKER_URL CLUSTER FIRST COUNT SPEEDS

All of them run on one thread, and give way to whatever else runs on the machine. Each node joins, beats, and obeys
its assignments: it says `fetching`, then `ready`, and answers each frame of its slices with zeros, so that probe
frames come through. A line `lose <id> ...` on standard input closes the sockets of these nodes without a goodbye.
"""

from __future__ import annotations

import heapq
import json
import os
import queue
import sys
import threading
import time
from dataclasses import replace

import numpy as np

from benchmarks.light_sessions import LightSession, Sessions
from slicemq.endpoint import Will
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
from slicemq.topics import Topics

HEARTBEAT = 0.4
NICE = 5
LOADING = 0.1
MEMORY = 30_000_000
LINK = 125e6


class LightNode:
    """One node."""

    def __init__(self, broker: BrokerOptions, cluster: str, name: str, speeds: dict[str, float]) -> None:
        self.name = name
        self.topics = Topics(cluster)
        self.epoch = new_epoch()
        self._speeds = speeds
        self._heartbeat = self.topics.node(name, "heartbeat")
        self._mine = self.epoch.encode()
        self.counter = 0
        self.reports = 0
        self.seen: Stamp | None = None
        self.slices: tuple[SliceAssignment, ...] = ()
        self.loaded = True
        self.frames: dict[tuple[str, str, str], int] = {}
        self._halves: dict[tuple[str, int, int], set[str]] = {}
        state = NodeState(name, "ready", self.epoch)
        self.session = LightSession(
            broker,
            f"{name}-agent-{self.epoch[:8]}",
            Will(self._topic("state"), encode(replace(state, state="lost"))),
            self._on_message,
        )
        self.session.subscribe(self._topic("heartbeat"), self.topics.coordinator, self._topic("assignment"))
        self.session.publish(self._topic("capacity"), encode(self._capacity()), retain=True)
        self.session.publish(self._topic("state"), encode(state), retain=True)
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
        self.session.publish(self._topic("report"), encode(report), retain=True)

    def beat(self) -> None:
        """Say that it lives."""
        self.counter += 1
        beats = tuple(
            SliceBeat(one.pipeline, one.revision, one.slice, "up", self.frames.get(_key(one), 0))
            for one in (self.slices if self.loaded else ())
        )
        beat = Heartbeat(self.name, self.epoch, self.counter, 0.1, 0, beats, self.seen)
        self.session.publish(self._heartbeat, encode(beat), qos=0)

    def load(self) -> None:
        """Pretend that what was fetched is loaded."""
        if not self.loaded:
            self.loaded = True
            self._report()

    def _on_message(self, topic: str, payload: bytes) -> None:
        if not payload or (topic == self._heartbeat and self._mine in payload):
            return
        try:
            if topic == self._topic("assignment"):
                self._assigned(decode(Assignment, payload, topic))
            elif topic == self.topics.coordinator:
                stamp = decode(CoordinatorState, payload, topic).stamp
                self.seen = stamp if self.seen is None else max(stamp, self.seen)
            elif topic == self._heartbeat:
                sys.stderr.write(f"{self.name}: another node has its name\n")
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
    os.nice(NICE)
    broker, cluster = BrokerOptions.from_url(arguments[0]), arguments[1]
    first, count = int(arguments[2]), int(arguments[3])
    speeds = json.loads(arguments[4])
    nodes = {
        name: LightNode(broker, cluster, name, speeds) for name in (f"light-{first + i}" for i in range(count))
    }
    sessions = Sessions([node.session for node in nodes.values()])
    lost: queue.SimpleQueue[str] = queue.SimpleQueue()
    commands = threading.Thread(target=_obey, args=(lost,), daemon=True)
    commands.start()
    begun = time.monotonic()
    due = [(begun + HEARTBEAT * number / count, name) for number, name in enumerate(nodes)]
    heapq.heapify(due)
    while commands.is_alive():
        while not lost.empty():
            sessions.close(nodes.pop(lost.get()).session)
        at, name = heapq.heappop(due)
        sessions.run_until(at)
        if name in nodes:
            nodes[name].beat()
            nodes[name].load()
            heapq.heappush(due, (max(at + HEARTBEAT, time.monotonic()), name))
        elif not due:
            break
    os._exit(0)


def _obey(lost: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        for name in line.split()[1:]:
            lost.put(name)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
