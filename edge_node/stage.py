"""A loaded slice at work: frames in, `invoke`, frames out, as three threads so that the three overlap.

receive (the data link's thread): read, check and decode a frame, join it with its other bundles
compute: the oldest whole frame into the interpreter, `invoke`, outputs out of it and into messages
send: compress and publish, while the next frame is computed
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edge_node.fit import check_fit, check_tensors, spec_bytes
from edge_node.join import Backlog, Bounds, Joiner
from edge_node.packing import Done, Packer
from edge_node.runtime import Interpreter
from edge_node.stream import LEASE_SECONDS, Answer, Refusal, StreamKeeper
from slicemq.errors import FrameError, ModelError, SliceMQError
from slicemq.frames import FrameHeader, decode_frame, encode_frame
from slicemq.messages import Bundle, SliceAssignment, SliceBeat
from slicemq.topics import Topics
from slicemq.turns import topic_turns, turn_of

logger = logging.getLogger("slicemq.node.slice")

Array = npt.NDArray[Any]
Send = Callable[[str, Sequence[bytes | memoryview]], bool]

# A pipeline's window lies on its slowest slice when that falls behind: room for two dozen frames, and for
# bursts of small ones.
_FRAMES = 24
_LEAST_BYTES = 16_000_000
_COUNT = 1024
_AGE = 30.0
# Outputs that wait for the sender: one being sent, one ready.
_OUTBOX = 2
_MEAN_OF = 32
_LOG_EVERY = 10.0


@dataclass(frozen=True)
class _Work:
    """A whole frame; without arrays (None) a client's word that it gives its stream back (rule 6)."""

    header: FrameHeader
    arrays: dict[int, Array] | None


class Stage:
    """Runs one slice. `send` publishes; its False means that the frame is lost (the client sends it again)."""

    def __init__(
        self,
        assignment: SliceAssignment,
        topics: Topics,
        interpreter: Interpreter,
        send: Send,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Raises ModelError when the slice's tensors are not those of the assignment."""
        self._assignment = assignment
        self._packer = Packer(assignment, topics)
        self._interpreter = interpreter
        self._send = send
        check_fit(assignment, interpreter)
        # The shapes that tensors are allocated for; None after a failure, when nothing is allocated.
        self._shapes: list[tuple[int, ...]] | None = [info.shape for info in interpreter.inputs]
        self._bundles = {
            topics.data(assignment.pipeline, assignment.revision, bundle.id, turn): (bundle, turn)
            for bundle in assignment.inputs
            for turn in topic_turns(assignment.turns, assignment.of)
        }
        self._stream = (
            StreamKeeper(leases=assignment.leases, lease_seconds=lease_seconds) if assignment.stateful else None
        )
        lends = assignment.stateful and assignment.leases
        self._release_topic = topics.release(assignment.pipeline, assignment.revision) if lends else None
        # Whether the interpreter is in the model's initial state.
        self._fresh = False
        # The last answer of the stream that is held, for a frame that comes again.
        self._kept: Done | None = None
        frame = sum(spec_bytes(spec) for bundle in assignment.inputs for spec in bundle.tensors)
        bounds = Bounds(_COUNT, max(_LEAST_BYTES, _FRAMES * frame), _AGE)
        self._joiner: Joiner[tuple[str, int, int], tuple[FrameHeader, dict[int, Array]]] = Joiner(
            [bundle.id for bundle in assignment.inputs], bounds
        )
        self._backlog: Backlog[_Work] = Backlog(bounds)
        self._ready = threading.Condition()
        self._outbox: queue.Queue[Done | None] = queue.Queue(_OUTBOX)
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._working: deque[float] = deque()
        self._frames = self._errors = self._refused = self._unsent = 0
        self._times: dict[str, deque[float]] = {
            name: deque(maxlen=_MEAN_OF) for name in ("receive", "decode", "invoke", "invoke_cpu", "encode", "send")
        }
        self._network_cpu: float | None = None
        self._limiter = _Limiter()

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics to subscribe to."""
        return (*self._bundles, *([self._release_topic] if self._release_topic is not None else []))

    def start(self) -> None:
        """Start the threads that compute and send."""
        for name, loop in (("compute", self._compute_loop), ("send", self._send_loop)):
            thread = threading.Thread(target=loop, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End both threads; what waits is dropped."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def on_frame(self, topic: str, payload: bytes) -> None:
        """A message from the data link, on its thread. Bad frames are counted, dropped and logged."""
        source = self._bundles.get(topic)
        if source is None and topic != self._release_topic:
            return
        if self._network_cpu is not None:
            self._times["receive"].append(time.thread_time() - self._network_cpu)
        started = time.perf_counter()
        try:
            self._take(*source, payload) if source is not None else self._take_release(payload)
        except FrameError as error:
            self._refused += 1
            self._limiter.warn(topic, "%s: frame dropped: %s", topic, error)
        self._times["decode"].append(time.perf_counter() - started)
        self._network_cpu = time.thread_time()

    def beat(self, link_up: bool, memory: int) -> SliceBeat:
        """The figures for the heartbeat."""
        now = time.monotonic()
        with self._ready:
            self._joiner.expire(now)
            self._backlog.expire(now)
            waiting = [since for since in (self._backlog.since(), *tuple(self._working)[:1]) if since is not None]
            dropped = self._joiner.dropped + self._backlog.dropped + self._refused + self._unsent
            queued = len(self._backlog)
        return SliceBeat(
            pipeline=self._assignment.pipeline,
            revision=self._assignment.revision,
            slice=self._assignment.slice,
            link="up" if link_up else "down",
            frames=self._frames,
            errors=self._errors,
            dropped=dropped,
            queued=queued,
            waiting=round(now - min(waiting), 4) if waiting else 0.0,
            memory=memory,
            **{f"{name}_ms": _mean_ms(times) for name, times in self._times.items()},
        )

    def _take(self, bundle: Bundle, turn: int | None, payload: bytes) -> None:
        frame = decode_frame(payload)
        header = frame.header
        try:
            if header.revision != self._assignment.revision:
                raise FrameError(f"field rev: {header.revision}, expected {self._assignment.revision}")
            if turn != turn_of(header.sequence, self._assignment.of):
                raise FrameError(f"field seq: {header.sequence} is not of turn {turn} of {self._assignment.of}")
            if header.error:
                raise FrameError(f"field error: {header.error!r} on a data topic")
            arrays = frame.arrays()
            check_tensors(bundle, arrays)
        except FrameError as error:
            raise FrameError(f"from client {header.client}: {error}") from error
        now = time.monotonic()
        with self._ready:
            whole = self._joiner.add(header.key, bundle.id, (header, arrays), len(payload), now)
            if whole is None:
                return
            joined = {index: array for _, part in whole.values() for index, array in part.items()}
            nbytes = sum(array.nbytes for array in joined.values())
            self._backlog.push(_Work(header, joined), nbytes, now)
            self._ready.notify()

    def _take_release(self, payload: bytes) -> None:
        header = decode_frame(payload).header
        with self._ready:
            # In its turn: what the client sent before has been run by then.
            self._backlog.push(_Work(header, None), 0, time.monotonic())
            self._ready.notify()

    def _compute_loop(self) -> None:
        while True:
            with self._ready:
                popped = self._backlog.pop(time.monotonic())
                while popped is None and not self._stopping:
                    self._ready.wait()
                    popped = self._backlog.pop(time.monotonic())
                if self._stopping or popped is None:
                    break
                since, work = popped
                self._working.append(since)
            self._deliver(self._compute(work))
            if self._stream is not None and not self._stream.holds:
                self._renew_early()
        self._outbox.put(None)

    def _compute(self, work: _Work) -> Done:
        header, stream = work.header, self._stream
        if stream is None:
            return self._run(header, work.arrays or {})
        if work.arrays is None:
            stream.release(header)
            return Done(header, [])
        answer = stream.judge(header, time.monotonic())
        if isinstance(answer, Refusal):
            return self._refuse(header, answer.message, answer.reason)
        if answer is Answer.REPEAT:
            assert self._kept is not None
            return self._kept
        if answer is Answer.DROP:
            self._refused += 1
            return Done(header, [])
        done = self._run(header, work.arrays, renew=answer is Answer.RENEW)
        if done.failed or not done.messages:
            self._kept = None
            stream.failed()
        else:
            self._kept = done
            stream.ran(time.monotonic())
        return done

    def _run(self, header: FrameHeader, tensors: dict[int, Array], *, renew: bool = False) -> Done:
        """Run the slice on a frame, with `renew` from the model's initial state."""
        try:
            if renew:
                self._renew()
            self._fresh = False
            started, used = time.perf_counter(), time.thread_time()
            arrays = [tensors[index] for index in self._assignment.takes]
            self._fit_shapes([array.shape for array in arrays], renew)
            for position, array in enumerate(arrays):
                self._interpreter.set_input(position, array)
            self._interpreter.invoke()
            invoked, used = time.perf_counter(), time.thread_time() - used
            messages = self._packer.pack(header, self._interpreter)
        except FrameError as error:
            self._unsent += 1
            self._limiter.warn("encode", "a frame cannot be sent: %s", error)
            return Done(header, [])
        except SliceMQError as error:
            return self._refuse(header, str(error), "slice-error")
        self._times["invoke"].append(invoked - started)
        self._times["invoke_cpu"].append(used)
        self._times["encode"].append(time.perf_counter() - invoked)
        return Done(header, messages)

    def _renew(self) -> None:
        if not self._fresh:
            self._interpreter.reset()
            self._shapes = [info.shape for info in self._interpreter.inputs]
            self._fresh = True

    def _renew_early(self) -> None:
        """So that the next client's first frame need not wait until the model is loaded again."""
        try:
            self._renew()
        except SliceMQError as error:
            self._limiter.warn("renew", "the model's initial state cannot be restored: %s", error)

    def _refuse(self, header: FrameHeader, why: str, reason: str) -> Done:
        self._errors += 1
        self._limiter.warn(reason, "frame %s of client %s: %s: %s", header.sequence, header.client, reason, why)
        return Done(header, [self._packer.failure(header, why, reason)], failed=True)

    def _deliver(self, done: Done) -> None:
        """Send at once what is small when nothing waits for the sender; else leave it to the sender."""
        if len(self._working) == 1 and done.small:
            self._send_done(done)
        else:
            self._outbox.put(done)

    def _fit_shapes(self, shapes: list[tuple[int, ...]], renewed: bool) -> None:
        """Allocate again when a frame's shapes differ, which they may where the specification leaves sizes open."""
        if shapes != self._shapes:
            if self._stream is not None and not renewed:
                # To allocate sets variable tensors to zero.
                raise ModelError(
                    f"shapes {shapes} after {self._shapes}: a stateful stream keeps its frames' shapes"
                )
            self._shapes = None
            self._interpreter.resize(shapes)
            self._shapes = shapes

    def _send_loop(self) -> None:
        while (done := self._outbox.get()) is not None:
            self._send_done(done)

    def _send_done(self, done: Done) -> None:
        started = time.perf_counter()
        try:
            for message in done.messages:
                parts: Sequence[bytes | memoryview] = [message.packed]
                if not message.packed:
                    parts = encode_frame(message.header, message.tensors, message.codec)
                if not self._send(message.topic, parts):
                    self._unsent += 1
        except SliceMQError as error:
            self._unsent += 1
            self._limiter.warn("send", "a frame cannot be sent: %s", error)
        finally:
            self._times["send"].append(time.perf_counter() - started)
            with self._ready:
                self._working.popleft()
                self._frames += not done.failed


class _Limiter:
    """Logs the first message of a kind at once and then at most one in `_LOG_EVERY` seconds, with a count."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def warn(self, kind: str, text: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._last.get(kind, -math.inf) < _LOG_EVERY:
            self._held[kind] = self._held.get(kind, 0) + 1
            return
        self._last[kind] = now
        held = self._held.pop(kind, 0)
        logger.warning(text + (f" ({held} more since the last message)" if held else ""), *values)


def _mean_ms(times: deque[float]) -> float:
    values = tuple(times)
    return round(1000 * sum(values) / len(values), 4) if values else 0.0
