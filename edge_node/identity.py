"""Whether another live node uses this node's id (protocol rule 16). PURE."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["own", "unclear", "foreign", "give-way"]

# Two nodes that are switched on together both hear nothing at first; for this long one may still give way.
YOUNG_SECONDS = 15.0


class Identity:
    """Judges the heartbeats that are heard under this node's id.

    That another node is alive is seen by two heartbeats whose counter rises: a single one may be the last word
    of this node's own earlier life. A newborn gives way; so does a young node to one that has counted as far.
    An established one stays and says so.
    """

    def __init__(self, epoch: str, heartbeat: float, born: float) -> None:
        self._epoch = epoch
        self._born = born
        self._last: dict[str, int] = {}
        self.listen = max(1.0, 3 * heartbeat)
        """Seconds that a newborn listens before it says anything under its id."""

    def heard(self, epoch: str, counter: int, own_counter: int, now: float) -> Verdict:
        """A heartbeat under our id; `own_counter` is how many of our own we have sent."""
        if epoch == self._epoch:
            return "own"
        before = self._last.get(epoch)
        if len(self._last) >= 16:
            self._last.clear()
        self._last[epoch] = counter
        if before is None or counter <= before:
            return "unclear"
        young = now - self._born < YOUNG_SECONDS
        return "give-way" if young and (counter, epoch) > (own_counter, self._epoch) else "foreign"
