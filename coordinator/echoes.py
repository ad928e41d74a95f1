"""Terms that others echo (protocol rule 21). PURE.

A node may have seen a higher term than the coordinator's: of a coordinator whose store was lost, or of the time
before the cluster's broker was replaced. It ignores all that has a lower one. Where the coordinator with that term
lives it is heard within a beat, and this one stands down; where it is not, this one takes a higher term.
"""

from __future__ import annotations

import math

PATIENCE = 3.0
"""Seconds for which a higher term is echoed before it is exceeded: many beats of whoever has it."""


class Echoes:
    """The highest term above the coordinator's own, and since when it is echoed (seconds on one clock)."""

    def __init__(self) -> None:
        self._highest = 0
        self._since = self._latest = -math.inf

    def exceeded(self, now: float, echoed: int, own: int) -> int | None:
        """Take an echo in; the term to coordinate with from now on, when it is to be another."""
        if echoed <= own:
            return None
        self._highest = max(self._highest, echoed)
        if now - self._latest > PATIENCE:
            # What was echoed once, long ago, is no echo that lasts.
            self._since = now
        self._latest = now
        if now - self._since < PATIENCE:
            return None
        self._latest = -math.inf
        return self._highest + 1
