"""When a coordinator may write (protocol rule 22). PURE.

A coordinator writes only while its own beats come back from the broker: what others wrote before such a beat was
sent has been heard by then. So one that was stopped, cut off or connected again first hears whether somebody took
its place. The age that a proof may have is less than a standby waits before it writes: it must miss beats for one
heartbeat deadline, and decides nothing for another one (rules 20 and 23).
"""

from __future__ import annotations

from collections import OrderedDict

_SHARE = 1.6
_MOST = 4096


class Fence:
    """Beats out and in; times in seconds on one monotonic clock."""

    def __init__(self, deadline: float) -> None:
        """`deadline`: the heartbeat deadline, which standbys have as well."""
        self._patience = _SHARE * deadline
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._proof: float | None = None

    def cut_off(self) -> None:
        """The connection ended, or another one began: what was sent before proves nothing."""
        self._sent.clear()
        self._proof = None

    def sent(self, counter: int, now: float) -> None:
        """A beat was handed to the connection."""
        self._sent[counter] = now
        while len(self._sent) > _MOST:
            self._sent.popitem(last=False)

    def heard(self, counter: int) -> None:
        """A beat came back."""
        when = self._sent.pop(counter, None)
        if when is None:
            return
        for older in [one for one in self._sent if one < counter]:
            del self._sent[older]
        self._proof = when

    def open(self, now: float) -> bool:
        """Whether writing is allowed."""
        return self._proof is not None and now - self._proof <= self._patience
