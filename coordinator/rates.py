"""How much of its planned rate a pipeline really runs at, in quarters. PURE.

Plans beside it count what it uses. A quarter is left only when the rate is clearly below it and has been for a
minute, so neither noise nor a short pause changes other pipelines' plans; a higher one counts at once.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from coordinator.membership import SliceKey

WINDOW = 10.0
"""Seconds that one rate is counted over."""
WINDOWS = 6
"""The highest of so many latest rates counts."""
MARGIN = 0.1
"""A level is left downwards when the rate is below the next one by this share of the planned rate."""
_TRACKS = 8192


@dataclass
class _Track:
    frames: int
    since: float
    shares: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOWS))
    level: float = 1.0


class Rates:
    """Measured rates of running slices. Memory is bounded."""

    def __init__(self) -> None:
        self._tracks: OrderedDict[tuple[str, SliceKey], _Track] = OrderedDict()

    def note(self, now: float, node: str, key: SliceKey, frames: int, planned: float) -> bool:
        """Take in a slice's counter of frames; whether its level changed. `planned`: frames per second here."""
        if planned <= 0.0:
            # Not a slice of the plan: whatever a node says it runs must not push others out.
            return False
        track = self._tracks.get((node, key))
        if track is None or frames < track.frames:
            self._tracks[node, key] = _Track(frames, now)
            while len(self._tracks) > _TRACKS:
                self._tracks.popitem(last=False)
            return False
        passed = now - track.since
        if passed < WINDOW:
            return False
        track.shares.append((frames - track.frames) / passed / planned)
        track.frames, track.since = frames, now
        self._tracks.move_to_end((node, key))
        before = track.level
        track.level = _level(track)
        return track.level != before

    def level(self, node: str, key: SliceKey) -> float:
        """The share of its planned rate that a slice runs at: 0.25, 0.5, 0.75 or 1 (also while not known)."""
        track = self._tracks.get((node, key))
        return track.level if track is not None else 1.0


def _level(track: _Track) -> float:
    if len(track.shares) < WINDOWS:
        return track.level
    most = max(track.shares)
    level = min(1.0, max(0.25, math.ceil(4 * most) / 4))
    if level < track.level and most > track.level - 0.25 - MARGIN:
        return track.level
    return level
