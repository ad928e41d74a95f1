"""What must hold in every run (docs/explanation/guarantees.md), watched as it happens. PURE."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coordinator.actions import Action, Publish
from simulator.client import Client
from simulator.coordinator import Coordinator
from simulator.models import Model, expected, whole_of
from simulator.node import Node
from slicemq.messages import Assignment, FrameName, PipelineDocument, SliceAssignment, Stamp
from slicemq.operations import RolloutEntry
from slicemq.outcomes import Outcome


class Invariant(enum.Enum):
    """The name of each, as docs/explanation/guarantees.md has it."""

    ONCE = "each frame ends exactly once, in order"
    RIGHT = "an answer is right: the model's own function of that frame, of one revision"
    NAMED = "a frame that is not answered ends with an error that its scenario allows"
    ANSWERED = "every frame ends soon after the last fault"
    SETTLED = "after the last fault the cluster settles to what was asked for"
    NUMBERS = "a revision's number is never used again (rule 1)"
    STAMPS = "the stamps of coordinators' documents rise (rule 21)"
    ONE_PREPARES = "one revision of a pipeline prepares at a time (rule 12)"
    PROBED = "a revision becomes active after all its slices were ready and probes came through (rule 11)"
    LOST = "a lost revision never serves again"
    GATED = "what its golden frames or its gate reject never serves, but a canary's share of frames (rule 11)"
    MEMORY = "a node's slices never take more than its memory (rule 12)"
    BOUNDED = "queues and windows keep their bounds (rule 9)"
    SOUND = "no core fails"


class BrokenError(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: Invariant, how: str) -> None:
        super().__init__(f"{invariant.name}: {invariant.value}: {how}")
        self.invariant = invariant
        self.how = how


@dataclass
class Checks:
    """Raises BrokenError as soon as something does not hold."""

    errors: frozenset[str]
    models: dict[tuple[str, str], Model] = field(default_factory=dict)
    numbers: dict[tuple[str, int], str] = field(default_factory=dict)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    seen: dict[str, Stamp] = field(default_factory=dict)
    ready: set[tuple[str, str, str, str]] = field(default_factory=set)
    probed: set[tuple[str, str]] = field(default_factory=set)
    # Revisions that waited for the place of what served (rule 13).
    waited: set[tuple[str, str]] = field(default_factory=set)
    # Revisions that have been the heaviest active one.
    served: set[tuple[str, str]] = field(default_factory=set)
    phases: dict[tuple[str, str], str] = field(default_factory=dict)
    next_frame: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    answered: int = 0
    # How many workers died while they computed a frame of a client.
    deaths: dict[tuple[str, int], int] = field(default_factory=dict)
    on_end: Callable[[Node], None] = lambda node: None

    def outcome(self, client: Client, outcome: Outcome) -> None:
        """A frame ended."""
        due = self.next_frame.get(client.name, 0)
        if outcome.sequence != due:
            raise BrokenError(Invariant.ONCE, f"{client.name}: expected frame {due}, got {outcome.sequence}")
        self.next_frame[client.name] = due + 1
        if outcome.reason:
            name = (client.name, due)
            if outcome.reason == "poisoned" and self.deaths.get(name, 0) < 2:
                raise BrokenError(Invariant.NAMED, f"{name} is poisoned after {self.deaths.get(name, 0)} deaths")
            if outcome.reason == "slice-error" and (client.pipeline, outcome.revision) not in self.served:
                raise BrokenError(Invariant.GATED, f"{name} ended with the error of a canary, {outcome.revision}")
            if outcome.reason not in self.errors:
                raise BrokenError(Invariant.NAMED, f"{client.name} frame {due}: {outcome.reason} {outcome.message}")
            self.failed[outcome.reason] = self.failed.get(outcome.reason, 0) + 1
            return
        self.answered += 1
        whole = self.models.get((client.pipeline, outcome.revision))
        values: dict[int, Any] = outcome.tensors
        got = {index: value.what for index, value in values.items()}
        self._is_right(f"{client.name} frame {due}", whole, outcome.revision, client.payloads[due], got)

    def window(self, client: Client) -> None:
        """A client submitted a frame."""
        ledger = client.ledger
        document = ledger.document_now
        if document is not None and ledger.held > max(1, client.largest_window):
            raise BrokenError(Invariant.BOUNDED, f"{client.name} holds {ledger.held} of {client.largest_window}")

    def came_through(self, pipeline: str, revision: str, got: dict[int, Any]) -> None:
        """A probe's result."""
        whole = self.models.get((pipeline, revision))
        self._is_right(f"probe of {pipeline} {revision}", whole, revision, "probe", got)
        self.probed.add((pipeline, revision))

    def _is_right(self, who: str, whole: Model | None, revision: str, frame: Any, got: dict[int, Any]) -> None:
        if whole is None:
            raise BrokenError(Invariant.RIGHT, f"{who}: nobody published revision {revision}")
        right = expected(whole, revision, frame)
        if got != right:
            raise BrokenError(Invariant.RIGHT, f"{who} of {revision}: got {got}, expected {right}")

    def action(self, coordinator: Coordinator, action: Action) -> None:
        """A coordinator is about to do something."""
        for record in coordinator.cluster.records.values():
            for revision in record.revisions.values():
                if (record.name, revision.id) not in self.models:
                    item = next(iter(revision.blueprint.slices.values()))[0]
                    self.models[record.name, revision.id] = whole_of(item.artifact.sha256)
                    self._number(record.name, revision.id)
                if revision.phase == "waiting":
                    self.waited.add((record.name, revision.id))
            if len(record.in_phase("preparing", "probing", "waiting")) > 1:
                raise BrokenError(Invariant.ONE_PREPARES, f"{record.name}: {list(record.revisions)}")
        if not isinstance(action, Publish):
            return
        document = action.document
        before = self.stamps.get(action.topic)
        if before is not None and document.stamp < before:
            raise BrokenError(Invariant.STAMPS, f"{action.topic}: {document.stamp} after {before}")
        self.stamps[action.topic] = document.stamp
        if isinstance(document, Assignment):
            for item in document.slices:
                self._number(item.pipeline, item.revision)
        elif isinstance(document, PipelineDocument):
            self._routes(coordinator, document)

    def _number(self, pipeline: str, revision: str) -> None:
        number = int(revision.partition("-")[0])
        if self.numbers.setdefault((pipeline, number), revision) != revision:
            raise BrokenError(Invariant.NUMBERS, f"{pipeline}: {revision} after {self.numbers[pipeline, number]}")

    def _routes(self, coordinator: Coordinator, document: PipelineDocument) -> None:
        active = [route for route in document.routes if route.state == "active"]
        for route in active:
            if route.weight >= max(one.weight for one in active):
                self._serves(coordinator, (document.name, route.revision))
        for route in document.routes:
            self._number(document.name, route.revision)
            key = (document.name, route.revision)
            before = self.phases.get(key)
            if route.state == "active" and before not in (None, "active"):
                raise BrokenError(Invariant.LOST, f"{key}: active after {before}")
            if before == "lost" and route.state != "lost":
                raise BrokenError(Invariant.LOST, f"{key}: {route.state} after lost")
            if before is None and route.state == "active":
                self._may_flip(coordinator, key)
            self.phases[key] = route.state

    def _serves(self, coordinator: Coordinator, key: tuple[str, str]) -> None:
        """It serves all frames, or most."""
        if key in self.served:
            return
        self.served.add(key)
        record, model = coordinator.cluster.records[key[0]], self.models[key]
        ended = [one for one in record.history if one.revision == key[1] and one.state == "promoted"]
        if model.flaw == "golden":
            raise BrokenError(Invariant.GATED, f"{key} serves, whose golden frames differ")
        for one in ended:
            if one.policy is None or "request" in one.reason or "without shadow" in one.reason:
                continue
            seen, policy = one.evidence, one.policy
            slow = seen["before_p95_ms"] > 0 and seen["p95_ms"] > policy.max_slowdown * seen["before_p95_ms"]
            # Beside one that is as wrong nothing differs.
            old = self.models.get((key[0], one.before))
            wrong = (
                model.flaw == "wrong" and policy.steps == ("shadow",) and old is not None and old.flaw != "wrong"
            )
            if slow or wrong or model.flaw == "failing":
                raise BrokenError(Invariant.GATED, f"{key} serves, which is {model.flaw or 'sound'}: {one.reason}")

    def gave_up(self, pipeline: str, entry: RolloutEntry) -> None:
        """A rollout is given up: why must be said."""
        if not entry.reason:
            raise BrokenError(Invariant.GATED, f"{pipeline}: {entry.revision} is {entry.state} without a reason")

    def _may_flip(self, coordinator: Coordinator, key: tuple[str, str]) -> None:
        if key not in self.probed:
            raise BrokenError(Invariant.PROBED, f"{key}: no probe came through")
        revision = coordinator.cluster.records[key[0]].revisions[key[1]]
        for node, items in revision.blueprint.slices.items():
            for item in items:
                if (node, *key, item.slice) not in self.ready:
                    raise BrokenError(Invariant.PROBED, f"{key}: slice {item.slice} on {node} was never ready")

    def reported(self, node: Node, seen: Stamp | None) -> None:
        """A node said which assignment it obeys."""
        before = self.seen.get(node.epoch)
        if seen is not None:
            if before is not None and seen < before:
                raise BrokenError(Invariant.STAMPS, f"{node.board.name} obeys {seen} after {before}")
            self.seen[node.epoch] = seen

    def gave_way(self, node: Node) -> None:
        """It ended because another node has its id; what supervises it starts it again."""
        self.on_end(node)

    def died_of(self, frame: FrameName) -> None:
        """A worker died while it computed a frame."""
        name = (frame.client, frame.sequence)
        self.deaths[name] = self.deaths.get(name, 0) + 1

    def ready_slice(self, node: Node, one: SliceAssignment) -> None:
        """A slice is ready."""
        self.ready.add((node.board.name, one.pipeline, one.revision, one.slice))

    def started(self, node: Node) -> None:
        """A node started a worker."""
        if node.taken > node.board.memory:
            held = [worker.assignment.slice for worker in node.workers.values()]
            raise BrokenError(
                Invariant.MEMORY, f"{node.board.name}: {node.taken} of {node.board.memory} bytes with {held}"
            )

    def beat(self, node: Node) -> None:
        """A node's heartbeat: its queues."""
        for worker in node.workers.values():
            if len(worker.backlog) > 1024:
                raise BrokenError(Invariant.BOUNDED, f"{node.board.name}: {len(worker.backlog)} frames wait")
