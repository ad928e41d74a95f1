"""Frames that end workers, counted over all nodes and revisions (protocol rule 10). PURE.

A node counts for itself which frame has ended its workers; it tells so in its reports. Two deaths by one frame,
wherever they were, make it a poisoned one of its pipeline: clients read it in the pipeline's document and end it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from slicemq.messages import MOST_POISONED, FrameName, Report

POISONED_AT = 2
KEEP_SECONDS = 600.0
"""How long a poisoned frame is told; its client ends it at once."""
_MOST_COUNTED = 1024

_Frame = tuple[str, FrameName]


@dataclass
class _Deaths:
    """By (node, epoch), how often; `since`: when the latest was told of."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    since: float = 0.0


class Poison:
    """Deaths by frames, at most 1024 of them; times are the caller's monotonic seconds."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[_Frame, _Deaths] = OrderedDict()
        self._poisoned: OrderedDict[_Frame, float] = OrderedDict()

    def heard(self, now: float, report: Report | None) -> bool:
        """Take in a report of a node's current life; whether a frame is poisoned by what it says.

        A crash that was told before counts once: only a higher count of a life is another death.
        """
        changed = False
        for crash in report.crashes if report is not None else ():
            if crash.frame is None or report is None:
                continue
            key = (crash.pipeline, crash.frame)
            deaths = self._deaths.setdefault(key, _Deaths())
            life = (report.node, report.epoch)
            if crash.count <= deaths.counts.get(life, 0):
                continue
            deaths.counts[life] = crash.count
            deaths.since = now
            self._deaths.move_to_end(key)
            if sum(deaths.counts.values()) >= POISONED_AT:
                changed |= key not in self._poisoned
                self._poisoned[key] = now
                self._poisoned.move_to_end(key)
        while len(self._deaths) > _MOST_COUNTED:
            self._deaths.popitem(last=False)
        for pipeline in {key[0] for key in self._poisoned} if changed else ():
            mine = [key for key in self._poisoned if key[0] == pipeline]
            for key in mine[: max(0, len(mine) - MOST_POISONED)]:
                del self._poisoned[key]
        return changed

    def expire(self, now: float) -> bool:
        """Forget what is old; whether a poisoned frame was among it."""
        old = [key for key, since in self._poisoned.items() if now - since > KEEP_SECONDS]
        for key in old:
            del self._poisoned[key]
        while self._deaths and now - next(iter(self._deaths.values())).since > 2 * KEEP_SECONDS:
            self._deaths.popitem(last=False)
        return bool(old)

    def of(self, pipeline: str) -> tuple[FrameName, ...]:
        """The poisoned frames of a pipeline, oldest first."""
        return tuple(frame for name, frame in self._poisoned if name == pipeline)
