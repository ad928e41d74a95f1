"""A worker process of one slice, simulated: frames in, symbolic compute, frames out. PURE.

What edge_node/intake.py and edge_node/stage.py do with threads, around the same joins (edge_node/join.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from edge_node.join import Backlog, Bounds, Joiner
from simulator.broker import Broker
from simulator.clock import Process
from simulator.models import Value, compute, whole_of
from simulator.session import Session
from slicemq.frames import FrameHeader
from slicemq.messages import FrameName, SliceAssignment, SliceBeat
from slicemq.topics import Topics
from slicemq.turns import topic_turns, turn_of

_BOUNDS = Bounds(1024, 16_000_000, 30.0)
_FRAME_BYTES = 1000
# How much longer a slow model computes.
_SLOW = 8
Key = tuple[str, int, int]


@dataclass
class Manners:
    """How a board behaves: `seconds` of one call of a slice, and frames that kill the worker that computes them."""

    seconds: float = 0.02
    load: float = 0.3
    poison: dict[Key, int] = field(default_factory=dict)


class Worker:
    """One slice at work. `on_ready()` when it may be used (rule 11), `on_death(how)` when a frame killed it."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        topics: Topics,
        assignment: SliceAssignment,
        manners: Manners,
        on_ready: Callable[[], None],
        on_death: Callable[[str], None],
        reachable: Callable[[], bool],
        poisoned: Iterable[FrameName] = (),
    ) -> None:
        self.assignment = assignment
        self.process = process
        self._topics = topics
        self._manners = manners
        self._on_ready = on_ready
        self._on_death = on_death
        self._joiner: Joiner[Key, dict[int, Value]] = Joiner([one.id for one in assignment.inputs], _BOUNDS)
        self.backlog: Backlog[tuple[FrameHeader, dict[int, Value]]] = Backlog(_BOUNDS)
        self._sources = {
            topics.data(assignment.pipeline, assignment.revision, bundle.id, turn): (bundle.id, turn)
            for bundle in assignment.inputs
            for turn in topic_turns(assignment.turns, assignment.of)
        }
        self._poisoned = {(name.client, int(name.stream, 16), name.sequence) for name in poisoned}
        # The frame that is being computed.
        self.at: FrameName | None = None
        self._since: float | None = None
        self._flaw = whole_of(assignment.artifact.sha256).flaw
        self._frames = self._errors = self._unsent = 0
        self._ready = False
        self.link = Session(
            broker,
            process,
            f"{process.name}-data",
            self._sources,
            on_message=self._on_frame,
            on_up=self._up,
            reachable=reachable,
        )

    def start(self) -> None:
        """Load, warm up, connect."""
        self.process.after(self._manners.load, self.link.start)

    def beat(self) -> SliceBeat:
        """The figures for the heartbeat."""
        now = self.process.clock.now
        self._joiner.expire(now)
        self.backlog.expire(now)
        since = self._since if self._since is not None else self.backlog.since()
        one = self.assignment
        return SliceBeat(
            one.pipeline,
            one.revision,
            one.slice,
            "up" if self.link.up else "down",
            frames=self._frames,
            errors=self._errors,
            dropped=self._joiner.dropped + self.backlog.dropped + self._unsent,
            queued=len(self.backlog),
            waiting=round(now - since, 4) if since is not None else 0.0,
        )

    def _up(self) -> None:
        if not self._ready:
            self._ready = True
            self._on_ready()

    def _on_frame(self, topic: str, frame: Any, _retained: bool) -> None:
        source = self._sources.get(topic)
        if source is None:
            return
        header, tensors = frame
        if header.revision != self.assignment.revision or source[1] != turn_of(header.sequence, self.assignment.of):
            return
        now = self.process.clock.now
        joined = self._joiner.add(header.key, source[0], tensors, _FRAME_BYTES, now)
        if joined is not None:
            whole = {index: value for part in joined.values() for index, value in part.items()}
            self.backlog.push((header, whole), _FRAME_BYTES, now)
            self._next()

    def _next(self) -> None:
        if self._since is not None:
            return
        popped = self.backlog.pop(self.process.clock.now)
        if popped is not None:
            self._since, (header, values) = popped
            self.at = FrameName(header.client, f"{header.stream:016x}", header.sequence)
            seconds = self._manners.seconds * (_SLOW if self._flaw == "slow" and not header.probe else 1)
            self.process.after(seconds, self._computed, header, values)

    def _computed(self, header: FrameHeader, values: dict[int, Value]) -> None:
        if header.key in self._poisoned:
            self._refuse(header, "poisoned")
            return
        if self._flaw == "failing" and not header.probe:
            self._refuse(header, "slice-error")
            return
        left = self._manners.poison.get(header.key, 0)
        if left and not header.probe:
            self._manners.poison[header.key] = left - 1
            self._on_death("signal SIGSEGV")
            return
        one = self.assignment
        found = compute(one.artifact.sha256, one.revision, {index: value.what for index, value in values.items()})
        turn = turn_of(header.sequence, one.of)
        for bundle in one.outputs:
            topic = self._topics.data(one.pipeline, one.revision, bundle.id, turn)
            self._send(topic, header, {spec.index: Value(found[spec.index]) for spec in bundle.tensors})
        if one.result is not None:
            named = FrameHeader(
                header.client,
                header.stream,
                header.sequence,
                header.sent,
                header.revision,
                one.result.part,
                one.result.parts,
            )
            values = {spec.index: Value(found[spec.index]) for spec in one.result.tensors}
            self._send(self._topics.results(one.pipeline, header.client), named, values)
        self._ended()

    def _ended(self) -> None:
        self._frames += 1
        self._go_on()

    def _go_on(self) -> None:
        self._since = self.at = None
        self._next()

    def _refuse(self, header: FrameHeader, error: str) -> None:
        """An error frame (rule 10)."""
        named = replace(header, error=error, message=f"slice {self.assignment.slice}", probe=False)
        self._send(self._topics.results(self.assignment.pipeline, header.client), named, {})
        self._errors += 1
        self._go_on()

    def _send(self, topic: str, header: FrameHeader, tensors: dict[int, Value]) -> None:
        if not self.link.publish(topic, (header, tensors), qos=0):
            self._unsent += 1
