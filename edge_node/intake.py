"""What comes in to a slice: frames read, checked, joined from their bundles, and waiting to be computed.

Tensors of quick codecs wait as they came: the thread that computes unpacks them to where they are needed, in little
more time than a copy takes. Slow codecs are unpacked here, beside `invoke`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edge_node.fit import check_tensors, spec_bytes
from edge_node.join import Backlog, Bounds, Joiner
from edge_node.tally import Tally
from slicemq import codecs
from slicemq.errors import FrameError
from slicemq.frames import FrameHeader, WireTensor, decode_frame
from slicemq.messages import Bundle, SliceAssignment
from slicemq.topics import Topics
from slicemq.turns import topic_turns, turn_of

Array = npt.NDArray[Any]

# A pipeline's window lies on its slowest slice when that falls behind: room for two dozen frames, and for
# bursts of small ones.
_FRAMES = 24
_LEAST_BYTES = 16_000_000
_COUNT = 1024
_AGE = 30.0
# Frames that the thread that brings them may run itself: to read the next one meanwhile gains no more than it takes
# to wake another thread.
_SMALL_BYTES = 1 << 18


@dataclass(slots=True)
class Work:
    """A whole frame; without tensors (None) a client's word that it gives its stream back (rule 6).

    The tensors, arrays or such as are still packed (their bytes alone may then be wrong), share the memory of the
    messages that brought them: clear them as soon as they are copied. `decoding`: seconds that reading the messages
    took.
    """

    header: FrameHeader
    tensors: dict[int, Array | WireTensor] | None
    decoding: float = 0.0


class Intake:
    """The frames that wait for one slice, bounded in count, bytes and age (rule 9).

    They are for the thread that calls `next`. But a small frame before which none waits is run by the thread that
    brought it, with `run_here`, while `is_quick` says that this takes less than to wake the other thread. No two
    frames are ever given out at once.
    """

    def __init__(
        self,
        assignment: SliceAssignment,
        topics: Topics,
        tally: Tally,
        *,
        run_here: Callable[[Work], None],
        is_quick: Callable[[], bool],
    ) -> None:
        self._assignment = assignment
        self._tally = tally
        self._run_here = run_here
        self._is_quick = is_quick
        # A stateful slice must know that a frame is whole before it judges it.
        self._unpacks = assignment.stateful
        # While the thread that brought a frame runs it; and what went wrong there.
        self._here = False
        self._failure: BaseException | None = None
        self._bundles = {
            topics.data(assignment.pipeline, assignment.revision, bundle.id, turn): (bundle, turn)
            for bundle in assignment.inputs
            for turn in topic_turns(assignment.turns, assignment.of)
        }
        lends = assignment.stateful and assignment.leases
        self._release_topic = topics.release(assignment.pipeline, assignment.revision) if lends else None
        frame = sum(spec_bytes(spec) for bundle in assignment.inputs for spec in bundle.tensors)
        bounds = Bounds(_COUNT, max(_LEAST_BYTES, _FRAMES * frame), _AGE)
        self._joiner: Joiner[tuple[str, int, int], Work] = Joiner(
            [bundle.id for bundle in assignment.inputs], bounds
        )
        self._joins = len(assignment.inputs) > 1
        self._backlog: Backlog[Work] = Backlog(bounds)
        self._working: deque[float] = deque()
        self._ready = threading.Condition()
        self._stopping = False
        # By thread: a slice with bundles on several brokers has a link's thread for each.
        self._network_cpu: dict[int, float] = {}

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics to subscribe to."""
        return (*self._bundles, *([self._release_topic] if self._release_topic is not None else []))

    def on_frame(self, topic: str, payload: bytes | memoryview) -> None:
        """A message from the data link, on its thread. Bad frames are counted, dropped and logged."""
        source = self._bundles.get(topic)
        if source is None and topic != self._release_topic:
            return
        thread = threading.get_ident()
        if thread in self._network_cpu:
            self._tally.received(time.thread_time() - self._network_cpu[thread])
        try:
            work = self._read(*source, payload) if source is not None else Work(decode_frame(payload).header, None)
            self._add(work, source[0].id if self._joins and source is not None else None, len(payload))
        except FrameError as error:
            self._tally.count(refused=1)
            self._tally.warn(topic, "%s: frame dropped: %s", topic, error)
        self._network_cpu[thread] = time.thread_time()

    def next(self) -> Work | None:
        """Wait for the oldest frame that is not too old; None after `stop`. Call `done` for each, in order.

        Raises what `run_here` raised.
        """
        with self._ready:
            while not self._stopping:
                if self._failure is not None:
                    raise self._failure
                popped = None if self._here else self._backlog.pop(time.monotonic())
                if popped is not None:
                    since, work = popped
                    self._working.append(since)
                    return work
                self._ready.wait()
        return None

    def done(self) -> None:
        """The oldest frame that was given out has left the slice."""
        self._working.popleft()

    def stop(self) -> None:
        """End `next`; what waits or comes later is dropped. Returns when no frame runs on a link's thread."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
            self._ready.wait_for(lambda: not self._here)

    def waiting(self, now: float) -> tuple[int, float | None, int]:
        """How many frames wait, since when the oldest that is not done does, how many the bounds have cost."""
        with self._ready:
            self._joiner.expire(now)
            self._backlog.expire(now)
            times = (*tuple(self._working)[:1], self._backlog.since())
            since = next((time_ for time_ in times if time_ is not None), None)
            return len(self._backlog), since, self._joiner.dropped + self._backlog.dropped

    def _read(self, bundle: Bundle, turn: int | None, payload: bytes | memoryview) -> Work:
        """One bundle of a frame."""
        started = time.perf_counter()
        frame = decode_frame(payload)
        header = frame.header
        try:
            if header.revision != self._assignment.revision:
                raise FrameError(f"field rev: {header.revision}, expected {self._assignment.revision}")
            if turn != turn_of(header.sequence, self._assignment.of):
                raise FrameError(f"field seq: {header.sequence} is not of turn {turn} of {self._assignment.of}")
            if header.error:
                raise FrameError(f"field error: {header.error!r} on a data topic")
            check_tensors(bundle, {tensor.index: tensor for tensor in frame.tensors})
            tensors = {tensor.index: self._taken(tensor) for tensor in frame.tensors}
        except FrameError as error:
            raise FrameError(f"from client {header.client}: {error}") from error
        return Work(header, tensors, time.perf_counter() - started)

    def _taken(self, tensor: WireTensor) -> Array | WireTensor:
        """The tensor as it waits; packed, where its header and length are right and only its values are to come."""
        if self._unpacks or tensor.codec == "raw" or codecs.is_slow(tensor.codec) or 0 in tensor.shape:
            return tensor.array()
        tensor.check()
        return tensor

    def _add(self, work: Work, bundle: str | None, nbytes: int) -> None:
        now = time.monotonic()
        with self._ready:
            if self._stopping:
                return
            if bundle is not None:
                parts = self._joiner.add(work.header.key, bundle, work, nbytes, now)
                if parts is None:
                    return
                work = Work(
                    work.header,
                    {index: one for part in parts.values() for index, one in (part.tensors or {}).items()},
                    sum(part.decoding for part in parts.values()),
                )
            quick = nbytes <= _SMALL_BYTES and not (self._here or self._working or len(self._backlog))
            if not quick or not self._is_quick():
                # A release takes its turn as well: what the client sent before it has been run by then.
                tensors = work.tensors or {}
                self._backlog.push(work, sum(tensor.nbytes for tensor in tensors.values()), now)
                self._ready.notify()
                return
            self._working.append(now)
            self._here = True
        self._run(work)

    def _run(self, work: Work) -> None:
        failure: BaseException | None = None
        try:
            self._run_here(work)
        except Exception as error:  # noqa: BLE001 - for the thread whose failure ends the process
            failure = error
        with self._ready:
            self._here = False
            if failure is not None or len(self._backlog) or self._stopping:
                self._failure = failure
                self._ready.notify_all()
