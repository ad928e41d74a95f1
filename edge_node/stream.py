"""What a slice that keeps state does with the frames that come: run, repeat or refuse (protocol rule 6). PURE.

The state belongs to one *run*: the frames of one stream from its frame `first` on, each run once, in order. A frame
that says another run's name, or is not the next one, never meets it. So no answer is ever computed from a wrong
state, whatever was lost, came twice or was started again; the lease below decides only whose turn it is.

A slice that `leases` (one without a stateful slice before it) lends its stream to the client of its run. The lease
ends when the client gives it back, or when another one asks and nothing came from the holder for `lease_seconds`.
A slice behind it follows: what reaches it has been let through. Two that lend side by side may disagree for a
moment, and then refuse both clients, but serve neither wrongly.

| the frame is                                 | its number   | answer                                           |
| -------------------------------------------- | ------------ | ------------------------------------------------ |
| a probe, no run is held                      |              | run from the initial state, hold nothing         |
| a probe, a run is held                       |              | drop                                             |
| another client's, while the lease holds      |              | refuse: `stream-busy`, with the holder's name    |
| of the run that is held, its state is known  | last + 1     | run                                              |
|                                              | last         | repeat the last answer                           |
|                                              | below last   | drop: its answer was taken                       |
|                                              | above last+1 | refuse: `stream-reset`, a frame is missing       |
| of an earlier run of the stream that is held |              | drop: its client has given it up                 |
| of any other run                             | `first`      | run from the initial state, hold this run        |
|                                              | above        | refuse: `stream-reset`, its state is not here    |

After a frame that could not be run the state is not known: then only the run's first frame is run (again).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from slicemq.errors import STREAM_BUSY, STREAM_RESET
from slicemq.frames import FrameHeader

LEASE_SECONDS = 10.0


class Answer(Enum):
    """What to do with a frame; `RENEW` is to run it from the model's initial state."""

    RUN = "run"
    RENEW = "renew"
    REPEAT = "repeat"
    DROP = "drop"


@dataclass(frozen=True)
class Refusal:
    """The frame ends with this reason word."""

    reason: str
    message: str


class StreamKeeper:
    """The run that a slice's state belongs to. Times are seconds of one monotonic clock.

    After `RUN` or `RENEW` call `ran`, or `failed` when the frame could not be run.
    """

    def __init__(self, *, leases: bool, lease_seconds: float = LEASE_SECONDS) -> None:
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._run: tuple[str, int, int] | None = None
        self._last: int | None = None
        self._heard = float("-inf")
        self._now_at: FrameHeader | None = None

    @property
    def holds(self) -> bool:
        """Whether the state belongs to a run."""
        return self._run is not None

    def judge(self, frame: FrameHeader, now: float) -> Answer | Refusal:
        """What to do with a frame."""
        self._now_at = frame
        if frame.probe:
            return Answer.DROP if self._run is not None else Answer.RENEW
        if self._is_lent(frame.client, now):
            assert self._run is not None
            return Refusal(STREAM_BUSY, f"client {self._run[0]} has the stream of this stateful pipeline")
        answer = self._place(frame)
        if isinstance(answer, Answer):
            self._heard = now
        return answer

    def ran(self, now: float) -> None:
        """The frame judged last has been run."""
        frame = self._now_at
        assert frame is not None
        if not frame.probe:
            self._run, self._last, self._heard = _run_of(frame), frame.sequence, now

    def failed(self) -> None:
        """The frame judged last could not be run: what the variables hold is not known."""
        frame = self._now_at
        assert frame is not None
        if not frame.probe:
            self._run, self._last = _run_of(frame), None

    def release(self, frame: FrameHeader) -> None:
        """A client gives back what it holds of its runs that began up to the frame's number."""
        run = self._run
        if run is not None and run[:2] == (frame.client, frame.stream) and run[2] <= frame.sequence:
            self._run = self._last = None

    def _is_lent(self, client: str, now: float) -> bool:
        """Whether another client has the lease. A client that was started again takes its own over."""
        run = self._run
        return self._leases and run is not None and run[0] != client and now - self._heard <= self._lease_seconds

    def _place(self, frame: FrameHeader) -> Answer | Refusal:
        run = _run_of(frame)
        held, last = self._run, self._last
        if held is not None and held[:2] == run[:2] and run[2] < held[2]:
            return Answer.DROP
        if run == held and last is not None and frame.sequence <= last:
            return Answer.REPEAT if frame.sequence == last else Answer.DROP
        if run == held and last is not None and frame.sequence == last + 1:
            return Answer.RUN
        if frame.sequence == frame.first:
            return Answer.RENEW
        if run == held and last is not None:
            return Refusal(STREAM_RESET, f"frame {last + 1} is missing: frame {frame.sequence} cannot be run")
        return Refusal(STREAM_RESET, f"the state after frame {frame.sequence - 1} is not here (any more)")


def _run_of(frame: FrameHeader) -> tuple[str, int, int]:
    return (frame.client, frame.stream, frame.first)
