"""The thread-safe shell of the ledger: feeds it what the courier brings, keeps outcomes until they are taken."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from slicemq.errors import FrameError, FrameFailedError, PipelineError, ProtocolError
from slicemq.frames import Frame, decode_frame
from slicemq.ledger import Ledger
from slicemq.messages import PipelineDocument, Stamp, decode
from slicemq.outcomes import Action, Deliver, Dispatch, Outcome, Release
from slicemq.specs import Arrays, fits

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)
# For the ledger, which counts them as tensors that are no outputs.
_NO_OUTPUTS: Arrays = {-1: np.empty(0)}


class Desk:
    """Guards one ledger with one lock, which is never held while anything blocks but waiting for a change.

    A claimed frame's outcome goes to the caller who claimed it; all others go, in order, to whoever takes next.
    """

    def __init__(self, name: str, topic: str, ledger: Ledger) -> None:
        self._name = name
        self._topic = topic
        self._ledger = ledger
        self._post: Callable[[Iterable[Dispatch]], None] = lambda dispatches: None
        self._wake: Callable[[float | None], None] = lambda wake_at: None
        self._changed = threading.Condition()
        self._ready: dict[int, Outcome] = {}
        self._claimed: set[int] = set()
        self._abandoned: set[int] = set()
        self._synced = False
        self._closed = False
        self._document_error: ProtocolError | None = None

    def bind(self, post: Callable[[Iterable[Dispatch]], None], wake: Callable[[float | None], None]) -> None:
        """Where frames go to be sent, and who is told when `on_tick` is due; both must return at once."""
        self._post, self._wake = post, wake

    # ---- for the application's side

    def wait_synced(self, timeout: float) -> bool:
        """Whether the first connection was made and the document read within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._synced, timeout)

    def document(self) -> PipelineDocument:
        """The pipeline's document; PipelineError when closed, removed or absent, ProtocolError when unreadable."""
        with self._changed:
            document = self._ledger.document_now
            if self._closed:
                raise PipelineError(f"pipeline {self._name!r}: the client is closed")
            if document is None:
                raise self._document_error or PipelineError(f"pipeline {self._name!r}: no document was read")
            if document.state == "removed":
                raise PipelineError(f"pipeline {self._name!r} was removed")
            return document

    def read(self, reader: Callable[[Ledger], Answer]) -> Answer:
        """What `reader` finds in the ledger, under the lock."""
        with self._changed:
            return reader(self._ledger)

    def submit(
        self, arrays: Arrays, spec: str, timeout: float | None, *, claim: bool
    ) -> tuple[int, list[Dispatch]]:
        """Enter a frame when there is room: its number and what the caller must have sent now.

        Raises TimeoutError, and PipelineError when the pipeline was removed or the client is closed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._ledger.room, timeout):
                raise TimeoutError(
                    f"the window of {self._ledger.window.size} frames stayed full for {timeout:g} s: "
                    "take results, or wait longer"
                )
            self.document()
            sequence, actions = self._ledger.submit(time.monotonic(), arrays, spec)
            if claim:
                self._claimed.add(sequence)
            return sequence, self._apply(actions)

    def take(self, sequence: int | None, timeout: float | None) -> Outcome:
        """Take the outcome of `sequence`, or with None the next one that nobody claimed; its place is free then.

        Raises TimeoutError, and FrameFailedError `closed` when the client is closed and nothing is left.
        """
        outcome = self.borrow(sequence, timeout)
        self.give_back()
        return outcome

    def borrow(self, sequence: int | None, timeout: float | None) -> Outcome:
        """As `take`, but the place in the window is held until `give_back`."""
        with self._changed:
            known = self._changed.wait_for(lambda: self._closed or self._find(sequence) is not None, timeout)
            number = self._find(sequence)
            if number is not None:
                self._claimed.discard(number)
                return self._ready.pop(number)
            if known:
                raise FrameFailedError("closed", "the client is closed and nothing is left to take", sequence)
            raise TimeoutError("no result came within the timeout")

    def give_back(self) -> None:
        """Free the place of a borrowed outcome."""
        with self._changed:
            self._ledger.taken()
            self._changed.notify_all()

    def abandon(self, sequence: int) -> None:
        """Throw away the outcome of a claimed frame, now or when it comes."""
        with self._changed:
            if sequence not in self._claimed:
                return
            self._claimed.discard(sequence)
            if self._ready.pop(sequence, None) is None:
                self._abandoned.add(sequence)
            else:
                self._ledger.taken()
                self._changed.notify_all()

    def outstanding(self) -> bool:
        """Whether frames that nobody claimed are unanswered or not taken."""
        with self._changed:
            return self._ledger.held > len(self._claimed) + len(self._abandoned)

    def may_submit(self, first: int) -> bool:
        """Whether there is room while the outcome of `first` has not come."""
        with self._changed:
            return self._ledger.room and first not in self._ready and not self._closed

    def wait_empty(self, timeout: float | None) -> None:
        """Wait until all is answered and taken; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ledger.held == 0, timeout):
                raise TimeoutError(f"{self._ledger.held} frames are still unanswered or not taken")

    def close(self) -> list[Dispatch] | None:
        """End every unanswered frame as `closed`: what shall still be sent, or None when that was done before."""
        with self._changed:
            if self._closed:
                return None
            self._closed = True
            return self._apply(self._ledger.close(time.monotonic()))

    # ---- for the courier

    def on_document(self, payload: bytes) -> None:
        """The pipeline document came; one that cannot be read is counted and logged."""
        try:
            document = decode(PipelineDocument, payload, self._topic)
            if document.name != self._name:
                raise ProtocolError(f"{self._topic}: field name: expected {self._name!r}, got {document.name!r}")
        except ProtocolError as error:
            logger.warning("%s", error)
            with self._changed:
                self._document_error = error
                self._ledger.counters.dropped["document"] += 1
            return
        with self._changed:
            self._post(self._apply(self._ledger.document(time.monotonic(), document)))

    def on_result(self, payload: bytes | memoryview) -> None:
        """A message came on the results topic; a bad frame is counted, and logged now and then."""
        try:
            frame = decode_frame(payload)
            tensors = frame.arrays() if self._has_outputs(frame) else _NO_OUTPUTS
        except FrameError as error:
            with self._changed:
                self._ledger.counters.dropped["frame"] += 1
                count = self._ledger.counters.dropped["frame"]
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: hostile frames must not fill the log
                logger.warning("results topic: bad frame (%d so far) dropped: %s", count, error)
            return
        with self._changed:
            self._post(self._apply(self._ledger.result(time.monotonic(), frame.header, tensors)))

    def on_connected(self) -> None:
        """Results are subscribed and the document was read after that (rule 8)."""
        with self._changed:
            self._synced = True
            self._post(self._apply(self._ledger.connected(time.monotonic())))

    def on_disconnected(self) -> None:
        """The connection for frames is gone."""
        with self._changed:
            self._ledger.disconnected(time.monotonic())

    def on_tick(self) -> float | None:
        """Time passes; returns when it must be called again (monotonic seconds)."""
        with self._changed:
            self._post(self._apply(self._ledger.tick(time.monotonic())))
            return self._ledger.wake_at

    def on_unsendable(self, sequence: int, message: str) -> None:
        """The frame cannot travel: it ends with `message`."""
        with self._changed:
            self._post(self._apply(self._ledger.unsendable(time.monotonic(), sequence, message)))

    def wants(self, dispatch: Dispatch) -> bool:
        """Whether it is still to be sent; a frame may not need this attempt any more."""
        with self._changed:
            return isinstance(dispatch, Release) or self._ledger.wants(dispatch)

    def evidence(self) -> dict[str, Any] | None:
        """The body of the request `evidence`; None while no revisions are compared."""
        with self._changed:
            return self._ledger.evidence(time.monotonic())

    def seen(self) -> Stamp | None:
        """The highest stamp read (rule 21: readers echo it)."""
        with self._changed:
            document = self._ledger.document_now
            return None if document is None else document.stamp

    def _has_outputs(self, frame: Frame) -> bool:
        """Whether the tensors can be the pipeline's outputs: others, maybe huge ones, are not unpacked."""
        with self._changed:
            specs = self._ledger.expects(frame.header)
        return all(one.index in specs and fits(specs[one.index], one.dtype, one.shape) for one in frame.tensors)

    # ---- inside; the lock is held

    def _find(self, sequence: int | None) -> int | None:
        if sequence is not None:
            return sequence if sequence in self._ready else None
        return next((number for number in self._ready if number not in self._claimed), None)

    def _apply(self, actions: list[Action]) -> list[Dispatch]:
        dispatches: list[Dispatch] = []
        for action in actions:
            if not isinstance(action, Deliver):
                dispatches.append(action)
            else:
                sequence = action.outcome.sequence
                if sequence in self._abandoned:
                    self._abandoned.discard(sequence)
                    self._ledger.taken()
                else:
                    self._ready[sequence] = action.outcome
        self._wake(self._ledger.wake_at)
        self._changed.notify_all()
        return dispatches
