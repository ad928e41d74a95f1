"""What has ended this node's workers: frames and loads, counted (protocol rule 10). PURE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from edge_node.events import At
from slicemq.messages import MOST_CRASHES, Crash, FrameName, SliceAssignment

KEEP_SECONDS = 900.0
"""How long a crash is told."""
POISONED_AT = 2
"""So many deaths by one frame make it a poisoned one."""

_Key = tuple[str, str, str, FrameName | None]


class Crashes:
    """The latest crashes, at most `MOST_CRASHES`; times are the caller's monotonic seconds.

    A frame is counted by its name within its pipeline, whichever slice and revision it ends; a load by its slice
    and revision.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[_Key, tuple[float, Crash]] = OrderedDict()

    def note(self, now: float, one: SliceAssignment, at: At, how: str) -> int:
        """A worker of slice `one` died at `at`; how often that has happened (0: it was at nothing)."""
        if at is None:
            return 0
        frame = None if at == "loading" else at
        key = (one.pipeline, "", "", frame) if frame is not None else (one.pipeline, one.revision, one.slice, None)
        before = self._found.pop(key, None)
        count = 1 + (before[1].count if before is not None else 0)
        self._found[key] = (now, Crash(one.pipeline, one.revision, one.slice, frame, count, how[:200]))
        while len(self._found) > MOST_CRASHES:
            self._found.popitem(last=False)
        return count

    def poisoned(self, pipeline: str) -> tuple[FrameName, ...]:
        """The frames of a pipeline that have ended workers too often."""
        return tuple(
            crash.frame
            for _, crash in self._found.values()
            if crash.frame is not None and crash.pipeline == pipeline and crash.count >= POISONED_AT
        )

    def told(self, now: float, pipelines: Iterable[str]) -> tuple[Crash, ...]:
        """What the report tells, oldest first. Old ones are forgotten, poisoned frames of `pipelines` are not."""
        kept = set(pipelines)
        for key, (when, crash) in list(self._found.items()):
            old = now - when > KEEP_SECONDS
            if old and not (crash.frame is not None and crash.count >= POISONED_AT and crash.pipeline in kept):
                del self._found[key]
        return tuple(crash for when, crash in self._found.values() if now - when <= KEEP_SECONDS)
