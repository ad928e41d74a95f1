"""Simulated time: a queue of calls, and processes that can die or be stopped. PURE.

Calls of one time come in the order in which they were asked for, so a run is a function of its seed alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

Call = Callable[..., object]


class Clock:
    """`now` is simulated seconds of the monotonic clock; `ahead` is what the wall clock is ahead of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ahead = 1.7e9
        self.calls = 0
        self._queue: list[tuple[float, int, Call, tuple[Any, ...]]] = []

    @property
    def wall(self) -> float:
        """What the machines take for Unix time."""
        return self.now + self.ahead

    def at(self, time: float, call: Call, *values: Any) -> None:
        """Call `call(*values)` at `time`."""
        self.calls += 1
        heapq.heappush(self._queue, (time, self.calls, call, values))

    def after(self, delay: float, call: Call, *values: Any) -> None:
        """Call `call(*values)` in `delay` seconds."""
        self.calls += 1
        heapq.heappush(self._queue, (self.now + delay, self.calls, call, values))

    def run(self, until: float = math.inf) -> None:
        """Make the calls that are due until the time `until`."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, call, values = heapq.heappop(queue)
            call(*values)
        self.now = max(self.now, until) if until < math.inf else self.now


class Process:
    """One life of a program. What happens to it while it is stopped (SIGSTOP) waits; after its end nothing does.

    A stopped process keeps its connections: the system takes what comes in for it.
    """

    def __init__(self, clock: Clock, name: str) -> None:
        self.clock = clock
        self.name = name
        self.alive = True
        self.paused = False
        self._waiting: list[tuple[Call, tuple[Any, ...]]] = []

    def call(self, call: Call, *values: Any) -> None:
        """Something happens to the process."""
        if not self.alive:
            return
        if self.paused:
            self._waiting.append((call, values))
        else:
            call(*values)

    def after(self, delay: float, call: Call, *values: Any) -> None:
        """A timer of the process."""
        self.clock.after(delay, self.call, call, *values)

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: what waited happens, in its order."""
        self.paused = False
        while self._waiting and self.alive and not self.paused:
            call, values = self._waiting.pop(0)
            call(*values)

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._waiting.clear()
