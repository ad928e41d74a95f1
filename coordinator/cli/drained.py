"""Whether a node is empty: no slice in its assignment, and none in its report. PURE."""

from __future__ import annotations

from collections.abc import Iterable

from slicemq.messages import Assignment, NodeState, Report, SliceAssignment, SliceReport, Stamp, decode


class Drained:
    """Follows one node's documents. Without a report of a node that lives, nothing is known."""

    LEAVES = ("assignment", "report", "state")

    def __init__(self, node: str) -> None:
        self.node = node
        self._assigned: set[str] = set()
        self._stamp: Stamp | None = None
        self._report: Report | None = None
        self._gone = False
        self._why = ""

    def take(self, leaf: str, topic: str, payload: bytes) -> None:
        """One of the node's documents; empty: it was cleared. Raises ProtocolError."""
        if leaf == "assignment":
            document = decode(Assignment, payload, topic) if payload else None
            if document is not None and self._stamp is not None and document.stamp < self._stamp:
                return
            self._stamp = document.stamp if document is not None else self._stamp
            self._assigned = _named(document.slices) if document is not None else set()
            self._why = document.reason if document is not None else ""
        elif leaf == "report":
            self._report = decode(Report, payload, topic) if payload else None
        elif leaf == "state" and payload:
            self._gone = decode(NodeState, payload, topic).state in ("disconnected", "lost")

    @property
    def why(self) -> str:
        """Why slices stay, where the coordinator says so."""
        return self._why

    @property
    def left(self) -> list[str]:
        """The slices that are still assigned to the node or held by it, as `pipeline/slice`."""
        held = _named(self._report.slices) if self._report is not None and not self._gone else set()
        return sorted(self._assigned | held)

    @property
    def done(self) -> bool:
        """Whether the node is empty, and its report answers the newest assignment (a dead one answers nothing)."""
        if self.left:
            return False
        if self._gone or self._stamp is None:
            return True
        seen = self._report.seen if self._report is not None else None
        return seen is not None and seen >= self._stamp


def _named(slices: Iterable[SliceAssignment | SliceReport]) -> set[str]:
    return {f"{item.pipeline}/{item.slice}" for item in slices}
