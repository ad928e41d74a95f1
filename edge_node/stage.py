"""A loaded slice at work: frames in, `invoke`, frames out, as threads so that receiving and computing overlap.

receive (the data link's thread): read and check a frame, unpack slow codecs, join it with its other bundles; where
    the slice is quick and no frame waits, compute it as well
compute: the oldest whole frame into the interpreter (quick codecs are unpacked to there), `invoke`, outputs to the
    socket right from its memory, or packed from there to a buffer that is used again
send (only where a codec is slow): compress and publish, while the next frame is computed

A tensor is copied or unpacked once on its way in, from the received message to the interpreter, and with `raw` not
at all on its way out. Where the link takes no more, the thread that computes waits: then frames wait in front of
this slice.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy.typing as npt

from edge_node.filling import Filler
from edge_node.fit import check_fit
from edge_node.intake import Intake, Work
from edge_node.packing import Message, Packer
from edge_node.record import Record
from edge_node.runtime import Interpreter
from edge_node.stream import LEASE_SECONDS, Answer, Refusal, StreamKeeper
from edge_node.tally import Tally
from slicemq.errors import POISONED, FrameError, SliceMQError
from slicemq.frames import FrameHeader
from slicemq.messages import FrameName, SliceAssignment, SliceBeat
from slicemq.topics import Topics

Array = npt.NDArray[Any]
Send = Callable[[str, Sequence[bytes | memoryview]], bool]

# Outputs that wait for the sender: one being sent, one ready.
_OUTBOX = 2
# Slices that take no longer than that (seconds) run on the thread that brings their frames: to wake another one
# would take a large part of it, and so long the link can do without its thread.
_QUICK = 0.001
_SMOOTHING = 0.2


@dataclass(slots=True)
class _Done:
    """How a frame ended here: what is still to be sent, whether with an error frame, seconds of sending so far."""

    messages: list[Message] = field(default_factory=list)
    failed: bool = False
    sending: float = 0.0


class Stage:
    """Runs one slice. `send` publishes; its False means that the frame is lost (the client sends it again)."""

    def __init__(
        self,
        assignment: SliceAssignment,
        topics: Topics,
        interpreter: Interpreter,
        send: Send,
        lease_seconds: float = LEASE_SECONDS,
        pending: Callable[[], int] | None = None,
        record: Record | None = None,
        poisoned: Iterable[FrameName] = (),
    ) -> None:
        """Raises ModelError when the slice's tensors are not those of the assignment.

        `pending`: the bytes that wait for the link; without it no frame is run on the link's thread. `record` is
        told each frame before it is run; frames in `poisoned` are answered with an error and not run (rule 10).
        """
        self._assignment = assignment
        self._record = record or Record()
        self._poisoned = {(name.client, int(name.stream, 16), name.sequence) for name in poisoned}
        check_fit(assignment, interpreter)
        self._packer = Packer(assignment, topics)
        self._interpreter = interpreter
        self._send = send
        self._filler = Filler(assignment, interpreter)
        self._stream = (
            StreamKeeper(leases=assignment.leases, lease_seconds=lease_seconds) if assignment.stateful else None
        )
        # Whether the interpreter is in the model's initial state.
        self._fresh = False
        # The last answer of the stream that is held, for a frame that comes again.
        self._kept: _Done | None = None
        self._outbox: queue.Queue[_Done | None] | None = queue.Queue(_OUTBOX) if self._packer.slow else None
        self._threads: list[threading.Thread] = []
        self._tally = Tally()
        self._pending = pending
        # A recent mean of the seconds from a frame's way into the interpreter until its outputs have left.
        self._pace = math.inf
        self._may_be_quick = self._stream is None and self._outbox is None and pending is not None
        self._intake = Intake(
            assignment, topics, self._tally, run_here=self._compute_and_send, is_quick=self._is_quick
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics to subscribe to."""
        return self._intake.topics

    def start(self) -> None:
        """Start the thread that computes and, where a codec is slow, the one that sends."""
        loops: dict[str, Callable[[], None]] = {"compute": self._compute_loop}
        if self._outbox is not None:
            loops["send"] = partial(self._send_loop, self._outbox)
        for name, loop in loops.items():
            thread = threading.Thread(target=loop, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads; what waits is dropped."""
        self._intake.stop()
        for thread in self._threads:
            thread.join()

    def on_frame(self, topic: str, payload: bytes | memoryview) -> None:
        """A message from the data link, on its thread. Bad frames are counted, dropped and logged.

        The payload's memory is in use until the frame stands in the interpreter.
        """
        self._intake.on_frame(topic, payload)

    def beat(self, link_up: bool, memory: int) -> SliceBeat:
        """The figures for the heartbeat."""
        self._packer.trim()
        now = time.monotonic()
        queued, since, dropped = self._intake.waiting(now)
        tally = self._tally
        return SliceBeat(
            pipeline=self._assignment.pipeline,
            revision=self._assignment.revision,
            slice=self._assignment.slice,
            link="up" if link_up else "down",
            frames=tally.frames,
            errors=tally.errors,
            dropped=dropped + tally.refused + tally.unsent,
            queued=queued,
            waiting=round(now - since, 4) if since is not None else 0.0,
            memory=memory,
            **tally.means(),
        )

    def _compute_loop(self) -> None:
        while (work := self._intake.next()) is not None:
            self._compute_and_send(work)
            # Held on, its views would keep the memory of a message from the next one.
            del work
            if self._stream is not None and not self._stream.holds:
                self._renew_early()
        if self._outbox is not None:
            self._outbox.put(None)

    def _compute_and_send(self, work: Work) -> None:
        started = time.perf_counter()
        self._finish(self._compute(work))
        took = time.perf_counter() - started
        self._pace = took if self._pace == math.inf else self._pace + _SMOOTHING * (took - self._pace)

    def _is_quick(self) -> bool:
        """Whether the link's thread may run a frame: not where that could take long or block.

        Stateful slices load their model again, slow codecs wait for their thread, a full link for the broker.
        """
        return self._may_be_quick and self._pace <= _QUICK and self._pending is not None and not self._pending()

    def _compute(self, work: Work) -> _Done:
        header, stream = work.header, self._stream
        if self._poisoned and header.key in self._poisoned:
            return self._refuse(header, "it ended the slice's worker twice", POISONED)
        if stream is None:
            return self._run(work)
        if work.tensors is None:
            stream.release(header)
            return _Done()
        answer = stream.judge(header, time.monotonic())
        if isinstance(answer, Refusal):
            return self._refuse(header, answer.message, answer.reason)
        if answer is Answer.REPEAT:
            assert self._kept is not None
            return _Done(self._kept.messages)
        if answer is Answer.DROP:
            self._tally.count(refused=1)
            return _Done()
        done = self._run(work, renew=answer is Answer.RENEW)
        if done.failed or not done.messages:
            self._kept = None
            stream.failed()
        else:
            self._kept = done
            stream.ran(time.monotonic())
        return done

    def _run(self, work: Work, *, renew: bool = False) -> _Done:
        """Run the slice on a frame, with `renew` from the model's initial state, and send what need not wait."""
        self._record.computing(work.header)
        try:
            if renew:
                self._renew()
            self._fresh = False
            try:
                filling = self._filler.fill(work, renew)
            except FrameError as error:
                self._record.idle()
                client, number = work.header.client, work.header.sequence
                self._tally.count(refused=1)
                self._tally.warn("decode", "frame %s dropped: from client %s: %s", number, client, error)
                return _Done(failed=True)
            started, used = time.perf_counter(), time.thread_time()
            self._interpreter.invoke()
            invoked, used = time.perf_counter(), time.thread_time() - used
            self._record.idle()
            done = self._send_views(work.header)
        except FrameError as error:
            self._tally.count(unsent=1)
            self._tally.warn("encode", "a frame cannot be sent: %s", error)
            return _Done()
        except SliceMQError as error:
            self._record.idle()
            return self._refuse(work.header, str(error), "slice-error")
        self._tally.ran(filling, invoked - started, used, time.perf_counter() - invoked - done.sending)
        return done

    def _send_views(self, header: FrameHeader) -> _Done:
        """Send what stands in the interpreter's memory: no view of it is left afterwards. The rest is to be sent.

        Of a stateful slice all is kept, as copies, for a frame that comes again.
        """
        done, keep = _Done(), self._stream is not None
        for message in self._packer.messages(header, self._interpreter, keep=keep):
            if keep or message.parts is None:
                done.messages.append(message)
            else:
                done.sending += self._emit(message)
        return done

    def _emit(self, message: Message) -> float:
        """Give a message to the link; the seconds that it took."""
        started = time.perf_counter()
        try:
            sent = self._send(message.topic, message.encoded())
        except SliceMQError as error:
            sent = False
            self._tally.warn("send", "a frame cannot be sent: %s", error)
        if not sent:
            self._tally.count(unsent=1)
        return time.perf_counter() - started

    def _finish(self, done: _Done) -> None:
        """Send what is left: here or, where some messages are compressed, beside the next frame's computing.

        There all frames take that way, so that none overtakes another.
        """
        if self._outbox is None:
            self._send_rest(done)
        else:
            self._outbox.put(done)

    def _send_loop(self, outbox: queue.Queue[_Done | None]) -> None:
        while (done := outbox.get()) is not None:
            self._send_rest(done)

    def _send_rest(self, done: _Done) -> None:
        try:
            done.sending += sum(self._emit(message) for message in done.messages)
        finally:
            self._tally.left(done.sending, failed=done.failed)
            self._intake.done()

    def _refuse(self, header: FrameHeader, why: str, reason: str) -> _Done:
        self._tally.count(errors=1)
        self._tally.warn(reason, "frame %s of client %s: %s: %s", header.sequence, header.client, reason, why)
        return _Done([self._packer.failure(header, why, reason)], failed=True)

    def _renew(self) -> None:
        if not self._fresh:
            self._interpreter.reset()
            self._filler.look()
            self._fresh = True

    def _renew_early(self) -> None:
        """So that the next client's first frame need not wait until the model is loaded again."""
        try:
            self._renew()
        except SliceMQError as error:
            self._tally.warn("renew", "the model's initial state cannot be restored: %s", error)
