"""The client's ledger: every frame from submit until the application takes its outcome.

PURE: events and times come in, actions go out; no I/O, no lock, no clock, no random numbers. `client.py` is the
shell. Times are seconds of any monotonic clock. The rules named here are those of docs/reference/protocol.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from slicemq.comparison import Comparison
from slicemq.errors import POISONED, STREAM_BUSY, STREAM_RESET
from slicemq.frames import FrameHeader
from slicemq.messages import PipelineDocument, Route, TensorSpec
from slicemq.outcomes import Action, Counters, Deliver, Failover, Outcome, Release, Send
from slicemq.pacing import Deadlines, Window, spread
from slicemq.parts import Parts, Tensors, inputs_of, outputs_of, route_fault
from slicemq.run import Run
from slicemq.topics import is_id


@dataclass
class _Frame:
    sequence: int
    inputs: Any
    spec: str
    submitted: float
    waits: bool = True
    attempts: int = 0
    misses: int = 0
    last: str = ""
    sent: float = 0.0
    due: float | None = None
    sendings: dict[str, Parts] = field(default_factory=dict)
    avoid: set[str] = field(default_factory=set)


def document_fault(document: PipelineDocument) -> str:
    """What makes the document unusable for a client, or the empty text."""
    # What may be sent to: a route of an earlier model has other tensors, and only its end matters.
    routes = [route for route in document.routes if route.state == "active"]
    routes += [document.shadow] if document.shadow is not None else []
    for route in routes:
        if fault := route_fault(route, document):
            return fault
    if len({route.revision for route in document.routes}) != len(document.routes):
        return "routes: one revision stands twice"
    return ""


class Ledger:
    """The frames of one stream (rule 2); each ends exactly once, in order, never by a mixture (rules 3 and 5).

    `resend_after` is the base of the resend deadlines (None: pacing.Deadlines' default). `give_up_after` None
    means never; it counts from submit, pauses included. Of a stateful pipeline's frames one at a time is sent, in
    order (rule 6; what its state does is in run.py).
    """

    def __init__(
        self, client: str, stream: int, *, resend_after: float | None = None, give_up_after: float | None = None
    ) -> None:
        self.client = client
        self.stream = stream
        self.counters = Counters()
        self.window = Window()
        self._deadlines = Deadlines(resend_after)
        self._give_up_after = give_up_after
        self._document: PipelineDocument | None = None
        self._routes: tuple[Route, ...] = ()  # the active ones when frames may be sent now, else none
        self._connected = False
        self._closed = False
        self._still_since: float | None = None
        self._open: dict[int, _Frame] = {}
        self._ended: dict[int, Outcome] = {}
        self._deliver_next = 0
        self._taken = 0
        self._wake: float | None = None
        self._lost: tuple[str, float] | None = None
        self._run = Run()
        self._comparison = Comparison()

    # ---- what the shell asks

    @property
    def document_now(self) -> PipelineDocument | None:
        """The document with the highest stamp so far."""
        return self._document

    @property
    def unanswered(self) -> int:
        """Frames that have not ended."""
        return len(self._open)

    @property
    def held(self) -> int:
        """Places of the window that are taken: from submit until the application took the outcome (rule 9)."""
        return self.counters.submitted - self._taken

    @property
    def room(self) -> bool:
        """Whether another frame may be submitted."""
        return self.held < self.window.size

    @property
    def wake_at(self) -> float | None:
        """When `tick` must be called at the latest."""
        return self._wake

    def expects(self, header: FrameHeader) -> dict[int, TensorSpec]:
        """What an answer's tensors must be, by their index in its revision's model; empty: nobody wants it."""
        document = self._document
        if document is None or header.client != self.client or header.stream != self.stream:
            return {}
        frame = self._open.get(header.sequence)
        if frame is not None and header.revision in frame.sendings:
            return frame.sendings[header.revision].specs(document.outputs)
        return self._comparison.specs(header)

    def evidence(self, now: float) -> dict[str, Any] | None:
        """The body of the request `evidence`; None while no revisions are compared."""
        return self._comparison.evidence(now)

    def wants(self, send: Send) -> bool:
        """Whether this attempt is still the frame's last one, and unanswered."""
        if send.copy:
            return self._comparison.waits(send.sequence)
        frame = self._open.get(send.sequence)
        return frame is not None and frame.attempts == send.attempt

    # ---- events

    def submit(self, now: float, inputs: Any, spec: str) -> tuple[int, list[Action]]:
        """A new frame whose inputs were checked against the document with digest `spec`: its number, actions."""
        frame = _Frame(self.counters.submitted, inputs, spec, now)
        self.counters.submitted += 1
        self._open[frame.sequence] = frame
        if self._give_up_after is not None:
            self._wake_by(now + self._give_up_after)
        if self._closed:
            self._fail(frame, now, "closed", "the client is closed")
        else:
            self._still_valid(frame, now)
        return frame.sequence, self._flush(now) + self._deliver()

    def document(self, now: float, document: PipelineDocument) -> list[Action]:
        """A pipeline document; one that is not newer than the known one is ignored (rule 21)."""
        known = self._document
        if self._closed or (known is not None and not known.stamp < document.stamp):
            return []
        if document_fault(document):
            self.counters.dropped["document"] += 1
            return []
        self._document = document
        self.window.grant(document.window, document.clients)
        raised = known is not None and document.resend > known.resend
        lost = {route.revision for route in document.routes if route.state == "lost"}
        for frame in list(self._open.values()):
            if self._still_valid(frame, now) and frame.last and not frame.waits:
                if frame.last in lost and self._lost is None:
                    self._lost = (frame.last, now)
                frame.waits = raised or frame.last in lost
        self._comparison.document(document)
        for name in document.poisoned:
            if name.client == self.client and int(name.stream, 16) == self.stream:
                self._poison(name.sequence, now)
        self._moved(now)
        return self._flush(now) + self._deliver()

    def connected(self, now: float) -> list[Action]:
        """Results are subscribed (SUBACK) and the document was read after it: all unanswered goes out (rule 8)."""
        self._connected = True
        for frame in self._open.values():
            frame.waits = True
        self._moved(now)
        return self._flush(now)

    def disconnected(self, now: float) -> None:
        """The connection for frames is gone; frames are held, their resend deadlines stand still."""
        self._connected = False
        self._moved(now)

    def result(self, now: float, header: FrameHeader, tensors: Mapping[int, npt.NDArray[Any]]) -> list[Action]:
        """A part of a result, or an error frame, from the network; whatever does not fit is counted and dropped."""
        if header.client != self.client or header.stream != self.stream:
            return self._drop("stream")
        frame = self._open.get(header.sequence)
        sending = frame.sendings.get(header.revision) if frame is not None else None
        if sending is None and self._comparison.result(now, header, tensors):
            return []
        if frame is None:
            if header.sequence >= self.counters.submitted:
                return self._drop("sequence")
            self.counters.doubles += 1
            return []
        if sending is None:
            return self._drop("revision")
        if header.error:
            return self._failed_there(frame, now, header)
        assert self._document is not None
        joined = sending.add(header.part, header.parts, tensors, self._document.outputs)
        if joined is None:
            return []
        if joined == "double":
            self.counters.doubles += 1
            return []
        if isinstance(joined, str):
            return self._drop(joined)
        self._answer(frame, now, header.revision, joined)
        return self._next(now)

    def unsendable(self, now: float, sequence: int, message: str) -> list[Action]:
        """An attempt cannot be made at all (a bundle larger than MQTT carries): the frame ends."""
        frame = self._open.get(sequence)
        if frame is not None:
            self._fail(frame, now, "unsendable", message)
        return self._next(now)

    def taken(self) -> None:
        """The application took one outcome; its place in the window is free."""
        self._taken += 1

    def tick(self, now: float) -> list[Action]:
        """Time passes: frames past `give_up_after` end, frames past their deadline are sent again."""
        if self._closed:
            return []
        for frame in list(self._open.values()):
            if self._give_up_after is not None and now >= frame.submitted + self._give_up_after:
                self._fail(frame, now, "gave-up", f"no result within {self._give_up_after:g} s")
            elif self._routes and frame.due is not None and now >= frame.due:
                self.counters.missed += 1
                self._comparison.failed(frame.last)
                self.window.missed(now, frame.sent)
                frame.misses += 1
                frame.waits = True
        actions = self._flush(now) + self._deliver()
        self._reckon()
        return actions

    def close(self, now: float) -> list[Action]:
        """The application closes: every unanswered frame ends as `closed`."""
        ended: list[Action] = []
        if self._run.revision:
            ended.append(Release(self._run.revision, self.counters.submitted))
        self._closed = True
        self._routes = ()
        for frame in list(self._open.values()):
            self._fail(frame, now, "closed", "the client was closed before the result came")
        self._wake = None
        return ended + self._deliver()

    # ---- inside

    def _poison(self, sequence: int, now: float) -> None:
        frame = self._open.get(sequence)
        if frame is not None:
            self._fail(frame, now, POISONED, "it ended two workers", frame.last)

    def _failed_there(self, frame: _Frame, now: float, header: FrameHeader) -> list[Action]:
        """An error frame."""
        # An older revision may fail because it is being taken down; the answer of the last one counts.
        # So does a canary that was lost, while there is none other to send to.
        forsaken = not self._stateful and frame.waits and self._is_lost(header.revision)
        if header.revision != frame.last or forsaken:
            return self._drop("late error")
        self._comparison.failed(header.revision)
        if not self._stateful and self._comparison.has_heavier(header.revision):
            # A canary's failure is no failure of the frame: the revision that serves has not seen it.
            frame.avoid.add(header.revision)
            frame.waits = True
            return self._flush(now)
        reason = header.error if is_id(header.error) else "slice-error"
        self._fail(frame, now, reason, header.message, header.revision)
        busy: list[Action] = [Release(header.revision, header.sequence)] if reason == STREAM_BUSY else []
        return busy + self._next(now)

    def _is_lost(self, revision: str) -> bool:
        routes = self._document.routes if self._document is not None else ()
        return any(route.revision == revision and route.state == "lost" for route in routes)

    def _still_valid(self, frame: _Frame, now: float) -> bool:
        document = self._document
        if document is not None and document.state == "removed":
            self._fail(frame, now, "removed", f"pipeline {document.name} was removed")
            return False
        if document is not None and document.spec != frame.spec:
            self._fail(frame, now, "spec-changed", f"pipeline {document.name} now takes or gives other tensors")
            return False
        if self._state_is_lost():
            self._reset(frame, now, f"revision {self._run.revision}, which held the stream's state, was lost")
            return False
        return True

    @property
    def _stateful(self) -> bool:
        return self._document is not None and self._document.stateful

    def _state_is_lost(self) -> bool:
        """Whether the state that the next frame needs was lost with its revision."""
        document, run = self._document, self._run
        if document is None or not document.stateful or run.first is None or run.first in self._open:
            return False
        return self._is_lost(run.revision)

    def _reset(self, frame: _Frame, now: float, why: str) -> None:
        self._fail(frame, now, STREAM_RESET, f"{why}; the next frame begins with the model's initial state")

    def _moved(self, now: float) -> None:
        document = self._document
        running = document is not None and document.state == "running" and self._connected and not self._closed
        active = document.routes if document is not None and running else ()
        self._routes = tuple(route for route in active if route.state == "active")
        if not self._routes and self._still_since is None:
            self._still_since = now
        elif self._routes and self._still_since is not None:
            for frame in self._open.values():
                if frame.due is not None:
                    frame.due += now - self._still_since
            self._still_since = None
        self._reckon()

    def _flush(self, now: float) -> list[Action]:
        if not self._routes:
            return []
        if not self._stateful:
            sends: list[Action] = []
            for frame in self._open.values():
                if frame.waits:
                    sends.append(self._send(frame, now, self._choose(frame)))
                    if frame.attempts == 1:
                        sends += self._copy(frame, now)
            return sends
        while self._open:
            frame = next(iter(self._open.values()))
            if not frame.waits:
                break
            route = self._choose(frame)
            first = self._run.place(frame.sequence, route.revision)
            if first is not None:
                return [self._send(frame, now, route, first)]
            self._reset(frame, now, f"the stream's state stayed with revision {self._run.revision}")
        return []

    def _next(self, now: float) -> list[Action]:
        """After the end of a frame: what is delivered, and what had to wait for it."""
        return (self._flush(now) if self._stateful else []) + self._deliver()

    def _send(self, frame: _Frame, now: float, route: Route, first: int = 0) -> Send:
        if route.revision != frame.last:
            frame.misses = 0
        assert self._document is not None
        parts = route.lane(frame.sequence).parts
        frame.sendings.setdefault(route.revision, Parts(now, parts, outputs_of(route, self._document)))
        frame.last, frame.sent, frame.waits = route.revision, now, False
        frame.due = now + self._deadlines.interval(
            frame.misses, spread(self.stream, frame.sequence, frame.attempts + 32)
        )
        frame.attempts += 1
        self.counters.sent += 1
        self.counters.resent += frame.attempts > 1
        self._wake_by(frame.due)
        return Send(frame.sequence, frame.attempts, route, self._inputs_for(route, frame), first)

    def _inputs_for(self, route: Route, frame: _Frame) -> Any:
        """The frame's inputs by their index in the route's model; they were given in the document's order."""
        assert self._document is not None
        indices = inputs_of(route, self._document)
        if tuple(frame.inputs) == indices:
            return frame.inputs
        return dict(zip(indices, frame.inputs.values(), strict=True))

    def _copy(self, frame: _Frame, now: float) -> list[Action]:
        route = self._comparison.copy(now, self.stream, frame.sequence)
        return [] if route is None else [Send(frame.sequence, 1, route, self._inputs_for(route, frame), copy=True)]

    def _choose(self, frame: _Frame) -> Route:
        if self._stateful and self._run.first is not None:
            for route in self._routes:
                if route.revision == self._run.revision:
                    return route
        routes = [route for route in self._routes if route.revision not in frame.avoid] or self._routes
        total = sum(max(0.0, route.weight) for route in routes)
        mark = spread(self.stream, frame.sequence, frame.attempts) * total
        for route in routes:
            mark -= max(0.0, route.weight)
            if mark < 0:
                return route
        return routes[0]

    def _answer(self, frame: _Frame, now: float, revision: str, tensors: Tensors) -> None:
        # From the first sending: what was sent twice can then only be judged slower than it is.
        self._deadlines.observe(now - frame.sendings[revision].first)
        self.window.answered()
        self.counters.answered += 1
        if self._lost is not None and revision != self._lost[0]:
            lost, at = self._lost
            self.counters.failovers.append(Failover(lost, revision, at, now - at))
            self._lost = None
        assert self._document is not None
        latency, specs = now - frame.submitted, self._document.outputs
        # Parts arrive in any order; applications unpack in the model's.
        ordered = {spec.index: tensors[spec.index] for spec in specs}
        self._comparison.answered(frame.sequence, revision, now - frame.sendings[revision].first, ordered)
        self._end(frame, Outcome(frame.sequence, revision, frame.attempts, latency, ordered, specs))

    def _fail(self, frame: _Frame, now: float, reason: str, message: str, revision: str = "") -> None:
        self.counters.failed += 1
        self._run.end()
        self._comparison.ended(frame.sequence)
        latency = now - frame.submitted
        self._end(
            frame,
            Outcome(frame.sequence, revision, frame.attempts, latency, reason=reason, message=message),
        )

    def _end(self, frame: _Frame, outcome: Outcome) -> None:
        del self._open[frame.sequence]
        if not self._open:
            self._lost = None
        self._ended[frame.sequence] = outcome

    def _deliver(self) -> list[Action]:
        actions: list[Action] = []
        while self._deliver_next in self._ended:
            actions.append(Deliver(self._ended.pop(self._deliver_next)))
            self._deliver_next += 1
        return actions

    def _drop(self, cause: str) -> list[Action]:
        self.counters.dropped[cause] += 1
        return []

    def _wake_by(self, time: float) -> None:
        self._wake = time if self._wake is None else min(self._wake, time)

    def _reckon(self) -> None:
        self._wake = None
        for frame in self._open.values():
            if self._routes and frame.due is not None:
                self._wake_by(frame.due)
            if self._give_up_after is not None:
                self._wake_by(frame.submitted + self._give_up_after)
