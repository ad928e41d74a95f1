"""How fast the link to the broker is, from messages that a node sends to itself. PURE.

Some pings give the round trip. Then bursts of messages, each burst of larger ones, until one takes long
enough to be read. A message is stored by the broker and sent on, so the first of a burst takes
`size/up + size/down` beyond the round trip, while the following ones come at the pace of the slower
direction. That gives both rates, but not which is which: the slower one is taken to be `up`, as it is on
every common asymmetric line.

On a quick link a burst of the largest messages takes less than the pause that a CPU quota makes, so it is repeated
and the quickest one counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from slicemq.errors import BrokerError
from slicemq.messages import Link

PINGS = 5
BURST = 4
SIZES = (4_096, 16_384, 65_536, 262_144, 524_288)
LARGEST_BURSTS = 4
LONG_ENOUGH = 0.15
DEADLINE = 1.0


class LinkProbe:
    """Times and echoes in, payload sizes to send out. At most 10 MB, at most `DEADLINE` seconds."""

    def __init__(self, now: float) -> None:
        self._end = now + DEADLINE
        self._sent_at = now
        self._waiting = 1
        self._pings = 0
        self._rtt = float("inf")
        self._sizes: Iterator[int] = iter((*SIZES, *[SIZES[-1]] * (LARGEST_BURSTS - 1)))
        self._size = 0
        self._arrivals: list[float] = []
        self._best: tuple[float, float] | None = None
        # Size and seconds of the burst that gave it.
        self._best_burst = (0, 0.0)
        self.done = False

    def first(self) -> list[int]:
        """What to send at the start."""
        return [0]

    def echo(self, now: float) -> list[int]:
        """The oldest unanswered message has come back: the sizes of the messages to send now."""
        if self.done:
            return []
        self._waiting -= 1
        if self._pings < PINGS:
            self._pings += 1
            self._rtt = min(self._rtt, now - self._sent_at)
            return self._next(now) if self._pings == PINGS else self._send(now, [0])
        self._arrivals.append(now)
        return [] if self._waiting else self._next(now)

    def tick(self, now: float) -> None:
        """Ends the probe at its deadline with what has come by then."""
        if now >= self._end and not self.done:
            self._read()
            self.done = True

    def link(self) -> Link:
        """The result; raises BrokerError when no message has come back in time."""
        if self._best is None:
            if self._rtt == float("inf"):
                raise BrokerError(f"the broker sent back no message within {DEADLINE:g} s")
            # Pings came back, the smallest burst did not: no more than this passes.
            slow = SIZES[0] / DEADLINE
            return Link(up=slow, down=slow, rtt=self._rtt)
        return Link(up=self._best[0], down=self._best[1], rtt=self._rtt)

    def _next(self, now: float) -> list[int]:
        took = self._arrivals[-1] - self._sent_at if self._arrivals else 0.0
        self._read()
        size = next(self._sizes, None)
        if took >= LONG_ENOUGH or size is None or now >= self._end:
            self.done = True
            return []
        self._size = size
        return self._send(now, [size] * BURST)

    def _send(self, now: float, sizes: list[int]) -> list[int]:
        self._sent_at = now
        self._waiting = len(sizes)
        self._arrivals = []
        return sizes

    def _read(self) -> None:
        """Rates from the burst that is under way."""
        if not self._arrivals:
            return
        took = self._arrivals[-1] - self._sent_at
        whole = not self._waiting
        if self._best_burst[0] == self._size and (not whole or took >= self._best_burst[1]):
            return
        self._best_burst = (self._size, took)
        through = max(self._arrivals[0] - self._sent_at - self._rtt, 1e-6)
        if len(self._arrivals) > 1:
            pace = max((self._arrivals[-1] - self._arrivals[0]) / (len(self._arrivals) - 1), 1e-6)
        else:
            pace = through / 2
        # The slower direction needs `pace` for a message, the other what is left; never less than nothing
        # and never more than the slower one.
        other = min(max(through - pace, pace / 4), pace)
        self._best = (self._size / pace, self._size / other)
