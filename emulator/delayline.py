"""Bytes that arrive later than they left, in order: one direction of a relayed connection. PURE.

Each chunk is due at its arrival + `delay` + a uniform draw from [0, `jitter`], and never before the chunk in
front of it. So a byte never overtakes another one, as in TCP; where chunks come quickly one after another, a late
one holds up those behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Ending = Literal["eof", "reset"]
LEAST_HOLD = 4_000_000
"""Bytes that a line may always hold: more than one large frame."""


@dataclass(frozen=True)
class Delay:
    """Seconds that a byte takes at least, and at most in addition."""

    delay: float = 0.0
    jitter: float = 0.0

    def hold(self, rate: float) -> int:
        """Bytes that a line holds without slowing `rate` (bytes per second) down; at least LEAST_HOLD."""
        return max(LEAST_HOLD, round(2.0 * rate * (self.delay + self.jitter)))


class DelayLine:
    """What is on its way. `draw` gives numbers in [0, 1); `hold` is the limit of bytes, a chunk may exceed it."""

    def __init__(self, delay: Delay, hold: int, draw: Callable[[], float]) -> None:
        self.delay = delay
        self.hold = hold
        self.held = 0
        self.ended = False
        self._draw = draw
        self._waiting: deque[tuple[float, memoryview | Ending]] = deque()
        self._last_due = 0.0

    @property
    def full(self) -> bool:
        """Whether nothing more may be read for now."""
        return self.held >= self.hold

    @property
    def next_due(self) -> float | None:
        """When the first chunk (or the end) may leave; None when nothing waits."""
        return self._waiting[0][0] if self._waiting else None

    def push(self, now: float, chunk: bytes) -> None:
        """Bytes arrived at `now`."""
        self._waiting.append((self._due(now), memoryview(chunk)))
        self.held += len(chunk)

    def end(self, now: float, how: Ending) -> None:
        """The sender ended at `now`: an end of file, or a reset. It travels behind the bytes."""
        if not self.ended:
            self.ended = True
            self._waiting.append((self._due(now), how))

    def first(self, now: float) -> memoryview | Ending | None:
        """What may leave at `now`: bytes, an ending, or None."""
        if self._waiting and self._waiting[0][0] <= now:
            return self._waiting[0][1]
        return None

    def took(self, size: int) -> None:
        """The first `size` bytes of the first chunk left."""
        due, chunk = self._waiting[0]
        assert isinstance(chunk, memoryview)
        self.held -= size
        if size == len(chunk):
            self._waiting.popleft()
        else:
            self._waiting[0] = (due, chunk[size:])

    def took_ending(self) -> None:
        """The ending left."""
        self._waiting.popleft()

    def _due(self, now: float) -> float:
        extra = self.delay.jitter * self._draw() if self.delay.jitter else 0.0
        self._last_due = max(self._last_due, now + self.delay.delay + extra)
        return self._last_due
