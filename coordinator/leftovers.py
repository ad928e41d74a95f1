"""Slices that nodes were told to stop and still list: they take memory yet (protocol rule 12). PURE.

A node loads a slice only when what it replaces is gone, so a plan may count on what was just told to stop; else no
plan for a loss could be made before the lost revision is unloaded everywhere. What a node still lists `GRACE`
seconds later does not stop as it should, and takes its memory from every plan. So does what a node lists when a
coordinator starts and nobody told it to run: how much memory that has is not known, so no plan uses the node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from coordinator.membership import SliceKey
from slicemq.messages import Report, SliceAssignment

GRACE = 5.0
UNKNOWN = 1 << 50
"""More bytes than any board has: for a slice whose size nobody knows."""
_PER_NODE = 1024


@dataclass
class Leftovers:
    """node -> slice -> (since when on the listening clock, bytes without its worker)."""

    _nodes: dict[str, dict[SliceKey, tuple[float, int]]] = field(default_factory=dict)

    def assigned(
        self,
        clock: float,
        node: str,
        before: Iterable[SliceAssignment],
        after: Iterable[SliceAssignment],
        report: Report | None,
        *,
        first: bool = False,
    ) -> None:
        """A node's assignment changed, while this was its report; `first`: `before` may not be all it was told."""
        wanted = {_key(item) for item in after}
        listed = listed_by(report)
        mine = self._nodes.setdefault(node, {})
        for key in [key for key in mine if key in wanted or key not in listed]:
            del mine[key]
        sizes = dict.fromkeys(listed, UNKNOWN) if first else {}
        sizes |= {_key(item): item.memory for item in before}
        for key, size in sizes.items():
            if key in listed and key not in wanted and len(mine) < _PER_NODE:
                mine.setdefault(key, (clock, size))
        if not mine:
            del self._nodes[node]

    def reported(self, node: str, report: Report | None) -> bool:
        """A node's report came (None: its life ended); whether memory has become free by it."""
        mine = self._nodes.get(node)
        if mine is None:
            return False
        listed = listed_by(report)
        gone = [key for key in mine if key not in listed]
        for key in gone:
            del mine[key]
        if not mine:
            del self._nodes[node]
        return bool(gone)

    def taken(self, clock: float, node: str) -> list[int]:
        """The bytes of each slice that should be gone from a node and is not."""
        return [memory for since, memory in self._nodes.get(node, {}).values() if clock - since > GRACE]


def listed_by(report: Report | None) -> set[SliceKey]:
    """The slices that a node holds by its report."""
    return {(e.pipeline, e.revision, e.slice) for e in (report.slices if report is not None else ())}


def _key(item: SliceAssignment) -> SliceKey:
    return (item.pipeline, item.revision, item.slice)
